//! The JSON documents of the origin of a request, and of the actor that requested a cancellation.

use serde::{Deserialize, Serialize};

use super::{DocumentError, word};
use crate::domain::origin::{Actor, RequestId, RequestOrigin};

#[derive(Default, Serialize, Deserialize)]
pub struct OriginDocument {
    address: Option<String>,
    request_id: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct ActorDocument {
    name: String,
    origin: OriginDocument,
}

impl From<&Actor> for ActorDocument {
    fn from(actor: &Actor) -> Self {
        let Actor { name, origin } = actor;
        Self { name: name.clone(), origin: origin.into() }
    }
}

impl TryFrom<ActorDocument> for Actor {
    type Error = DocumentError;

    fn try_from(document: ActorDocument) -> Result<Self, DocumentError> {
        let ActorDocument { name, origin } = document;
        Ok(Self { name, origin: origin.try_into()? })
    }
}

impl From<&RequestOrigin> for OriginDocument {
    fn from(origin: &RequestOrigin) -> Self {
        let RequestOrigin { address, request_id } = origin;
        Self {
            address: address.map(|address| address.to_string()),
            request_id: request_id.map(|id| id.to_string()),
        }
    }
}

impl TryFrom<OriginDocument> for RequestOrigin {
    type Error = DocumentError;

    fn try_from(document: OriginDocument) -> Result<Self, DocumentError> {
        let OriginDocument { address, request_id } = document;
        let address = address.map(|text| word("address", text, |text| text.parse().ok()));
        let id = |text: &str| text.parse().ok().map(RequestId::new);
        let request_id = request_id.map(|text| word("request id", text, id));
        Ok(Self { address: address.transpose()?, request_id: request_id.transpose()? })
    }
}
