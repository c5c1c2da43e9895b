//! The views of a session: a `ContainerView` follows what a container holds, and a `ListView` is a
//! list of objects that the client changes.

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
    /// The managed type of the view.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Container { .. } => "ContainerView",
            Self::List(_) => "ListView",
        }
    }

    /// The objects in the view now.
    pub fn objects(&self, world: &World) -> Vec<Moref> {
        match self {
            Self::Container { container, types, recursive } => {
                contained(world, container, types, *recursive)
            }
            Self::List(objects) => objects.clone(),
        }
    }

    /// The value of a property of the view other than the property `view`. `None` if the property
    /// has no value.
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
