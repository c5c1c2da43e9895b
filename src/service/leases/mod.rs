//! Leases: a free machine for one caller, never for two, and never leaked.

pub mod book;
pub mod fit;
#[cfg(test)]
mod tests;
