//! The integration tests that need nothing but Rust, in one binary.

mod esx;
