//! The OpenAPI document as data: its mechanical 3.0 form, the rules that keep it digestible for the generators of
//! clients, and the pages that show it and its problems to people. Pure functions; nothing here knows a route.

pub mod docs;
pub mod lint;
pub mod page;
pub mod problems;
#[cfg(test)]
mod served;
pub mod v3_0;
mod walk;
