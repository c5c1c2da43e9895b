//! Reading properties directly, past the stream of updates. A read that looks like a lost session's
//! (an empty answer among them) is repeated once after the session was seen to.

use super::session::{ExchangeError, Login, Recheck, Session};
use super::soap::property::{ObjectContent, object_contents};
use super::soap::request::{self, PropertySpec, Selection};
use super::soap::response::Reply;
use super::soap::xml::Element;
use super::soap::{Reference, fault::VimFault};
use crate::hypervisor::{HostError, HostErrorKind};

/// A result may come in parts; more of them than this are no answer.
const MAX_PARTS: usize = 1_000;

/// What a read gave: whole, however many parts it came in.
#[derive(Debug, Default)]
pub struct Contents(Vec<Reply>);

impl Contents {
    /// The objects that could be read.
    pub fn objects(&self) -> impl Iterator<Item = ObjectContent<'_>> {
        self.0.iter().filter_map(Reply::return_value).flat_map(object_contents)
    }

    /// Whether this is what a read without a session looks like.
    #[must_use]
    pub fn looks_unauthenticated(&self) -> bool {
        let mut objects = self.objects().peekable();
        objects.peek().is_none()
            || objects.any(|object| {
                object.missing.iter().any(|missing| missing.fault.is_not_authenticated())
            })
    }
}

/// Reads on this login, without a second try.
///
/// # Errors
/// As [`ExchangeError`] says.
pub async fn read_once(
    session: &Session,
    login: &Login,
    properties: &[PropertySpec<'_>],
    selection: Selection<'_>,
) -> Result<Contents, ExchangeError> {
    let collector = &login.content.property_collector;
    let mut request = request::retrieve_properties(collector, properties, selection);
    let mut parts = Vec::new();
    loop {
        let reply = session.send_repeatable(login, request).await?;
        let token =
            reply.return_value().and_then(|result| result.child_text("token")).map(str::to_owned);
        parts.push(reply);
        match token {
            Some(token) if parts.len() < MAX_PARTS => {
                request = request::continue_retrieve_properties(collector, &token);
            }
            Some(_) => {
                let message = format!("The host {} does not end its answer.", session.address());
                return Err(ExchangeError::NoAnswer(HostError::new(
                    HostErrorKind::Protocol,
                    message,
                )));
            }
            None => return Ok(Contents(parts)),
        }
    }
}

/// Reads properties of one object; `name` names it in errors.
///
/// # Errors
/// `NotFound` where the host says that there is no such object; whatever else the host or the way
/// to it says.
pub async fn read_object(
    session: &Session,
    object: &Reference,
    paths: &[&str],
    name: &str,
) -> Result<Contents, HostError> {
    let properties = [PropertySpec { object_type: &object.kind, paths: paths.to_vec() }];
    let selection = Selection::Objects(std::slice::from_ref(object));
    let prefix = format!("The host refused to read {name}");
    let login = session.current_login().await?;
    let first = read_once(session, &login, &properties, selection).await;
    let lost = match &first {
        Ok(contents) => contents.looks_unauthenticated(),
        Err(error) => error.may_mean_lost_session(),
    };
    let answer = if lost {
        match session.recheck(&login).await? {
            Recheck::NewLogin(login) => read_once(session, &login, &properties, selection).await,
            Recheck::StillValid => first,
        }
    } else {
        first
    };
    let contents = answer.map_err(|error| match error {
        // The session is alive, so this is about rights.
        ExchangeError::Fault(fault) if fault.is_not_authenticated() => {
            permission_denied(fault, &prefix)
        }
        error => error.into_error(&prefix),
    })?;
    if contents.objects().next().is_none() {
        return Err(HostError::new(HostErrorKind::NotFound, format!("The host knows no {name}.")));
    }
    Ok(contents)
}

/// The value of a property of the first object.
#[must_use]
pub fn first_value<'c>(contents: &'c Contents, path: &str) -> Option<Element<'c>> {
    let object = contents.objects().next()?;
    object.properties.into_iter().find(|(name, _)| *name == path).map(|(_, value)| value)
}

/// `NotAuthenticated` on a session that is alive: the account lacks a right such as System.View.
#[must_use]
pub fn permission_denied(fault: VimFault, prefix: &str) -> HostError {
    let mut error = fault.into_error(prefix);
    error.kind = HostErrorKind::Forbidden;
    error.message.push_str(
        " The session is alive, so the account of the host lacks a right, such as System.View.",
    );
    error
}
