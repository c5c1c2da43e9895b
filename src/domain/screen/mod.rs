//! Screens of machines: sizes, regions, and pictures of what a screen shows.

mod geometry;
mod picture;
mod resample;

pub use geometry::{InvalidRegion, Region, ScreenSize};
pub use picture::{GrayPicture, Picture};
