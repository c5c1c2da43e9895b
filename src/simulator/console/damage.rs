//! Which parts of a screen a client does not have yet, in cells of 16 × 16 pixels.

use super::super::guest_screen::Bitmap;

/// The edge of a cell in pixels. Rectangles of updates are aligned to it.
const CELL: u16 = 16;
/// The maximum edge of a rectangle in cells: 512 pixels.
const BLOCK: usize = 32;

/// A rectangle on the screen, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rectangle {
    pub x: u16,
    pub y: u16,
    pub width: u16,
    pub height: u16,
}

/// The cells of a screen that the client does not have.
#[derive(Debug)]
pub struct Damage {
    width: u16,
    height: u16,
    /// Row by row.
    dirty: Vec<bool>,
}

impl Damage {
    /// A screen of which the client has nothing.
    pub fn whole(width: u16, height: u16) -> Self {
        let cells = usize::from(width.div_ceil(CELL)) * usize::from(height.div_ceil(CELL));
        Self { width, height, dirty: vec![true; cells] }
    }

    /// The client lacks the cells in which two pictures of the same size differ.
    pub fn add_difference(&mut self, old: &Bitmap, new: &Bitmap) {
        for y in 0..self.height {
            if old.row(0, y, self.width) == new.row(0, y, self.width) {
                continue;
            }
            for column in 0..self.width.div_ceil(CELL) {
                let x = column * CELL;
                let width = CELL.min(self.width - x);
                if old.row(x, y, width) != new.row(x, y, width) {
                    self.set(usize::from(column), usize::from(y / CELL), true);
                }
            }
        }
    }

    /// The client lacks this rectangle, because it asks for all of it.
    pub fn add(&mut self, rectangle: Rectangle) {
        let (columns, rows) = self.cells(rectangle);
        for row in rows {
            for column in columns.clone() {
                self.set(column, row, true);
            }
        }
    }

    /// Takes at most `most` rectangles that the client lacks and that touch `region`.
    pub fn take(&mut self, region: Rectangle, most: usize) -> Vec<Rectangle> {
        let (columns, rows) = self.cells(region);
        let mut taken = Vec::new();
        for top in (0..self.rows()).step_by(BLOCK) {
            for left in (0..self.columns()).step_by(BLOCK) {
                if taken.len() >= most {
                    return taken;
                }
                let of_block = |range: &std::ops::Range<usize>, start: usize| {
                    range.start.max(start)..range.end.min(start + BLOCK)
                };
                let found = self.take_box(of_block(&columns, left), of_block(&rows, top));
                taken.extend(found);
            }
        }
        taken
    }

    /// Takes the smallest box around the dirty cells in these columns and rows.
    fn take_box(
        &mut self,
        columns: std::ops::Range<usize>,
        rows: std::ops::Range<usize>,
    ) -> Option<Rectangle> {
        let mut edges: Option<(usize, usize, usize, usize)> = None;
        for row in rows {
            for column in columns.clone() {
                if self.is_dirty(column, row) {
                    edges =
                        Some(edges.map_or((column, column, row, row), |(left, right, top, _)| {
                            (left.min(column), right.max(column), top, row)
                        }));
                }
            }
        }
        let (left, right, top, bottom) = edges?;
        for row in top..=bottom {
            for column in left..=right {
                self.set(column, row, false);
            }
        }
        let pixels = |first: usize, last: usize, end: u16| {
            let start = u16::try_from(first).unwrap_or(u16::MAX).saturating_mul(CELL);
            let stop = u16::try_from(last + 1).unwrap_or(u16::MAX).saturating_mul(CELL).min(end);
            (start, stop.saturating_sub(start))
        };
        let (x, width) = pixels(left, right, self.width);
        let (y, height) = pixels(top, bottom, self.height);
        Some(Rectangle { x, y, width, height })
    }

    /// The columns and rows of the cells that a rectangle touches.
    fn cells(&self, of: Rectangle) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let range = |start: u16, length: u16, cells: usize| {
            let end = u32::from(start) + u32::from(length);
            let end = usize::try_from(end.div_ceil(u32::from(CELL))).unwrap_or(cells).min(cells);
            if length == 0 { 0..0 } else { usize::from(start / CELL).min(end)..end }
        };
        (range(of.x, of.width, self.columns()), range(of.y, of.height, self.rows()))
    }

    fn columns(&self) -> usize {
        usize::from(self.width.div_ceil(CELL))
    }

    fn rows(&self) -> usize {
        usize::from(self.height.div_ceil(CELL))
    }

    fn is_dirty(&self, column: usize, row: usize) -> bool {
        self.dirty.get(row * self.columns() + column).copied().unwrap_or(false)
    }

    fn set(&mut self, column: usize, row: usize, is_dirty: bool) {
        let at = row * self.columns() + column;
        if let Some(cell) = self.dirty.get_mut(at) {
            *cell = is_dirty;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rectangle(x: u16, y: u16, width: u16, height: u16) -> Rectangle {
        Rectangle { x, y, width, height }
    }

    const ALL: Rectangle = Rectangle { x: 0, y: 0, width: u16::MAX, height: u16::MAX };

    #[test]
    fn a_text_mode_is_two_rectangles_and_a_desktop_six() {
        let mut damage = Damage::whole(720, 400);
        let taken = damage.take(ALL, 10);
        assert_eq!(taken, [rectangle(0, 0, 512, 400), rectangle(512, 0, 208, 400)]);
        assert_eq!(damage.take(ALL, 10), []);
        let mut damage = Damage::whole(1280, 1024);
        assert_eq!(damage.take(ALL, 4).len(), 4);
        assert_eq!(damage.take(ALL, 4).len(), 2);
    }

    #[test]
    fn increments_are_aligned_and_only_the_asked_part_is_taken() {
        let mut damage = Damage::whole(800, 600);
        damage.take(ALL, 100);
        damage.add(rectangle(20, 30, 1, 1));
        damage.add(rectangle(790, 590, 100, 100));
        damage.add(rectangle(0, 0, 0, 5));
        assert_eq!(damage.take(rectangle(0, 0, 100, 100), 9), [rectangle(16, 16, 16, 16)]);
        assert_eq!(damage.take(ALL, 9), [rectangle(784, 576, 16, 24)]);
    }
}
