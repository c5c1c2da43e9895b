//! Requests that a web page makes the browser send: pages of other servers change nothing, and no
//! proxy brings callers to an otter without tokens.

use reqwest::Method;
use serde_json::json;

use super::tokens::Guarded;
use crate::harness::{Answer, Lab, raw};

const REVERT: &str = "/v1/machines/16/revert";

async fn nothing_happened(lab: &Lab) {
    assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
    assert!(lab.get("/v1/leases").await.expect(200).items("id").is_empty());
    assert_eq!(lab.control().calls("RevertToSnapshot_Task"), 0);
}

#[tokio::test]
async fn a_page_of_another_server_changes_nothing() {
    let lab = Lab::start().await;
    let own = format!("http://{}", lab.address);
    let other_port = format!("http://127.0.0.1:{}", lab.address.port() ^ 1);
    let by_name = format!("http://localhost:{}", lab.address.port());
    for headers in [
        &[("origin", "http://evil.example")][..],
        &[("origin", "null")],
        &[("origin", "")],
        &[("origin", "file://")],
        &[("origin", "chrome-extension://abcdef")],
        &[("origin", other_port.as_str())],
        &[("origin", by_name.as_str())],
        &[("origin", "http://127.0.0.1")],
        &[("origin", own.as_str()), ("origin", "http://evil.example")],
        &[("origin", own.as_str()), ("sec-fetch-site", "cross-site")],
        &[("origin", own.as_str()), ("sec-fetch-site", "none"), ("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "")],
    ] {
        let calls = [
            (Method::POST, REVERT, None),
            (Method::POST, REVERT, Some(json!({}))),
            (Method::POST, "/v1/leases", Some(json!({"select": {"name": "x"}, "ttl": "1m"}))),
            (Method::DELETE, "/v1/machines/16/snapshots?all=true", None),
            (Method::PATCH, "/v1/machines/16/snapshots/installed", Some(json!({"name": "n"}))),
            (Method::PUT, "/v1/machines/16/quarantine", Some(json!({"reason": "r"}))),
            (Method::POST, "/none", None),
        ];
        for (method, path, body) in calls {
            let request = lab.request(method, path);
            let request =
                headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let request = body.iter().fold(request, reqwest::RequestBuilder::json);
            let refused = Answer::of(request).await.problem(403, "forbidden");
            assert!(refused.str("detail").contains("http.allowed_origins"), "{}", refused.text);
            assert_eq!(refused.header("access-control-allow-origin"), None);
        }
        // Reading changes nothing; the browser keeps the answer from the page.
        let read = lab.get_with("/v1/machines", headers).await.expect(200);
        assert_eq!(read.header("access-control-allow-origin"), None);
    }
    nothing_happened(&lab).await;
    for headers in [&[("origin", own.as_str())][..], &[("origin", &own), ("sec-fetch-site", "same-origin")]] {
        lab.post_with(REVERT, json!({}), headers).await.expect(202);
    }
    lab.post_with(REVERT, json!({}), &[("sec-fetch-site", "none")]).await.expect(202);
}

#[tokio::test]
async fn a_form_of_another_server_reverts_nothing() {
    let lab = Lab::start().await;
    let head = format!(
        "POST {REVERT}?wait=10s HTTP/1.1\r\nhost: {}\r\norigin: http://evil.example\r\n\
         sec-fetch-site: cross-site\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n",
        lab.address
    );
    raw(lab.address, head).await.problem(403, "forbidden");
    nothing_happened(&lab).await;
}

#[tokio::test]
async fn the_start_of_a_websocket_counts_as_a_change() {
    let lab = Lab::start().await;
    for (upgrade, status) in [("websocket", 403), ("h2c, WebSocket/13", 403), ("h2c", 200)] {
        let request = lab.request(Method::GET, "/v1/machines");
        let request = request.header("connection", "upgrade").header("upgrade", upgrade);
        let answer = Answer::of(request.header("origin", "http://evil.example")).await;
        assert_eq!(answer.status, status, "{upgrade}: {}", answer.text);
    }
}

#[tokio::test]
async fn listed_origins_may_change_things() {
    let lab = Lab::tuned(|settings| {
        settings.http.allowed_origins = vec!["https://lab.example".parse().unwrap()];
    })
    .await;
    let from = async |origin: &str| {
        lab.post_with(REVERT, json!({}), &[("origin", origin), ("sec-fetch-site", "cross-site")]).await
    };
    for other in ["http://lab.example", "https://lab.example:8443", "https://lab.example.evil", "null"] {
        from(other).await.problem(403, "forbidden");
    }
    // Without an origin the page of the request is unknown.
    lab.post_with(REVERT, json!({}), &[("sec-fetch-site", "cross-site")]).await.problem(403, "forbidden");
    from("https://lab.example").await.expect(202);
}

#[tokio::test]
async fn a_token_makes_no_exception_for_other_pages() {
    let guarded = Guarded::start().await;
    let request = guarded.request("operator", Method::POST, REVERT);
    let refused = Answer::of(request.header("origin", "http://evil.example")).await;
    refused.problem(403, "forbidden");
    let host = ("host", "otter.lab");
    for (origin, status) in
        [("http://otter.lab", 202), ("http://otter.lab:80", 202), ("https://otter.lab", 403)]
    {
        let request = guarded.request("operator", Method::POST, REVERT);
        let answer = Answer::of(request.header(host.0, host.1).header("origin", origin)).await;
        assert_eq!(answer.status, status, "{origin}: {}", answer.text);
    }
}

#[tokio::test]
async fn without_tokens_a_request_through_a_proxy_is_refused() {
    let lab = Lab::start().await;
    let names = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-x"];
    for name in names {
        for path in ["/v1/machines", "/healthz", "/docs"] {
            let refused = lab.get_with(path, &[(name, "for=10.0.0.1")]).await.problem(403, "forbidden");
            assert!(refused.str("detail").contains("otter token create"), "{}", refused.text);
        }
        lab.post_with(REVERT, json!({}), &[(name, "x")]).await.problem(403, "forbidden");
    }
    nothing_happened(&lab).await;
    let guarded = Guarded::start().await;
    let request = guarded.request("operator", Method::GET, "/v1/machines");
    Answer::of(request.header("x-forwarded-for", "10.0.0.1")).await.expect(200);
}
