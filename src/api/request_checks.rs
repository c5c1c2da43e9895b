//! Checks of every request before it reaches a route: its size, its `Host`, that no web page of
//! another server sent it, that its body has no content encoding, and that it is JSON, unless the
//! operation takes a file.
//!
//! While no token exists, every caller is an admin. Then otter also refuses a `Host` that is not
//! loopback, which prevents DNS rebinding, and requests through a proxy, whose clients can be on
//! other machines.

use axum::extract::Request;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, FORWARDED, HOST, ORIGIN, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::cors::Cors;
use super::extract::failure_at;
use super::media_type::is_json;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::web_origin::{Authority, Scheme, WebOrigin};
use crate::service::machines::shorten;

/// The largest number of bytes of the path and query. hyper accepts longer ones, so that otter
/// itself answers with a problem.
const MAX_URI: usize = 16 * 1024;
/// The largest number of bytes of all headers. hyper refuses more than 100 headers itself.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// The header in which a browser says whether the page and otter have the same origin.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The settings of the checks that every request must pass.
#[derive(Clone)]
pub struct RequestChecks {
    /// The URL scheme under which clients reach otter.
    pub scheme: Scheme,
    /// The origins of other servers whose web pages may call otter.
    pub cors: Cors,
}

impl RequestChecks {
    /// Checks a request.
    ///
    /// # Parameters
    /// - `takes_any_type`: whether the body is a file of any type, and not JSON.
    ///
    /// # Parameters
    /// - `needs_token`: whether callers need tokens.
    ///
    /// # Errors
    /// `uri-too-long`, `headers-too-large`, `invalid-request` for the `Host`, `forbidden` for a
    /// foreign host, a proxy or another web page, `unsupported-media-type`.
    pub fn check(
        &self,
        request: &Request,
        needs_token: bool,
        takes_any_type: bool,
    ) -> Result<(), Failure> {
        check_size(request)?;
        let host = host_of(request)?;
        if !needs_token {
            check_is_loopback(request, host.as_ref())?;
            check_is_direct(request.headers())?;
        }
        if is_unsafe(request) {
            self.check_web_page(request.headers(), host.as_ref())?;
        }
        check_is_not_encoded(request.headers())?;
        let has_json = !request.method().is_safe() && !takes_any_type;
        if has_json { check_media_type(request.headers()) } else { Ok(()) }
    }

    /// Refuses a request that a web page of another server sent. A browser lets a page send a POST
    /// without a preflight, and sends this POST from the user's network with the user's client
    /// certificates.
    fn check_web_page(&self, headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Failure> {
        let mut is_allowed = false;
        for given in headers.get_all(ORIGIN) {
            let given = String::from_utf8_lossy(given.as_bytes());
            let origin: Option<WebOrigin> = given.parse().ok();
            let is_listed = origin.as_ref().is_some_and(|origin| self.cors.lists(origin));
            let is_own = origin
                .zip(host)
                .is_some_and(|(origin, host)| origin.is_served_by(host, self.scheme));
            if !is_listed && !is_own {
                return Err(foreign_page(&format!(
                    "A web page of {} sent this request",
                    shorten(&given)
                )));
            }
            is_allowed |= is_listed;
        }
        if is_allowed {
            return Ok(());
        }
        let is_own = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
        match headers.get_all(SEC_FETCH_SITE).iter().find(|site| !is_own(site)) {
            None => Ok(()),
            Some(site) => {
                let site = shorten(&String::from_utf8_lossy(site.as_bytes()));
                let detail = format!(
                    "A web page of another server sent this request (Sec-Fetch-Site: {site})"
                );
                Err(foreign_page(&detail))
            }
        }
    }
}

fn foreign_page(what: &str) -> Failure {
    let detail = format!(
        "{what}, and otter accepts changes only from its own pages. The request had no effect. If \
         you trust that page, add its origin to http.allowed_origins."
    );
    Failure::new(FailureKind::Forbidden, detail)
}

/// Whether the request can change something. A WebSocket begins with a GET, but can carry input.
fn is_unsafe(request: &Request) -> bool {
    let upgrades = request.headers().get_all(UPGRADE).iter();
    let mut protocols = upgrades.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_websocket = |name: &[u8]| {
        // The name of a protocol in `Upgrade` can have a version: `websocket/13`.
        let name = name.split(|byte| *byte == b'/').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"websocket")
    };
    !request.method().is_safe() || protocols.any(is_websocket)
}

fn check_size(request: &Request) -> Result<(), Failure> {
    let uri = request.uri();
    let length = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
    if length > MAX_URI {
        let detail = format!(
            "The path and query have {length} bytes, and otter accepts at most {MAX_URI}. Use ids \
             in place of names."
        );
        return Err(Failure::new(FailureKind::UriTooLong, detail));
    }
    let headers = request.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > MAX_HEADER_BYTES {
        let detail = format!(
            "The headers of the request have {bytes} bytes, and otter accepts at most \
             {MAX_HEADER_BYTES}."
        );
        return Err(Failure::new(FailureKind::HeadersTooLarge, detail));
    }
    Ok(())
}

