//! What may be looked at: the world, the sessions, and what the session that looks has made.
//!
//! Sessions own collectors, and collectors look. So what a look needs of sessions is said here, and
//! neither properties nor collectors know the sessions themselves.

use super::value::{Moref, Object, Value};
use super::world::World;

/// The world, and the session that looks.
#[derive(Clone, Copy)]
pub struct ReadScope<'a> {
    pub world: &'a World,
    pub sessions: &'a dyn SessionList,
    pub session: Option<&'a dyn CallerSession>,
}

/// All sessions, as a look sees them.
pub trait SessionList {
    /// A `UserSession` for each.
    fn user_sessions(&self) -> Vec<Object>;
}

/// The session that looks, with its views, filters and collectors.
pub trait CallerSession {
    /// `UserSession`
    fn user_session(&self) -> Object;

    /// Whether it has made this object.
    fn has(&self, object: &Moref) -> bool;

    /// A whole top-level property of an object that it has made.
    fn property(&self, world: &World, object: &Moref, name: &str) -> Option<Value>;

    fn views(&self) -> Vec<Moref>;

    /// Counts changes of its views.
    fn view_revision(&self) -> u64;
}
