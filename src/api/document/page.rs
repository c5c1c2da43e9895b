//! Renders the HTML pages of problems: self-contained files with a content security policy that
//! allows only their own style.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("page.css");

/// A complete page, to be served as `text/html; charset=utf-8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HtmlPage {
    pub html: String,
    /// The value of `Content-Security-Policy` for this page.
    pub content_security_policy: String,
}

/// Renders a page.
///
/// # Parameters
/// - `title`: text, which is escaped.
/// - `body`: HTML.
#[must_use]
pub fn render(title: &str, body: &str) -> HtmlPage {
    let title = escape(title);
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\
         </body>\n</html>\n"
    );
    let style_source = source_hash(STYLE);
    let content_security_policy = format!(
        "default-src 'none'; style-src {style_source}; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    HtmlPage { html, content_security_policy }
}

/// Escapes text for HTML elements and quoted attributes.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '<' | '>' | '"' | '\'' => {
                // The result can be ignored, because writing to a string cannot fail.
                let _ = write!(escaped, "&#{};", u32::from(character));
            }
            character => escaped.push(character),
        }
    }
    escaped
}

fn source_hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_only_the_own_style() {
        let policy = render("t", "<p>b</p>").content_security_policy;
        let style = source_hash(STYLE);
        assert!(policy.contains(&format!("style-src {style};")), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{policy}");
        // As `printf 'alert(1)' | openssl dgst -sha256 -binary | base64` computes it.
        let known = "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='";
        assert_eq!(source_hash("alert(1)"), known);
    }

    #[test]
    fn text_cannot_break_out_of_its_element() {
        assert!(!STYLE.contains("</style") && !STYLE.contains("url("));
        assert_eq!(escape("<a b='\"&'>"), "&#60;a b=&#39;&#34;&#38;&#39;&#62;");
        assert!(render("<x>", "").html.contains("<title>&#60;x&#62;</title>"));
    }
}
