//! Parses the answers of the property collector: contents of objects, update sets, and the values
//! in both.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::Reference;
use super::fault::VimFault;
use super::xml::Element;

/// One object of a `RetrieveResult`.
#[derive(Debug)]
pub struct ObjectContent<'d> {
    pub object: Reference,
    pub properties: Vec<(&'d str, Element<'d>)>,
    pub missing: Vec<MissingProperty<'d>>,
}

/// A property that the host could not read, with the reason.
#[derive(Debug)]
pub struct MissingProperty<'d> {
    pub path: &'d str,
    pub fault: VimFault,
}

/// The update set in the answer to `WaitForUpdatesEx`.
#[derive(Debug)]
pub struct UpdateSet<'d> {
    /// The version of this set. A client sends it in the next `WaitForUpdatesEx` to get the changes
    /// after this set.
    pub version: &'d str,
    /// Whether the set is truncated: the next call returns another part of it.
    pub truncated: bool,
    pub objects: Vec<ObjectUpdate<'d>>,
}

/// The changes of one object in an update set.
#[derive(Debug)]
pub struct ObjectUpdate<'d> {
    pub kind: UpdateKind,
    pub object: Reference,
    pub changes: Vec<PropertyChange<'d>>,
    pub missing: Vec<MissingProperty<'d>>,
}

/// Whether an object entered a filter, changed, or left the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateKind {
    /// The filter selects the object, and did not select it before.
    Enter,
    /// Properties of the object have changed.
    Modify,
    /// The filter no longer selects the object.
    Leave,
}

/// The change of one property of an object.
#[derive(Clone, Copy, Debug)]
pub struct PropertyChange<'d> {
    pub path: &'d str,
    pub value: ChangedValue<'d>,
}

/// The new value of a property.
#[derive(Clone, Copy, Debug)]
pub enum ChangedValue<'d> {
    Assigned(Element<'d>),
    /// The property has no value now.
    Unset,
    /// One element was added to a list, and the update has no other element. So the property must
    /// be read again.
    Partial,
}

