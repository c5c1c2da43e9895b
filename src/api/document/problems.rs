//! The pages under `/problems/`, which explain each problem code. The `type` of a problem is the
//! path of its page. `api::problem` has the table of the texts.

use std::fmt::Write as _;

use super::page::{self, HtmlPage, escape};

/// The texts of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProblemPage<'a> {
    pub code: &'a str,
    pub status: u16,
    pub title: &'a str,
    /// The retry advice that a problem with this code shows: `no`, `after` or `same-key`.
    pub retry: &'a str,
    pub meaning: &'a str,
    pub what_to_do: &'a str,
}

/// The page `/problems`: all codes in the given order.
///
/// # Parameters
/// - `base`: the path under which the reader reaches otter; empty for the root.
#[must_use]
pub fn catalogue(base: &str, problems: &[ProblemPage]) -> HtmlPage {
    let mut rows = String::new();
    for &ProblemPage { code, status, title, retry, meaning: _, what_to_do: _ } in problems {
        let (code, title, retry) = (escape(code), escape(title), escape(retry));
        // The result can be ignored, because writing to a string cannot fail.
        let _ = writeln!(
            rows,
            "<tr><td><a href=\"{base}/problems/{code}\"><code>{code}</code></a></td>\
             <td>{status}</td><td>{title}</td><td><code>{retry}</code></td></tr>"
        );
    }
    let body = format!(
        "<main class=\"text\">\n<p><a href=\"{base}/docs\">otter</a></p>\n<h1>Problems</h1>\n\
         <p>Every failure is an <code>application/problem+json</code> (RFC 9457) with one of \
         these codes. The status and the meaning of a code never change. Later versions can \
         add codes.</p>\n\
         <table>\n<thead><tr><th>code</th><th>status</th><th>title</th><th>retry</th></tr>\
         </thead>\n\
         <tbody>\n{rows}</tbody>\n</table>\n</main>\n"
    );
    page::render("Problems · otter", &body)
}

/// The page `/problems/{code}` of one problem.
///
/// # Parameters
/// - `base`: the path under which the reader reaches otter; empty for the root.
#[must_use]
pub fn problem_page(base: &str, problem: &ProblemPage) -> HtmlPage {
    let &ProblemPage { code, status, title, retry, meaning, what_to_do } = problem;
    let retry_advice = match retry {
        "no" => {
            "The same request would fail again or have its effect twice: do not repeat it \
             automatically."
        }
        "after" => {
            "The problem may end without a change of the request: try again after the \
             <code>Retry-After</code> of the response, or later."
        }
        "same-key" => {
            "Repeat the request with the same <code>Idempotency-Key</code>: it has its effect only \
             once."
        }
        _ => "",
    };
    let (code, title, retry) = (escape(code), escape(title), escape(retry));
    let (meaning, what_to_do) = (paragraphs(meaning), paragraphs(what_to_do));
    let body = format!(
        "<main class=\"text\">\n<p><a href=\"{base}/docs\">otter</a> · <a \
         href=\"{base}/problems\">problems</a></p>\n<h1>{title}</h1>\n<p><code>{code}</code> · \
         status {status}</p>\n<h2>Meaning</h2>\n{meaning}<h2>What to do</h2>\n{what_to_do}\
         <h2>Trying again</h2>\n<p><code>retry: \"{retry}\"</code></p>\n<p>{retry_advice}</p>\n\
         </main>\n"
    );
    page::render(&format!("{} · otter", problem.title), &body)
}

/// Converts text to HTML paragraphs. An empty line separates paragraphs, and backticks mark code.
fn paragraphs(text: &str) -> String {
    let mut html = String::new();
    for paragraph in text.split("\n\n") {
        html.push_str("<p>");
        for (index, part) in paragraph.trim().split('`').enumerate() {
            let part = escape(part);
            let part = if index % 2 == 1 { format!("<code>{part}</code>") } else { part };
            html.push_str(&part);
        }
        html.push_str("</p>\n");
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: ProblemPage = ProblemPage {
        code: "machine-busy",
        status: 409,
        title: "Something else works on the machine",
        retry: "after",
        meaning: "A task of <somebody> runs.\n\nIt did not end.",
        what_to_do: "Wait & see `host_task`.",
    };

    #[test]
    fn a_page_has_all_texts() {
        let html = problem_page("", &BUSY).html;
        for text in [
            "<h1>Something else works on the machine</h1>",
            "<code>machine-busy</code> · status 409",
            "<p>A task of &#60;somebody&#62; runs.</p>\n<p>It did not end.</p>",
            "<p>Wait &#38; see <code>host_task</code>.</p>",
            "retry: \"after\"",
            "Retry-After",
        ] {
            assert!(html.contains(text), "{text}\n{html}");
        }
    }

    #[test]
    fn the_catalogue_links_to_each_page() {
        let html =
            catalogue("", &[BUSY, ProblemPage { code: "not-found", status: 404, ..BUSY }]).html;
        assert!(html.contains(
            "<a href=\"/problems/machine-busy\"><code>machine-busy</code></a></td><td>409</td>"
        ));
        assert!(html.contains("<a href=\"/problems/not-found\">"));
    }

    #[test]
    fn links_begin_with_the_path_under_which_the_reader_reaches_otter() {
        for html in [problem_page("/otter", &BUSY).html, catalogue("/otter", &[BUSY]).html] {
            assert!(html.contains("<a href=\"/otter/docs\">"), "{html}");
            assert!(html.contains("\"/otter/problems"), "{html}");
            assert_eq!(html.matches("href=\"/").count(), html.matches("href=\"/otter/").count());
        }
    }
}
