//! The integration tests that need nothing but Rust, in one binary.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod esx;
