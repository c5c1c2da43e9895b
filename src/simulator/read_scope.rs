//! What a read of properties may see: the world, all sessions, and the objects that the calling
//! session has made.
//!
//! Sessions own collectors, and collectors read properties of sessions. The traits in this file
//! break that circle of imports: properties and collectors know the sessions only through the
//! traits.

use super::value::{Moref, Object, Value};
use super::world::World;

/// What a read may see: the world, all sessions, and the session that reads. `session` is `None` if
/// the caller has no session.
#[derive(Clone, Copy)]
pub struct ReadScope<'a> {
    pub world: &'a World,
    pub sessions: &'a dyn SessionList,
    pub session: Option<&'a dyn CallerSession>,
}

/// All sessions of the host.
pub trait SessionList {
    /// A `UserSession` for each session, the oldest login first.
    fn user_sessions(&self) -> Vec<Object>;
}

/// The session that reads properties, with its views, filters and collectors.
pub trait CallerSession {
    /// The `UserSession` of this session.
    fn user_session(&self) -> Object;

    /// Whether this session has made the object.
    fn has(&self, object: &Moref) -> bool;

    /// A top-level property of an object that this session has made. `None` if it has no value.
    fn property(&self, world: &World, object: &Moref, name: &str) -> Option<Value>;

    /// The views that this session has made.
    fn views(&self) -> Vec<Moref>;

    /// A number that increases with each change of the session's views.
    fn view_revision(&self) -> u64;

    /// The `view_revision` at which this view last changed. `None` if the object is not a view of
    /// this session.
    fn view_changed_at(&self, view: &Moref) -> Option<u64>;
}
