//! The values of vim25 as a tree, and how the values are written as XML.

use std::borrow::Cow;

use jiff::Timestamp;

use super::property_path::{self, Key, Segment};
use super::schema::{self, Field, Occurs};
use crate::esx::soap::xml::Writer;

/// A managed object reference: the type and the id of an object. Ids are unique only within a type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moref {
    pub kind: &'static str,
    pub id: String,
}

impl Moref {
    pub fn new(kind: &'static str, id: impl Into<String>) -> Self {
        Self { kind, id: id.into() }
    }
}

/// A value of vim25. The declared type of a field decides whether the value is written with
/// `xsi:type`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Int(i32),
    Long(i64),
    Short(i16),
    Byte(i8),
    Boolean(bool),
    Time(Timestamp),
    /// A value of an enum: the type of the enum and the text of the value. Hosts also send texts
    /// that the schema does not list.
    Enum(&'static str, String),
    Reference(Moref),
    Object(Object),
    /// A list: the type of its items, and the items.
    List(&'static str, Vec<Value>),
    /// Trees of snapshots. They are kept in one flat list, because a chain of snapshots may be
    /// nested too deeply for recursive functions.
    Forest(Forest),
}

/// Trees of `VirtualMachineSnapshotTree` as a flat list of depth and node. Each parent comes before
/// its children.
#[derive(Clone, Debug, PartialEq)]
pub struct Forest(pub Vec<(usize, Object)>);

/// A data object: its type, and its fields in the order of the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub type_name: &'static str,
    pub fields: Vec<(&'static str, Value)>,
}

impl Object {
    /// Makes an object of this type without fields.
    #[must_use]
    pub const fn new(type_name: &'static str) -> Self {
        Self { type_name, fields: Vec::new() }
    }

    /// Adds the field `name` to the object, unless the value is absent.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl IntoValue) -> Self {
        if let Some(value) = value.into_value() {
            self.fields.push((name, value));
        }
        self
    }

    /// The value of the field `name`. `None` if the field is unset.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

impl Value {
    /// The value at a property path that begins at this value. `None` if the path has no value or
    /// is malformed.
    #[must_use]
    pub fn descend(&self, path: &str) -> Option<Value> {
        self.select(None, &property_path::parse(path)?)
    }

    /// Selects the item with this key, or this value itself if there is no key, and returns the
    /// value at the path `below` from there. `None` if there is no such value.
    #[must_use]
    pub fn select(&self, key: Option<Key<'_>>, below: &[Segment<'_>]) -> Option<Value> {
        let mut at = match key {
            Some(key) => self.item(key)?,
            None => Cow::Borrowed(self),
        };
        for Segment { name, key } in below {
            at = match at {
                Cow::Borrowed(value) => value.field(name, *key)?,
                Cow::Owned(value) => Cow::Owned(value.field(name, *key)?.into_owned()),
            };
        }
        Some(at.into_owned())
    }

    fn field(&self, name: &str, key: Option<Key<'_>>) -> Option<Cow<'_, Self>> {
        let Self::Object(object) = self else { return None };
        let value = object.get(name)?;
        match key {
            Some(key) => value.item(key),
            None => Some(Cow::Borrowed(value)),
        }
    }

    fn item(&self, key: Key<'_>) -> Option<Cow<'_, Self>> {
        match (self, key) {
            (Self::List(_, items), key) => items
                .iter()
                .enumerate()
                .find(|(index, item)| item.has_key(*index, key))
                .map(|(_, item)| Cow::Borrowed(item)),
            (Self::Forest(forest), Key::Number(index)) => {
                let tree = forest.tree(usize::try_from(index).ok()?)?;
                Some(Cow::Owned(Self::Object(tree)))
            }
            _ => None,
        }
    }

    /// Whether this item of a list has the key. An item without its own key has its index in the
    /// list as its key.
    fn has_key(&self, index: usize, key: Key<'_>) -> bool {
        let own = match self {
            Self::Object(object) => object.get("key"),
            Self::Reference(_) => Some(self),
            _ => None,
        };
        match (own, key) {
            (Some(Self::Int(own)), Key::Number(number)) => *own == number,
            (Some(Self::Text(own)), Key::Text(text)) => own == text,
            (Some(Self::Reference(moref)), Key::Text(text)) => moref.id == text,
            (None, Key::Number(number)) => usize::try_from(number) == Ok(index),
            _ => false,
        }
    }

    /// Writes the value as the XML element `name` of a field that declares `anyType`.
    pub fn write_any(&self, writer: &mut Writer, name: &str) {
        match self {
            Self::List(item_type, items) => {
                writer.start(name, &[("xsi:type", &array_type(item_type))]);
                for item in items {
                    item.write_as(writer, array_item(item_type), item_type);
                }
                writer.end();
            }
            Self::Forest(forest) => {
                writer.start(name, &[("xsi:type", "ArrayOfVirtualMachineSnapshotTree")]);
                forest.write(writer, "VirtualMachineSnapshotTree");
                writer.end();
            }
            other => other.write_as(writer, name, "anyType"),
        }
    }

    /// Writes the value as the XML element `name` of a field that declares the type `declared`. A
    /// list is written as one element for each item.
    pub fn write_as(&self, writer: &mut Writer, name: &str, declared: &str) {
        match self {
            Self::List(_, items) => {
                for item in items {
                    item.write_as(writer, name, declared);
                }
            }
            Self::Forest(forest) => forest.write(writer, name),
            Self::Object(object) => {
                if object.type_name == declared {
                    writer.start(name, &[]);
                } else {
                    writer.start(name, &[("xsi:type", object.type_name)]);
                }
                object.write_fields(writer);
                writer.end();
            }
            Self::Reference(moref)
                if declared == "anyType" || declared == "ManagedObjectReference" =>
            {
                let attributes = [("type", moref.kind), ("xsi:type", "ManagedObjectReference")];
                writer.leaf(name, &attributes, &moref.id);
            }
            Self::Reference(moref) => {
                writer.leaf(name, &[("type", moref.kind)], &moref.id);
            }
            simple => {
                let (type_name, text) = simple.as_text();
                if declared == "anyType" {
                    writer.leaf(name, &[("xsi:type", &type_name)], &text);
                } else {
                    writer.leaf(name, &[], &text);
                }
            }
        }
    }

    /// The `xsi:type` and the text of a simple value. Both are empty for a value that is not
    /// simple.
    fn as_text(&self) -> (String, String) {
        let (type_name, text) = match self {
            Self::Text(text) => ("xsd:string", text.clone()),
            Self::Int(number) => ("xsd:int", number.to_string()),
            Self::Long(number) => ("xsd:long", number.to_string()),
            Self::Short(number) => ("xsd:short", number.to_string()),
            Self::Byte(number) => ("xsd:byte", number.to_string()),
            Self::Boolean(truth) => ("xsd:boolean", truth.to_string()),
            Self::Time(time) => ("xsd:dateTime", date_time(*time)),
            Self::Enum(type_name, word) => (*type_name, word.clone()),
            Self::Reference(_) | Self::Object(_) | Self::List(..) | Self::Forest(_) => {
                ("", String::new())
            }
        };
        (type_name.to_owned(), text)
    }
}

impl Forest {
    /// The tree whose root is the root number `index` of this forest. The children of the tree
    /// become a forest of their own. `None` if this forest has fewer roots.
    fn tree(&self, index: usize) -> Option<Object> {
        let mut roots = self.0.iter().enumerate().filter(|(_, (depth, _))| *depth == 0);
        let (at, (_, root)) = roots.nth(index)?;
        let below = self.0[at + 1..].iter().take_while(|(depth, _)| *depth > 0);
        let children: Vec<_> = below.map(|(depth, tree)| (depth - 1, tree.clone())).collect();
        let children = (!children.is_empty()).then_some(Value::Forest(Self(children)));
        Some(root.clone().with("childSnapshotList", children))
    }

    fn write(&self, writer: &mut Writer, root_name: &str) {
        let mut open = 0;
        for (depth, tree) in &self.0 {
            while open > *depth {
                writer.end();
                open -= 1;
            }
            writer.start(if *depth == 0 { root_name } else { "childSnapshotList" }, &[]);
            tree.write_fields(writer);
            open += 1;
        }
        for _ in 0..open {
            writer.end();
        }
    }
}

impl Object {
    /// Writes the fields as XML elements, each as the schema declares the field.
    pub fn write_fields(&self, writer: &mut Writer) {
        let declared = schema::fields(self.type_name).unwrap_or_default();
        // The fields of the object and their declarations have the order of the wire, so one pass
        // over the declarations finds all of them.
        let mut rest = declared.iter();
        for (name, value) in &self.fields {
            let field = rest
                .find(|field| field.name == *name)
                .or_else(|| declared.iter().find(|field| field.name == *name));
            match field {
                Some(Field { type_name: "anyType", .. }) | None => value.write_any(writer, name),
                // Hosts write no `xsi:type` for a field whose declared type is a reference.
                Some(Field { reference: true, .. }) => value.write_as(writer, name, "reference"),
                Some(Field { occurs: Occurs::Once | Occurs::Optional, type_name, .. })
                    if type_name.starts_with("ArrayOf") =>
                {
                    value.write_any(writer, name);
                }
                Some(field) => value.write_as(writer, name, field.type_name),
            }
        }
    }
}

/// The vim25 type of an array of these items, for example `ArrayOfString` for `string`. Arrays of
/// references have the type `ArrayOfManagedObjectReference`, whatever the objects are.
fn array_type(item_type: &str) -> String {
    let mut characters = item_type.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    format!("ArrayOf{}{}", first.map(String::from).unwrap_or_default(), characters.as_str())
}

/// The name of the XML element of an array item: the name of the item's type, for example `string`.
const fn array_item(item_type: &str) -> &str {
    item_type
}

/// A time as the text of a `dateTime`, as ESX writes it: with microseconds and `Z`.
#[must_use]
pub fn date_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// A Rust type that can become the value of a field. A conversion to `None` leaves the field unset.
pub trait IntoValue {
    fn into_value(self) -> Option<Value>;
}

impl IntoValue for Value {
    fn into_value(self) -> Option<Value> {
        Some(self)
    }
}

impl<T: IntoValue> IntoValue for Option<T> {
    fn into_value(self) -> Option<Value> {
        self.and_then(T::into_value)
    }
}

macro_rules! into_value {
    ($($from:ty => $make:expr;)*) => {
        $(impl IntoValue for $from {
            fn into_value(self) -> Option<Value> {
                let make: fn($from) -> Value = $make;
                Some(make(self))
            }
        })*
    };
}

into_value! {
    String => Value::Text;
    &str => |text| Value::Text(text.to_owned());
    &String => |text| Value::Text(text.clone());
    i32 => Value::Int;
    i64 => Value::Long;
    i16 => Value::Short;
    bool => Value::Boolean;
    Timestamp => Value::Time;
    Moref => Value::Reference;
    &Moref => |moref| Value::Reference(moref.clone());
    Object => Value::Object;
}

/// A list of data objects of the type `item_type`.
#[must_use]
pub fn list(item_type: &'static str, items: Vec<Object>) -> Value {
    Value::List(item_type, items.into_iter().map(Value::Object).collect())
}

/// A list of managed object references.
#[must_use]
pub fn references(morefs: impl IntoIterator<Item = Moref>) -> Value {
    Value::List("ManagedObjectReference", morefs.into_iter().map(Value::Reference).collect())
}

/// A list of texts.
#[must_use]
pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Value {
    Value::List("string", texts.into_iter().map(|text| Value::Text(text.into())).collect())
}

/// A value of an enum.
#[must_use]
pub fn enum_value(type_name: &'static str, word: impl Into<String>) -> Value {
    Value::Enum(type_name, word.into())
}
