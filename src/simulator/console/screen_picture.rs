//! `GET /screen?id=…`: a PNG of the screen of a machine, or of a snapshot with memory.
//!
//! `left`, `top`, `right` and `bottom` cut out a part; `right` and `bottom` are exclusive. Then
//! `width` and `height` scale the part. If only one of the two is given, the proportions stay.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::super::Shared;
use super::super::guest_screen::{Bitmap, Picture};
use super::super::world::{Moment, PowerState, ScreenSource};
use super::check_may_look;

/// The maximum width and height of a picture.
const MAX_EDGE: u16 = 8_192;

/// The answer: a PNG, or a status with a text for people.
pub type PictureAnswer = Result<Bytes, (StatusCode, &'static str)>;

/// Which picture a client asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PictureQuery {
    id: String,
    left: Option<u16>,
    top: Option<u16>,
    right: Option<u16>,
    bottom: Option<u16>,
    width: Option<u16>,
    height: Option<u16>,
}

/// Answers a request. `cookie` is that of its session.
pub fn screen_picture(
    shared: &Shared,
    cookie: Option<&str>,
    headers: &HeaderMap,
    query: &str,
) -> PictureAnswer {
    let query = PictureQuery::read(query).ok_or((StatusCode::BAD_REQUEST, "invalid query"))?;
    let picture = find_picture(shared, cookie, headers, &query.id)?;
    let bitmap = picture.draw();
    query.cut(&bitmap).ok_or((StatusCode::BAD_REQUEST, "the part is not on the screen"))
}

fn find_picture(
    shared: &Shared,
    cookie: Option<&str>,
    headers: &HeaderMap,
    id: &str,
) -> Result<Picture, (StatusCode, &'static str)> {
    const NO_SCREEN: (StatusCode, &str) = (StatusCode::NOT_FOUND, "there is no such screen");
    let mut state = shared.lock();
    let now = state.world.now();
    if !state.sessions.admits(cookie, headers, now) {
        return Err((StatusCode::UNAUTHORIZED, "log in"));
    }
    if check_may_look(&state.world).is_err() {
        return Err((StatusCode::FORBIDDEN, "the role does not allow consoles"));
    }
    if let Some(machine) = state.world.machine(id) {
        if machine.power != PowerState::On {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, "the machine is not powered on"));
        }
        if let ScreenSource::Bridge(_) = machine.screen_source {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, "the console is bridged"));
        }
        return machine.screen.picture(now, &machine.name).ok_or(NO_SCREEN);
    }
    let machine = state.world.machine_of_snapshot(id).ok_or(NO_SCREEN)?;
    let snapshot = machine.snapshot(id).ok_or(NO_SCREEN)?;
    let saved = Moment { wall: snapshot.created_at, ..now };
    let screen = snapshot.screen.as_ref().ok_or(NO_SCREEN)?;
    screen.picture(saved, &machine.name).ok_or(NO_SCREEN)
}

