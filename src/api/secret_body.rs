//! The JSON body of a request that can hold a secret, such as a password that is typed: no error of
//! a wrong body has a text of it.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use utoipa::PartialSchema;

use super::ApiState;
use super::extract::JsonBody;
use super::problem::ApiError;
use crate::domain::failure::{Failure, InputError};

/// A JSON body, parsed and as the received bytes. It may have `http.body_limit` bytes, or `LIMIT`
/// if that is more.
pub struct SecretBody<T, const LIMIT: usize = 0> {
    pub value: T,
    pub bytes: Bytes,
}

impl<T, const LIMIT: usize> FromRequest<ApiState> for SecretBody<T, LIMIT>
where
    T: DeserializeOwned + PartialSchema + Default,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self, ApiError> {
        match JsonBody::<T, LIMIT>::from_request(request, api).await {
            Ok(JsonBody { value, bytes }) => Ok(Self { value, bytes }),
            Err(ApiError(failure)) => Err(ApiError(without_values(failure))),
        }
    }
}

/// The failure of a body without the values that serde quotes: one of them can be a password in the
/// wrong place.
fn without_values(failure: Failure) -> Failure {
    let errors = failure
        .errors
        .iter()
        .map(|error| InputError { detail: without_value(&error.detail), ..error.clone() });
    Failure { errors: errors.collect(), detail: without_value(&failure.detail), ..failure }
}

fn without_value(detail: &str) -> String {
    let quoted = ["invalid type: ", "invalid value: ", "invalid length "];
    let cut = quoted.iter().find_map(|words| {
        let (before, rest) = detail.split_once(words)?;
        let (_, expected) = rest.rsplit_once(", expected ")?;
        Some(format!("{before}wrong type or value, expected {expected}"))
    });
    cut.unwrap_or_else(|| detail.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_of_a_body_quotes_a_value() {
        for (detail, shown) in [
            (
                "/events/0/keys: invalid type: string \"hunter2\", expected a sequence.",
                "/events/0/keys: wrong type or value, expected a sequence.",
            ),
            (
                "/events/0/keys: invalid type: string \"a, expected b\", expected a sequence.",
                "/events/0/keys: wrong type or value, expected a sequence.",
            ),
            (
                "/x: invalid value: integer `70000`, expected u16.",
                "/x: wrong type or value, expected u16.",
            ),
            ("The body is not JSON: EOF at line 1.", "The body is not JSON: EOF at line 1."),
        ] {
            assert_eq!(without_value(detail), shown);
        }
    }
}
