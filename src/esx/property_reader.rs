//! Reads properties directly with `RetrievePropertiesEx`. Some answers, such as an empty one, can
//! mean that the session was lost. After such an answer otter checks the session and repeats the
//! read once.

use std::sync::Arc;

use super::connections::Lane;
use super::session::{ExchangeError, Login, Recheck, Session};
use super::soap::property::{ObjectContent, object_contents};
use super::soap::request::{self, PropertySpec, Selection};
use super::soap::response::Reply;
use super::soap::xml::Element;
use super::soap::{Reference, fault::VimFault};
use crate::hypervisor::{HostError, HostErrorKind};

/// The maximum number of parts that the result of one read may have.
const MAX_PARTS: usize = 1_000;

/// The complete result of a read: the first answer and the answers that continue it.
#[derive(Debug, Default)]
pub struct Contents(Vec<Reply>);

impl Contents {
    /// The objects in the result.
    pub fn objects(&self) -> impl Iterator<Item = ObjectContent<'_>> {
        self.0.iter().filter_map(Reply::return_value).flat_map(object_contents)
    }

    /// Whether the host could give this result to a read without a session: the result is empty, or
    /// a property is missing because of `NotAuthenticated`.
    #[must_use]
    pub fn looks_unauthenticated(&self) -> bool {
        let mut objects = self.objects().peekable();
        objects.peek().is_none()
            || objects.any(|object| {
                object.missing.iter().any(|missing| missing.fault.is_not_authenticated())
            })
    }
}

/// Reads properties over `login`, without checking the session.
///
/// # Errors
/// The errors of [`Session::send_repeatable`]; `NoAnswer` if the result has more than [`MAX_PARTS`]
/// parts.
pub async fn read_once(
    session: &Session,
    login: &Login,
    properties: &[PropertySpec<'_>],
    selection: Selection<'_>,
    lane: Lane,
) -> Result<Contents, ExchangeError> {
    let collector = &login.content.property_collector;
    let mut request = request::retrieve_properties(collector, properties, selection);
    let mut parts = Vec::new();
    loop {
        let reply = session.send_repeatable(login, request, lane).await?;
        let token =
            reply.return_value().and_then(|result| result.child_text("token")).map(str::to_owned);
        parts.push(reply);
        match token {
            Some(token) if parts.len() < MAX_PARTS => {
                request = request::continue_retrieve_properties(collector, &token);
            }
            Some(_) => {
                let message = format!("The answer of the host {} has no end.", session.address());
                return Err(ExchangeError::NoAnswer(HostError::new(
                    HostErrorKind::Protocol,
                    message,
                )));
            }
            None => return Ok(Contents(parts)),
        }
    }
}

/// Reads properties of one object. Error messages call the object `name`.
///
/// # Errors
/// `NotFound` if the host does not know the object, `Forbidden` if the account may not read it,
/// another fault of the host, or a failure of the connection.
pub async fn read_object(
    session: &Session,
    object: &Reference,
    paths: &[&str],
    name: &str,
) -> Result<Contents, HostError> {
    let properties = [PropertySpec { object_type: &object.kind, paths: paths.to_vec() }];
    let selection = Selection::Objects(std::slice::from_ref(object));
    let (_, contents) = read_checked(session, &properties, selection, name, Lane::Ordinary).await?;
    Ok(contents)
}

/// Reads properties of selected objects. Also returns the login that was used. Error messages call
/// the objects `name`.
///
/// # Errors
/// The errors of [`read_object`]; `NotFound` if the host knows none of the objects.
pub async fn read_checked(
    session: &Session,
    properties: &[PropertySpec<'_>],
    selection: Selection<'_>,
    name: &str,
    lane: Lane,
) -> Result<(Arc<Login>, Contents), HostError> {
    let prefix = format!("The host refused to read {name}");
    let mut login = session.current_login().await?;
    let first = read_once(session, &login, properties, selection, lane).await;
    let lost = match &first {
        Ok(contents) => contents.looks_unauthenticated(),
        Err(error) => error.may_mean_lost_session(),
    };
    let answer = if lost {
        match session.recheck(&login).await? {
            Recheck::NewLogin(next) => {
                login = next;
                read_once(session, &login, properties, selection, lane).await
            }
            Recheck::StillValid => first,
        }
    } else {
        first
    };
    let contents = answer.map_err(|error| match error {
        // The session was found valid, so `NotAuthenticated` means that the account lacks a
        // privilege.
        ExchangeError::Fault(fault) if fault.is_not_authenticated() => {
            permission_denied(fault, &prefix)
        }
        error => error.into_error(&prefix),
    })?;
    if contents.objects().next().is_none() {
        return Err(HostError::new(HostErrorKind::NotFound, format!("The host has no {name}.")));
    }
    Ok((login, contents))
}

/// The value of the property at `path` of the first object in `contents`. `None` if the property
/// has no value.
#[must_use]
pub fn first_value<'c>(contents: &'c Contents, path: &str) -> Option<Element<'c>> {
    let object = contents.objects().next()?;
    object.properties.into_iter().find(|(name, _)| *name == path).map(|(_, value)| value)
}

/// The error for `NotAuthenticated` on a valid session: the account lacks a privilege such as
/// System.View.
#[must_use]
pub fn permission_denied(fault: VimFault, prefix: &str) -> HostError {
    let mut error = fault.into_error(prefix);
    error.kind = HostErrorKind::Forbidden;
    error
        .message
        .push_str(" The session is valid, so the account lacks a privilege, such as System.View.");
    error
}
