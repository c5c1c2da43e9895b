//! `/folder/…`: the files of datastores over HTTP.
//!
//! ```text
//! GET, HEAD  a file, whole or a range of it; a folder as an HTML list
//! PUT        a file: 201 if it is new, 200 if it is replaced; no folder is made
//! DELETE     a file
//! ```
//! A disk of a machine that is on is 500 for a reader, and a file in use resets the connection of a
//! writer (observed). An answer has no `Last-Modified`, as on a real host.

use std::fmt::Write as _;

use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Shared;
use super::fault_injection::{TransferEnd, TransferMishap};
use super::file_body::{FileBody, time_for};
use super::http_answer::{Body, ConnectionCut, FILE_TYPE, refuse, respond, session_cookie};
use super::world::{FileEntry, FilePath, FileProblem, World};

/// The only datacenter of the host.
const DATACENTER: &str = "ha-datacenter";
/// How many bytes of an upload are written at once.
const MAX_WRITE: usize = 64 << 10;

/// What a request is about.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Datacenters,
    Datastores,
    Place(FilePath),
}

/// A part of a file: the first byte and the number of bytes.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Range { first: u64, length: u64 },
    Beyond,
}

/// Answers a request to `/folder`, disturbed by `mishap`.
pub async fn answer(
    shared: &Shared,
    head: &Parts,
    body: Incoming,
    mishap: TransferMishap,
) -> Result<Response<Body>, ConnectionCut> {
    let cookie = session_cookie(&head.headers);
    let may_change = {
        let mut state = shared.lock();
        let now = state.world.now();
        // A client without a session is refused while it still sends its body.
        if !state.sessions.admits(cookie.as_deref(), &head.headers, now) {
            return Ok(refuse(StatusCode::UNAUTHORIZED, ""));
        }
        state.world.check_may_change().is_ok()
    };
    let Some(target) = target(&head.uri) else {
        return Ok(refuse(StatusCode::NOT_FOUND, ""));
    };
    match (&head.method, target) {
        (&Method::GET | &Method::HEAD, target) => Ok(read(shared, head, target, mishap)),
        _ if !may_change => Ok(refuse(StatusCode::FORBIDDEN, "the account may only read")),
        (&Method::PUT, Target::Place(path)) => receive(shared, path, body, mishap).await,
        (&Method::DELETE, Target::Place(path)) => {
            let deleted = match shared.lock().world.entry(&path) {
                Ok(FileEntry::Folder { .. }) => Err(FileProblem::IsFolder),
                Ok(FileEntry::File(_)) => Ok(()),
                Err(problem) => Err(problem),
            };
            let deleted = deleted.and_then(|()| shared.lock().world.delete_file(&path));
            shared.notify();
            match deleted {
                Ok(()) => Ok(respond(StatusCode::OK, "text/plain", "")),
                Err(problem) => Ok(refuse_problem(problem)),
            }
        }
        _ => Ok(refuse(StatusCode::METHOD_NOT_ALLOWED, "")),
    }
}

fn read(shared: &Shared, head: &Parts, target: Target, mishap: TransferMishap) -> Response<Body> {
    let state = shared.lock();
    let path = match target {
        Target::Place(path) => path,
        Target::Datacenters => {
            let link = format!("/folder?dcPath={DATACENTER}");
            return listing("Datacenters", [(DATACENTER.to_owned(), link)]);
        }
        Target::Datastores => {
            let links = state.world.datastores().map(|datastore| {
                let link =
                    format!("/folder?dcPath={DATACENTER}&dsName={}", encode(&datastore.name));
                (datastore.name.clone(), link)
            });
            return listing("Datastores", links);
        }
    };
    match state.world.entry(&path) {
        Ok(FileEntry::Folder { .. }) => list_folder(&state.world, &path),
        Err(problem) => refuse_problem(problem),
        Ok(FileEntry::File(file)) if file.is_locked => refuse_problem(FileProblem::InUse),
        Ok(FileEntry::File(file)) => {
            let whole = file.content.length();
            let range = head.headers.get(RANGE).and_then(|range| range.to_str().ok());
            let (status, range, first, length) = match part(range, whole) {
                Part::Whole => (StatusCode::OK, None, 0, whole),
                Part::Range { first, length } => {
                    let range = format!("bytes {first}-{}/{whole}", first + length - 1);
                    (StatusCode::PARTIAL_CONTENT, Some(range), first, length)
                }
                Part::Beyond => {
                    let range = format!("bytes */{whole}");
                    (StatusCode::RANGE_NOT_SATISFIABLE, Some(range), 0, 0)
                }
            };
            let body = FileBody::new(file.content, first, length, mishap, shared.clock.clone());
            let mut response = Response::new(BodyExt::boxed(body));
            *response.status_mut() = status;
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(FILE_TYPE));
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            if let Some(Ok(range)) = range.map(HeaderValue::try_from) {
                headers.insert(CONTENT_RANGE, range);
            }
            response
        }
    }
}

