//! Pages of lists. A cursor contains the position after the last item of a page. It is valid only
//! for one list with the same filters, because other filters select other items.

use std::fmt::{self, Display};
use std::str::FromStr;

use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::Uri;
use http::request::Parts;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::IntoParams;

use super::ApiState;
use super::extract::{Limit, Parameters, Parsed, Query, QueryValues, failure_at};
use super::problem::ApiError;
use crate::domain::failure::{Failure, FailureKind};

/// The query parameters that select a page of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The largest number of items, 1 to 1,000. The description of the operation has the default.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    limit: Option<Parsed<Limit>>,
    /// The `next` of an earlier response to a request with the same filters.
    cursor: Option<String>,
}

/// The filters of a list, and the page to return.
pub struct PagedQuery<Q> {
    pub filter: Q,
    pub limit: Option<u32>,
    pub cursors: Cursors,
}

/// Reads the cursor of a request to a list, and writes the cursor of the next page.
pub struct Cursors {
    /// The path of the list, for example `/v1/jobs`.
    list: String,
    /// The digest of the request's filters. Empty if the request has no filters.
    filters: String,
    /// The cursor that the request sent.
    given: Option<String>,
}

/// A page of a list.
pub struct ListPage<T> {
    pub items: Vec<T>,
    /// The cursor of the next page. `None` if this is the last.
    pub next: Option<String>,
}

/// The key by which the items of a list are sorted: the name in lower case, then the id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey(pub String, pub String);

/// The error of a text that is not a sort key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey;

impl<Q: Parameters> PagedQuery<Q> {
    /// Reads the query parameters of a list.
    ///
    /// # Errors
    /// The errors of [`QueryValues::read`].
    pub fn read(uri: &Uri) -> Result<Self, Failure> {
        let values = QueryValues::from_uri(uri)?;
        let Query(filter, PageQuery { limit, cursor }) = values.read()?;
        let limit = limit.map(|Parsed(Limit(limit))| limit);
        Ok(Self { filter, limit, cursors: Cursors::new(uri.path(), &values, cursor) })
    }
}

impl<Q: Parameters> FromRequestParts<ApiState> for PagedQuery<Q> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &ApiState) -> Result<Self, ApiError> {
        Ok(Self::read(&parts.uri)?)
    }
}

impl Cursors {
    fn new(list: &str, values: &QueryValues, given: Option<String>) -> Self {
        let filters: Vec<_> =
            values.iter().filter(|(name, _)| !["limit", "cursor"].contains(name)).collect();
        let filters = match filters.as_slice() {
            [] => String::new(),
            filters => hex::encode(&Sha256::digest(serde_json::json!(filters).to_string())[..12]),
        };
        Self { list: list.to_owned(), filters, given }
    }

    /// Whether the request has no filter and no cursor.
    #[must_use]
    pub const fn select_all(&self) -> bool {
        self.filters.is_empty() && self.given.is_none()
    }

    /// The position after which the requested page begins. `None` for the first page.
    ///
    /// # Errors
    /// `invalid-cursor` if the cursor belongs to another list or to other filters.
    pub fn position<P: FromStr>(&self) -> Result<Option<P>, Failure> {
        let Some(given) = &self.given else { return Ok(None) };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(given).map_err(|_| invalid_cursor())?;
        let (list, filters, position): (String, String, String) =
            serde_json::from_slice(&bytes).map_err(|_| invalid_cursor())?;
        if (&list, &filters) != (&self.list, &self.filters) {
            return Err(invalid_cursor());
        }
        position.parse().map(Some).map_err(|_| invalid_cursor())
    }

    /// The cursor of the page after this position.
    #[must_use]
    pub fn after(&self, position: &impl Display) -> String {
        let cursor = serde_json::json!([self.list, self.filters, position.to_string()]);
        BASE64_URL_SAFE_NO_PAD.encode(cursor.to_string())
    }
}

impl Display for SortKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, id) = self;
        serde_json::json!([name, id]).fmt(formatter)
    }
}

impl FromStr for SortKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let (name, id) = serde_json::from_str(text).map_err(|_| InvalidKey)?;
        Ok(Self(name, id))
    }
}

/// Takes one page out of a sorted list. The position in a cursor is the key of the last item of the
/// page, so items that appear or disappear between two requests neither repeat nor hide others.
///
/// # Parameters
/// - `items`: the whole list, sorted by `key`.
/// - `limit`: the size of the page; all items if `None`.
///
/// # Errors
/// The errors of [`Cursors::position`].
pub fn page<T>(
    cursors: &Cursors,
    items: Vec<T>,
    key: impl Fn(&T) -> SortKey,
    limit: Option<u32>,
) -> Result<ListPage<T>, Failure> {
    let after: Option<SortKey> = cursors.position()?;
    let mut rest =
        items.into_iter().filter(|item| after.as_ref().is_none_or(|after| key(item) > *after));
    let Some(limit) = limit else {
        return Ok(ListPage { items: rest.collect(), next: None });
    };
    let items: Vec<T> = rest.by_ref().take(limit as usize).collect();
    let more = rest.next().is_some();
    let next = items.last().filter(|_| more).map(|last| cursors.after(&key(last)));
    Ok(ListPage { items, next })
}

fn invalid_cursor() -> Failure {
    let detail =
        "The cursor belongs to another list or to other filters; start again without a cursor.";
    failure_at(FailureKind::InvalidCursor, "cursor", "invalid-cursor", detail.to_owned())
}
