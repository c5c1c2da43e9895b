//! What a screen shows, as a list of shapes. Two pictures are compared without drawing them, and a
//! test reads the texts of a picture without OCR.

use super::bitmap::{Area, Bitmap, Colour};
use super::font::Font;

/// What a screen shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: u16,
    pub height: u16,
    background: Colour,
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Fill(Area, Colour),
    Text { at: (i32, i32), font: Font, advance: i32, ink: Colour, text: String },
    Pointer(i32, i32),
}

/// The widths of the rows of the arrow that shows the pointer.
const ARROW: [i32; 17] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 7, 4, 4, 5, 5];

impl Picture {
    /// An empty screen.
    pub const fn new((width, height): (u16, u16), background: Colour) -> Self {
        Self { width, height, background, items: Vec::new() }
    }

    pub fn fill(&mut self, area: Area, colour: Colour) {
        self.items.push(Item::Fill(area, colour));
    }

    /// A text with the usual distance of its font.
    pub fn text(&mut self, at: (i32, i32), font: Font, ink: Colour, text: impl Into<String>) {
        self.spaced_text(at, font, font.width(), ink, text);
    }

    /// A text whose characters have this distance from one to the next.
    pub fn spaced_text(
        &mut self,
        at: (i32, i32),
        font: Font,
        advance: i32,
        ink: Colour,
        text: impl Into<String>,
    ) {
        let text = text.into();
        if !text.trim().is_empty() {
            self.items.push(Item::Text { at, font, advance, ink, text });
        }
    }

    /// An area with a border of one pixel.
    pub fn frame(&mut self, area: Area, border: Colour, inside: Colour) {
        self.fill(area, border);
        self.fill(Area::new(area.x + 1, area.y + 1, area.width - 2, area.height - 2), inside);
    }

    /// The pointer, drawn by the guest itself.
    pub fn pointer(&mut self, x: u16, y: u16) {
        self.items.push(Item::Pointer(i32::from(x), i32::from(y)));
    }

    /// Draws all shapes in their order.
    pub fn draw(&self) -> Bitmap {
        let mut bitmap = Bitmap::new(self.width, self.height, self.background);
        for item in &self.items {
            match item {
                Item::Fill(area, colour) => bitmap.fill(*area, *colour),
                Item::Text { at, font, advance, ink, text } => {
                    bitmap.text(*at, *font, *advance, *ink, text);
                }
                Item::Pointer(x, y) => {
                    for (row, width) in (0..).zip(ARROW) {
                        bitmap.fill(Area::new(*x, y + row, width, 1), Colour::WHITE);
                        let inside = if row < 2 { 0 } else { width - 2 };
                        bitmap.fill(Area::new(x + 1, y + row, inside, 1), Colour::BLACK);
                    }
                }
            }
        }
        bitmap
    }

    /// The texts from top to bottom, and those of one line from left to right.
    pub fn lines(&self) -> Vec<String> {
        let mut texts: Vec<(i32, i32, &str)> = self
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Text { at: (x, y), text, .. } => Some((*y, *x, text.trim_end())),
                Item::Fill(..) | Item::Pointer(..) => None,
            })
            .collect();
        texts.sort_by_key(|(y, x, _)| (*y, *x));
        texts.chunk_by(|(above, ..), (below, ..)| above == below).map(join).collect()
    }
}

fn join(line: &[(i32, i32, &str)]) -> String {
    line.iter().map(|(_, _, text)| *text).collect::<Vec<_>>().join(" ")
}