/// A client that writes a file. Whatever ends it, the file holds what has come until then, and it
/// is in use no more.
struct Upload<'s> {
    shared: &'s Shared,
    path: FilePath,
    waiting: Vec<u8>,
}

impl Upload<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), FileProblem> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= MAX_WRITE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), FileProblem> {
        let written = self.shared.lock().world.write_upload(&self.path, &self.waiting);
        self.waiting.clear();
        self.shared.notify_screens();
        written
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            // What does not fit is lost.
            let _ = state.world.write_upload(&self.path, &self.waiting);
            state.world.end_upload(&self.path);
        }
        self.shared.notify();
    }
}

async fn receive(
    shared: &Shared,
    path: FilePath,
    mut body: Incoming,
    mishap: TransferMishap,
) -> Result<Response<Body>, ConnectionCut> {
    let begun = shared.lock().world.begin_upload(&path);
    shared.notify();
    let is_new = match begun {
        Ok(is_new) => is_new,
        Err(FileProblem::InUse) => return Err(ConnectionCut),
        Err(problem) => return Ok(refuse_early(body, refuse_problem(problem))),
    };
    let mut upload = Upload { shared, path, waiting: Vec::new() };
    let mut taken: u64 = 0;
    loop {
        let most = mishap.end.map_or(u64::MAX, |(after, _)| after.saturating_sub(taken));
        if most == 0 {
            // The file is written and free before the client can notice its mishap.
            drop(upload);
            return match mishap.end {
                Some((_, TransferEnd::Stall)) => std::future::pending().await,
                Some((_, TransferEnd::Answer(status))) => {
                    Ok(refuse_early(body, refuse(status, "")))
                }
                Some((_, TransferEnd::Cut)) | None => Err(ConnectionCut),
            };
        }
        let Some(frame) = body.frame().await else { break };
        let Ok(frame) = frame else { return Err(ConnectionCut) };
        let Ok(bytes) = frame.into_data() else { continue };
        let bytes = bytes.slice(..bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX)));
        taken += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if let Err(problem) = upload.take(&bytes) {
            return Ok(refuse_early(body, refuse_problem(problem)));
        }
        if let Some(rate) = mishap.bytes_per_second {
            shared.clock.sleep(time_for(bytes.len(), rate)).await;
        }
    }
    let written = upload.write();
    drop(upload);
    match written {
        Ok(()) if is_new => Ok(respond(StatusCode::CREATED, "text/plain", "")),
        Ok(()) => Ok(respond(StatusCode::OK, "text/plain", "")),
        Err(problem) => Ok(refuse_problem(problem)),
    }
}

/// An answer before the end of a body. The rest of the body is read and lost: if the connection
/// were closed with it, the client could lose the answer.
fn refuse_early(mut body: Incoming, answer: Response<Body>) -> Response<Body> {
    tokio::spawn(async move { while let Some(Ok(_)) = body.frame().await {} });
    answer
}

fn refuse_problem(problem: FileProblem) -> Response<Body> {
    let (status, text) = match problem {
        FileProblem::Malformed => (StatusCode::BAD_REQUEST, "the path is malformed"),
        FileProblem::NoDatastore | FileProblem::NotFound | FileProblem::NoFolder => {
            (StatusCode::NOT_FOUND, "there is no such file")
        }
        FileProblem::Inaccessible => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the datastore is not accessible")
        }
        FileProblem::NoSpace => (StatusCode::INTERNAL_SERVER_ERROR, "no space is left"),
        FileProblem::InUse => (StatusCode::INTERNAL_SERVER_ERROR, "the file is locked"),
        FileProblem::IsFolder | FileProblem::Exists => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the place is not that of a file")
        }
    };
    refuse(status, text)
}

/// A folder as a list for people, with all files in it.
fn list_folder(world: &World, folder: &FilePath) -> Response<Body> {
    let entries = match world.list(folder) {
        Ok(entries) => entries,
        Err(problem) => return refuse_problem(problem),
    };
    let links = entries.iter().map(|(name, entry)| {
        let slash = if matches!(entry, FileEntry::Folder { .. }) { "/" } else { "" };
        let path = folder.child(name).path;
        let path: Vec<String> = path.split('/').map(encode).collect();
        let store = encode(&folder.datastore);
        let link = format!("/folder/{}{slash}?dcPath={DATACENTER}&dsName={store}", path.join("/"));
        (format!("{name}{slash}"), link)
    });
    listing(&folder.to_string(), links)
}