/// Reads `Host`. A request must have exactly one well-formed `Host`. `None` only for health checks
/// with HTTP/1.0, which load balancers send without `Host`.
fn host_of(request: &Request) -> Result<Option<Authority>, Failure> {
    let wrong = |code: &'static str, detail: String| {
        failure_at(FailureKind::InvalidRequest, "host", code, detail)
    };
    // A URI in absolute form has a host too, which overrides the header (RFC 9112, section 3.2.2).
    if let Some(given) = request.uri().authority()
        && given.as_str().parse::<Authority>().is_err()
    {
        let detail =
            format!("The URL has the host {}, which is malformed.", shorten(given.as_str()));
        return Err(wrong("malformed", detail));
    }
    let mut given = request.headers().get_all(HOST).iter();
    let Some(host) = given.next() else {
        let is_probe = request.version() == Version::HTTP_10
            && matches!(request.uri().path(), "/healthz" | "/readyz");
        if is_probe {
            return Ok(None);
        }
        return Err(wrong("missing", "The header Host is missing.".to_owned()));
    };
    if given.next().is_some() {
        return Err(wrong("repeated", "The header Host is repeated; send it once.".to_owned()));
    }
    let host = String::from_utf8_lossy(host.as_bytes());
    host.parse().map(Some).map_err(|error| {
        wrong("malformed", format!("The header Host is {}: {error}.", shorten(&host)))
    })
}

fn check_is_loopback(request: &Request, host: Option<&Authority>) -> Result<(), Failure> {
    let in_address = request.uri().authority().and_then(|given| given.as_str().parse().ok());
    if in_address.iter().chain(host).all(|authority: &Authority| authority.host.is_loopback()) {
        return Ok(());
    }
    let detail = "While no token exists, otter accepts only localhost and loopback addresses as \
                  the host, and the request names another host. To use other names, create a \
                  token: otter token create.";
    Err(Failure::new(FailureKind::Forbidden, detail))
}

/// Refuses a request that came through a proxy. Behind a proxy, every caller appears to be on this
/// machine and would be an admin.
fn check_is_direct(headers: &HeaderMap) -> Result<(), Failure> {
    let is_of_proxy =
        |name: &HeaderName| *name == FORWARDED || name.as_str().starts_with("x-forwarded-");
    let Some(name) = headers.keys().find(|name| is_of_proxy(name)) else { return Ok(()) };
    let detail = format!(
        "The request came through a proxy (it has the header {name}). While no token exists, every \
         caller of the proxy would be an admin. Create a token: otter token create --name NAME \
         --role ROLE."
    );
    Err(Failure::new(FailureKind::Forbidden, detail))
}

fn check_is_not_encoded(headers: &HeaderMap) -> Result<(), Failure> {
    let is_plain = |value: &&HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers.get_all(CONTENT_ENCODING).iter().find(|value| !is_plain(value)) {
        None => Ok(()),
        Some(encoding) => {
            let encoding = shorten(&String::from_utf8_lossy(encoding.as_bytes()));
            let detail = format!(
                "The body has the Content-Encoding {encoding}, which otter does not accept: send \
                 it without Content-Encoding."
            );
            Err(Failure::new(FailureKind::UnsupportedMediaType, detail))
        }
    }
}

/// Checks `Content-Type`. A content type must be JSON, even if the request has no body, because a
/// web page can send a form without a preflight, but not JSON. The handler decides whether a
/// content type is required.
fn check_media_type(headers: &HeaderMap) -> Result<(), Failure> {
    let is_readable = |value: &&HeaderValue| value.to_str().is_ok_and(is_json);
    let Some(other) = headers.get_all(CONTENT_TYPE).iter().find(|value| !is_readable(value)) else {
        return Ok(());
    };
    let given = String::from_utf8_lossy(other.as_bytes());
    let (is_form, given) =
        (given.starts_with("application/x-www-form-urlencoded"), shorten(&given));
    let detail = if has_body(headers) {
        let hint = if is_form { " (curl: write --json in place of -d)" } else { "" };
        format!("The Content-Type is {given}, and otter accepts application/json in UTF-8{hint}.")
    } else {
        let hint = if is_form { "drop curl's -d" } else { "drop that header" };
        format!("The request has no body, but the Content-Type {given}: {hint}.")
    };
    Err(Failure::new(FailureKind::UnsupportedMediaType, detail))
}

fn has_body(headers: &HeaderMap) -> bool {
    let is_empty = headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
    headers.contains_key(TRANSFER_ENCODING) || !is_empty
}
