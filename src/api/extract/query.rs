//! Query parameters: the struct that documents those of an operation is the one that serde reads them into.
//! The problem of a query names the parameter and the nearest right way.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::extract::FromRequestParts;
use http::Uri;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Error as _, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use serde_path_to_error::Segment;
use utoipa::IntoParams;

use super::{Invalid, failure_at, suggestion};
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
    /// wrong value.
    pub fn read<A: Parameters, B: Parameters>(&self) -> Result<Query<A, B>, Failure> {
        let documented = [A::into_params(|| None), B::into_params(|| None)];
        let known: Vec<String> = documented.into_iter().flatten().map(|parameter| parameter.name).collect();
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
            let message = error.inner().to_string();
            let (code, rest) = message.split_once(' ').unwrap_or_default();
            let kind = match code {
                "repeated" => FailureKind::UnknownParameter,
                _ => FailureKind::InvalidRequest,
            };
            failure_at(kind, &name, code.to_owned(), format!("{name} {rest}"))
        })
    }
}

/// The values of one parameter.
struct Given<'de>(&'de [String]);

impl<'de> Given<'de> {
    fn only(&self) -> Result<&'de str, Error> {
        match self.0 {
            [only] => Ok(only),
            _ => Err(Error::custom(Invalid::repeated())),
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
            other => Err(Error::custom(Invalid::new("not-a-boolean", other, "true or false is wanted"))),
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
    let is_escape = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let decoded = percent_decode_str(&text.replace('+', " ")).decode_utf8().map(Cow::into_owned);
    decoded.ok().filter(|_| text.split('%').skip(1).all(is_escape)).ok_or_else(|| {
        let detail = "The query is not UTF-8 once its percent-escapes are decoded, or an escape is broken.";
        failure_at(FailureKind::InvalidRequest, &shown(name), "not-decodable", detail.to_owned())
    })
}

/// A name that a caller made up, in the place of a parameter's name.
fn shown(name: &str) -> String {
    shorten(name).replace('"', "")
}
