//! Renders otter's HTML pages: self-contained files with a content security policy that allows only
//! their own style and script.

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
/// - `script`: JavaScript; empty for none.
#[must_use]
pub fn render(title: &str, body: &str, script: &str) -> HtmlPage {
    let script_source = match script {
        "" => "'none'".to_owned(),
        script => source_hash(script),
    };
    let script = match script {
        "" => String::new(),
        script => format!("<script>{script}</script>\n"),
    };
    let title = escape(title);
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}{script}\
         </body>\n</html>\n"
    );
    let style_source = source_hash(STYLE);
    let content_security_policy = format!(
        "default-src 'none'; script-src {script_source}; style-src {style_source}; connect-src \
         'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
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
    fn the_policy_allows_only_the_own_script_and_style() {
        // The expected hash is that of the script `alert(1)`, as `openssl dgst -sha256 -binary |
        // base64` computes it.
        let page = render("t", "<p>b</p>", "alert(1)");
        assert!(page.html.contains("<script>alert(1)</script>"));
        let policy = &page.content_security_policy;
        assert!(
            policy.contains("script-src 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI=';"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(render("t", "", "").content_security_policy.contains("script-src 'none';"));
    }

    #[test]
    fn text_cannot_break_out_of_its_element() {
        assert!(!STYLE.contains("</style") && !STYLE.contains("url("));
        assert_eq!(escape("<a b='\"&'>"), "&#60;a b=&#39;&#34;&#38;&#39;&#62;");
        assert!(render("<x>", "", "").html.contains("<title>&#60;x&#62;</title>"));
    }
}
