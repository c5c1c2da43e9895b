//! The OpenAPI document as data: its mechanical 3.0 form, and the pages that show it and its
//! problems to people. Pure functions; nothing here knows a route.

pub mod docs;
pub mod page;
pub mod problems;
pub mod v3_0;
