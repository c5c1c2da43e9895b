//! Makes an animated PNG of a recorded screen. The file is read twice: once for the number of
//! frames and the size of the canvas, which stand at the beginning of an animated PNG, and once for
//! the pixels. So a recording of any length takes the memory of one screen.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::read::ZlibDecoder;
use png::{BitDepth, ColorType, Compression, Encoder, EncodingError};

use super::rec_file::{Entry, RecReader, Recorded};
use crate::domain::screen::{Region, ScreenSize};

/// The bytes of one pixel: red, green and blue.
const PIXEL: usize = 3;

/// Why no picture could be made of a recording.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error("the recording cannot be read")]
    Read(#[from] io::Error),
    #[error("the picture cannot be written")]
    Write(#[from] EncodingError),
    #[error("otter stops")]
    Stopped,
}

/// What is known of a recording before its pixels are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Large enough for every size that the screen had.
    canvas: ScreenSize,
    frames: u32,
}

/// All changes of the screen that happened at the same time. They become one frame.
struct Tick {
    at: u64,
    changes: Vec<Recorded>,
}

/// Reads the ticks of a recording.
struct Ticks<R> {
    reader: RecReader<R>,
    /// The first entry of the next tick.
    next: Option<Entry>,
    has_size: bool,
    /// The time of the latest entry.
    end: u64,
}

/// The picture at one time of the recording.
struct Painting {
    canvas: ScreenSize,
    /// The size of the screen, which lies in the left upper corner of the canvas.
    screen: ScreenSize,
    pixels: Vec<u8>,
}

impl Outline {
    /// Reads the outline of a recording. `None` if it shows nothing.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or is no recording.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut ticks = Ticks::new(File::open(path)?)?;
        let mut outline = Self { canvas: ScreenSize::new(0, 0), frames: 0 };
        while let Some(tick) = ticks.next_tick()? {
            outline.frames = outline.frames.saturating_add(1);
            for change in &tick.changes {
                if let Recorded::Size(size) = change {
                    outline.canvas.width = outline.canvas.width.max(size.width);
                    outline.canvas.height = outline.canvas.height.max(size.height);
                }
            }
        }
        Ok(Some(outline).filter(|outline| outline.frames > 0))
    }
}

/// Writes a recording as an animated PNG, which plays once, in the time in which it was recorded.
///
/// # Parameters
/// - `is_stopped`: asked before each frame.
///
/// # Errors
/// [`RenderError`]
pub fn write(
    path: &Path,
    outline: Outline,
    out: &mut dyn Write,
    is_stopped: &dyn Fn() -> bool,
) -> Result<(), RenderError> {
    let Outline { canvas, frames } = outline;
    let mut ticks = Ticks::new(File::open(path)?)?;
    let mut painting = Painting::new(canvas);
    let mut encoder = Encoder::new(out, canvas.width.into(), canvas.height.into());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_animated(frames, 1)?;
    let mut writer = encoder.write_header()?;
    let mut following = ticks.next_tick()?;
    while let Some(Tick { at, changes }) = following {
        if is_stopped() {
            return Err(RenderError::Stopped);
        }
        following = ticks.next_tick()?;
        let until = following.as_ref().map_or(ticks.end, |tick| tick.at);
        let painted = changes.iter().filter_map(|change| painting.apply(change));
        // A frame without pixels is not allowed, so one that changes nothing repeats a pixel.
        let region =
            painted.reduce(Region::union).unwrap_or(Region { x: 0, y: 0, width: 1, height: 1 });
        let (numerator, denominator) = delay(until.saturating_sub(at));
        writer.reset_frame_position()?;
        writer.set_frame_dimension(region.width.into(), region.height.into())?;
        writer.set_frame_position(region.x.into(), region.y.into())?;
        writer.set_frame_delay(numerator, denominator)?;
        writer.write_image_data(&painting.copy(region))?;
    }
    writer.finish()?;
    Ok(())
}

/// The delay of a frame as a fraction of a second, as exact as two numbers of 16 bits allow.
fn delay(millis: u64) -> (u16, u16) {
    for denominator in [1_000_u16, 100, 10] {
        if let Ok(numerator) = u16::try_from(millis / u64::from(1_000 / denominator)) {
            return (numerator, denominator);
        }
    }
    (u16::try_from(millis / 1_000).unwrap_or(u16::MAX), 1)
}

impl<R: Read> Ticks<R> {
    fn new(input: R) -> io::Result<Self> {
        Ok(Self { reader: RecReader::new(input)?, next: None, has_size: false, end: 0 })
    }

