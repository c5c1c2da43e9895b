//! The one binary of integration tests. `harness` tells how to write one; the folders say what they are about.

mod api;
mod daemon;
mod harness;
