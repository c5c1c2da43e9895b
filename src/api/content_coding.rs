//! Content codings (RFC 9110, section 8.4) of texts that many responses share: which coding a
//! client gets, and the coded text, which is made only once.

use std::io::{self, Write};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use http::HeaderValue;
use tokio::sync::OnceCell;
use zstd::stream::write::Encoder as ZstdEncoder;

/// The header of a gzip file without a name and a time (RFC 1952).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// The largest size in bytes of an end that is appended to a shared text. The end must fit into one
/// block of each coding.
const MAX_END: u16 = 0x7fff;

/// How a body is coded. If a client accepts several codings equally, it gets the last of them in
/// this enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coding {
    Identity,
    Gzip,
    Zstd,
}

/// The beginning of a text, with its coded forms. A form is made when it is first needed. Texts
/// that differ only at their end share the forms of their beginning.
#[derive(Debug)]
pub struct SharedText {
    text: Bytes,
    gzip: OnceCell<GzipStart>,
    zstd: OnceCell<Bytes>,
}

/// The beginning of a gzip file: the compressed beginning of a text.
#[derive(Debug)]
struct GzipStart {
    coded: Bytes,
    /// The checksum and the size of the text that `coded` contains.
    checksum: Crc,
}

/// A weight from 0 to 1,000 (RFC 9110, section 12.4.2).
type Weight = u16;

impl Coding {
    const ALL: [Self; 3] = [Self::Identity, Self::Gzip, Self::Zstd];

    /// The coding for a client that sends these values of `Accept-Encoding`. The rules are the same
    /// as those of `CompressionLayer`, which compresses all other responses. `None` if the client
    /// accepts no coding.
    #[must_use]
    pub fn for_client(values: &[HeaderValue]) -> Option<Self> {
        let elements = || {
            let texts = values.iter().filter_map(|value| value.to_str().ok());
            texts.flat_map(|text| text.split(','))
        };
        let named = || elements().filter_map(|element| weighted(element, Self::from_name));
        let others = elements().find_map(|element| {
            weighted(element, |name| (name == "*").then_some(())).map(|((), weight)| weight)
        });
        let best = |accepted: &mut dyn Iterator<Item = (Self, Weight)>| {
            accepted
                .filter(|(_, weight)| *weight > 0)
                .max_by_key(|(coding, weight)| (*weight, *coding))
                .map(|(coding, _)| coding)
        };
        if let Some(others) = others {
            let weight = |coding: Self| {
                named().find(|(name, _)| *name == coding).map_or(others, |(_, weight)| weight)
            };
            return best(&mut Self::ALL.into_iter().map(|coding| (coding, weight(coding))));
        }
        best(&mut named()).or_else(|| {
            let refuses_identity = named().any(|element| element == (Self::Identity, 0));
            (!refuses_identity).then_some(Self::Identity)
        })
    }

    /// The value of the header `Content-Encoding`. `None` if the body is not coded.
    #[must_use]
    pub const fn header_value(self) -> Option<HeaderValue> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some(HeaderValue::from_static("gzip")),
            Self::Zstd => Some(HeaderValue::from_static("zstd")),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name {
            _ if is("gzip") || is("x-gzip") => Some(Self::Gzip),
            _ if is("zstd") => Some(Self::Zstd),
            _ if is("identity") => Some(Self::Identity),
            _ => None,
        }
    }
}

impl SharedText {
    /// A text that has no coded form yet.
    #[must_use]
    pub fn new(text: Bytes) -> Self {
        Self { text, gzip: OnceCell::new(), zstd: OnceCell::new() }
    }

    /// The text without a coding.
    #[must_use]
    pub const fn text(&self) -> &Bytes {
        &self.text
    }

