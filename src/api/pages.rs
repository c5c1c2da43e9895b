//! The OpenAPI documents and the pages of problems: `/openapi.json`, `/openapi-3.0.json` and
//! `/problems`.

use std::sync::LazyLock;

use axum::response::Response;
use axum::routing::get;
use http::header::CONTENT_SECURITY_POLICY;

use super::document::page::HtmlPage;
use super::document::{problems, v3_0};
use super::extract::{NoParameters, Query, Segment};
use super::links;
use super::problem::{self, ApiError};
use super::respond;
use super::roles::Routes;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::machines::shorten;

const JSON: &str = "application/json";

static V3_1: LazyLock<String> = LazyLock::new(|| super::openapi().to_string());
static V3_0: LazyLock<String> = LazyLock::new(|| v3_0::convert(&super::openapi()).to_string());

/// The routes of this file.
pub fn routes() -> Routes {
    Routes::default()
        .undocumented(
            None,
            "/openapi.json",
            get(|_: Query<NoParameters>| async { document(&V3_1) }),
        )
        .undocumented(
            None,
            "/openapi-3.0.json",
            get(|_: Query<NoParameters>| async { document(&V3_0) }),
        )
        .undocumented(
            None,
            "/problems",
            get(|_: Query<NoParameters>| async {
                page_response(problems::catalogue(links::base().prefix(), &problem::pages()))
            }),
        )
        .undocumented(None, "/problems/{code}", get(problem_page))
}

async fn problem_page(
    Segment(code): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let pages = problem::pages();
    let found = pages.iter().find(|page| page.code == code).ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!(
                "The problem {} does not exist. List all problems: GET \
                     /problems",
                shorten(&code)
            ),
        )
    })?;
    Ok(page_response(problems::problem_page(links::base().prefix(), found)))
}

/// An OpenAPI document. Its server URL is the path under which the client reaches otter.
fn document(text: &'static str) -> Response {
    let base = links::base();
    if base.is_root() {
        return respond::text(JSON, text);
    }
    // The text is a document that otter itself wrote, so it can be parsed.
    let mut document: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    document["servers"][0]["url"] = base.prefix().into();
    respond::text(JSON, document.to_string())
}

fn page_response(page: HtmlPage) -> Response {
    let HtmlPage { html, content_security_policy } = page;
    let mut response = respond::text("text/html; charset=utf-8", html);
    respond::set(&mut response, CONTENT_SECURITY_POLICY, &content_security_policy);
    response
}