    /// The next tick that shows something. The first one has a size.
    fn next_tick(&mut self) -> io::Result<Option<Tick>> {
        let mut tick: Option<Tick> = None;
        loop {
            let next = match self.next.take() {
                Some(next) => Some(next),
                None => self.reader.read_entry()?,
            };
            let Some(Entry { at, what }) = next else { return Ok(tick) };
            self.end = self.end.max(at);
            let is_shown = match what {
                Recorded::Size(size) => {
                    self.has_size |= size.is_allowed();
                    size.is_allowed()
                }
                Recorded::Pixels { .. } | Recorded::NoSignal => self.has_size,
                _ => false,
            };
            if !is_shown {
                continue;
            }
            match &mut tick {
                None => tick = Some(Tick { at, changes: vec![what] }),
                Some(tick) if tick.at == at => tick.changes.push(what),
                Some(_) => {
                    self.next = Some(Entry { at, what });
                    return Ok(tick);
                }
            }
        }
    }
}

impl Painting {
    fn new(canvas: ScreenSize) -> Self {
        Self { canvas, screen: ScreenSize::new(0, 0), pixels: vec![0; canvas.pixels() * PIXEL] }
    }

    /// Applies a change. Returns the region that it painted. `None` if it painted nothing, for
    /// example because its pixels are damaged.
    fn apply(&mut self, change: &Recorded) -> Option<Region> {
        match change {
            Recorded::Size(size) => {
                self.screen = *size;
                Some(self.blacken())
            }
            Recorded::NoSignal => Some(self.blacken()),
            Recorded::Pixels { region, zlib } => {
                let is_inside = region.is_within(self.screen) && region.is_within(self.canvas);
                let pixels = is_inside.then(|| unpack(*region, zlib)).flatten()?;
                let length = usize::from(region.width) * PIXEL;
                for (y, row) in (region.y..).zip(pixels.chunks_exact(length)) {
                    let start = self.position(region.x, y);
                    self.pixels.get_mut(start..start + length)?.copy_from_slice(row);
                }
                Some(*region)
            }
            _ => None,
        }
    }

    fn blacken(&mut self) -> Region {
        self.pixels.fill(0);
        self.canvas.whole()
    }

    /// The pixels of a region of the canvas.
    fn copy(&self, region: Region) -> Vec<u8> {
        let length = usize::from(region.width) * PIXEL;
        let mut copied = Vec::with_capacity(length * usize::from(region.height));
        for y in region.y..region.y.saturating_add(region.height) {
            let start = self.position(region.x, y);
            copied.extend_from_slice(self.pixels.get(start..start + length).unwrap_or_default());
        }
        copied
    }

    fn position(&self, x: u16, y: u16) -> usize {
        (usize::from(y) * usize::from(self.canvas.width) + usize::from(x)) * PIXEL
    }
}

