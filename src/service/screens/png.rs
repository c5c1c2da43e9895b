//! PNG pictures of screens: encoding that is fast, and decoding of what a caller or a host sends,
//! within limits.

use std::io::Cursor;

use bytes::Bytes;
use png::{BitDepth, ColorType, Compression, Decoder, DecodingError, Encoder, Limits};
use png::{EncodingError, Transformations};

use crate::domain::screen::{GrayPicture, Picture, ScreenSize};

/// The maximum number of pixels of a PNG that is decoded.
pub const MAX_PIXELS: usize = 16_000_000;

/// The maximum number of bytes that the decoder uses besides the picture.
const DECODER_BYTES: usize = 16 << 20;

/// A PNG cannot be read or written. The text is the rest of a sentence, such as "the image is
/// broken: …".
#[derive(Debug, thiserror::Error)]
pub enum PngError {
    #[error("it is not a PNG")]
    NotPng,
    #[error("it is broken: {0}")]
    Broken(String),
    /// Not a size of a screen.
    #[error(
        "it has {width}×{height} pixels: a picture has at most {max}×{max}, and 16 million in all",
        max = ScreenSize::MAX_SIDE
    )]
    TooLarge { width: u32, height: u32 },
    /// Such as a huge text inside the file.
    #[error("it needs too much memory")]
    TooMuchMemory,
    /// A screen has no transparent pixel, so that such a picture never matches one.
    #[error("it has transparent pixels: save it without transparency")]
    Transparent,
    #[error("it cannot be written")]
    Unwritable(#[from] EncodingError),
}

/// The picture as a PNG of 8-bit colours.
///
/// # Errors
/// [`PngError::Unwritable`] for a picture without pixels.
pub fn encode(picture: &Picture) -> Result<Bytes, PngError> {
    let mut colours = Vec::with_capacity(picture.size.pixels() * 3);
    for [blue, green, red, _] in picture.pixels.as_chunks::<4>().0 {
        colours.extend([*red, *green, *blue]);
    }
    write(picture.size, ColorType::Rgb, &colours)
}

/// The picture as a PNG of 8-bit shades of grey.
///
/// # Errors
/// [`PngError::Unwritable`] for a picture without pixels.
pub fn encode_gray(picture: &GrayPicture) -> Result<Bytes, PngError> {
    write(picture.size, ColorType::Grayscale, &picture.pixels)
}

/// The size of a PNG, from its header alone.
///
/// # Errors
/// [`PngError`]: the bytes are no PNG, or its header is broken or of a picture that is too large.
pub fn size(bytes: &[u8]) -> Result<ScreenSize, PngError> {
    read_size(&mut decoder(bytes)?)
}

/// Decodes a PNG of any kind: colours, greys or a palette, with any number of bits.
///
/// # Errors
/// [`PngError`]: the bytes are no PNG, or it is broken, too large or partly transparent.
pub fn decode(bytes: &[u8]) -> Result<Picture, PngError> {
    let mut file = decoder(bytes)?;
    let size = read_size(&mut file)?;
    let mut reader = file.read_info().map_err(broken)?;
    let mut decoded = vec![0; reader.output_buffer_size().ok_or(PngError::TooMuchMemory)?];
    let frame = reader.next_frame(&mut decoded).map_err(broken)?;
    // The end of the file has checksums, too.
    reader.finish().map_err(broken)?;
    decoded.truncate(frame.buffer_size());
    let pixels = match frame.color_type {
        ColorType::Rgb => {
            let colours = decoded.as_chunks::<3>().0.iter();
            colours.flat_map(|[red, green, blue]| [*blue, *green, *red, 0]).collect()
        }
        ColorType::Rgba => {
            let colours = decoded.as_chunks::<4>().0;
            if colours.iter().any(|[_, _, _, alpha]| *alpha != u8::MAX) {
                return Err(PngError::Transparent);
            }
            colours.iter().flat_map(|[red, green, blue, _]| [*blue, *green, *red, 0]).collect()
        }
        ColorType::Grayscale => decoded.iter().flat_map(|grey| [*grey, *grey, *grey, 0]).collect(),
        ColorType::GrayscaleAlpha => {
            let greys = decoded.as_chunks::<2>().0;
            if greys.iter().any(|[_, alpha]| *alpha != u8::MAX) {
                return Err(PngError::Transparent);
            }
            greys.iter().flat_map(|[grey, _]| [*grey, *grey, *grey, 0]).collect()
        }
        // The transformation gives no palette.
        ColorType::Indexed => return Err(PngError::Broken("it has no colours".to_owned())),
    };
    let pixels: Vec<u8> = pixels;
    Picture::new(size, pixels.into())
        .ok_or_else(|| PngError::Broken("it does not have all its pixels".to_owned()))
}

fn decoder(bytes: &[u8]) -> Result<Decoder<Cursor<&[u8]>>, PngError> {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    if !bytes.starts_with(SIGNATURE) {
        return Err(PngError::NotPng);
    }
    let mut file = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: DECODER_BYTES });
    file.set_transformations(Transformations::normalize_to_color8());
    file.set_ignore_text_chunk(true);
    file.set_ignore_iccp_chunk(true);
    Ok(file)
}

