//! The canvas, its coverage, and the damage that readers see.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const SIZE: ScreenSize = ScreenSize::new(100, 40);

fn colours(region: Region, colour: u8) -> Vec<u8> {
    [colour, colour, colour, 0].repeat(region.pixels())
}

fn painted(size: ScreenSize, colour: u8) -> Canvas {
    let mut canvas = Canvas::new(Timestamp::UNIX_EPOCH);
    canvas.clear(size);
    canvas.set_live(true);
    canvas.paint(size.whole(), &colours(size.whole(), colour));
    canvas.publish(Timestamp::UNIX_EPOCH).unwrap();
    canvas
}

#[test]
fn an_empty_canvas_is_not_complete() {
    let mut canvas = Canvas::new(Timestamp::UNIX_EPOCH);
    assert!(!canvas.is_complete());
    assert!(canvas.publish(Timestamp::UNIX_EPOCH).is_none());
    canvas.clear(ScreenSize::new(0, 0));
    assert!(!canvas.is_complete());
}

#[test]
fn what_did_not_change_is_shared_between_frames() {
    let mut canvas = painted(SIZE, 1);
    let before = Arc::clone(canvas.frame());
    let region = Region::new(10, 17, 5, 3);
    canvas.paint(region, &colours(region, 2));
    let change = canvas.publish(Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(change.damage, [region]);
    let shared = before.bands.iter().zip(&change.frame.bands);
    let shared: Vec<bool> = shared.map(|(one, other)| Arc::ptr_eq(one, other)).collect();
    assert_eq!(shared, [true, false, true]);
    assert!(before.is_same_in(&change.frame, Region::new(0, 0, 100, 17)));
    assert!(!before.is_same_in(&change.frame, Region::new(0, 0, 100, 18)));
    let mut pixels = Vec::new();
    change.frame.copy_region(region, &mut pixels);
    assert_eq!(pixels, colours(region, 2));
    assert_eq!(before.picture().unwrap().pixels, colours(SIZE.whole(), 1));
}

#[test]
fn the_byte_without_a_meaning_is_no_change() {
    let mut canvas = painted(SIZE, 1);
    canvas.paint(Region::new(0, 0, 1, 1), &[1, 1, 1, 255]);
    assert!(canvas.publish(Timestamp::UNIX_EPOCH).is_none());
}

#[test]
fn a_repaint_after_a_restart_is_no_damage() {
    let mut canvas = painted(SIZE, 1);
    canvas.uncover();
    let change = canvas.publish(Timestamp::UNIX_EPOCH).unwrap();
    assert!(!change.frame.complete && change.damage.is_empty());
    assert!(change.frame.picture().is_none());
    canvas.paint(SIZE.whole(), &colours(SIZE.whole(), 1));
    let change = canvas.publish(Timestamp::UNIX_EPOCH).unwrap();
    assert!(change.frame.complete && change.damage.is_empty());
}

#[test]
fn a_copy_of_unpainted_pixels_paints_nothing() {
    let mut canvas = Canvas::new(Timestamp::UNIX_EPOCH);
    canvas.clear(SIZE);
    let left = Region::new(0, 0, 50, 40);
    canvas.copy(Region::new(50, 0, 50, 40), 0, 0);
    assert_eq!(canvas.missing(), Some(SIZE.whole()));
    canvas.paint(left, &colours(left, 3));
    canvas.copy(Region::new(50, 0, 50, 40), 0, 0);
    assert!(canvas.is_complete());
}

#[test]
fn a_reader_that_falls_behind_gets_the_whole_screen() {
    let mut canvas = painted(SIZE, 0);
    let mut history = DamageHistory::default();
    let seen = Arc::clone(canvas.frame());
    let change_to = |canvas: &mut Canvas, history: &mut DamageHistory, colour: u8| {
        let region = Region::new(u16::from(colour), 0, 1, 1);
        canvas.paint(region, &colours(region, colour));
        let change = canvas.publish(Timestamp::UNIX_EPOCH).unwrap();
        history.record(&change);
        change.frame
    };
    change_to(&mut canvas, &mut history, 1);
    let frame = change_to(&mut canvas, &mut history, 2);
    assert_eq!(
        history.since(seen.seen(), &frame),
        [Region::new(1, 0, 1, 1), Region::new(2, 0, 1, 1)]
    );
    assert_eq!(history.since(frame.seen(), &frame), []);
    let mut last = frame;
    for colour in 3..80 {
        last = change_to(&mut canvas, &mut history, colour);
    }
    assert_eq!(history.since(seen.seen(), &last), [SIZE.whole()]);
}

fn regions() -> impl Strategy<Value = Region> {
    (0..140u16, 0..60u16, 0..140u16, 0..60u16)
        .prop_map(|(x, y, width, height)| Region::new(x, y, width, height))
}

proptest! {
    /// Coverage and pixels against a plain model, with rectangles that reach beyond the screen.
    #[test]
    fn the_canvas_is_what_was_painted(
        rectangles in prop::collection::vec((regions(), 1..=255u8), 0..20),
    ) {
        let mut canvas = Canvas::new(Timestamp::UNIX_EPOCH);
        canvas.clear(SIZE);
        let mut model = vec![0u8; SIZE.pixels()];
        for (region, colour) in &rectangles {
            canvas.paint(*region, &colours(*region, *colour));
            let inside = region.intersect(SIZE.whole());
            if let Some(region) = inside {
                for y in region.y..region.y + region.height {
                    for x in region.x..region.x + region.width {
                        model[usize::from(y) * 100 + usize::from(x)] = *colour;
                    }
                }
            }
        }
        let unpainted: Vec<usize> =
            (0..model.len()).filter(|index| model[*index] == 0).collect();
        prop_assert_eq!(canvas.is_complete(), unpainted.is_empty());
        let missing = canvas.missing();
        prop_assert_eq!(missing.is_none(), unpainted.is_empty());
        if let Some(missing) = missing {
            let points: Vec<(u16, u16)> = unpainted
                .iter()
                .map(|index| (index % 100, index / 100))
                .map(|(x, y)| (u16::try_from(x).unwrap(), u16::try_from(y).unwrap()))
                .collect();
            prop_assert!(missing.has_point(points[0].0, points[0].1));
            let inside = points.iter().filter(|(x, y)| missing.has_point(*x, *y)).count();
            prop_assert_eq!(inside, missing.pixels(), "a painted pixel is in {}", missing);
        }
        canvas.paint(Region::new(0, 0, 0, 0), &[]);
        for index in unpainted {
            let (x, y) = (u16::try_from(index % 100).unwrap(), u16::try_from(index / 100).unwrap());
            canvas.paint(Region::new(x, y, 1, 1), &[0; 4]);
        }
        let frame = canvas.publish(Timestamp::UNIX_EPOCH).unwrap().frame;
        let picture = frame.picture().unwrap();
        let shown: Vec<u8> = picture.pixels.chunks_exact(4).map(|pixel| pixel[1]).collect();
        prop_assert_eq!(shown, model);
    }
}
