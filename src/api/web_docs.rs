//! `GET /docs` and `GET /docs/{file}`: Swagger UI, which shows `/openapi.json`. Its files are part
//! of the program, so it works without internet access.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use axum::response::Response;
use axum::routing::get;
use utoipa_swagger_ui::Config;

use super::extract::{NoParameters, Query, Segment};
use super::problem::ApiError;
use super::roles::Routes;
use super::web_file::WebFile;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::machines::shorten;

/// What Swagger UI may load and do. It writes styles into its elements, so they are allowed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The file that `GET /docs` returns.
const INDEX: &str = "index.html";

/// otter's own files: the page, and the script that starts Swagger UI in it.
const OWN: [(&str, &[u8]); 3] = [
    (INDEX, include_bytes!("document/docs.html")),
    ("start.js", include_bytes!("document/docs.js")),
    ("docs.css", include_bytes!("document/docs.css")),
];

/// The files of Swagger UI that the page loads.
const SWAGGER_UI: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

static DOCS: LazyLock<HashMap<&'static str, WebFile>> = LazyLock::new(|| {
    let own = OWN.map(|(name, bytes)| (name, WebFile::new(name, Cow::Borrowed(bytes))));
    let config = Arc::new(Config::from("openapi.json"));
    let swagger_ui = SWAGGER_UI.into_iter().filter_map(|name| {
        let found = utoipa_swagger_ui::serve(name, Arc::clone(&config)).ok().flatten()?;
        Some((name, WebFile::new(name, found.bytes)))
    });
    own.into_iter().chain(swagger_ui).collect()
});

/// The routes of this file.
pub fn routes() -> Routes {
    Routes::default()
        .undocumented(None, "/docs", get(|_: Query<NoParameters>| async { file(INDEX) }))
        .undocumented(
            None,
            "/docs/{file}",
            get(|Segment(name): Segment, _: Query<NoParameters>| async move { file(&name) }),
        )
}

fn file(name: &str) -> Result<Response, ApiError> {
    let found = DOCS.get(name).ok_or_else(|| {
        let detail = format!("The documentation has no file {}.", shorten(name));
        Failure::new(FailureKind::NotFound, detail)
    })?;
    Ok(found.respond(POLICY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_only_files_that_exist() {
        let html = std::str::from_utf8(OWN[0].1).unwrap();
        let loaded = html.split("\"docs/").skip(1);
        let names: Vec<&str> = loaded.filter_map(|rest| Some(rest.split_once('"')?.0)).collect();
        assert_eq!(names, ["swagger-ui.css", "docs.css", "swagger-ui-bundle.js", "start.js"]);
        for name in names {
            assert!(file(name).is_ok(), "{name}");
        }
        for outside in ["http://", "https://", "<style", " style=", "onclick"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn other_files_are_not_found() {
        for name in ["", "swagger-initializer.js", "none.js"] {
            assert_eq!(file(name).unwrap_err().0.kind, FailureKind::NotFound, "{name}");
        }
    }
}
