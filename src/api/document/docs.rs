//! `/docs`: the OpenAPI document to read and to copy from, in any browser, without the internet.
//! The page fetches `openapi.json` from beside itself.

use std::sync::LazyLock;

use super::page::{self, HtmlPage};

static PAGE: LazyLock<HtmlPage> =
    LazyLock::new(|| page::render("otter API", include_str!("docs.html"), include_str!("docs.js")));

/// The page and its policy.
#[must_use]
pub fn page() -> &'static HtmlPage {
    &PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_nobody_else() {
        let html = &page().html;
        for outside in ["http://", "https://", "src=", "@import", "onclick", "style=", "innerHTML"]
        {
            assert!(!html.contains(outside), "{outside}");
        }
        assert_eq!(html.matches("</script").count(), 1);
    }
}