impl PictureQuery {
    /// Reads the query of a URL. `None` if a field is unknown or invalid, or there is no id.
    fn read(query: &str) -> Option<Self> {
        let mut read = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            let number = || value.parse().ok().filter(|number| *number <= MAX_EDGE);
            match name {
                "id" => {
                    let decoded = percent_encoding::percent_decode_str(value).decode_utf8().ok()?;
                    read.id = decoded.into_owned();
                }
                "left" => read.left = Some(number()?),
                "top" => read.top = Some(number()?),
                "right" => read.right = Some(number()?),
                "bottom" => read.bottom = Some(number()?),
                "width" => read.width = Some(number()?),
                "height" => read.height = Some(number()?),
                _ => return None,
            }
        }
        (!read.id.is_empty()).then_some(read)
    }

    /// The PNG of the part that the query describes. `None` if the part is empty.
    fn cut(&self, bitmap: &Bitmap) -> Option<Bytes> {
        let (left, top) = (self.left.unwrap_or(0), self.top.unwrap_or(0));
        let right = self.right.unwrap_or(bitmap.width()).min(bitmap.width());
        let bottom = self.bottom.unwrap_or(bitmap.height()).min(bitmap.height());
        let (across, down) = (right.checked_sub(left)?, bottom.checked_sub(top)?);
        let (width, height) = match (self.width, self.height) {
            (None, None) => (across, down),
            (Some(width), None) => (width, proportional(down, width, across)?),
            (None, Some(height)) => (proportional(across, height, down)?, height),
            (Some(width), Some(height)) => (width, height),
        };
        if [across, down, width, height].contains(&0) {
            return None;
        }
        if (width, height) == (across, down) {
            return Some(encode_png(width, height, |y| bitmap.row(left, top + y, across)).into());
        }
        let rows: Vec<Vec<u8>> = (0..height)
            .map(|y| {
                let row = bitmap.row(left, top + nearest(y, height, down), across);
                (0..width)
                    .flat_map(|x| {
                        let at = usize::from(nearest(x, width, across)) * Bitmap::PIXEL;
                        row.get(at..at + Bitmap::PIXEL).unwrap_or(&[0; Bitmap::PIXEL])
                    })
                    .copied()
                    .collect()
            })
            .collect();
        let row = |y: u16| rows.get(usize::from(y)).map(Vec::as_slice).unwrap_or_default();
        Some(encode_png(width, height, row).into())
    }
}

/// `length` times `scaled` / `whole`, and at least 1. `None` if the result is too large.
fn proportional(length: u16, scaled: u16, whole: u16) -> Option<u16> {
    let result = (u32::from(length) * u32::from(scaled)).checked_div(u32::from(whole))?.max(1);
    u16::try_from(result).ok().filter(|result| *result <= MAX_EDGE)
}

/// The place in `0..whole` that is shown at `at` of `scaled` places.
fn nearest(at: u16, scaled: u16, whole: u16) -> u16 {
    let place = (u32::from(at) * u32::from(whole)).checked_div(u32::from(scaled));
    u16::try_from(place.unwrap_or_default()).unwrap_or_default().min(whole.saturating_sub(1))
}

/// A PNG of a whole picture.
pub fn encode_bitmap(bitmap: &Bitmap) -> Vec<u8> {
    let (width, height) = (bitmap.width(), bitmap.height());
    encode_png(width, height, |y| bitmap.row(0, y, width))
}

/// A PNG of rows of pixels in the order blue, green, red, 0.
pub fn encode_png<'a>(width: u16, height: u16, row: impl Fn(u16) -> &'a [u8]) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(usize::from(width) * usize::from(height) * 3);
    for y in 0..height {
        for pixel in row(y).chunks_exact(Bitmap::PIXEL) {
            if let &[blue, green, red, _] = pixel {
                pixels.extend_from_slice(&[red, green, blue]);
            }
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width.into(), height.into());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    // Writing to memory fails only if the rows do not have the size of the picture.
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
    if written.is_ok() { file } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::super::super::guest_screen::{GuestScreen, Layout, ScreenStage};
    use super::*;

    #[test]
    fn a_part_is_cut_out_and_then_scaled() {
        let mut guest = GuestScreen::new(Layout::Us);
        guest.show(ScreenStage::Login, std::time::Duration::ZERO);
        let now = Moment { wall: jiff::Timestamp::UNIX_EPOCH, elapsed: std::time::Duration::ZERO };
        let bitmap = guest.picture(now, "machine").unwrap().draw();
        let size = |query: &str| {
            let png = PictureQuery::read(query)?.cut(&bitmap)?;
            let reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
            Some((reader.info().width, reader.info().height))
        };
        assert_eq!(size("id=16"), Some((800, 600)));
        assert_eq!(size("id=16&left=10&top=20&right=110&bottom=60"), Some((100, 40)));
        assert_eq!(size("id=16&width=400"), Some((400, 300)));
        assert_eq!(size("id=16&height=150"), Some((200, 150)));
        assert_eq!(size("id=16&left=700&right=9&width=5"), None);
        assert_eq!(size("id=16&left=700&right=8000&width=50&height=7"), Some((50, 7)));
        assert_eq!(size("left=700"), None, "no id");
        assert_eq!(size("id=16&zoom=7"), None);
    }
}
