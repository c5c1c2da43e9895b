//! Strict parsing of query parameters. One struct both documents the parameters of an operation and
//! receives their values. The problem for an unknown parameter suggests a known name.

use std::any::TypeId;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, PoisonError, RwLock};

use axum::extract::FromRequestParts;
use http::Uri;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::Segment;
use utoipa::IntoParams;
use utoipa::openapi::{RefOr, Schema};

use super::{failure_at, suggestion};
use crate::api::ApiState;
use crate::api::problem::ApiError;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::machines::shorten;

/// The query parameters of an operation: the sets `A` and `B`.
pub struct Query<A, B = NoParameters>(pub A, pub B);

/// The empty set of query parameters, for operations that have none.
#[derive(Deserialize, IntoParams)]
pub struct NoParameters {}

/// A set of query parameters.
pub trait Parameters: DeserializeOwned + IntoParams + Send + 'static {}
impl<Q: DeserializeOwned + IntoParams + Send + 'static> Parameters for Q {}

/// A query parameter that an operation documents.
struct KnownParameter {
    name: String,
    /// Whether a request may repeat the parameter.
    is_list: bool,
}

/// The parameters of each set, by the type of the set. A set is added when a request first has a
/// query for it. Its parameters are read only once from their documentation, because `utoipa`
/// creates all descriptions at each read.
static KNOWN: LazyLock<RwLock<HashMap<TypeId, &'static [KnownParameter]>>> =
    LazyLock::new(RwLock::default);

impl KnownParameter {
    /// The parameters of a set. They stay in memory for ever, which is acceptable because the
    /// number of sets is the number of types.
    fn all_of<Q: Parameters>() -> &'static [Self] {
        let set = TypeId::of::<Q>();
        if let Some(known) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(&set) {
            return known;
        }
        let documented = Q::into_params(|| None).into_iter().map(|parameter| Self {
            is_list: matches!(parameter.schema, Some(RefOr::T(Schema::Array(_)))),
            name: parameter.name,
        });
        let known: &'static [Self] = Box::leak(documented.collect());
        KNOWN.write().unwrap_or_else(PoisonError::into_inner).entry(set).or_insert(known)
    }
}

impl<A: Parameters, B: Parameters> FromRequestParts<ApiState> for Query<A, B> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, ApiError> {
        Ok(QueryValues::from_uri(&parts.uri)?.read()?)
    }
}

/// The decoded values of each parameter of a query.
#[derive(Debug)]
pub struct QueryValues(BTreeMap<String, Vec<String>>);

impl QueryValues {
    /// Decodes the query of a URI.
    ///
    /// # Errors
    /// `invalid-request` if the query is not UTF-8 or an escape is malformed.
    pub fn from_uri(uri: &Uri) -> Result<Self, Failure> {
        let mut values: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(name, name)?).or_default().push(decode(name, value)?);
        }
        Ok(Self(values))
    }

    /// All parameters with their values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().map(|(name, given)| (name.as_str(), given.as_slice()))
    }

    /// Parses the parameters of an operation, which has the sets `A` and `B`.
    ///
    /// # Errors
    /// `unknown-parameter` if a parameter is unknown or repeated; `invalid-request` if a value is
    /// invalid.
    pub fn read<A: Parameters, B: Parameters>(&self) -> Result<Query<A, B>, Failure> {
        let mut given = serde_json::Map::new();
        for (name, values) in &self.0 {
            let known =
                || KnownParameter::all_of::<A>().iter().chain(KnownParameter::all_of::<B>());
            let Some(parameter) = known().find(|parameter| parameter.name == *name) else {
                let known: Vec<_> = known().map(|parameter| parameter.name.clone()).collect();
                let near = suggestion(name, &known);
                let detail = format!("The parameter {} is unknown.{near}", shorten(name));
                return Err(failure_at(
                    FailureKind::UnknownParameter,
                    &parameter_name(name),
                    "unknown",
                    detail,
                ));
            };
            let value = match (parameter.is_list, values.as_slice()) {
                (true, all) => json!(all),
                (false, [only]) => json!(only),
                _ => {
                    let detail = format!("The parameter {name} is repeated; send it once.");
                    return Err(failure_at(
                        FailureKind::UnknownParameter,
                        name,
                        "repeated",
                        detail,
                    ));
                }
            };
            given.insert(name.clone(), value);
        }
        let given = given.into();
        Ok(Query(deserialize_set(&given)?, deserialize_set(&given)?))
    }
}

/// Deserialises one set of parameters. `given` has all values of the query.
fn deserialize_set<Q: Parameters>(given: &Value) -> Result<Q, Failure> {
    serde_path_to_error::deserialize(given).map_err(|error| {
        let name = match error.path().iter().next() {
            Some(Segment::Map { key }) => key.clone(),
            _ => String::new(),
        };
        // The inner error of serde has the text of an `InvalidValue`: a code, a space and the
        // detail.
        let message = error.inner().to_string();
        let (code, rest) = message.split_once(' ').unwrap_or_default();
        failure_at(FailureKind::InvalidRequest, &name, code.to_owned(), format!("{name} {rest}"))
    })
}

/// Decodes the name or the value of a pair `name=value`: `+` is a space, and `%xx` is a byte.
fn decode(name: &str, text: &str) -> Result<String, Failure> {
    if !text.contains(['+', '%']) {
        return Ok(text.to_owned());
    }
    let is_escape = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let decoded = percent_decode_str(&text.replace('+', " ")).decode_utf8().map(Cow::into_owned);
    decoded.ok().filter(|_| text.split('%').skip(1).all(is_escape)).ok_or_else(|| {
        let detail =
            "The query is not UTF-8 after its percent-escapes are decoded, or an escape is \
             malformed.";
        failure_at(
            FailureKind::InvalidRequest,
            &parameter_name(name),
            "not-decodable",
            detail.to_owned(),
        )
    })
}

/// The name of a parameter of the request, shortened and without quotes, to be shown in a problem.
fn parameter_name(name: &str) -> String {
    shorten(name).replace('"', "")
}
