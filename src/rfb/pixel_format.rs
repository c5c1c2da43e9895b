//! The formats of pixels that viewers ask for, and the conversion from B, G, R, 0 to them.

use super::error::RfbError;

/// How the colour of a pixel is a number (RFC 6143, section 7.4). Only true-colour formats with 8,
/// 16 or 32 bits exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PixelFormat {
    /// 8, 16 or 32.
    pub bits_per_pixel: u8,
    /// The number of bits that carry colour. otter does not need it.
    pub depth: u8,
    pub big_endian: bool,
    pub red: Channel,
    pub green: Channel,
    pub blue: Channel,
}

/// The place of one colour in a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Channel {
    /// The value of full brightness.
    pub max: u16,
    /// The number of bits below the value.
    pub shift: u8,
}

impl PixelFormat {
    /// The format of otter and of a host: 4 bytes in the order B, G, R, 0.
    pub const BGR0: Self = Self {
        bits_per_pixel: 32,
        depth: 24,
        big_endian: false,
        red: Channel { max: 255, shift: 16 },
        green: Channel { max: 255, shift: 8 },
        blue: Channel { max: 255, shift: 0 },
    };

    /// Reads the 16 bytes of a pixel format.
    ///
    /// # Errors
    /// [`RfbError::UnsupportedPixelFormat`] for a colour map, for another number of bits, and for a
    /// colour that has no place in the pixel.
    pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, RfbError> {
        let [bits, depth, big, true_colour, r0, r1, g0, g1, b0, b1, red, green, blue, ..] = bytes;
        if !matches!(bits, 8 | 16 | 32) {
            return Err(RfbError::UnsupportedPixelFormat("a pixel must have 8, 16 or 32 bits"));
        }
        if true_colour == 0 {
            return Err(RfbError::UnsupportedPixelFormat("it has a colour map"));
        }
        let channel = |max: [u8; 2], shift: u8| {
            let max = u16::from_be_bytes(max);
            let fits = shift < 32 && (u64::from(max) << shift) < (1 << bits);
            fits.then_some(Channel { max, shift }).ok_or(RfbError::UnsupportedPixelFormat(
                "the value of a colour is larger than the pixel",
            ))
        };
        Ok(Self {
            bits_per_pixel: bits,
            depth,
            big_endian: big != 0,
            red: channel([r0, r1], red)?,
            green: channel([g0, g1], green)?,
            blue: channel([b0, b1], blue)?,
        })
    }

    /// The 16 bytes of the format.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let Self { bits_per_pixel, depth, big_endian, red, green, blue } = self;
        let [[r0, r1], [g0, g1], [b0, b1]] =
            [red, green, blue].map(|channel| channel.max.to_be_bytes());
        let (big, true_colour) = (big_endian.into(), 1);
        let [red, green, blue] = [red, green, blue].map(|channel| channel.shift);
        [bits_per_pixel, depth, big, true_colour, r0, r1, g0, g1, b0, b1, red, green, blue, 0, 0, 0]
    }

    /// Whether a pixel is 4 bytes in the order B, G, R and one that means nothing.
    #[must_use]
    pub fn is_bgr0(&self) -> bool {
        Self { depth: 24, ..*self } == Self::BGR0
    }

    #[must_use]
    pub const fn bytes_per_pixel(&self) -> usize {
        self.bits_per_pixel as usize / 8
    }

    /// Appends pixels in this format.
    ///
    /// # Parameters
    /// - `pixels`: 4 bytes for each pixel: B, G, R and 0.
    pub fn encode(&self, pixels: &[u8], out: &mut Vec<u8>) {
        if self.is_bgr0() {
            out.extend_from_slice(pixels);
            return;
        }
        out.reserve(pixels.len() / 4 * self.bytes_per_pixel());
        let [red, green, blue] = [self.red, self.green, self.blue].map(values);
        let (pixels, _) = pixels.as_chunks::<4>();
        let value = |[b, g, r, _]: &[u8; 4]| {
            // A byte is an index into each of the tables of 256 values.
            red[usize::from(*r)] | green[usize::from(*g)] | blue[usize::from(*b)]
        };
        match (self.bits_per_pixel, self.big_endian) {
            (8, _) => out.extend(pixels.iter().map(|pixel| value(pixel).to_le_bytes()[0])),
            (16, false) => pixels.iter().for_each(|pixel| {
                let [low, high, ..] = value(pixel).to_le_bytes();
                out.extend([low, high]);
            }),
            (16, true) => pixels.iter().for_each(|pixel| {
                let [low, high, ..] = value(pixel).to_le_bytes();
                out.extend([high, low]);
            }),
            (_, false) => pixels.iter().for_each(|pixel| out.extend(value(pixel).to_le_bytes())),
            (_, true) => pixels.iter().for_each(|pixel| out.extend(value(pixel).to_be_bytes())),
        }
    }
}

