//! Query parameters: the struct that documents those of an operation is the one that serde reads them into.
//! The problem of a query names the parameter and the nearest right way.

use std::collections::BTreeMap;
use std::fmt::Display;

use axum::extract::FromRequestParts;
use http::Uri;
use http::request::Parts;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use serde_path_to_error::Segment;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::{failure_at, suggestion};
use crate::api::Api;
use crate::api::problem::ApiError;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::machines::shorten;

/// The query parameters of a call: those of `A`, and those of `B` if it takes two sets.
pub struct Query<A, B = NoParameters>(pub A, pub B);

/// For operations that take no parameter.
#[derive(Deserialize, IntoParams)]
pub struct NoParameters {}

/// A set of query parameters.
pub trait Parameters: DeserializeOwned + IntoParams + Send {}
impl<Q: DeserializeOwned + IntoParams + Send> Parameters for Q {}

impl<A: Parameters, B: Parameters> FromRequestParts<Api> for Query<A, B> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        Ok(Values::of(&parts.uri)?.read()?)
    }
}

/// The decoded values of each parameter of a query.
#[derive(Debug)]
pub struct Values(BTreeMap<String, Vec<String>>);

impl Values {
    /// Decodes the query of an address.
    ///
    /// # Errors
    /// `invalid-request` if it is not UTF-8, or an escape is broken.
    pub fn of(uri: &Uri) -> Result<Self, Failure> {
        let mut values: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(name, name)?).or_default().push(decode(name, value)?);
        }
        Ok(Self(values))
    }

    /// Every parameter with its values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, given)| (name.as_str(), given.as_slice()))
    }

    /// Reads the parameters of an operation.
    ///
    /// # Errors
    /// `unknown-parameter` for another parameter, and for one that is repeated; `invalid-request` for a
    /// value that is missing or wrong.
    pub fn read<A: Parameters, B: Parameters>(&self) -> Result<Query<A, B>, Failure> {
        let known: Vec<String> = documented::<A>().chain(documented::<B>()).map(|one| one.name).collect();
        if let Some(unknown) = self.0.keys().find(|name| !known.contains(name)) {
            let detail = format!(
                "The parameter {} is not known here.{}",
                shorten(unknown),
                suggestion(unknown, &known)
            );
            return Err(failure_at(FailureKind::UnknownParameter, &shown(unknown), "unknown", detail));
        }
        Ok(Query(self.set()?, self.set()?))
    }

    fn set<Q: Parameters>(&self) -> Result<Q, Failure> {
        let given = self.iter().map(|(name, given)| (name, Given(given)));
        serde_path_to_error::deserialize(MapDeserializer::new(given)).map_err(|error| {
            let name = match error.path().iter().next() {
                Some(Segment::Map { key }) => key.clone(),
                _ => String::new(),
            };
            match error.into_inner() {
                Error::Missing(name) => {
                    let what = documented::<Q>().find(|one| one.name == name).and_then(|one| one.description);
                    let detail = format!("{name} is missing: {}", what.unwrap_or_default());
                    failure_at(FailureKind::InvalidRequest, name, "missing", detail)
                }
                Error::Repeated => {
                    let detail = format!("The parameter {name} stands there twice; give it once.");
                    failure_at(FailureKind::UnknownParameter, &name, "repeated", detail)
                }
                Error::Invalid { code, rest } => {
                    failure_at(FailureKind::InvalidRequest, &name, code, format!("{name} {rest}"))
                }
            }
        })
    }
}

/// The query parameters that a set documents.
fn documented<Q: IntoParams>() -> impl Iterator<Item = Parameter> {
    Q::into_params(|| Some(ParameterIn::Query)).into_iter()
}

/// The values of one parameter.
struct Given<'de>(&'de [String]);

/// Why a set cannot be read.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("repeated")]
    Repeated,
    /// As [`Invalid`](super::parameter::Invalid) says.
    #[error("{code} {rest}")]
    Invalid { code: String, rest: String },
}

impl serde::de::Error for Error {
    fn custom<T: Display>(message: T) -> Self {
        let message = message.to_string();
        let (code, rest) = message.split_once(' ').unwrap_or_default();
        Self::Invalid { code: code.to_owned(), rest: rest.to_owned() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }
}

impl<'de> Given<'de> {
    fn only(&self) -> Result<&'de str, Error> {
        match self.0 {
            [only] => Ok(only),
            _ => Err(Error::Repeated),
        }
    }
}

impl<'de> IntoDeserializer<'de, Error> for Given<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Given<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.only()?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.only()? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            other => {
                let rest = format!("is {}; true or false is wanted.", shorten(other));
                Err(Error::Invalid { code: "not-a-boolean".to_owned(), rest })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(SeqDeserializer::new(self.0.chunks(1).map(Given)))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct map struct enum identifier
    }
}

/// Decodes one side of `name=value`: `+` is a space, `%xx` a byte.
fn decode(name: &str, text: &str) -> Result<String, Failure> {
    let broken = || {
        let detail = "The query is not UTF-8 once its percent-escapes are decoded, or an escape is broken.";
        failure_at(FailureKind::InvalidRequest, &shown(name), "not-decodable", detail.to_owned())
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().ok_or_else(broken)?, rest.next().ok_or_else(broken)?];
                let mut decoded = [0];
                hex::decode_to_slice(digits, &mut decoded).map_err(|_| broken())?;
                decoded[0]
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

/// A name that a caller made up, in the place of a parameter's name.
fn shown(name: &str) -> String {
    shorten(name).replace('"', "")
}