/// Reads the objects in a `RetrieveResult`.
pub fn object_contents(result: Element<'_>) -> impl Iterator<Item = ObjectContent<'_>> {
    result.children_named("objects").filter_map(|object| {
        Some(ObjectContent {
            object: Reference::in_child(object, "obj")?,
            properties: object
                .children_named("propSet")
                .filter_map(|property| Some((property.child_text("name")?, property.child("val")?)))
                .collect(),
            missing: missing(object),
        })
    })
}

impl<'d> UpdateSet<'d> {
    /// Reads an update set from the element `returnval` of an answer.
    #[must_use]
    pub fn from_element(set: Element<'d>) -> Self {
        let objects = set
            .children_named("filterSet")
            .flat_map(|filter| filter.children_named("objectSet").collect::<Vec<_>>())
            .filter_map(ObjectUpdate::from_element)
            .collect();
        Self {
            version: set.child_text("version").unwrap_or_default(),
            truncated: set.child("truncated").and_then(boolean) == Some(true),
            objects,
        }
    }
}

impl<'d> ObjectUpdate<'d> {
    fn from_element(update: Element<'d>) -> Option<Self> {
        let changes = update.children_named("changeSet").filter_map(|change| {
            let value = match (change.child_text("op"), change.child("val")) {
                (Some("add"), _) => ChangedValue::Partial,
                (Some("remove" | "indirectRemove"), _) | (_, None) => ChangedValue::Unset,
                (_, Some(value)) => ChangedValue::Assigned(value),
            };
            Some(PropertyChange { path: change.child_text("name")?, value })
        });
        Some(Self {
            kind: match update.child_text("kind") {
                Some("enter") => UpdateKind::Enter,
                Some("leave") => UpdateKind::Leave,
                _ => UpdateKind::Modify,
            },
            object: Reference::in_child(update, "obj")?,
            changes: changes.collect(),
            missing: missing(update),
        })
    }
}

fn missing(object: Element<'_>) -> Vec<MissingProperty<'_>> {
    object
        .children_named("missingSet")
        .map(|missing| MissingProperty {
            path: missing.child_text("path").unwrap_or_default(),
            fault: missing.child("fault").map(VimFault::from_localized).unwrap_or_default(),
        })
        .collect()
}

/// Reads an `xsd:boolean`. `None` for any other text.
#[must_use]
pub fn boolean(element: Element<'_>) -> Option<bool> {
    match element.text().trim() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Reads an integer. `None` if the text is not an integer or does not fit the type.
#[must_use]
pub fn number<T: std::str::FromStr>(element: Element<'_>) -> Option<T> {
    element.text().trim().parse().ok()
}

/// Reads a text. `None` if the text is empty.
#[must_use]
pub fn text(element: Element<'_>) -> Option<String> {
    let text = element.text();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Reads an `xsd:dateTime`, with or without a fraction and an offset. A time without an offset is
/// UTC. The result is rounded down to the microsecond, which is the precision of otter's API.
/// `None` for any other text.
#[must_use]
pub fn timestamp(element: Element<'_>) -> Option<Timestamp> {
    let text = element.text().trim();
    let time: Timestamp = text.parse().ok().or_else(|| {
        Some(text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })?;
    Timestamp::from_microsecond(time.as_microsecond()).ok()
}

/// Reads an `ArrayOfManagedObjectReference`.
#[must_use]
pub fn references(element: Element<'_>) -> Vec<Reference> {
    element.children().filter_map(Reference::from_element).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esx::soap::xml::Document;

    #[test]
    fn an_update_set_is_parsed() {
        let text = r#"<returnval xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
          <version>7</version>
          <filterSet><filter type="PropertyFilter">f</filter>
            <objectSet><kind>enter</kind><obj type="VirtualMachine">1</obj>
              <changeSet><name>name</name><op>assign</op>
                <val xsi:type="xsd:string">a</val></changeSet>
              <changeSet><name>snapshot</name><op>assign</op></changeSet>
              <changeSet><name>runtime.question</name><op>indirectRemove</op></changeSet>
              <changeSet><name>datastore</name><op>add</op><val type="Datastore">d</val></changeSet>
              <missingSet><path>guest.net</path>
                <fault><fault xsi:type="NotAuthenticated"/></fault></missingSet>
            </objectSet>
            <objectSet><kind>leave</kind><obj type="Task">t</obj></objectSet></filterSet>
          <truncated>true</truncated></returnval>"#;
        let document = Document::parse(text.as_bytes()).unwrap();
        let set = UpdateSet::from_element(document.root());
        assert_eq!((set.version, set.truncated, set.objects.len()), ("7", true, 2));
        let [entered, left] = set.objects.as_slice() else { panic!() };
        assert_eq!(entered.object, Reference::new("VirtualMachine", "1"));
        assert!(
            matches!(entered.changes[0].value, ChangedValue::Assigned(value) if value.text() == "a")
        );
        assert!(matches!(entered.changes[1].value, ChangedValue::Unset));
        assert!(matches!(entered.changes[2].value, ChangedValue::Unset));
        assert!(matches!(entered.changes[3].value, ChangedValue::Partial));
        assert!(entered.missing[0].fault.is_not_authenticated());
        assert_eq!(left.kind, UpdateKind::Leave);
    }

    #[test]
    fn every_form_of_a_time_is_parsed() {
        let expected: Timestamp = "2023-12-12T10:06:39Z".parse().unwrap();
        for text in [
            "2023-12-12T10:06:39Z",
            "2023-12-12T12:06:39+02:00",
            "2023-12-12T10:06:39",
            "2023-12-12T10:06:39.000000Z",
        ] {
            let document = Document::parse(format!("<t>{text}</t>").as_bytes()).unwrap();
            assert_eq!(timestamp(document.root()), Some(expected), "{text}");
        }
        let document = Document::parse(b"<t>soon</t>").unwrap();
        assert_eq!(timestamp(document.root()), None);
    }
}
