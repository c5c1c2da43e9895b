//! Pages of lists. A cursor is the point behind the last item of a page, for one list under the filters of
//! one call: a list under other filters has other items behind that point.

use std::fmt::{self, Display};
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::extract::{Params, failure_at};
use crate::domain::failure::{Failure, FailureKind};

/// The parameters of a list that choose the page and not its items.
const OF_THE_PAGE: [&str; 2] = ["limit", "cursor"];

/// Reads and writes the cursors of one list for one call.
pub struct Cursors {
    list: &'static str,
    /// The digest of the call's filters. Empty if it has none.
    filters: String,
    /// The cursor that the call sent.
    given: Option<String>,
}

/// A page of a list.
pub struct Page<T> {
    pub items: Vec<T>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// The key of an item of a list: the lower-cased name, then the id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub String, pub String);

/// The text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey;

impl Cursors {
    /// The cursors of a list for the call that has these parameters. `list` is the list's own word.
    #[must_use]
    pub fn new(list: &'static str, params: &Params) -> Self {
        let mut filters: Vec<_> = params.iter().filter(|(name, _)| !OF_THE_PAGE.contains(name)).collect();
        filters.sort_unstable();
        let filters = match filters.as_slice() {
            [] => String::new(),
            filters => hex::encode(&Sha256::digest(serde_json::json!(filters).to_string())[..12]),
        };
        Self { list, filters, given: params.text("cursor").map(str::to_owned) }
    }

    /// The point behind which the call's page begins. `None` if it is the first page.
    ///
    /// # Errors
    /// `invalid-cursor` if the call's cursor is not one of this list under these filters.
    pub fn point<P: FromStr>(&self) -> Result<Option<P>, Failure> {
        let Some(given) = &self.given else { return Ok(None) };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(given).map_err(|_| invalid_cursor())?;
        let (list, filters, point): (String, String, String) =
            serde_json::from_slice(&bytes).map_err(|_| invalid_cursor())?;
        if (list.as_str(), &filters) != (self.list, &self.filters) {
            return Err(invalid_cursor());
        }
        point.parse().map(Some).map_err(|_| invalid_cursor())
    }

    /// The cursor of the page behind this point.
    #[must_use]
    pub fn behind(&self, point: &impl Display) -> String {
        let cursor = serde_json::json!([self.list, self.filters, point.to_string()]);
        BASE64_URL_SAFE_NO_PAD.encode(cursor.to_string())
    }
}

impl Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, id) = self;
        serde_json::json!([name, id]).fmt(formatter)
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let (name, id) = serde_json::from_str(text).map_err(|_| InvalidKey)?;
        Ok(Self(name, id))
    }
}

/// Cuts a page out of a whole list, whose items are in the order of their keys. The point of a cursor is the
/// key of the last item shown, so items that come and go meanwhile neither repeat nor hide others.
///
/// # Errors
/// As [`Cursors::point`].
pub fn page<T>(
    cursors: &Cursors,
    items: Vec<T>,
    key: impl Fn(&T) -> Key,
    limit: Option<u32>,
) -> Result<Page<T>, Failure> {
    let after: Option<Key> = cursors.point()?;
    let mut rest = items.into_iter().filter(|item| after.as_ref().is_none_or(|after| key(item) > *after));
    let Some(limit) = limit else {
        return Ok(Page { items: rest.collect(), next: None });
    };
    let shown: Vec<T> = rest.by_ref().take(limit as usize).collect();
    let more = rest.next().is_some();
    let next = shown.last().filter(|_| more).map(|last| cursors.behind(&key(last)));
    Ok(Page { items: shown, next })
}

fn invalid_cursor() -> Failure {
    let detail = "The cursor is not one that this list gave under these filters; start again without one.";
    failure_at(FailureKind::InvalidCursor, "cursor", "invalid-cursor", detail.to_owned())
}
