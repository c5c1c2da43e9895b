//! What one viewer has not been sent yet: the regions of the screen that changed since. It stays
//! small however slow the viewer is, because old changes become part of larger regions.

use crate::domain::screen::{Region, ScreenSize};

/// The most regions that are kept apart. More become one.
const MAX_REGIONS: usize = 16;

/// The regions of the screen that a viewer lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingDamage {
    regions: Vec<Region>,
}

impl PendingDamage {
    /// The viewer lacks the whole screen.
    pub fn set_whole(&mut self, size: ScreenSize) {
        self.regions.clear();
        self.add(Region { x: 0, y: 0, width: size.width, height: size.height }, size);
    }

    /// The viewer lacks this region, as far as it is inside the screen.
    pub fn add(&mut self, region: Region, size: ScreenSize) {
        let whole = Region { x: 0, y: 0, width: size.width, height: size.height };
        let Some(region) = region.intersect(whole) else { return };
        if self.regions.iter().any(|known| known.contains(region)) {
            return;
        }
        self.regions.retain(|known| !region.contains(*known));
        self.regions.push(region);
        if self.regions.len() > MAX_REGIONS {
            let joined = self.regions.drain(..).reduce(Region::union);
            self.regions.extend(joined);
        }
    }

    /// Takes the parts that lie inside `wanted`. The rest stays pending.
    pub fn take_inside(&mut self, wanted: Region) -> Vec<Region> {
        let mut taken = Vec::new();
        let mut rest = Vec::new();
        for region in self.regions.drain(..) {
            match region.intersect(wanted) {
                Some(inside) => {
                    taken.push(inside);
                    rest.extend(without(region, inside));
                }
                None => rest.push(region),
            }
        }
        if rest.len() > MAX_REGIONS {
            rest = rest.into_iter().reduce(Region::union).into_iter().collect();
        }
        self.regions = rest;
        taken
    }

    /// Whether the viewer lacks a part of this region.
    #[must_use]
    pub fn touches(&self, wanted: Region) -> bool {
        self.regions.iter().any(|region| region.intersect(wanted).is_some())
    }
}

/// The parts of `region` around `inside`, which lies within it: above, below, left and right of it.
fn without(region: Region, inside: Region) -> impl Iterator<Item = Region> {
    let right = |region: Region| region.x.saturating_add(region.width);
    let bottom = |region: Region| region.y.saturating_add(region.height);
    let parts = [
        Region { height: inside.y - region.y, ..region },
        Region { y: bottom(inside), height: bottom(region) - bottom(inside), ..region },
        Region { width: inside.x - region.x, x: region.x, ..inside },
        Region { x: right(inside), width: right(region) - right(inside), ..inside },
    ];
    parts.into_iter().filter(|part| part.width > 0 && part.height > 0)
}

/// The largest piece of a region that is sent at once.
#[derive(Clone, Copy, Debug)]
pub struct PieceLimits {
    pub width: u16,
    /// A piece of one row may have more.
    pub pixels: usize,
}

/// Splits regions into pieces within the limits. Each piece is sent on its own, so that a viewer
/// that reads slowly holds little memory.
#[must_use]
pub fn split(regions: &[Region], limits: PieceLimits) -> Vec<Region> {
    let mut pieces = Vec::new();
    for region in regions {
        let rows = (limits.pixels / usize::from(region.width.clamp(1, limits.width))).max(1);
        let rows = u16::try_from(rows).unwrap_or(u16::MAX);
        let (right, bottom) =
            (region.x.saturating_add(region.width), region.y.saturating_add(region.height));
        for y in (region.y..bottom).step_by(usize::from(rows)) {
            let height = rows.min(bottom - y);
            for x in (region.x..right).step_by(usize::from(limits.width)) {
                pieces.push(Region { x, y, width: limits.width.min(right - x), height });
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SIZE: ScreenSize = ScreenSize { width: 20, height: 15 };

    fn points(regions: &[Region]) -> BTreeSet<(u16, u16)> {
        let of = |region: &Region| {
            let (xs, ys) = (region.x..region.x + region.width, region.y..region.y + region.height);
            ys.flat_map(move |y| xs.clone().map(move |x| (x, y))).collect::<Vec<_>>()
        };
        regions.iter().flat_map(of).collect()
    }

    fn region() -> impl Strategy<Value = Region> {
        (0..20_u16, 0..15_u16, 1..12_u16, 1..12_u16).prop_map(|(x, y, width, height)| Region {
            x,
            y,
            width,
            height,
        })
    }

    proptest! {
        #[test]
        fn no_pixel_that_changed_is_lost(
            steps in prop::collection::vec((region(), any::<bool>()), 1..60),
        ) {
            let mut pending = PendingDamage::default();
            let mut lacking = BTreeSet::new();
            for (region, is_taken) in steps {
                let inside: Vec<Region> =
                    region.intersect(Region { x: 0, y: 0, width: 20, height: 15 })
                        .into_iter().collect();
                if is_taken {
                    let taken = points(&pending.take_inside(region));
                    prop_assert!(taken.is_subset(&points(&inside)));
                    let due: BTreeSet<_> =
                        lacking.intersection(&points(&inside)).copied().collect();
                    prop_assert!(due.is_subset(&taken));
                    lacking = &lacking - &taken;
                } else {
                    pending.add(region, SIZE);
                    lacking.extend(points(&inside));
                }
                prop_assert!(pending.regions.len() <= MAX_REGIONS);
                prop_assert!(lacking.is_subset(&points(&pending.regions)));
                prop_assert_eq!(pending.touches(region), !points(&pending.regions)
                    .is_disjoint(&points(&[region])));
            }
        }

        #[test]
        fn pieces_cover_the_regions_without_overlap(
            region in region(),
            pixels in 0..60_usize,
            width in 1..15_u16,
        ) {
            let pieces = split(&[region], PieceLimits { width, pixels });
            prop_assert_eq!(points(&pieces), points(&[region]));
            let pixels_of = |piece: &Region| usize::from(piece.width) * usize::from(piece.height);
            prop_assert_eq!(pieces.iter().map(pixels_of).sum::<usize>(), pixels_of(&region));
            let fits = |piece: &Region| {
                piece.width <= width && (piece.height == 1 || pixels_of(piece) <= pixels)
            };
            prop_assert!(pieces.iter().all(fits));
        }
    }

    #[test]
    fn the_whole_screen_replaces_all_parts() {
        let mut pending = PendingDamage::default();
        pending.add(Region { x: 3, y: 3, width: 2, height: 2 }, SIZE);
        pending.set_whole(SIZE);
        assert_eq!(pending.regions, [Region { x: 0, y: 0, width: 20, height: 15 }]);
    }
}
