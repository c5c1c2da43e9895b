//! vim25 as pure functions between bytes and values: no sockets, no clock, no session.

pub mod fault;
pub mod json;
pub mod property;
pub mod request;
pub mod response;
pub mod xml;

use xml::Element;

/// The namespace of everything that vim25 itself names.
pub const VIM25: &str = "urn:vim25";

/// The namespace of SOAP 1.1 envelopes.
pub const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";

/// A managed object reference: the type and the id of an object that lives on the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub kind: String,
    pub value: String,
}

impl Reference {
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind: kind.into(), value: value.into() }
    }

    /// Reads `<x type="VirtualMachine">16</x>`; `None` where there is no id.
    #[must_use]
    pub fn from_element(element: Element<'_>) -> Option<Self> {
        let value = element.text();
        (!value.trim().is_empty())
            .then(|| Self::new(element.attribute("type").unwrap_or_default(), value.trim()))
    }

    /// Reads the reference in the child of this name.
    #[must_use]
    pub fn in_child(element: Element<'_>, name: &str) -> Option<Self> {
        element.child(name).and_then(Self::from_element)
    }
}
