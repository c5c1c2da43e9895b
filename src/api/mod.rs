//! The HTTP side of otter.

pub mod document;
