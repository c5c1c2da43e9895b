//! The upstream against a small RFB server that answers in every way that servers do.

mod model;
mod steps;