/// Unpacks the pixels of a region. `None` if they are damaged.
fn unpack(region: Region, zlib: &[u8]) -> Option<Vec<u8>> {
    let length = usize::from(region.width) * usize::from(region.height) * PIXEL;
    let mut pixels = Vec::with_capacity(length);
    let mut decoder = ZlibDecoder::new(zlib).take(length as u64 + 1);
    decoder.read_to_end(&mut pixels).ok()?;
    (length > 0 && pixels.len() == length).then_some(pixels)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use flate2::write::ZlibEncoder;

    use super::super::rec_file::RecWriter;
    use super::*;

    const SIZE: ScreenSize = ScreenSize { width: 4, height: 3 };

    fn whole(size: ScreenSize, colour: [u8; 3]) -> Recorded {
        filled(size.whole(), colour)
    }

    fn filled(region: Region, colour: [u8; 3]) -> Recorded {
        let pixels = colour.repeat(usize::from(region.width) * usize::from(region.height));
        let mut zlib = ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&pixels).unwrap();
        Recorded::Pixels { region, zlib: zlib.finish().unwrap() }
    }

    fn region(x: u16, y: u16, width: u16, height: u16) -> Region {
        Region { x, y, width, height }
    }

    /// The file of a recording with these entries.
    fn recording(entries: &[(u64, Recorded)]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("screen.rec");
        let (mut writer, _) = RecWriter::open(&path, 1 << 20).unwrap();
        for (at, what) in entries {
            writer.append(&Entry { at: *at, what: what.clone() }).unwrap();
        }
        (folder, path)
    }

    /// The frames of an animated PNG as a browser shows them, with their delays in milliseconds.
    fn frames(path: &Path) -> Vec<(Vec<u8>, u64)> {
        let Some(outline) = Outline::read(path).unwrap() else { return Vec::new() };
        let mut file = Vec::new();
        write(path, outline, &mut file, &|| false).unwrap();
        let mut reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
        let info = reader.info();
        let (canvas, count) = ((info.width, info.height), info.animation_control.unwrap());
        assert_eq!(count.num_plays, 1);
        let mut shown = vec![0; (canvas.0 * canvas.1) as usize * PIXEL];
        let mut frames = Vec::new();
        for _ in 0..count.num_frames {
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            let control = *reader.info().frame_control.as_ref().unwrap();
            let row = control.width as usize * PIXEL;
            for y in 0..control.height as usize {
                let at = (control.y_offset as usize + y) * canvas.0 as usize;
                let at = (at + control.x_offset as usize) * PIXEL;
                shown[at..at + row].copy_from_slice(&pixels[y * row..(y + 1) * row]);
            }
            let millis = u64::from(control.delay_num) * 1_000 / u64::from(control.delay_den);
            frames.push((shown.clone(), millis));
        }
        frames
    }

    fn pixel(frame: &[u8], at: usize) -> [u8; 3] {
        frame[at * PIXEL..(at + 1) * PIXEL].try_into().unwrap()
    }

    #[test]
    fn frames_show_what_changed_at_the_time_at_which_it_changed() {
        let (_folder, path) = recording(&[
            (0, Recorded::Start(0)),
            (5, Recorded::NoSignal),
            (10, Recorded::Size(SIZE)),
            (10, whole(SIZE, [9, 9, 9])),
            (260, filled(region(1, 0, 1, 1), [255, 0, 0])),
            (260, filled(region(3, 2, 1, 1), [0, 255, 0])),
            (1_260, Recorded::Paused),
            (4_260, Recorded::Resumed),
            (70_260, Recorded::NoSignal),
            (70_500, Recorded::End("the lease ended".to_owned())),
        ]);
        let frames = frames(&path);
        let delays: Vec<u64> = frames.iter().map(|(_, delay)| *delay).collect();
        assert_eq!(delays, [250, 70_000, 240]);
        assert_eq!(frames[0].0, [9; 36]);
        assert_eq!(pixel(&frames[1].0, 1), [255, 0, 0]);
        assert_eq!(pixel(&frames[1].0, 11), [0, 255, 0]);
        assert_eq!(pixel(&frames[1].0, 5), [9, 9, 9]);
        assert_eq!(frames[2].0, [0; 36]);
    }

    #[test]
    fn the_canvas_fits_the_largest_screen() {
        let wide = ScreenSize::new(6, 2);
        let (_folder, path) = recording(&[
            (0, Recorded::Size(SIZE)),
            (0, whole(SIZE, [1, 2, 3])),
            (100, Recorded::Size(wide)),
            (100, whole(wide, [4, 5, 6])),
        ]);
        let outline = Outline::read(&path).unwrap().unwrap();
        assert_eq!(outline, Outline { canvas: ScreenSize::new(6, 3), frames: 2 });
        let frames = frames(&path);
        assert_eq!((pixel(&frames[0].0, 0), pixel(&frames[0].0, 5)), ([1, 2, 3], [0; 3]));
        assert_eq!((pixel(&frames[1].0, 5), pixel(&frames[1].0, 17)), ([4, 5, 6], [0; 3]));
    }

    #[test]
    fn a_recording_without_pixels_has_no_picture_and_damaged_pixels_change_nothing() {
        let (_folder, path) = recording(&[(0, Recorded::Start(0)), (9, Recorded::NoSignal)]);
        assert_eq!(Outline::read(&path).unwrap(), None);
        let outside = filled(region(3, 2, 2, 1), [7; 3]);
        let cut = Recorded::Pixels { region: SIZE.whole(), zlib: vec![1, 2, 3] };
        let (_folder, path) = recording(&[
            (0, Recorded::Size(SIZE)),
            (0, whole(SIZE, [8; 3])),
            (50, outside),
            (99, cut),
        ]);
        let frames = frames(&path);
        assert_eq!(frames.len(), 3);
        assert!(frames.iter().all(|(frame, _)| *frame == [8; 36]), "{frames:?}");
        let outline = Outline::read(&path).unwrap().unwrap();
        let stopped = write(&path, outline, &mut Vec::new(), &|| true);
        assert!(matches!(stopped, Err(RenderError::Stopped)));
    }

    #[test]
    fn a_delay_is_as_exact_as_it_can_be() {
        for (millis, expected) in [
            (0, (0, 1_000)),
            (65_535, (65_535, 1_000)),
            (65_536, (6_553, 100)),
            (3_600_000, (36_000, 10)),
            (86_400_000, (u16::MAX, 1)),
        ] {
            assert_eq!(delay(millis), expected, "{millis}");
        }
    }
}
