//! The page `/docs`, which shows the OpenAPI document in a browser without internet access. The
//! page fetches `openapi.json` from the same server.

use std::sync::LazyLock;

use super::page::{self, HtmlPage};

static PAGE: LazyLock<HtmlPage> =
    LazyLock::new(|| page::render("otter API", include_str!("docs.html"), include_str!("docs.js")));

/// The page and its content security policy.
#[must_use]
pub fn page() -> &'static HtmlPage {
    &PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_other_servers() {
        let html = &page().html;
        for outside in ["http://", "https://", "src=", "@import", "onclick", "style=", "innerHTML"]
        {
            assert!(!html.contains(outside), "{outside}");
        }
        assert_eq!(html.matches("</script").count(), 1);
    }
}
