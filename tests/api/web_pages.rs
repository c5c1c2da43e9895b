//! Requests that a web page makes the browser send: pages of other servers cannot change anything,
//! and an otter without tokens refuses requests through a proxy.

use reqwest::Method;
use serde_json::json;

use super::tokens::Guarded;
use crate::harness::{Answer, Lab, LabOptions, send_raw};

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
            let request = headers
                .iter()
                .fold(request, |request, (name, value)| request.header(*name, *value));
            let request = body.iter().fold(request, reqwest::RequestBuilder::json);
            let refused = Answer::from_request(request).await.problem(403, "forbidden");
            assert!(refused.str("detail").contains("http.allowed_origins"), "{}", refused.text);
            assert_eq!(refused.header("access-control-allow-origin"), None);
        }
        // A read changes nothing, and the browser does not give the response to the page.
        let read = lab.get_with("/v1/machines", headers).await.expect(200);
        assert_eq!(read.header("access-control-allow-origin"), None);
    }
    nothing_happened(&lab).await;
    for headers in
        [&[("origin", own.as_str())][..], &[("origin", &own), ("sec-fetch-site", "same-origin")]]
    {
        lab.post_with(REVERT, json!({}), headers).await.expect(202);
    }
    lab.post_with(REVERT, json!({}), &[("sec-fetch-site", "none")]).await.expect(202);
}

#[tokio::test]
async fn a_form_of_another_server_cannot_revert() {
    let lab = Lab::start().await;
    let head = format!(
        "POST {REVERT}?wait=10s HTTP/1.1\r\nhost: {}\r\norigin: http://evil.example\r\n\
         sec-fetch-site: cross-site\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n",
        lab.address
    );
    send_raw(lab.address, head).await.problem(403, "forbidden");
    nothing_happened(&lab).await;
}

#[tokio::test]
async fn the_start_of_a_websocket_counts_as_a_change() {
    let lab = Lab::start().await;
    for (upgrade, status) in [("websocket", 403), ("h2c, WebSocket/13", 403), ("h2c", 200)] {
        let request = lab.request(Method::GET, "/v1/machines");
        let request = request.header("connection", "upgrade").header("upgrade", upgrade);
        let answer = Answer::from_request(request.header("origin", "http://evil.example")).await;
        assert_eq!(answer.status, status, "{upgrade}: {}", answer.text);
    }
}

#[tokio::test]
async fn listed_origins_may_change_things() {
    let lab = Lab::with_settings(|settings| {
        settings.http.allowed_origins = vec!["https://lab.example".parse().unwrap()];
    })
    .await;
    let from = async |origin: &str| {
        lab.post_with(REVERT, json!({}), &[("origin", origin), ("sec-fetch-site", "cross-site")])
            .await
    };
    for other in
        ["http://lab.example", "https://lab.example:8443", "https://lab.example.evil", "null"]
    {
        from(other).await.problem(403, "forbidden");
    }
    // Without `Origin`, the page of the request is unknown.
    lab.post_with(REVERT, json!({}), &[("sec-fetch-site", "cross-site")])
        .await
        .problem(403, "forbidden");
    from("https://lab.example").await.expect(202);
}

const LISTED: &str = "https://lab.example";

/// An otter that lists one origin.
async fn listing() -> Lab {
    Lab::with_settings(|settings| settings.http.allowed_origins = vec![LISTED.parse().unwrap()])
        .await
}

fn preflight(
    lab: &Lab,
    path: &str,
    headers: &[(&str, &str)],
) -> impl Future<Output = Answer> + use<> {
    let request = lab.request(Method::OPTIONS, path);
    Answer::from_request(
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)),
    )
}

/// The CORS headers of a response.
fn cross_origin(answer: &Answer) -> Vec<String> {
    let names = answer.headers.keys().map(ToString::to_string);
    names.filter(|name| name.starts_with("access-control-")).collect()
}

fn lists(answer: &Answer, header: &str) -> Vec<String> {
    let lines = answer.headers.get_all(header).iter().map(|line| line.to_str().unwrap());
    let names = lines.flat_map(|line| line.split(','));
    names.map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect()
}

