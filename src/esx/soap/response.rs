//! Parses an HTTP answer of a host. The answer is the result of a method, a fault, or no vim25
//! answer at all.

use super::fault::VimFault;
use super::xml::{Document, Element, XmlError};
use super::{ENVELOPE, Reference};

/// The answer to a method that succeeded.
#[derive(Clone, Debug)]
pub struct Reply(Document);

/// Why an HTTP answer is not a vim25 answer. In all of these cases the call may have run.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The proxy on the host answered in place of hostd, because hostd is down or starting. The
    /// field is the HTTP status.
    #[error("HTTP status {0} without a SOAP answer: the host's service is down or starting")]
    Unavailable(u16),
    /// The address has no vim25 API, or the proxy on the host does not know hostd yet. The field is
    /// the HTTP status.
    #[error(
        "HTTP status {0} without a SOAP answer: the server has no vim25 API, or the host's service \
         is starting"
    )]
    Missing(u16),
    /// A proxy between otter and the host answered. The field is the HTTP status.
    #[error("HTTP status {0} without a SOAP answer: a proxy does not reach the host")]
    Gateway(u16),
    #[error("HTTP status {0} without a SOAP answer")]
    NotSoap(u16),
    #[error("HTTP status {0} with an answer that cannot be parsed")]
    Unreadable(u16, #[source] XmlError),
    #[error("the answer belongs to {0} and not to {1}")]
    OtherMethod(String, &'static str),
}

/// Parses the HTTP answer to `method`. A SOAP fault counts as a fault whatever the HTTP status is.
///
/// # Errors
/// [`AnswerError`] if the answer is neither a result nor a fault.
pub fn parse_answer(
    status: u16,
    body: &[u8],
    method: &'static str,
) -> Result<Result<Reply, VimFault>, AnswerError> {
    let document = match Document::parse(body) {
        Ok(document) => document,
        Err(error) if status == 200 => return Err(AnswerError::Unreadable(status, error)),
        Err(_) => return Err(AnswerError::from_status(status)),
    };
    let root = document.root();
    if !root.is(ENVELOPE, "Envelope") {
        return Err(AnswerError::from_status(status));
    }
    let Some(answer) = body_content(root) else { return Err(AnswerError::from_status(status)) };
    if answer.is(ENVELOPE, "Fault") {
        return Ok(Err(VimFault::from_soap(answer)));
    }
    if status != 200 {
        return Err(AnswerError::from_status(status));
    }
    if answer.name().strip_suffix("Response") != Some(method) {
        let other = answer.name().chars().take(80).collect();
        return Err(AnswerError::OtherMethod(other, method));
    }
    Ok(Ok(Reply(document)))
}

impl AnswerError {
    /// The error for an answer that contains no SOAP and has this HTTP status.
    #[must_use]
    pub const fn from_status(status: u16) -> Self {
        match status {
            503 => Self::Unavailable(status),
            404 => Self::Missing(status),
            502 | 504 => Self::Gateway(status),
            _ => Self::NotSoap(status),
        }
    }

    /// The HTTP status of the answer. `None` if the answer belongs to another method.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Unavailable(status)
            | Self::Missing(status)
            | Self::Gateway(status)
            | Self::NotSoap(status)
            | Self::Unreadable(status, _) => Some(*status),
            Self::OtherMethod(..) => None,
        }
    }

    /// Whether a host itself may give this answer while it starts. This is not so for status 501: a
    /// server that does not know the HTTP method is no host.
    #[must_use]
    pub const fn may_be_temporary(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Missing(_) | Self::Gateway(_) => true,
            Self::NotSoap(status) => *status >= 500 && *status != 501,
            Self::Unreadable(..) | Self::OtherMethod(..) => false,
        }
    }
}

impl Reply {
    /// The root element of the result, whose name ends in `Response`.
    #[must_use]
    pub fn response(&self) -> Element<'_> {
        // `parse_answer` makes a `Reply` only of a document with this element, so the root is never
        // used.
        body_content(self.0.root()).unwrap_or_else(|| self.0.root())
    }

    /// The first element `returnval` of the result. `None` if the method returned null or has no
    /// result.
    #[must_use]
    pub fn return_value(&self) -> Option<Element<'_>> {
        self.response().child("returnval")
    }

    /// The reference that the method returned. `None` if the method returned no reference.
    #[must_use]
    pub fn reference(&self) -> Option<Reference> {
        self.return_value().and_then(Reference::from_element)
    }
}

