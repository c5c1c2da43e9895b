//! The JSON document of the identity of the machine that belongs to a job or a lease.

use serde::{Deserialize, Serialize};

use crate::domain::ids::MachineId;
use crate::domain::machine::MachineIdentity;

#[derive(Serialize, Deserialize)]
pub struct IdentityDocument {
    id: String,
    instance_uuid: Option<String>,
    path: Option<String>,
}

impl From<&MachineIdentity> for IdentityDocument {
    fn from(identity: &MachineIdentity) -> Self {
        let MachineIdentity { id, instance_uuid, path } = identity;
        Self { id: id.to_string(), instance_uuid: instance_uuid.clone(), path: path.clone() }
    }
}

impl From<IdentityDocument> for MachineIdentity {
    fn from(IdentityDocument { id, instance_uuid, path }: IdentityDocument) -> Self {
        Self { id: MachineId::from_backend(id), instance_uuid, path }
    }
}
