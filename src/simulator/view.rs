//! Views: a container's machines as they come and go, or a list of one's own.

use super::properties::contained;
use super::value::{Moref, Value, texts};
use super::world::World;

/// A view of a session.
#[derive(Debug)]
pub enum View {
    Container { container: Moref, types: Vec<String>, recursive: bool },
    List(Vec<Moref>),
}

impl View {
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Container { .. } => "ContainerView",
            Self::List(_) => "ListView",
        }
    }

    /// What it shows now.
    pub fn objects(&self, world: &World) -> Vec<Moref> {
        match self {
            Self::Container { container, types, recursive } => {
                contained(world, container, types, *recursive)
            }
            Self::List(objects) => objects.clone(),
        }
    }

    /// A property other than `view`.
    pub fn property(&self, name: &str) -> Option<Value> {
        match (self, name) {
            (Self::Container { container, .. }, "container") => {
                Some(Value::Reference(container.clone()))
            }
            (Self::Container { types, .. }, "type") => Some(texts(types.clone())),
            (Self::Container { recursive, .. }, "recursive") => Some(Value::Boolean(*recursive)),
            _ => None,
        }
    }
}
