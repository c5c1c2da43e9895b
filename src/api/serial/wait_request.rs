//! The conditions of a wait for a serial port in the body of a request, and their check.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::condition_fields;
use crate::api::extract::{bounded_list, failure_in_body};
use crate::domain::failure::Failure;
use crate::service::screens::wait_memory::WaitMemory;
use crate::service::serial::conditions::{SerialCondition, SerialConditions, Subject};
use crate::service::wait_conditions::{MAX_CONDITIONS, compile_bytes_regex};

/// What to wait for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SerialWaitRequest {
    /// The wait ends when the port has output one of these. At most 16.
    #[schema(min_items = 1, max_items = 16)]
    #[serde(deserialize_with = "bounded_list::<_, _, MAX_CONDITIONS>")]
    pub any: Vec<SerialConditionRequest>,
    /// The offset of the first byte that counts. Negative: so many bytes before the end. Default:
    /// what comes from now on.
    #[schema(nullable = false, example = 4096)]
    pub since: Option<i64>,
}

/// Something that the port outputs. Exactly one of `text` and `regex` is set.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SerialCondition)]
pub struct SerialConditionRequest {
    /// A name, which the answer repeats. At most 64 characters.
    #[schema(nullable = false, example = "login")]
    name: Option<String>,
    /// A text, exactly as it comes. At most 1,024 characters.
    #[schema(nullable = false, example = "login: ")]
    text: Option<String>,
    /// A regular expression, in the syntax of the Rust crate `regex`, over the bytes as they come.
    /// `$` matches at the end of what came so far. At most 1 KiB.
    #[schema(nullable = false, example = "version (\\d+)\\.(\\d+)\\r\\n")]
    regex: Option<String>,
}

impl SerialConditionRequest {
    /// Whether its check takes much time and memory.
    pub const fn is_costly(&self) -> bool {
        self.regex.is_some()
    }
}

/// Checks conditions.
///
/// # Parameters
/// - `at`: the JSON Pointer of the list.
/// - `memory`: where the regular expressions reserve their memory.
///
/// # Errors
/// `invalid-request` with the JSON Pointer of the mistake; `too-many-waits` if waits use all the
/// memory.
pub fn serial_conditions(
    at: &str,
    any: Vec<SerialConditionRequest>,
    memory: &WaitMemory,
) -> Result<SerialConditions, Failure> {
    condition_fields::check_count(at, any.len())?;
    let parsed = any.into_iter().enumerate();
    let parsed = parsed
        .map(|(index, condition)| parse_condition(&format!("{at}/{index}"), condition, memory));
    Ok(SerialConditions { any: parsed.collect::<Result<_, _>>()? })
}

fn parse_condition(
    at: &str,
    condition: SerialConditionRequest,
    memory: &WaitMemory,
) -> Result<SerialCondition, Failure> {
    let SerialConditionRequest { name, text, regex } = condition;
    if let Some(name) = &name {
        condition_fields::check_name(&format!("{at}/name"), name)?;
    }
    let subject = match (text, regex) {
        (Some(text), None) => {
            let at = format!("{at}/text");
            condition_fields::check_text_length(&at, &text)?;
            if text.is_empty() {
                let detail = "text is empty, so that it is everywhere.".to_owned();
                return Err(failure_in_body(&at, "empty", detail));
            }
            Subject::Text(text.into_bytes())
        }
        (None, Some(regex)) => {
            let at = format!("{at}/regex");
            let compiled = condition_fields::parse_regex(&at, &regex, compile_bytes_regex)?;
            let (regex, bytes) = compiled;
            Subject::Regex { regex, _space: memory.reserve(bytes)? }
        }
        _ => {
            let detail = "Set exactly one of text and regex.".to_owned();
            return Err(failure_in_body(at, "not-one-of", detail));
        }
    };
    Ok(SerialCondition { name, subject })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_mistake_has_its_pointer() {
        let memory = WaitMemory::default();
        for (any, pointer, code) in [
            (json!([]), "/any", "empty"),
            (json!(vec![json!({"text": "a"}); 17]), "/any", "out-of-range"),
            (json!([{}]), "/any/0", "not-one-of"),
            (json!([{"text": "a", "regex": "b"}]), "/any/0", "not-one-of"),
            (json!([{"text": "a"}, {"text": ""}]), "/any/1/text", "empty"),
            (json!([{"text": "a".repeat(1025)}]), "/any/0/text", "out-of-range"),
            (json!([{"regex": "("}]), "/any/0/regex", "not-a-regex"),
            (json!([{"regex": "a{999}{999}"}]), "/any/0/regex", "not-a-regex"),
            (json!([{"regex": ""}]), "/any/0/regex", "empty"),
            (json!([{"text": "a", "name": "x\ny"}]), "/any/0/name", "control-character"),
            (json!([{"text": "a", "name": ""}]), "/any/0/name", "out-of-range"),
        ] {
            let shown = any.to_string();
            let request: SerialWaitRequest = serde_json::from_value(json!({"any": any})).unwrap();
            let failure = serial_conditions("/any", request.any, &memory).unwrap_err();
            let error = &failure.errors[0];
            assert_eq!((error.pointer.as_deref(), &*error.code), (Some(pointer), code), "{shown}");
        }
        let control = serde_json::from_value(json!({"any": [{"text": "\r\n# "}]}));
        let control: SerialWaitRequest = control.unwrap();
        assert!(
            serial_conditions("/any", control.any, &memory).is_ok(),
            "control characters are output"
        );
    }
}
