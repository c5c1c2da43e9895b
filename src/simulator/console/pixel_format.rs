//! The format of pixels that an RFB client asks for: true colour in 8, 16 or 32 bits.

use super::super::guest_screen::Bitmap;

/// A format of pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PixelFormat {
    /// The size of a pixel in bytes: 1, 2 or 4.
    size: usize,
    is_big_endian: bool,
    /// The largest value of red, green and blue.
    max: [u16; 3],
    /// By how many bits red, green and blue are shifted to the left.
    shift: [u8; 3],
}

impl PixelFormat {
    /// 32 bits, depth 24, little-endian: the format of bitmaps, which the host proposes.
    pub const NATIVE: Self =
        Self { size: 4, is_big_endian: false, max: [255, 255, 255], shift: [16, 8, 0] };

    /// Reads a format. `None` if it has a palette, or another number of bits.
    pub fn read(encoded: &[u8]) -> Option<Self> {
        let &[bits, _depth, big_endian, true_colour] = encoded.first_chunk()?;
        let &[red_high, red_low, green_high, green_low, blue_high, blue_low, red, green, blue] =
            encoded.get(4..)?.first_chunk()?;
        let size = match bits {
            8 => 1,
            16 => 2,
            32 => 4,
            _ => return None,
        };
        let max = [[red_high, red_low], [green_high, green_low], [blue_high, blue_low]];
        let max = max.map(u16::from_be_bytes);
        let shift = [red, green, blue];
        let is_valid = true_colour != 0 && shift.iter().all(|shift| *shift < 32);
        is_valid.then_some(Self { size, is_big_endian: big_endian != 0, max, shift })
    }

    /// Writes the format.
    pub fn write(&self, out: &mut Vec<u8>) {
        let bits = match self.size {
            1 => 8,
            2 => 16,
            _ => 32,
        };
        let depth = if bits == 32 { 24 } else { bits };
        out.extend([bits, depth, u8::from(self.is_big_endian), 1]);
        for max in self.max {
            out.extend(max.to_be_bytes());
        }
        out.extend(self.shift);
        out.extend([0; 3]);
    }

    /// Writes the pixels of a part of a row in this format.
    pub fn write_pixels(&self, pixels: &[u8], out: &mut Vec<u8>) {
        if *self == Self::NATIVE {
            out.extend_from_slice(pixels);
            return;
        }
        for pixel in pixels.chunks_exact(Bitmap::PIXEL) {
            let &[blue, green, red, _] = pixel else { continue };
            let mut value = 0_u32;
            for ((part, max), shift) in [red, green, blue].into_iter().zip(self.max).zip(self.shift)
            {
                let scaled = (u32::from(part) * u32::from(max) + 127) / 255;
                value |= scaled.checked_shl(u32::from(shift)).unwrap_or(0);
            }
            let bytes = value.to_le_bytes();
            let bytes = bytes.get(..self.size).unwrap_or(&bytes);
            if self.is_big_endian {
                out.extend(bytes.iter().rev());
            } else {
                out.extend_from_slice(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(format: &PixelFormat, pixels: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        format.write_pixels(pixels, &mut out);
        out
    }

    #[test]
    fn a_format_is_read_as_it_is_written() {
        let mut written = Vec::new();
        PixelFormat::NATIVE.write(&mut written);
        assert_eq!(written, [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
        assert_eq!(PixelFormat::read(&written), Some(PixelFormat::NATIVE));
        written[3] = 0;
        assert_eq!(PixelFormat::read(&written), None, "a palette");
        assert_eq!(PixelFormat::read(&[24; 16]), None);
        assert_eq!(PixelFormat::read(&[]), None);
    }

    #[test]
    fn pixels_are_converted() {
        let red = [0, 0, 255, 0];
        assert_eq!(convert(&PixelFormat::NATIVE, &red), red);
        let rgb565 =
            PixelFormat { size: 2, is_big_endian: true, max: [31, 63, 31], shift: [11, 5, 0] };
        assert_eq!(convert(&rgb565, &red), [0xf8, 0]);
        let rgb332 =
            PixelFormat { size: 1, is_big_endian: false, max: [7, 7, 3], shift: [0, 3, 6] };
        assert_eq!(convert(&rgb332, &[255, 0, 255, 0]), [0b1100_0111]);
    }
}
