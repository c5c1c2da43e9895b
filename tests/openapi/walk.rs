//! Reading an OpenAPI document: its operations and its schemas, each with the JSON pointer that
//! leads to it.

use std::collections::BTreeSet;

use serde_json::Value;

/// The keys of a path item that are operations.
const METHODS: &[&str] = &["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// A value of the document and its position.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    document: &'a Value,
    pub value: &'a Value,
    /// The JSON pointer (RFC 6901) to the value.
    pub pointer: String,
}

impl<'a> Place<'a> {
    pub fn root(document: &'a Value) -> Self {
        Self { document, value: document, pointer: String::new() }
    }

    /// The value of this key.
    pub fn get(&self, key: &str) -> Option<Self> {
        self.value.get(key).map(|value| self.step(key, value))
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.value.get(key).and_then(Value::as_str)
    }

    pub fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    /// The strings of the list at this key.
    pub fn texts(&self, key: &str) -> Vec<&'a str> {
        let list = self.value.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The entries of the object or list at this key. Empty if there is neither.
    pub fn entries(&self, key: &str) -> Vec<(String, Self)> {
        self.get(key).map(|parent| parent.children()).unwrap_or_default()
    }

    /// The entries of this object or list by key or index.
    pub fn children(&self) -> Vec<(String, Self)> {
        let step = |key: String, value| {
            let place = self.step(&key, value);
            (key, place)
        };
        match self.value {
            Value::Object(map) => map.iter().map(|(key, value)| step(key.clone(), value)).collect(),
            Value::Array(list) => list
                .iter()
                .enumerate()
                .map(|(index, value)| step(index.to_string(), value))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The target of the `$ref` of this object, or the object itself if it has none. `None` if the
    /// target does not exist.
    pub fn resolved(&self) -> Option<Self> {
        let mut place = self.clone();
        // A reference can lead to another one. A circle of references has no target.
        for _ in 0..8 {
            let Some(reference) = place.text("$ref") else { return Some(place) };
            place = self.at(reference.strip_prefix('#')?)?;
        }
        None
    }

    fn at(&self, pointer: &str) -> Option<Self> {
        let value = self.document.pointer(pointer)?;
        Some(Self { document: self.document, value, pointer: pointer.to_owned() })
    }

    fn step(&self, key: &str, value: &'a Value) -> Self {
        let key = key.replace('~', "~0").replace('/', "~1");
        Self { document: self.document, value, pointer: format!("{}/{key}", self.pointer) }
    }
}

/// One method of one path.
#[derive(Clone, Debug)]
pub struct Operation<'a> {
    pub path: String,
    pub place: Place<'a>,
    /// The parameters of the path, then those of the operation. References are resolved.
    pub parameters: Vec<Place<'a>>,
    /// The responses by status. References are resolved.
    pub responses: Vec<(String, Place<'a>)>,
}

impl<'a> Operation<'a> {
    /// The schemas of the request body.
    pub fn request_schemas(&self) -> Vec<Place<'a>> {
        let body = self.place.get("requestBody").and_then(|body| body.resolved());
        body.map(|body| content_schemas(&body)).unwrap_or_default()
    }
}

/// Every operation of the document.
pub fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut operations = Vec::new();
    for (path, item) in Place::root(document).entries("paths") {
        for (_, place) in METHODS.iter().filter_map(|method| Some((method, item.get(method)?))) {
            let parameters =
                item.entries("parameters").into_iter().chain(place.entries("parameters"));
            let parameters = parameters.filter_map(|(_, parameter)| parameter.resolved()).collect();
            let responses = place.entries("responses").into_iter();
            let responses = responses
                .filter_map(|(status, response)| Some((status, response.resolved()?)))
                .collect();
            operations.push(Operation { path: path.clone(), place, parameters, responses });
        }
    }
    operations
}

/// The schemas of a body, one for each media type.
pub fn content_schemas<'a>(body: &Place<'a>) -> Vec<Place<'a>> {
    body.entries("content")
        .into_iter()
        .filter_map(|(_, media_type)| media_type.get("schema"))
        .collect()
}

/// Every schema that can be reached from these schemas, and these schemas themselves, each once.
pub fn reachable<'a>(roots: impl IntoIterator<Item = Place<'a>>) -> Vec<Place<'a>> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut waiting: Vec<Place> = roots.into_iter().collect();
    while let Some(place) = waiting.pop() {
        if !seen.insert(place.pointer.clone()) {
            continue;
        }
        waiting.extend(subschemas(&place));
        if place.has("$ref") {
            waiting.extend(place.resolved());
        }
        found.push(place);
    }
    found.sort_by(|one, other| one.pointer.cmp(&other.pointer));
    found
}

/// The schemas directly inside a schema. References are not followed.
pub fn subschemas<'a>(schema: &Place<'a>) -> Vec<Place<'a>> {
    const MANY: &[&str] =
        &["properties", "patternProperties", "allOf", "anyOf", "oneOf", "prefixItems"];
    const ONE: &[&str] = &["items", "additionalProperties", "propertyNames", "not"];
    let many = MANY.iter().flat_map(|key| schema.entries(key)).map(|(_, place)| place);
    let one = ONE.iter().filter_map(|key| schema.get(key));
    many.chain(one).filter(|place| place.value.is_object()).collect()
}

/// Every schema in the document, at any depth.
pub fn all_schemas(document: &Value) -> Vec<Place<'_>> {
    let components = Place::root(document).get("components");
    let named = components.into_iter().flat_map(|components| components.entries("schemas"));
    let mut roots: Vec<Place> = named.map(|(_, schema)| schema).collect();
    for operation in operations(document) {
        roots.extend(operation.request_schemas());
        roots.extend(operation.parameters.iter().filter_map(|parameter| parameter.get("schema")));
        roots.extend(answer_schemas(&operation));
    }
    reachable(roots)
}

/// The schemas of all response bodies and response headers of an operation.
pub fn answer_schemas<'a>(operation: &Operation<'a>) -> Vec<Place<'a>> {
    let mut schemas = Vec::new();
    for (_, response) in &operation.responses {
        schemas.extend(content_schemas(response));
        let headers = response.entries("headers").into_iter();
        schemas.extend(headers.filter_map(|(_, header)| header.resolved()?.get("schema")));
    }
    schemas
}
