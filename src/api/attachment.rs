//! Answers with bytes that guests and callers made. A browser must not run them: they are an
//! attachment of a harmless type, in a sandbox without scripts and without an origin.

use std::io::SeekFrom;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::respond::set;
use crate::domain::artifact::ContentType;
use crate::domain::byte_range::ByteRange;

/// The number of bytes that are read from a file at once.
const PIECE: usize = 64 * 1024;

/// The part of a file that a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    /// The bytes from `first` to `last`, both included.
    Part {
        first: u64,
        last: u64,
    },
    /// The part lies outside of the file.
    Outside,
}

/// A file that a response sends.
pub struct Attachment<'a> {
    /// The name under which a browser stores it.
    pub name: &'a str,
    pub content_type: ContentType,
    /// The number of bytes of the file.
    pub length: u64,
    /// The strong entity tag, with its quotes. `None` for a file that another program may change at
    /// any time.
    pub tag: Option<&'a str>,
}

/// Sets the headers that keep a browser from running the bytes of a response. `nosniff` is set for
/// every response.
///
/// # Parameters
/// - `name`: the name under which a browser stores the bytes.
pub fn set_harmless_headers(response: &mut Response, name: &str, content_type: ContentType) {
    let is_safe =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
    let name: String =
        name.chars().map(|character| if is_safe(character) { character } else { '_' }).collect();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type.as_str()));
    headers
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    set(response, CONTENT_DISPOSITION, &format!("attachment; filename=\"{name}\""));
}

/// The part of a file that a request wants (RFC 9110, section 14). A `Range` that otter does not
/// understand, and one with several parts, wants the whole file.
///
/// # Parameters
/// - `length`: the number of bytes of the file.
/// - `tag`: the strong entity tag of the file, for `If-Range`.
#[must_use]
pub fn wanted(headers: &HeaderMap, length: u64, tag: &str) -> Wanted {
    requested_range(headers, Some(tag)).map_or(Wanted::Whole, |range| match range.within(length) {
        Some((first, last)) => Wanted::Part { first, last },
        None => Wanted::Outside,
    })
}

/// The range that a request asks for. `None` if it wants the whole file, as in [`wanted`].
///
/// # Parameters
/// - `tag`: as in [`Attachment`].
#[must_use]
pub fn requested_range(headers: &HeaderMap, tag: Option<&str>) -> Option<ByteRange> {
    let is_of_other_bytes = headers
        .get(IF_RANGE)
        .is_some_and(|value| tag.is_none_or(|tag| value.as_bytes() != tag.as_bytes()));
    let mut given = headers.get_all(RANGE).iter();
    let (Some(range), None, false) = (given.next(), given.next(), is_of_other_bytes) else {
        return None;
    };
    range.to_str().ok().and_then(ByteRange::parse)
}

impl Attachment<'_> {
    /// A response with the file, or with a part of it.
    ///
    /// # Errors
    /// Fails if the file has no such position.
    pub async fn respond(
        &self,
        file: std::fs::File,
        part: Option<(u64, u64)>,
    ) -> std::io::Result<Response> {
        let mut file = File::from_std(file);
        let (first, count) = match part {
            None => (0, self.length),
            Some((first, last)) => (first, (last - first).saturating_add(1)),
        };
        if first > 0 {
            file.seek(SeekFrom::Start(first)).await?;
        }
        Ok(self.respond_with(body_of(file, count), part))
    }

    /// A response with these bytes of the file.
    ///
    /// # Parameters
    /// - `body`: the whole file, or the part.
    #[must_use]
    pub fn respond_with(&self, body: Body, part: Option<(u64, u64)>) -> Response {
        let count = part.map_or(self.length, |(first, last)| (last - first).saturating_add(1));
        let mut response = Response::new(body);
        set_harmless_headers(&mut response, self.name, self.content_type);
        if let Some((first, last)) = part {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, CONTENT_RANGE, &format!("bytes {first}-{last}/{}", self.length));
        }
        if let Some(tag) = self.tag {
            set(&mut response, ETAG, tag);
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, count.into());
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        response
    }
}

/// A body with the next bytes of a file. If the file ends before, the body fails, so that the
/// client sees that bytes are missing.
fn body_of(file: File, count: u64) -> Body {
    let pieces = futures_util::stream::try_unfold((file, count), |(mut file, left)| async move {
        if left == 0 {
            return Ok::<_, std::io::Error>(None);
        }
        let size = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        let mut piece = BytesMut::zeroed(size);
        let read = file.read(&mut piece).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(read);
        Ok(Some((Bytes::from(piece), (file, left - read as u64))))
    });
    Body::from_stream(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(range: &str) -> HeaderMap {
        HeaderMap::from_iter([(RANGE, HeaderValue::from_str(range).unwrap())])
    }

    #[test]
    fn a_range_is_a_part_of_the_file_or_outside_of_it() {
        let part = |first, last| Wanted::Part { first, last };
        for (range, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-5", part(2, 5)),
            ("bytes=2-", part(2, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-99", part(0, 9)),
            ("bytes=5-99999999999999999999999", part(5, 9)),
            ("bytes=9-", part(9, 9)),
            ("bytes=10-", Wanted::Outside),
            ("bytes=10-12", Wanted::Outside),
            ("bytes=99999999999999999999999-", Wanted::Outside),
            ("bytes=-0", Wanted::Outside),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
        ] {
            assert_eq!(wanted(&headers(range), 10, "\"a\""), expected, "{range}");
        }
        for range in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
            assert_eq!(wanted(&headers(range), 0, "\"a\""), Wanted::Outside, "{range}");
        }
        assert_eq!(wanted(&HeaderMap::new(), 10, "\"a\""), Wanted::Whole);
    }

    #[test]
    fn a_part_is_only_sent_of_the_bytes_that_the_client_knows() {
        let mut request = headers("bytes=2-5");
        request.insert(IF_RANGE, HeaderValue::from_static("\"a\""));
        assert_eq!(wanted(&request, 10, "\"a\""), Wanted::Part { first: 2, last: 5 });
        assert_eq!(wanted(&request, 10, "\"b\""), Wanted::Whole);
        request.insert(IF_RANGE, HeaderValue::from_static("W/\"a\""));
        assert_eq!(wanted(&request, 10, "\"a\""), Wanted::Whole);
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let mut response = Response::new(Body::empty());
        set_harmless_headers(&mut response, "a\"; x=\"ü/b.txt", ContentType::Text);
        assert_eq!(
            response.headers()[CONTENT_DISPOSITION],
            "attachment; filename=\"a___x____b.txt\""
        );
    }
}
