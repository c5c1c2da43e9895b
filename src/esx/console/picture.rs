//! Reads a picture of a screen from `/screen`: that of a running machine, or the one that the host
//! took with a memory snapshot.

use std::sync::Arc;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::esx::session::{Login, Recheck, Session};
use crate::esx::transport::HttpAnswer;
use crate::hypervisor::{HostError, HostErrorKind, ScreenObject};

/// The first bytes of every PNG.
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The characters of an id that are escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The name of the read in the metrics.
const METRIC: &str = "screen";

/// Reads a picture, as PNG. If the host does not know the session, the read is repeated once over
/// the next one.
///
/// # Errors
/// As [`Hypervisor::screen_picture`](crate::hypervisor::Hypervisor::screen_picture).
pub async fn read_picture(session: &Session, object: &ScreenObject) -> Result<Bytes, HostError> {
    let id = match object {
        ScreenObject::Machine(machine) => machine.backend_text(),
        ScreenObject::Snapshot(snapshot) => snapshot.backend_text(),
    };
    let path = format!("/screen?id={}", utf8_percent_encode(id, ESCAPED));
    let login = session.current_login().await?;
    let answer = get(session, &login, &path).await?;
    let answer = if matches!(answer.status, 401 | 403) {
        match session.recheck(&login).await? {
            Recheck::NewLogin(login) => get(session, &login, &path).await?,
            Recheck::StillValid => answer,
        }
    } else {
        answer
    };
    judge(answer, object)
}

async fn get(session: &Session, login: &Arc<Login>, path: &str) -> Result<HttpAnswer, HostError> {
    let answer = session.get(login, METRIC, path).await;
    answer.map_err(|error| error.into_error("The host refused a picture of the screen"))
}

/// The picture in an answer.
fn judge(answer: HttpAnswer, object: &ScreenObject) -> Result<Bytes, HostError> {
    let HttpAnswer { status, body, cookie: _, whole_size: _ } = answer;
    let name = match object {
        ScreenObject::Machine(machine) => format!("the screen of machine {machine}"),
        ScreenObject::Snapshot(snapshot) => format!("the snapshot {snapshot}"),
    };
    let (kind, message) = match status {
        200 if body.starts_with(PNG_SIGNATURE) => return Ok(body),
        200 => (
            HostErrorKind::Protocol,
            format!("The host answered with something that is no picture of {name}."),
        ),
        401 | 403 => (
            HostErrorKind::Forbidden,
            format!(
                "The host refused a picture of {name}: its account lacks the privilege \
                 VirtualMachine.Interact.ConsoleInteract."
            ),
        ),
        404 => (HostErrorKind::NotFound, format!("The host has no picture of {name}.")),
        _ => (
            // The proxy of a host answers so while the service behind it does not run. With any
            // other status the host was reached, and only its picture is out of reach.
            if matches!(status, 502..=504) {
                HostErrorKind::Unreachable
            } else {
                HostErrorKind::Rejected
            },
            format!("The host gave no picture of {name}: it answered with HTTP status {status}."),
        ),
    };
    Err(HostError::new(kind, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::MachineId;

    fn judged(status: u16, body: &'static [u8]) -> Result<Bytes, HostErrorKind> {
        let body = Bytes::from_static(body);
        let answer = HttpAnswer { status, body, cookie: None, whole_size: None };
        let object = ScreenObject::Machine(MachineId::from_backend("16"));
        judge(answer, &object).map_err(|error| error.kind)
    }

    #[test]
    fn only_a_png_is_a_picture() {
        let png = b"\x89PNG\r\n\x1a\nrest";
        assert_eq!(judged(200, png).unwrap(), &png[..]);
        assert_eq!(judged(200, b"<html>"), Err(HostErrorKind::Protocol));
        assert_eq!(judged(401, b""), Err(HostErrorKind::Forbidden));
        assert_eq!(judged(404, b""), Err(HostErrorKind::NotFound));
        assert_eq!(judged(500, png), Err(HostErrorKind::Rejected));
        assert_eq!(judged(503, png), Err(HostErrorKind::Unreachable));
    }
}