fn read_size(file: &mut Decoder<Cursor<&[u8]>>) -> Result<ScreenSize, PngError> {
    let header = file.read_header_info().map_err(broken)?;
    allowed_size(header.width, header.height)
}

fn write(size: ScreenSize, colours: ColorType, pixels: &[u8]) -> Result<Bytes, PngError> {
    let mut file = Vec::with_capacity(pixels.len() / 8 + 1024);
    let mut encoder = Encoder::new(&mut file, size.width.into(), size.height.into());
    encoder.set_color(colours);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(file.into())
}

/// The size of a picture, if it is allowed.
fn allowed_size(width: u32, height: u32) -> Result<ScreenSize, PngError> {
    let pixels = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
    let size = ScreenSize::new(pixels(width), pixels(height));
    if size.is_allowed() && size.pixels() <= MAX_PIXELS {
        Ok(size)
    } else {
        Err(PngError::TooLarge { width, height })
    }
}

fn broken(error: DecodingError) -> PngError {
    match error {
        DecodingError::LimitsExceeded => PngError::TooMuchMemory,
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            PngError::Broken("its end is missing".to_owned())
        }
        error => PngError::Broken(error.to_string().trim_end_matches('.').to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picture(width: u16, height: u16) -> Picture {
        let size = ScreenSize::new(width, height);
        let pixels = (0..size.pixels()).flat_map(|at| {
            let [low, high, ..] = (at * 7).to_le_bytes();
            [low, high, low ^ high, 0]
        });
        Picture::new(size, pixels.collect()).unwrap()
    }

    /// A PNG of this kind.
    fn png(
        (width, height): (u32, u32),
        colours: ColorType,
        depth: BitDepth,
        data: &[u8],
    ) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, width, height);
        encoder.set_color(colours);
        encoder.set_depth(depth);
        encoder.set_palette(&[10, 20, 30, 40, 50, 60][..]);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        file
    }

    #[test]
    fn every_kind_of_png_is_decoded() {
        for (colours, depth, data, expected) in [
            (ColorType::Rgb, BitDepth::Eight, &[1, 2, 3][..], [3, 2, 1]),
            (ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 255], [3, 2, 1]),
            (ColorType::Grayscale, BitDepth::Eight, &[9], [9, 9, 9]),
            (ColorType::Grayscale, BitDepth::One, &[0x80], [255, 255, 255]),
            (ColorType::GrayscaleAlpha, BitDepth::Eight, &[9, 255], [9, 9, 9]),
            (ColorType::Rgb, BitDepth::Sixteen, &[1, 0, 2, 0, 3, 0], [3, 2, 1]),
            (ColorType::Indexed, BitDepth::One, &[0x80], [60, 50, 40]),
        ] {
            let decoded = decode(&png((1, 1), colours, depth, data)).unwrap();
            assert_eq!(decoded.pixel(0, 0), Some(expected), "{colours:?} {depth:?}");
        }
    }

    #[test]
    fn a_png_that_cannot_be_used_says_why() {
        let message = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert_eq!(message(b"GIF89a"), "it is not a PNG");
        let whole = encode(&picture(30, 30)).unwrap();
        assert_eq!(message(&whole[..whole.len() / 2]), "it is broken: its end is missing");
        let mut changed = whole.to_vec();
        changed[60] ^= 0xff;
        assert!(message(&changed).starts_with("it is broken: "), "{}", message(&changed));
        let transparent = png((1, 1), ColorType::Rgba, BitDepth::Eight, &[1, 2, 3, 254]);
        assert!(message(&transparent).contains("transparent"));
    }

    #[test]
    fn a_large_png_is_refused_before_it_is_decoded() {
        // Only the header is there.
        for (width, height) in [(8193, 1), (8192, 8192), (4001, 4000), (u32::MAX >> 1, 1)] {
            let mut file = Vec::new();
            drop(Encoder::new(&mut file, width, height).write_header());
            for error in [decode(&file).unwrap_err(), size(&file).unwrap_err()] {
                assert!(matches!(error, PngError::TooLarge { .. }), "{width} {height}: {error}");
            }
        }
        let mut file = Vec::new();
        drop(Encoder::new(&mut file, 4000, 3000).write_header());
        assert_eq!(size(&file).unwrap(), ScreenSize::new(4000, 3000));
    }

    #[test]
    fn a_picture_without_pixels_is_no_png() {
        assert!(encode(&Picture::blank(ScreenSize::new(0, 4))).is_err());
    }

    proptest! {
        #[test]
        fn a_picture_is_read_back(width in 1..40u16, height in 1..40u16) {
            let picture = picture(width, height);
            prop_assert_eq!(decode(&encode(&picture).unwrap()).unwrap(), picture.clone());
            let grey = picture.gray();
            let decoded = decode(&encode_gray(&grey).unwrap()).unwrap();
            prop_assert_eq!(decoded.gray(), grey);
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, at: prop::sample::Index, change: u8) {
            let _ = decode(&bytes);
            let file = encode(&picture(9, 9)).unwrap();
            bytes.splice(..0, file);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            let _ = decode(&bytes);
        }
    }
}
