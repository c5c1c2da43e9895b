//! Pure functions on the OpenAPI document: its conversion to OpenAPI 3.0, and the HTML pages of the
//! API and its problems.

pub mod docs;
pub mod page;
pub mod problems;
pub mod v3_0;
