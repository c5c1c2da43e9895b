//! Encodes vim25 requests and parses vim25 answers. All functions are pure: they need no sockets,
//! no clock and no session.

pub mod fault;
pub mod json;
pub mod property;
pub mod request;
pub mod response;
pub mod xml;

use xml::Element;

/// The XML namespace of vim25.
pub const VIM25: &str = "urn:vim25";

/// The XML namespace of SOAP 1.1 envelopes.
pub const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// A `ManagedObjectReference`: the type and the id of an object on the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub kind: String,
    pub value: String,
}

impl Reference {
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind: kind.into(), value: value.into() }
    }

    /// Reads a reference from an element such as `<x type="VirtualMachine">16</x>`. `None` if the
    /// id is empty.
    #[must_use]
    pub fn from_element(element: Element<'_>) -> Option<Self> {
        let value = element.text();
        (!value.trim().is_empty())
            .then(|| Self::new(element.attribute("type").unwrap_or_default(), value.trim()))
    }

    /// Reads a reference from the child element with this name. `None` if there is no such child.
    #[must_use]
    pub fn in_child(element: Element<'_>, name: &str) -> Option<Self> {
        element.child(name).and_then(Self::from_element)
    }
}