fn body_content(envelope: Element<'_>) -> Option<Element<'_>> {
    envelope.children().find(|child| child.is(ENVELOPE, "Body"))?.children().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(body: &str) -> Vec<u8> {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
               <e:Envelope xmlns:e="{ENVELOPE}"><e:Body>{body}</e:Body></e:Envelope>"#
        )
        .into_bytes()
    }

    #[test]
    fn results_and_faults_are_parsed() {
        let body = envelope(
            r#"<PowerOnVM_TaskResponse xmlns="urn:vim25"><returnval type="Task">t</returnval>
               </PowerOnVM_TaskResponse>"#,
        );
        let reply = parse_answer(200, &body, "PowerOnVM_Task").unwrap().unwrap();
        assert_eq!(reply.reference(), Some(Reference::new("Task", "t")));
        let body = envelope(r#"<LogoutResponse xmlns="urn:vim25"/>"#);
        assert!(parse_answer(200, &body, "Logout").unwrap().unwrap().return_value().is_none());
        let fault =
            envelope("<e:Fault><faultcode>x</faultcode><faultstring>no</faultstring></e:Fault>");
        for status in [200, 500, 503] {
            assert_eq!(parse_answer(status, &fault, "Logout").unwrap().unwrap_err().message, "no");
        }
    }

    #[test]
    fn an_answer_that_is_not_soap_is_classified_by_its_status() {
        let html: &[u8] = b"<html><body>503 Service Unavailable</body></html>";
        let long: Vec<u8> = vec![b'x'; 100_000];
        for body in [b"" as &[u8], b"no healthy upstream", html, &long] {
            for (status, is_temporary, text) in [
                (404, true, "has no vim25 API, or the host's service is starting"),
                (500, true, "without a SOAP answer"),
                (502, true, "a proxy does not reach the host"),
                (503, true, "down or starting"),
                (504, true, "a proxy does not reach the host"),
                (501, false, "without a SOAP answer"),
                (301, false, "without a SOAP answer"),
                (400, false, "without a SOAP answer"),
                (401, false, "without a SOAP answer"),
                (403, false, "without a SOAP answer"),
            ] {
                let error = parse_answer(status, body, "Login").unwrap_err();
                assert_eq!(
                    (error.status(), error.may_be_temporary()),
                    (Some(status), is_temporary)
                );
                let expected = format!("HTTP status {status}");
                let found = error.to_string();
                assert!(found.starts_with(&expected) && found.ends_with(text), "{found}");
            }
        }
        assert!(matches!(parse_answer(200, html, "Login"), Err(AnswerError::NotSoap(200))));
        assert!(matches!(
            parse_answer(200, b"", "Login"),
            Err(AnswerError::Unreadable(200, XmlError::Empty))
        ));
        let complete = envelope(r#"<LoginResponse xmlns="urn:vim25"><returnval/></LoginResponse>"#);
        for end in 0..complete.len() - 1 {
            assert!(parse_answer(200, &complete[..end], "Login").is_err(), "cut at {end}");
        }
        assert!(matches!(
            parse_answer(200, &complete, "Logout"),
            Err(AnswerError::OtherMethod(..))
        ));
        assert!(matches!(parse_answer(500, &complete, "Login"), Err(AnswerError::NotSoap(500))));
        assert!(matches!(
            parse_answer(200, &envelope(""), "Login"),
            Err(AnswerError::NotSoap(200))
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
            status in 100_u16..600,
        ) {
            let _ = parse_answer(status, &bytes, "Login");
        }

        /// A damaged answer is either parsed or refused, without a panic. If it is parsed, the
        /// property cache and the conversion to JSON accept it too.
        #[test]
        fn damaged_answers_do_not_make_it_panic(
            at in 0_usize..900,
            byte in proptest::num::u8::ANY,
            cut in 0_usize..900,
        ) {
            let mut body = envelope(
                r#"<WaitForUpdatesExResponse xmlns="urn:vim25"
                     xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
                   <returnval><version>1</version><filterSet>
                   <objectSet><kind>enter</kind><obj type="VirtualMachine">1</obj>
                   <changeSet><name>snapshot</name><op>assign</op>
                   <val xsi:type="VirtualMachineSnapshotInfo"><rootSnapshotList>
                   <snapshot type="VirtualMachineSnapshot">s</snapshot>
                   <createTime>2024-01-01T00:00:00Z</createTime>
                   </rootSnapshotList></val></changeSet></objectSet></filterSet></returnval>
                   </WaitForUpdatesExResponse>"#,
            );
            if let Some(target) = body.get_mut(at) {
                *target = byte;
            }
            if cut % 3 == 0 {
                body.truncate(cut);
            }
            if let Ok(Ok(reply)) = parse_answer(200, &body, "WaitForUpdatesEx")
                && let Some(set) = reply.return_value()
            {
                let set = crate::esx::soap::property::UpdateSet::from_element(set);
                let mut cache = crate::esx::property_cache::PropertyCache::default();
                set.objects.iter().for_each(|update| cache.apply(update));
                let _ = (cache.take_facts(true), crate::esx::soap::json::to_json(reply.response()));
            }
        }
    }
}