/// What each brightness of 0 to 255 is in a pixel.
fn values(Channel { max, shift }: Channel) -> [u32; 256] {
    std::array::from_fn(|brightness| {
        // Rounded to the nearest value. A brightness is at most 255, so nothing overflows.
        let brightness = u32::try_from(brightness).unwrap_or_default();
        ((brightness * u32::from(max) + 127) / 255) << shift
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn channel(max: u16, shift: u8) -> Channel {
        Channel { max, shift }
    }

    fn encoded(format: &PixelFormat, pixels: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        format.encode(pixels, &mut out);
        out
    }

    const RGB565: PixelFormat = PixelFormat {
        bits_per_pixel: 16,
        depth: 16,
        big_endian: false,
        red: Channel { max: 31, shift: 11 },
        green: Channel { max: 63, shift: 5 },
        blue: Channel { max: 31, shift: 0 },
    };

    #[test]
    fn colours_go_to_their_places() {
        let orange = [0x00, 0x80, 0xff, 0];
        assert_eq!(encoded(&PixelFormat::BGR0, &orange), orange);
        let rgb0 = PixelFormat {
            red: channel(255, 0),
            green: channel(255, 8),
            blue: channel(255, 16),
            ..PixelFormat::BGR0
        };
        assert_eq!(encoded(&rgb0, &orange), [0xff, 0x80, 0, 0]);
        let big = PixelFormat { big_endian: true, ..PixelFormat::BGR0 };
        assert_eq!(encoded(&big, &orange), [0, 0xff, 0x80, 0]);
        // 31, 32 and 0.
        assert_eq!(encoded(&RGB565, &orange), 0xfc00_u16.to_le_bytes());
        let big = PixelFormat { big_endian: true, ..RGB565 };
        assert_eq!(encoded(&big, &orange), 0xfc00_u16.to_be_bytes());
        let bgr233 = PixelFormat {
            bits_per_pixel: 8,
            depth: 8,
            big_endian: false,
            red: channel(7, 0),
            green: channel(7, 3),
            blue: channel(3, 6),
        };
        assert_eq!(encoded(&bgr233, &orange), [7 | (4 << 3)]);
    }

    #[test]
    fn formats_without_a_place_for_their_colours_are_refused() {
        let bytes = PixelFormat::BGR0.to_bytes();
        let change = |at: usize, value: u8| {
            let mut bytes = bytes;
            bytes[at] = value;
            PixelFormat::from_bytes(bytes)
        };
        assert_eq!(change(0, 32), Ok(PixelFormat::BGR0));
        for (at, value) in [(0, 24), (0, 0), (0, 8), (3, 0), (10, 30), (10, 255)] {
            assert!(change(at, value).is_err(), "{at} {value}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_format_is_read_back_and_has_room_for_all_colours(
            mut bytes: [u8; 16],
            bits in prop::sample::select(vec![8, 16, 32]),
            pixels: Vec<[u8; 4]>,
        ) {
            bytes[0] = bits;
            // Small values, so that many formats are accepted.
            bytes[4..10].iter_mut().step_by(2).for_each(|byte| *byte = 0);
            bytes[10..13].iter_mut().for_each(|byte| *byte %= 32);
            if let Ok(format) = PixelFormat::from_bytes(bytes) {
                prop_assert_eq!(PixelFormat::from_bytes(format.to_bytes()), Ok(format));
                let out = encoded(&format, &pixels.concat());
                prop_assert_eq!(out.len(), pixels.len() * format.bytes_per_pixel());
            }
        }
    }
}
