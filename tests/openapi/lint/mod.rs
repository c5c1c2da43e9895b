//! Rules that keep the OpenAPI document usable for client generators in several languages. Each
//! rule names a construct that breaks a generator or lacks a text, and the replacement.

mod fixtures;
mod operations;
mod schemas;

use serde_json::Value;

use super::walk::Place;

/// A rule of the document.
#[derive(Debug)]
pub struct Rule {
    pub name: &'static str,
    /// What the document must have instead, and what fails otherwise.
    pub advice: &'static str,
    check: fn(&Value) -> Vec<Broken>,
}

/// A violation of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub rule: &'static str,
    /// The JSON pointer (RFC 6901) to the violation.
    pub pointer: String,
    pub message: String,
}

/// Applies all rules. Empty if the document is good.
pub fn lint(document: &Value) -> Vec<Finding> {
    let findings = RULES.iter().flat_map(|rule| {
        (rule.check)(document).into_iter().map(|Broken { pointer, what }| Finding {
            rule: rule.name,
            pointer,
            message: format!("{what}: {}", rule.advice),
        })
    });
    findings.collect()
}

/// All rules, in the order of their findings.
pub const RULES: &[Rule] = &[
    Rule {
        name: "license",
        advice: "give `info.license` a name, and a url or an identifier: openapi-generator refuses the whole \
                 document otherwise",
        check: operations::license,
    },
    Rule {
        name: "dangling-reference",
        advice: "every `$ref` must lead to something in this document",
        check: operations::dangling_reference,
    },
    Rule {
        name: "operation-id",
        advice: "every operation needs a unique snake_case `operationId`: generated methods are named by it",
        check: operations::operation_id,
    },
    Rule {
        name: "operation-text",
        advice: "every operation needs a summary and a tag: people read the one and generators sort by the other",
        check: operations::operation_text,
    },
    Rule {
        name: "parameter-text",
        advice: "every parameter needs a description, and those of a path must be exactly those of its template",
        check: operations::parameter_text,
    },
    Rule {
        name: "response-text",
        advice: "every response needs a description: without one the document is not valid",
        check: operations::response_text,
    },
    Rule {
        name: "null-in-parameter",
        advice: "leave it out instead (`value_type = String, required = false`): a query has no null",
        check: schemas::null_in_parameter,
    },
    Rule {
        name: "one-success",
        advice: "give an operation one schema of success, whatever the status: generators make one return type",
        check: operations::one_success,
    },
    Rule {
        name: "default-response",
        advice: "write `4XX` and `5XX` instead of `default`: progenitor takes a default for the success",
        check: operations::default_response,
    },
    Rule {
        name: "text-body",
        advice: "a body that is not JSON is a string to all generators; name the schema of its lines in its description, and \
                 among the components: they decode a stream as one object otherwise",
        check: operations::text_body,
    },
    Rule {
        name: "nameless-object",
        advice: "name it among the components: generators call it `InlineObject1` or `FieldType0` otherwise",
        check: schemas::nameless_object,
    },
    Rule {
        name: "problem-text",
        advice: "the `title` and `detail` of a problem are never null: openapi-generator's Go prints them as the text of \
                 an error, and a pointer instead of what may be null",
        check: schemas::problem_text,
    },
    Rule {
        name: "problem-codes",
        advice: "list the problem codes of the operation in `x-otter-problems`, each once",
        check: operations::problem_codes,
    },
    Rule {
        name: "tagged-union",
        advice: "write one flat object with optional fields: tagged enums and unions of inline objects lose their \
                 fields in half of the generators",
        check: schemas::tagged_union,
    },
    Rule {
        name: "union",
        advice: "choose one type: unions such as string|integer become `any` or do not compile",
        check: schemas::union,
    },
    Rule {
        name: "closed-enum-in-answer",
        advice: "write a plain string with `x-extensible-enum`: a client with a closed enum fails on the first new \
                 value. Closed for ever are only power states and the states of jobs and leases",
        check: schemas::closed_enum_in_answer,
    },
    Rule {
        name: "nullable-request-field",
        advice: "make the field optional instead: a client cannot distinguish null from absent",
        check: schemas::nullable_request_field,
    },
    Rule {
        name: "optional-answer-field",
        advice: "responses have every field, null without a value: list it in `required`",
        check: schemas::optional_answer_field,
    },
    Rule {
        name: "recursive-schema",
        advice: "refer by id instead: a schema that holds itself overflows generators, and utoipa",
        check: schemas::recursive_schema,
    },
    Rule {
        name: "reserved-schema-name",
        advice: "choose another name: generators map this one to a type of their language",
        check: schemas::reserved_schema_name,
    },
];

struct Broken {
    pointer: String,
    what: String,
}

fn broken(place: &Place, what: impl Into<String>) -> Broken {
    Broken { pointer: place.pointer.clone(), what: what.into() }
}

fn types<'a>(schema: &Place<'a>) -> Vec<&'a str> {
    schema.text("type").map_or_else(|| schema.texts("type"), |name| vec![name])
}

/// Whether the schema itself allows null, without its references.
fn admits_null(schema: &Place) -> bool {
    let listed = schema
        .value
        .get("enum")
        .and_then(Value::as_array)
        .is_some_and(|list| list.contains(&Value::Null));
    types(schema).contains(&"null")
        || schema.value.get("nullable") == Some(&Value::Bool(true))
        || schema.value.get("const") == Some(&Value::Null)
        || listed
}