fn listing(title: &str, links: impl IntoIterator<Item = (String, String)>) -> Response<Body> {
    let title = escape(title);
    let mut html = format!(
        "<!DOCTYPE html><html><head><title>Index of {title}</title></head>\
         <body><h1>Index of {title}</h1><table>"
    );
    for (name, link) in links {
        // A write to a text does not fail.
        let _ =
            write!(html, "<tr><td><a href=\"{}\">{}</a></td></tr>", escape(&link), escape(&name));
    }
    html.push_str("</table></body></html>");
    respond(StatusCode::OK, "text/html; charset=utf-8", html)
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What `/folder/<path>?dcPath=<datacenter>&dsName=<datastore>` is about. `None` if it is about
/// nothing that the host has.
fn target(uri: &Uri) -> Option<Target> {
    let path = decoded(uri.path().strip_prefix("/folder")?)?;
    let fields =
        uri.query().unwrap_or_default().split('&').filter_map(|field| field.split_once('='));
    let (mut datastore, mut has_datacenter) = (None, false);
    for (name, value) in fields {
        let value = decoded(&value.replace('+', " "))?;
        match name {
            "dsName" => datastore = Some(value),
            "dcPath" if value.trim_matches('/') == DATACENTER => has_datacenter = true,
            "dcPath" => return None,
            _ => {}
        }
    }
    let is_root = path.trim_matches('/').is_empty();
    match datastore {
        Some(datastore) => FilePath::new(&datastore, &path).ok().map(Target::Place),
        None if is_root && has_datacenter => Some(Target::Datastores),
        None if is_root => Some(Target::Datacenters),
        None => None,
    }
}

fn decoded(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

/// The part of a file of `length` bytes that the header `Range` names. A header that is no single
/// range of bytes counts as none.
fn part(header: Option<&str>, length: u64) -> Part {
    let Some((first, end)) = header.and_then(|header| byte_range(header, length)) else {
        return Part::Whole;
    };
    match end.checked_sub(first) {
        Some(part) if part > 0 => Part::Range { first, length: part },
        _ => Part::Beyond,
    }
}

/// The first byte of a range and the byte behind its last one. `None` if the header is no single
/// range of bytes.
fn byte_range(header: &str, length: u64) -> Option<(u64, u64)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", last) => Some((length.saturating_sub(last.parse().ok()?), length)),
        (first, "") => Some((first.parse().ok()?, length)),
        (first, last) => {
            let last: u64 = last.parse().ok()?;
            Some((first.parse().ok()?, last.saturating_add(1).min(length)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_part_of_the_file_or_beyond_its_end() {
        let ten = |header: &str| part(Some(header), 10);
        assert_eq!(ten("bytes=7-"), Part::Range { first: 7, length: 3 });
        assert_eq!(ten("bytes=2-3"), Part::Range { first: 2, length: 2 });
        assert_eq!(ten("bytes=8-99"), Part::Range { first: 8, length: 2 });
        assert_eq!(ten("bytes=-2"), Part::Range { first: 8, length: 2 });
        assert_eq!(ten("bytes=-99"), Part::Range { first: 0, length: 10 });
        for beyond in ["bytes=10-", "bytes=11-12", "bytes=-0", "bytes=5-4"] {
            assert_eq!(ten(beyond), Part::Beyond, "{beyond}");
        }
        for none in ["bytes=", "bytes=x-", "lines=1-2", "bytes=1-2,4-5"] {
            assert_eq!(ten(none), Part::Whole, "{none}");
        }
        assert_eq!(part(None, 0), Part::Whole);
    }

    #[test]
    fn a_path_is_that_of_a_file_on_a_datastore() {
        let place = |uri: &str| match target(&uri.parse().unwrap()) {
            Some(Target::Place(path)) => Some(path.to_string()),
            other => other.map(|other| format!("{other:?}")),
        };
        assert_eq!(
            place("/folder/a%20b/c%2Bd.txt?dcPath=ha-datacenter&dsName=my+store%5B1%5D").as_deref(),
            Some("[my store[1]] a b/c+d.txt")
        );
        assert_eq!(place("/folder/x?dsName=d").as_deref(), Some("[d] x"));
        assert_eq!(place("/folder?dsName=d").as_deref(), Some("[d]"));
        assert_eq!(place("/folder/?dcPath=ha-datacenter").as_deref(), Some("Datastores"));
        assert_eq!(place("/folder").as_deref(), Some("Datacenters"));
        for none in [
            "/folder/x",
            "/folder/x?dcPath=other&dsName=d",
            "/folder/a/../x?dsName=d",
            "/folder/%2e%2e/x?dsName=d",
        ] {
            assert_eq!(place(none), None, "{none}");
        }
    }
}