#[tokio::test]
async fn the_preflight_of_a_listed_page_is_answered() {
    let lab = listing().await;
    for path in [REVERT, "/v1/machines", "/v1/events", "/healthz", "/none"] {
        let asks = [
            ("origin", LISTED),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        let allowed = preflight(&lab, path, &asks).await.expect(204);
        assert_eq!(allowed.header("access-control-allow-origin"), Some(LISTED));
        assert_eq!(allowed.header("access-control-allow-credentials"), None);
        assert!(lists(&allowed, "vary").contains(&"origin".to_owned()));
        let seconds: u32 = allowed.header("access-control-max-age").unwrap().parse().unwrap();
        assert!((60..=7_200).contains(&seconds));
        let methods = lists(&allowed, "access-control-allow-methods");
        assert_eq!(methods, ["get", "head", "post", "put", "patch", "delete"]);
        assert!(allowed.bytes.is_empty());
    }
}

#[tokio::test]
async fn a_listed_page_may_send_and_read_each_header_of_the_document() {
    let lab = listing().await;
    let asks = [("origin", LISTED), ("access-control-request-method", "POST")];
    let allowed =
        lists(&preflight(&lab, REVERT, &asks).await.expect(204), "access-control-allow-headers");
    let read = lab.get_with("/v1/machines", &[("origin", LISTED)]).await.expect(200);
    let exposed = lists(&read, "access-control-expose-headers");
    let document = lab.get("/openapi.json").await.expect(200).json;
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap());
    for (_, operation) in operations {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap().to_lowercase();
            assert!(parameter["in"] != "header" || allowed.contains(&name), "{name}");
        }
        for response in operation["responses"].as_object().into_iter().flat_map(|all| all.values())
        {
            for name in
                response["headers"].as_object().into_iter().flat_map(|headers| headers.keys())
            {
                assert!(exposed.contains(&name.to_lowercase()), "{name}");
            }
        }
    }
    for name in ["authorization", "content-type", "if-none-match"] {
        assert!(allowed.contains(&name.to_owned()), "{name}");
    }
    // The headers of real responses. The document lists only some of them.
    let revert = [("origin", LISTED), ("prefer", "wait=10"), ("idempotency-key", "k")];
    let find =
        lab.get_with("/v1/machines/find?name=qubes", &[("origin", LISTED)]).await.expect(200);
    let started = lab.post_with(REVERT, json!({}), &[("origin", LISTED)]).await.expect(202);
    let waited = lab.post_with(REVERT, json!({}), &revert).await.expect(200);
    let again = lab.post_with(REVERT, json!({}), &revert).await.expect(200);
    // A stream is not checked against the document.
    let events = lab
        .request(Method::GET, "/v1/events?wait=0s")
        .header("origin", LISTED)
        .send()
        .await
        .unwrap();
    let events = Answer::from_parts(events.status().as_u16(), events.headers().clone(), Vec::new());
    let refused =
        lab.get_with("/v1/machines/none", &[("origin", LISTED)]).await.problem(404, "not-found");
    let picture =
        lab.get_with("/v1/machines/17/screen.png", &[("origin", LISTED)]).await.expect(200);
    let transport = [
        "date",
        "connection",
        "keep-alive",
        "transfer-encoding",
        "vary",
        "x-content-type-options",
        "x-accel-buffering",
    ];
    let safelisted = ["cache-control", "content-length", "content-type"];
    for answer in [read, find, started, waited, again, events, refused, picture] {
        assert_eq!(answer.header("access-control-allow-origin"), Some(LISTED));
        assert!(lists(&answer, "vary").contains(&"origin".to_owned()));
        for name in answer.headers.keys().map(reqwest::header::HeaderName::as_str) {
            let known = transport.contains(&name) || safelisted.contains(&name);
            let known = known
                || name.starts_with("access-control-")
                || exposed.iter().any(|one| one == name);
            assert!(known, "a page cannot read {name}");
        }
    }
}

