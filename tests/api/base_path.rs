//! otter under a path: `http.base_path`, and `X-Forwarded-Prefix` of trusted proxies. Links, pages,
//! documents, problems and events begin with the path.

use otter::app::Settings;
use reqwest::Method;
use serde_json::{Value, json};

use super::tokens::Guarded;
use crate::harness::{Answer, Lab, LabOptions, send_raw};

/// An otter with tokens and these settings.
async fn guarded(settings: fn(&mut Settings)) -> Guarded {
    Guarded::with(LabOptions { settings, ..LabOptions::default() }).await
}

/// Collects every text in a value that is a path of otter.
fn paths(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.starts_with('/') => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| paths(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| paths(field, found)),
        _ => {}
    }
}

/// Asserts that an answer has links, and that all of them begin with a path.
fn assert_links_begin_with(base: &str, answer: &Answer) {
    let mut found = Vec::new();
    paths(&answer.json, &mut found);
    found.extend(answer.header("location").map(str::to_owned));
    assert!(!found.is_empty(), "{}", answer.text);
    for path in found {
        let own = path.strip_prefix(base).unwrap_or_else(|| panic!("{path} in {}", answer.text));
        assert!(own.starts_with("/v1/") || own.starts_with("/problems/"), "{path}");
    }
}

/// Makes calls with these headers below the path `below`, and checks that their links begin with
/// `base`.
async fn check_links(lab: &Lab, base: &str, below: &str, headers: &[(&str, &str)]) {
    let request = |method: Method, path: &str| {
        let request = lab.request(method, &format!("{below}{path}"));
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
    };
    let call = async |method: Method, path: &str, body: Option<Value>| {
        let mut request = request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::from_request(request).await
    };
    let on = json!({"action": "on"});
    let job = call(Method::POST, "/v1/machines/31/power?wait=14s", Some(on)).await.expect(200);
    assert_links_begin_with(base, &job);
    assert_links_begin_with(base, &call(Method::GET, "/v1/jobs", None).await.expect(200));
    let body = json!({"select": {"machine": "32"}, "ttl": "10m"});
    let lease = call(Method::POST, "/v1/leases", Some(body)).await;
    assert_links_begin_with(base, &lease);
    let missing = call(Method::GET, "/v1/machines/none", None).await;
    assert_eq!(missing.json["type"], format!("{base}/problems/not-found"));
    assert_links_begin_with(base, &missing);
    let unknown = call(Method::GET, "/v2", None).await;
    assert_eq!((unknown.status, unknown.str("code")), (404, "not-found"));
    let events = format!("/v1/events?initial=true&types=job.changed&job={}&wait=1s", job.str("id"));
    let events = request(Method::GET, &events).send().await.unwrap().text().await.unwrap();
    assert!(events.contains(&format!("\"{base}/v1/jobs/")), "{events}");
    assert!(base.is_empty() || !events.contains("\"/v1/"), "{events}");
    for path in ["/openapi.json", "/openapi-3.0.json"] {
        let document = call(Method::GET, path, None).await.expect(200);
        assert_eq!(document.json["servers"][0]["url"], base);
    }
    for path in ["/problems", "/problems/not-found"] {
        let page = call(Method::GET, path, None).await.expect(200);
        assert!(page.text.contains(&format!("href=\"{base}/docs\"")), "{}", page.text);
    }
    call(Method::GET, "/docs", None).await.expect(200);
    let page = call(Method::GET, "/", None).await.expect(200);
    let script =
        if base.is_empty() { "page/main.js".to_owned() } else { format!("{base}/page/main.js") };
    assert!(page.text.contains(&format!("src=\"{script}\"")), "{}", page.text);
    call(Method::GET, "/page/main.js", None).await.expect(200);
    // The lease ends, so that the next round can lease its machine.
    let end = lab.request(Method::DELETE, &format!("/v1/leases/{}?wait=14s", lease.str("id")));
    let end = end.header("otter-lease", format!("{}.{}", lease.str("id"), lease.str("secret")));
    Answer::from_request(end).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_links_begin_with_the_configured_path() {
    let lab = Lab::with_settings(|settings: &mut Settings| {
        settings.http.base_path = "/lab/otter".parse().unwrap();
    })
    .await;
    // The proxy passes the path on, or removes it.
    for below in ["/lab/otter", "", "/lab/otter/lab/otter"] {
        check_links(&lab, "/lab/otter", below, &[]).await;
    }
    for path in ["/lab", "/lab/otters/v1/machines"] {
        let missing = lab.get(path).await;
        assert_eq!((missing.status, missing.str("code")), (404, "not-found"), "{path}");
    }
    // An answer that otter does not write itself.
    let invalid = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n";
    let invalid = send_raw(lab.address, invalid).await;
    assert_eq!(invalid.str("type"), "/lab/otter/problems/invalid-request");
    // A repeated call with a key is the same call at either path.
    let start = async |path: &str| {
        let request = lab.request(Method::POST, path).header("idempotency-key", "one");
        Answer::from_request(request.json(&json!({"action": "off"}))).await
    };
    let first = start("/lab/otter/v1/machines/31/power?wait=14s").await.expect(200);
    let again = start("/v1/machines/31/power?wait=14s").await.expect(200);
    assert_eq!(first.str("id"), again.str("id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_names_the_path_of_each_request() {
    let guarded = guarded(|settings| {
        settings.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let read = async |path: &str, prefix: &str| {
        let request = guarded.request("operator", Method::GET, path);
        Answer::from_request(request.header("x-forwarded-prefix", prefix)).await
    };
    for (path, prefix, base) in [
        ("/v1/machines/none", "/otter", "/otter"),
        ("/otter/v1/machines/none", "/otter/", "/otter"),
        ("/v1/machines/none", "/other/path", "/other/path"),
        ("/v1/machines/none", "/", ""),
    ] {
        let missing = read(path, prefix).await;
        assert_eq!(missing.json["type"], format!("{base}/problems/not-found"), "{prefix}");
    }
    for prefix in ["otter", "//evil.example", "/otter, /x", "/a b", "https://evil.example", "/v1"] {
        let refused = read("/v1/machines", prefix).await.problem(400, "invalid-request");
        refused.points_at("x-forwarded-prefix", "malformed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_client_cannot_choose_the_path() {
    // The first setting trusts no proxy. The second trusts a proxy that is not this client.
    let settings: [fn(&mut Settings); 2] =
        [|_| {}, |settings| settings.http.trusted_proxies = vec!["192.0.2.1".parse().unwrap()]];
    for settings in settings {
        let guarded = guarded(settings).await;
        let request = guarded.request("operator", Method::GET, "/v1/machines/none");
        let request = request.header("x-forwarded-prefix", "/evil");
        Answer::from_request(request).await.problem(404, "not-found");
    }
    // The configured path has priority.
    let guarded = guarded(|settings| {
        settings.http.base_path = "/otter".parse().unwrap();
        settings.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let request = guarded.request("operator", Method::GET, "/v1/machines/none");
    let missing = Answer::from_request(request.header("x-forwarded-prefix", "/evil")).await;
    assert_eq!(missing.json["type"], "/otter/problems/not-found");
}