    /// Codes this text followed by `end`, and returns the coded body in two parts. All coded bodies
    /// of this text share the memory of the first part.
    ///
    /// # Parameters
    /// - `end`: the end of the text, which is not compressed.
    ///
    /// # Errors
    /// Fails if the encoder fails, or if the end is longer than 32,767 bytes.
    pub async fn coded(&self, coding: Coding, end: Bytes) -> io::Result<[Bytes; 2]> {
        let len = u16::try_from(end.len()).ok().filter(|len| *len <= MAX_END);
        let len = len.ok_or_else(|| io::Error::other("the end of the text is too long"))?;
        match coding {
            Coding::Identity => Ok([self.text.clone(), end]),
            Coding::Gzip => {
                let start = self.gzip.get_or_try_init(|| off_thread(&self.text, GzipStart::new));
                let start = start.await?;
                Ok([start.coded.clone(), start.end(&end, len)])
            }
            Coding::Zstd => {
                let start = self.zstd.get_or_try_init(|| off_thread(&self.text, zstd_start));
                Ok([start.await?.clone(), zstd_end(&end, len)])
            }
        }
    }
}

impl GzipStart {
    fn new(text: &[u8]) -> io::Result<Self> {
        let mut encoder = DeflateEncoder::new(Vec::from(GZIP_HEADER), Compression::default());
        encoder.write_all(text)?;
        // `flush` ends the last block at a whole byte, so that other blocks can follow.
        encoder.flush()?;
        let coded = Bytes::from(std::mem::take(encoder.get_mut()));
        let mut checksum = Crc::new();
        checksum.update(text);
        Ok(Self { coded, checksum })
    }

    /// The last block of a gzip file, which is stored and not compressed (RFC 1951, section 3.2.4),
    /// followed by the checksum and the size of the whole text.
    ///
    /// # Parameters
    /// - `end`: the end of the text, which the block contains.
    /// - `len`: the length of `end`.
    fn end(&self, end: &[u8], len: u16) -> Bytes {
        let mut checksum = Crc::new();
        checksum.combine(&self.checksum);
        checksum.update(end);
        let mut coded = BytesMut::with_capacity(end.len() + 13);
        coded.put_u8(1);
        coded.put_u16_le(len);
        coded.put_u16_le(!len);
        coded.put_slice(end);
        coded.put_u32_le(checksum.sum());
        coded.put_u32_le(checksum.amount());
        coded.freeze()
    }
}

fn zstd_start(text: &[u8]) -> io::Result<Bytes> {
    let mut encoder = ZstdEncoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?;
    encoder.write_all(text)?;
    encoder.flush()?;
    Ok(Bytes::from(std::mem::take(encoder.get_mut())))
}

/// The last block of a zstd frame, which is not compressed (RFC 8878, section 3.1.1.2).
fn zstd_end(end: &[u8], len: u16) -> Bytes {
    const LAST: u32 = 1;
    let mut coded = BytesMut::with_capacity(end.len() + 3);
    coded.put_uint_le(u64::from((u32::from(len) << 3) | LAST), 3);
    coded.put_slice(end);
    coded.freeze()
}

/// Codes a text with the function `encode`. A long text is coded on a blocking thread.
async fn off_thread<T: Send + 'static>(
    text: &Bytes,
    encode: fn(&[u8]) -> io::Result<T>,
) -> io::Result<T> {
    const SHORT: usize = 16 << 10;
    if text.len() <= SHORT {
        return encode(text);
    }
    let text = text.clone();
    tokio::task::spawn_blocking(move || encode(&text)).await?
}

/// An element of `Accept-Encoding` and its weight. `None` if the element has an unknown name or a
/// malformed weight.
fn weighted<T>(element: &str, parse: impl Fn(&str) -> Option<T>) -> Option<(T, Weight)> {
    let (name, weight) = match element.split_once(';') {
        Some((name, weight)) => (name, parse_weight(weight.trim())?),
        None => (element, 1_000),
    };
    Some((parse(name.trim())?, weight))
}

