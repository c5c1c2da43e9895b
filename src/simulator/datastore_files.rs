//! `GET /folder/…`: the files of datastores, whole or in part. The simulator has the files that
//! serial ports have written.
//!
//! A request without a range is 200, a range within the file is 206, and one beyond its end is 416
//! (observed). An answer has no `Last-Modified`, as on a real host.

use bytes::Bytes;
use http::header::RANGE;
use http::{HeaderMap, StatusCode, Uri};
use percent_encoding::percent_decode_str;

use super::Shared;

/// The answer to a request for a file.
#[derive(Debug, PartialEq, Eq)]
pub struct FileAnswer {
    pub status: StatusCode,
    /// The header `Content-Range`.
    pub range: Option<String>,
    pub body: Bytes,
}

/// Answers a request. `cookie` is that of its session.
pub fn read(shared: &Shared, cookie: Option<&str>, headers: &HeaderMap, uri: &Uri) -> FileAnswer {
    let mut state = shared.lock();
    let now = state.world.now();
    if !state.sessions.admits(cookie, headers, now) {
        return FileAnswer::refused(StatusCode::UNAUTHORIZED);
    }
    let content = datastore_path(uri).and_then(|path| state.world.file(&path));
    let Some(content) = content else { return FileAnswer::refused(StatusCode::NOT_FOUND) };
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    FileAnswer::of(content, range)
}

impl FileAnswer {
    const fn refused(status: StatusCode) -> Self {
        Self { status, range: None, body: Bytes::new() }
    }

    /// The part of a file that the header `Range` names. A header that is no range of bytes counts
    /// as none.
    fn of(content: &[u8], header: Option<&str>) -> Self {
        let length = content.len();
        let whole =
            || Self { status: StatusCode::OK, range: None, body: Bytes::copy_from_slice(content) };
        let Some((first, last)) = header.and_then(|header| byte_range(header, length)) else {
            return whole();
        };
        match content.get(first..last) {
            Some(part) if !part.is_empty() => Self {
                status: StatusCode::PARTIAL_CONTENT,
                range: Some(format!("bytes {first}-{}/{length}", last - 1)),
                body: Bytes::copy_from_slice(part),
            },
            _ => Self {
                status: StatusCode::RANGE_NOT_SATISFIABLE,
                range: Some(format!("bytes */{length}")),
                body: Bytes::new(),
            },
        }
    }
}

/// The datastore path of `/folder/<path>?dsName=<datastore>`. `None` if the request names none.
fn datastore_path(uri: &Uri) -> Option<String> {
    let path = decoded(uri.path().strip_prefix("/folder/")?)?;
    let fields =
        uri.query().unwrap_or_default().split('&').filter_map(|field| field.split_once('='));
    let mut datastore = None;
    for (name, value) in fields {
        match name {
            "dsName" => datastore = decoded(&value.replace('+', " ")),
            "dcPath" if decoded(value)? != "ha-datacenter" => return None,
            _ => {}
        }
    }
    Some(format!("[{}] {path}", datastore?))
}

fn decoded(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

/// The first byte of a range and the byte behind its last one. `None` if the header is no single
/// range of bytes.
fn byte_range(header: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", last) => Some((length.saturating_sub(last.parse().ok()?), length)),
        (first, "") => Some((first.parse().ok()?, length)),
        (first, last) => {
            let last: usize = last.parse().ok()?;
            Some((first.parse().ok()?, last.saturating_add(1).min(length)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_part_of_the_file_or_beyond_its_end() {
        let part = |header: &str| {
            let answer = FileAnswer::of(b"0123456789", Some(header));
            (answer.status.as_u16(), answer.range.unwrap_or_default(), answer.body)
        };
        let within = |range: &str, body: &'static [u8]| {
            (206_u16, format!("bytes {range}/10"), Bytes::from_static(body))
        };
        assert_eq!(part("bytes=7-"), within("7-9", b"789"));
        assert_eq!(part("bytes=2-3"), within("2-3", b"23"));
        assert_eq!(part("bytes=8-99"), within("8-9", b"89"));
        assert_eq!(part("bytes=-2"), within("8-9", b"89"));
        assert_eq!(part("bytes=-99"), within("0-9", b"0123456789"));
        for beyond in ["bytes=10-", "bytes=11-12", "bytes=-0", "bytes=5-4"] {
            assert_eq!(part(beyond), (416, "bytes */10".to_owned(), Bytes::new()), "{beyond}");
        }
        for none in ["bytes=", "bytes=x-", "lines=1-2", "bytes=1-2,4-5"] {
            assert_eq!(part(none).0, 200, "{none}");
        }
    }

    #[test]
    fn a_path_is_that_of_a_file_on_a_datastore() {
        let path = |uri: &str| datastore_path(&uri.parse().unwrap());
        assert_eq!(
            path("/folder/a%20b/c%2Bd.txt?dcPath=ha-datacenter&dsName=my+store%5B1%5D").as_deref(),
            Some("[my store[1]] a b/c+d.txt")
        );
        assert_eq!(path("/folder/x?dsName=d").as_deref(), Some("[d] x"));
        for none in ["/folder/x", "/folder?dsName=d", "/folder/x?dcPath=other&dsName=d"] {
            assert_eq!(path(none), None, "{none}");
        }
    }
}
