//! Pure functions on the OpenAPI document: its conversion to OpenAPI 3.0, and the HTML pages of
//! its problems. The files of the page `/docs` are here too.

pub mod page;
pub mod problems;
pub mod v3_0;