/// Parses `q=` and a number from 0 to 1 with up to three decimals.
fn parse_weight(text: &str) -> Option<Weight> {
    let number = text.strip_prefix("q=").or_else(|| text.strip_prefix("Q="))?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let whole = match whole {
        "0" => 0,
        "1" => 1_000,
        _ => return None,
    };
    if decimals.len() > 3 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let decimals: Weight = format!("{decimals:0<3}").parse().ok()?;
    Some(whole + decimals).filter(|weight| *weight <= 1_000)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Read;

    use axum::body::Body;
    use axum::response::Response;
    use futures_util::FutureExt;
    use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
    use http::{HeaderMap, Request};
    use proptest::prelude::*;
    use tower::{ServiceExt, service_fn};
    use tower_http::compression::Compression as CompressionService;

    use super::*;

    /// The coding that `CompressionLayer`, which compresses all other responses, chooses for a
    /// request with these headers.
    fn chosen_by_layer(headers: &HeaderMap) -> Option<Coding> {
        let respond = service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Body::from("x".repeat(100))))
        });
        let mut request = Request::new(Body::empty());
        *request.headers_mut() = headers.clone();
        let service = CompressionService::new(respond).gzip(true).zstd(true);
        let response = service.oneshot(request).now_or_never().unwrap().unwrap();
        if response.status() == http::StatusCode::NOT_ACCEPTABLE {
            return None;
        }
        let coding = response.headers().get(CONTENT_ENCODING);
        Some(
            coding.map_or(Coding::Identity, |name| {
                Coding::from_name(name.to_str().unwrap()).unwrap()
            }),
        )
    }

    fn headers(values: &[String]) -> HeaderMap {
        let value = |text: &String| (ACCEPT_ENCODING, HeaderValue::from_str(text).unwrap());
        values.iter().map(value).collect()
    }

    proptest! {
        #[test]
        fn a_client_gets_the_coding_that_the_layer_chooses(
            values in prop::collection::vec(
                "((gzip|GZip|x-gzip|zstd|identity|br|\\*|x)\
                 ( ?; ?(q|Q)=[01](\\.[0-9]{0,4})?)?,? ?){0,4}",
                0..3,
            ),
        ) {
            let headers = headers(&values);
            let values: Vec<HeaderValue> =
                headers.get_all(ACCEPT_ENCODING).iter().cloned().collect();
            let chosen = Coding::for_client(&values);
            prop_assert_eq!(chosen, chosen_by_layer(&headers));
        }

        #[test]
        fn a_coded_text_is_decoded_to_the_text_and_its_end(
            text in prop::collection::vec("[a-e]{1,9}|\\PC{0,20}", 1..400),
            ends in prop::collection::vec(".{0,50}", 1..3),
        ) {
            let text = format!("[{}", text.concat());
            let shared = SharedText::new(Bytes::from(text.clone()));
            for end in ends {
                let whole = format!("{text}{end}");
                for coding in Coding::ALL {
                    let coded = shared.coded(coding, Bytes::from(end.clone()));
                    let coded = coded.now_or_never().unwrap().unwrap().concat();
                    prop_assert_eq!(decoded(coding, &coded), whole.clone(), "{:?}", coding);
                }
            }
        }
    }

    fn decoded(coding: Coding, coded: &[u8]) -> String {
        let mut text = String::new();
        match coding {
            Coding::Identity => text = String::from_utf8(coded.to_vec()).unwrap(),
            Coding::Gzip => {
                let mut decoder = flate2::bufread::GzDecoder::new(coded);
                decoder.read_to_string(&mut text).unwrap();
                assert!(decoder.into_inner().is_empty(), "nothing follows");
            }
            Coding::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(coded).unwrap().single_frame();
                decoder.read_to_string(&mut text).unwrap();
                assert!(decoder.finish().into_inner().is_empty(), "nothing follows");
            }
        }
        text
    }

    #[tokio::test]
    async fn texts_with_different_ends_share_the_memory_of_their_beginning() {
        let long = "a long text of machines ".repeat(10_000);
        let shared = SharedText::new(Bytes::from(long.clone()));
        for coding in Coding::ALL {
            let [first, end] = shared.coded(coding, Bytes::from("1")).await.unwrap();
            let [again, other] = shared.coded(coding, Bytes::from("22")).await.unwrap();
            assert_eq!((first.as_ptr(), first.len()), (again.as_ptr(), again.len()), "{coding:?}");
            assert_ne!(end, other);
            assert_eq!(decoded(coding, &[first, other].concat()), format!("{long}22"));
        }
        assert!(shared.coded(Coding::Gzip, Bytes::from(vec![0; 40_000])).await.is_err());
    }
}
