//! The page for people at `/`, and Swagger UI at `/docs`: their files, headers and tags. What they
//! do in a browser is tested in `tests/interop`.

use reqwest::Method;

use super::tokens::Guarded;
use crate::harness::{Answer, Lab};

const PAGE: [(&str, &str); 4] = [
    ("/", "text/html; charset=utf-8"),
    ("/page/main.js", "text/javascript; charset=utf-8"),
    ("/page/views/machine.js", "text/javascript; charset=utf-8"),
    ("/page/style.css", "text/css; charset=utf-8"),
];

const DOCS: [(&str, &str); 3] = [
    ("/docs", "text/html; charset=utf-8"),
    ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    ("/docs/swagger-ui.css", "text/css; charset=utf-8"),
];

#[tokio::test]
async fn files_have_a_type_a_policy_and_a_tag() {
    let lab = Lab::start().await;
    for (path, content_type) in PAGE.into_iter().chain(DOCS) {
        let get = lab.get(path).await.expect(200);
        assert_eq!(get.header("content-type"), Some(content_type), "{path}");
        assert_eq!(get.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(get.header("cache-control"), Some("no-cache"), "{path}");
        let policy = get.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        let tag = get.header("etag").unwrap();
        assert!(!tag.starts_with("W/"), "{path}: {tag}");
        let known = lab.get_with(path, &[("if-none-match", tag)]).await.expect(304);
        assert!(known.bytes.is_empty());
        lab.get_with(path, &[("if-none-match", "\"other\"")]).await.expect(200);
        let head = Answer::from_request(lab.request(Method::HEAD, path)).await.expect(200);
        assert!(head.bytes.is_empty());
        for name in ["content-type", "content-length", "etag", "content-security-policy"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {path}");
        }
    }
}

#[tokio::test]
async fn the_page_allows_no_inline_code_and_no_html_from_text() {
    let lab = Lab::start().await;
    let page = lab.get("/").await.expect(200);
    let policy = page.header("content-security-policy").unwrap();
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(policy.contains("require-trusted-types-for 'script'"), "{policy}");
}

#[tokio::test]
async fn other_files_and_methods_are_refused() {
    let lab = Lab::start().await;
    for path in [
        "/page",
        "/page/",
        "/page/none.js",
        "/page/views",
        "/page/..%2Fmain.rs",
        "/page/main.js/",
        "/page/index.html/x",
        "/docs/none.js",
        "/docs/swagger-initializer.js",
        "/docs/a/b",
    ] {
        lab.get(path).await.problem(404, "not-found");
    }
    lab.get("/?page=1").await.problem(400, "unknown-parameter");
    lab.get("/page/main.js?v=1").await.problem(400, "unknown-parameter");
    for path in ["/", "/page/main.js", "/docs/start.js"] {
        let answer = Answer::from_request(lab.request(Method::POST, path)).await;
        let problem = answer.problem(405, "method-not-allowed");
        assert_eq!(problem.header("allow"), Some("GET,HEAD"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_needs_no_token_and_its_data_does() {
    let guarded = Guarded::start().await;
    for (path, _) in PAGE.into_iter().chain(DOCS) {
        guarded.lab.get(path).await.expect(200);
    }
    guarded.lab.get("/page/none.js").await.problem(404, "not-found");
    guarded.lab.get("/v1/about").await.problem(401, "unauthenticated");
}
