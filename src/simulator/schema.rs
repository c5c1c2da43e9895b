//! The declarations of vim25: fields in their order on the wire, base types, and the parameters of
//! methods. They are read once from the file `schema.txt`.
//!
//! The simulator uses the schema to decide which elements need `xsi:type`, which property paths
//! exist, which types a `PropertySpec` selects, and whether a request is valid.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// How often a field may occur in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurs {
    Once,
    Optional,
    Repeated,
}

/// A field of a data object, a property of a managed object, or a parameter of a method.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: &'static str,
    pub occurs: Occurs,
    /// Whether the value of the field is a managed object reference.
    pub reference: bool,
    pub type_name: &'static str,
}

/// Whether a vim25 type is a managed object, a data object or a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeKind {
    Managed,
    Data,
    Fault,
}

#[derive(Debug)]
struct TypeInfo {
    kind: TypeKind,
    base: &'static str,
    /// The fields of the type, in the order of the wire: the fields of its base types come first.
    fields: Vec<Field>,
}

/// A method that the schema declares.
#[derive(Debug)]
pub struct Method {
    /// The managed type that declares the method.
    pub target: &'static str,
    pub parameters: Vec<Field>,
}

#[derive(Debug, Default)]
struct Schema {
    types: HashMap<&'static str, TypeInfo>,
    methods: HashMap<&'static str, Method>,
    enums: HashSet<&'static str>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::read(include_str!("schema.txt")));

/// The fields of a type. The fields of its base types come first. `None` if the schema does not
/// declare the type.
#[must_use]
pub fn fields(type_name: &str) -> Option<&'static [Field]> {
    SCHEMA.types.get(type_name).map(|known| known.fields.as_slice())
}

/// The field `name` of a type. `None` if the schema does not declare this field.
#[must_use]
pub fn field(type_name: &str, name: &str) -> Option<&'static Field> {
    fields(type_name)?.iter().find(|field| field.name == name)
}

/// The kind of a type. `None` if the schema does not declare the type.
#[must_use]
pub fn kind(type_name: &str) -> Option<TypeKind> {
    SCHEMA.types.get(type_name).map(|known| known.kind)
}

/// The name of a type as a `'static` string. `None` if the schema does not declare the type.
#[must_use]
pub fn known_type_name(type_name: &str) -> Option<&'static str> {
    SCHEMA.types.get_key_value(type_name).map(|(name, _)| *name)
}

/// The name of a method as a `'static` string. `None` if the schema does not declare the method.
#[must_use]
pub fn known_method_name(name: &str) -> Option<&'static str> {
    SCHEMA.methods.get_key_value(name).map(|(name, _)| *name)
}

/// A method by its name on the wire. `None` if the schema does not declare the method.
#[must_use]
pub fn method(name: &str) -> Option<&'static Method> {
    SCHEMA.methods.get(name)
}

/// Whether `type_name` is `base` or is derived from `base`.
#[must_use]
pub fn is_a(type_name: &str, base: &str) -> bool {
    let mut at = type_name;
    loop {
        if at == base {
            return true;
        }
        match SCHEMA.types.get(at) {
            Some(known) => at = known.base,
            None => return false,
        }
    }
}

/// Whether values of this type are plain text on the wire.
#[must_use]
pub fn is_simple(type_name: &str) -> bool {
    type_name.is_empty()
        || SCHEMA.enums.contains(type_name)
        || matches!(
            type_name,
            "string"
                | "int"
                | "long"
                | "short"
                | "byte"
                | "boolean"
                | "double"
                | "float"
                | "dateTime"
                | "anyURI"
                | "base64Binary"
                | "TypeName"
                | "MethodName"
                | "PropertyPath"
                | "Link"
        )
}

/// The field `name` in any type that is derived from `base`. A property path may use such a field,
/// because a field that declares `base` may hold an object of a derived type. `None` if no derived
/// type has the field.
#[must_use]
pub fn field_of_subtype(base: &str, name: &str) -> Option<&'static Field> {
    if base == "DynamicData" {
        return None;
    }
    let derived = SCHEMA.types.iter().filter(|(type_name, _)| is_a(type_name, base));
    derived.flat_map(|(_, known)| &known.fields).find(|field| field.name == name)
}

impl Schema {
    fn read(text: &'static str) -> Self {
        let mut own: Vec<(&str, TypeKind, &str, Vec<Field>)> = Vec::new();
        let mut schema = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(names) = line.strip_prefix("enum ") {
                schema.enums.extend(names.split_whitespace());
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(kind), Some(name), Some("<"), Some(base), Some("=")) =
                (words.next(), words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let fields: Vec<Field> = words.filter_map(Field::read).collect();
            match kind {
                "managed" => own.push((name, TypeKind::Managed, base, fields)),
                "data" => own.push((name, TypeKind::Data, base, fields)),
                "fault" => own.push((name, TypeKind::Fault, base, fields)),
                _ => {
                    schema.methods.insert(name, Method { target: base, parameters: fields });
                }
            }
        }
        let by_name: HashMap<&str, usize> =
            own.iter().enumerate().map(|(at, (name, ..))| (*name, at)).collect();
        for (name, kind, base, _) in &own {
            let mut lineage = vec![*name];
            while let Some(at) = lineage.last().and_then(|last| by_name.get(last)) {
                lineage.push(own[*at].2);
            }
            let known = lineage.iter().rev().filter_map(|ancestor| by_name.get(ancestor));
            let fields = known.flat_map(|at| own[*at].3.clone()).collect();
            schema.types.insert(name, TypeInfo { kind: *kind, base, fields });
        }
        schema
    }
}

impl Field {
    fn read(word: &'static str) -> Option<Self> {
        let (name, type_name) = word.split_once(':')?;
        let (name, occurs) = match (name.strip_suffix('*'), name.strip_suffix('?')) {
            (Some(name), _) => (name, Occurs::Repeated),
            (None, Some(name)) => (name, Occurs::Optional),
            (None, None) => (name, Occurs::Once),
        };
        let (type_name, reference) = match type_name.strip_prefix('@') {
            Some(type_name) => (type_name, true),
            None => (type_name, false),
        };
        Some(Self { name, occurs, reference, type_name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_base_types_come_first() {
        let names: Vec<&str> =
            fields("VirtualE1000").unwrap().iter().map(|field| field.name).collect();
        let at = |name| names.iter().position(|known| *known == name).unwrap();
        assert!(at("key") < at("macAddress"));
        assert!(is_a("VirtualMachine", "ManagedEntity") && is_a("VirtualE1000", "VirtualDevice"));
        assert!(!is_a("Task", "ManagedEntity"));
        assert_eq!(method("RevertToSnapshot_Task").unwrap().target, "VirtualMachineSnapshot");
    }
}