#[tokio::test]
async fn pages_that_are_not_listed_get_no_cors_headers() {
    let (listing, closed) = (listing().await, Lab::start().await);
    let (own, own_of_closed) =
        (format!("http://{}", listing.address), format!("http://{}", closed.address));
    for (lab, own) in [(&listing, &own), (&closed, &own_of_closed)] {
        for origin in [
            "http://lab.example",
            "https://lab.example:8443",
            "https://lab.example.evil",
            "null",
            "*",
            "",
            own,
        ] {
            let asks = [("origin", origin), ("access-control-request-method", "POST")];
            let refused = preflight(lab, REVERT, &asks).await.problem(405, "method-not-allowed");
            let read = lab.get_with("/v1/machines", &[("origin", origin)]).await.expect(200);
            assert_eq!((cross_origin(&refused), cross_origin(&read)), (vec![], vec![]), "{origin}");
        }
    }
    // With two origins, or without a method, the request is not a preflight.
    for asks in [
        &[("origin", LISTED), ("origin", LISTED), ("access-control-request-method", "POST")][..],
        &[("origin", LISTED)],
        &[("access-control-request-method", "POST")],
    ] {
        preflight(&listing, REVERT, asks).await.problem(405, "method-not-allowed");
    }
    nothing_happened(&listing).await;
}

#[tokio::test]
async fn a_preflight_needs_no_token_and_grants_no_access() {
    let guarded = Guarded::with(LabOptions {
        settings: |settings| settings.http.allowed_origins = vec![LISTED.parse().unwrap()],
        ..LabOptions::default()
    })
    .await;
    let asks = [("origin", LISTED), ("access-control-request-method", "DELETE")];
    preflight(&guarded.lab, "/v1/machines/16/snapshots?all=true", &asks).await.expect(204);
    let without = guarded.lab.get_with("/v1/machines", &[("origin", LISTED)]).await;
    let refused = without.problem(401, "unauthenticated");
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some(LISTED),
        "the page may read the problem"
    );
    let viewer = guarded.request("viewer", Method::POST, REVERT).header("origin", LISTED);
    Answer::from_request(viewer).await.problem(403, "forbidden");
    let operator = guarded.request("operator", Method::POST, REVERT).header("origin", LISTED);
    Answer::from_request(operator.json(&json!({}))).await.expect(202);
    // Without tokens, a foreign `Host` is still refused.
    let lab = listing().await;
    let foreign = [asks[0], asks[1], ("host", "evil.example")];
    let refused = preflight(&lab, REVERT, &foreign).await.problem(403, "forbidden");
    assert_eq!(refused.header("access-control-allow-methods"), None);
}

#[tokio::test]
async fn a_token_does_not_allow_other_pages() {
    let guarded = Guarded::start().await;
    let request = guarded.request("operator", Method::POST, REVERT);
    let refused = Answer::from_request(request.header("origin", "http://evil.example")).await;
    refused.problem(403, "forbidden");
    let host = ("host", "otter.lab");
    for (origin, status) in
        [("http://otter.lab", 202), ("http://otter.lab:80", 202), ("https://otter.lab", 403)]
    {
        let request = guarded.request("operator", Method::POST, REVERT);
        let answer =
            Answer::from_request(request.header(host.0, host.1).header("origin", origin)).await;
        assert_eq!(answer.status, status, "{origin}: {}", answer.text);
    }
}

#[tokio::test]
async fn without_tokens_a_request_through_a_proxy_is_refused() {
    let lab = Lab::start().await;
    let names =
        ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-x"];
    for name in names {
        for path in ["/v1/machines", "/healthz", "/docs"] {
            let refused =
                lab.get_with(path, &[(name, "for=10.0.0.1")]).await.problem(403, "forbidden");
            assert!(refused.str("detail").contains("otter token create"), "{}", refused.text);
        }
        lab.post_with(REVERT, json!({}), &[(name, "x")]).await.problem(403, "forbidden");
    }
    nothing_happened(&lab).await;
    let guarded = Guarded::start().await;
    let request = guarded.request("operator", Method::GET, "/v1/machines");
    Answer::from_request(request.header("x-forwarded-for", "10.0.0.1")).await.expect(200);
}
