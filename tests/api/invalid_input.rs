//! Invalid input: each mistake is a problem that describes the mistake, and the request has no
//! effect.

use std::time::Duration;

use otter::clock::Clock;
use otter::storage::{RecordRetention, Retention, Storage};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Lab, encode};

const POWER: &str = "/v1/machines/31/power";

async fn send(
    lab: &Lab,
    path: &str,
    content_type: Option<&str>,
    body: impl Into<reqwest::Body>,
) -> Answer {
    let request = lab.request(Method::POST, path).body(body);
    Answer::from_request(match content_type {
        Some(content_type) => request.header("content-type", content_type),
        None => request,
    })
    .await
}

#[tokio::test]
async fn unknown_objects_are_not_found() {
    let lab = Lab::start().await;
    for path in [
        "/v1/machines/none",
        "/v1/machines/name:none",
        "/v1/machines/uuid:none",
        "/v1/machines/none/snapshots",
        "/v1/machines/none/snapshots/x",
        "/v1/machines/16/snapshots/none",
        "/v1/machines/none/properties?path=name",
        "/v1/datastores/none",
        "/v1/jobs/none",
        "/v1/jobs/01936f5e-8c00-7000-8000-000000000001",
        "/v1/jobs/none/wait",
        "/v1/jobs/01936f5e-8c00-7000-8000-000000000001/wait",
        "/v1/jobs/01936f5e-8c00-7000-8000-000000000001?wait=5s",
        "/problems/none",
        "/v1",
        "/page/none.js",
        "/v2/machines",
    ] {
        let problem = lab.get(path).await.problem(404, "not-found");
        assert!(problem.str("detail").len() > 10, "{}", problem.text);
    }
    lab.post("/v1/machines/none/power", json!({"action": "on"})).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_trailing_or_doubled_slash_is_another_path() {
    let lab = Lab::start().await;
    for path in [
        "/v1/machines/",
        "/v1/machines/16/",
        "/v1//machines",
        "//v1/machines",
        "/v1/jobs/",
        "/healthz/",
        "/docs/",
        "/v1/machines/16/snapshots/",
    ] {
        let answer = lab.get(path).await;
        assert!(
            answer.status == 404
                || (answer.status == 400 && answer.json["errors"][0]["code"] == "empty"),
            "{path}: {}",
            answer.text
        );
    }
    lab.get("/v1/machines/").await.problem(404, "not-found");
}

#[tokio::test]
async fn a_wrong_method_returns_the_allowed_ones() {
    let lab = Lab::start().await;
    for (method, path, allowed) in [
        (Method::DELETE, "/v1/machines", "GET,HEAD"),
        (Method::GET, "/v1/machines/16/power", "POST"),
        (Method::GET, "/v1/machines/kill", "POST"),
        (Method::PUT, "/v1/machines/16", "GET,HEAD"),
        (Method::POST, "/v1/jobs", "GET,HEAD"),
        (Method::PATCH, "/healthz", "GET,HEAD"),
        (Method::POST, "/docs", "GET,HEAD"),
    ] {
        let problem = Answer::from_request(lab.request(method, path))
            .await
            .problem(405, "method-not-allowed");
        assert_eq!(problem.header("allow"), Some(allowed), "{path}");
    }
}

#[tokio::test]
async fn a_limit_is_a_whole_number_in_its_range() {
    let lab = Lab::start().await;
    for limit in ["0", "-1", "1001", "99999999999999999999", "ten", "", "1.5", "1e2", "%2B5"] {
        for path in ["/v1/machines", "/v1/datastores", "/v1/jobs"] {
            let problem = lab.get(&format!("{path}?limit={limit}")).await;
            problem.problem(400, "invalid-request").points_at("limit", "out-of-range");
        }
    }
    lab.get("/v1/machines?limit=1000").await.expect(200);
}

#[tokio::test]
async fn a_wait_is_a_duration() {
    let lab = Lab::start().await;
    let job = lab.power_and_wait("ci-runner-1", "on").await;
    let id = job["id"].as_str().unwrap();
    for wait in ["-1", "-5s", "soon", "", "5x", "1h30", "1.5s", "30m1h", "99999999999999999999"] {
        for path in [
            format!("/v1/jobs/{id}?wait={wait}"),
            format!("/v1/jobs/{id}/wait?wait={wait}"),
            format!("/v1/machines/31/wait?until=free&wait={wait}"),
        ] {
            lab.get(&path)
                .await
                .problem(400, "invalid-request")
                .points_at("wait", "not-a-duration");
        }
        let problem = lab.post(&format!("{POWER}?wait={wait}"), json!({"action": "on"})).await;
        problem.problem(400, "invalid-request").points_at("wait", "not-a-duration");
    }
}

#[tokio::test]
async fn a_cursor_is_valid_for_one_list() {
    let lab = Lab::start().await;
    let machines = lab.get("/v1/machines?limit=1").await.expect(200);
    let foreign = machines.str("next");
    for _ in 0..2 {
        lab.power_and_wait("ci-runner-1", "on").await;
    }
    let jobs = lab.get("/v1/jobs?limit=1").await.expect(200);
    for (path, cursor) in [
        ("/v1/datastores", foreign),
        ("/v1/jobs", foreign),
        ("/v1/machines", jobs.str("next")),
        ("/v1/machines", ""),
        ("/v1/machines", "%00"),
        ("/v1/jobs", "x"),
        ("/v1/jobs", ""),
        ("/v1/machines", "bm90LWpzb24"),
    ] {
        let problem = lab.get(&format!("{path}?cursor={cursor}")).await;
        problem.problem(400, "invalid-cursor").points_at("cursor", "invalid-cursor");
    }
}

#[tokio::test]
async fn a_cursor_is_valid_for_its_filters_in_each_list() {
    let lab = Lab::start().await;
    for name in ["qubes-4.2-sdw-staging", "qubes-4.3-nightly"] {
        lab.power_and_wait(name, "off").await;
        let body = json!({"select": {"name": name}, "ttl": "10m", "holder": "me"});
        lab.post("/v1/leases", body).await.expect(201);
    }
    for (list, filter, other) in [
        ("/v1/machines", "name=ci-", "name=ci-runner"),
        ("/v1/jobs", "kind=machine.power_off", "kind=machine.power_off&state=succeeded"),
        ("/v1/leases", "holder=me", ""),
        ("/v1/audit", "action=job.ended", "action=job.ended&outcome=succeeded"),
    ] {
        let first = lab.get(&format!("{list}?{filter}&limit=1")).await.expect(200);
        let next = first.str("next");
        let second = lab.get(&format!("{list}?limit=1&cursor={next}&{filter}")).await.expect(200);
        assert_ne!(second.items("id"), first.items("id"), "{list}");
        let refused = lab.get(&format!("{list}?{other}&limit=1&cursor={next}")).await;
        refused.problem(400, "invalid-cursor").points_at("cursor", "invalid-cursor");
    }
    // A list without filters.
    let first = lab.get("/v1/datastores?limit=1").await.expect(200);
    let next = first.str("next");
    lab.get(&format!("/v1/datastores?cursor={next}")).await.expect(200);
    lab.get(&format!("/v1/machines?cursor={next}")).await.problem(400, "invalid-cursor");
}

#[tokio::test]
async fn a_misspelt_parameter_gets_a_suggestion() {
    let lab = Lab::start().await;
    for (path, wrong, nearest) in [
        ("/v1/machines?nmae=x", "nmae", "Did you mean name?"),
        ("/v1/machines/find?uniqe=true", "uniqe", "Did you mean unique?"),
        ("/v1/jobs?status=failed", "status", "state"),
        ("/v1/machines/16?wait=5s", "wait", "This operation has none."),
        ("/v1/machines?Limit=5", "Limit", "Did you mean limit?"),
        ("/healthz?x", "x", "This operation has none."),
    ] {
        let problem =
            lab.get(path).await.problem(400, "unknown-parameter").points_at(wrong, "unknown");
        assert!(problem.str("detail").contains(nearest), "{}", problem.text);
    }
    lab.get("/v1/machines?limit=1&limit=2")
        .await
        .problem(400, "unknown-parameter")
        .points_at("limit", "repeated");
    lab.get("/v1/machines?name=%FF")
        .await
        .problem(400, "invalid-request")
        .points_at("name", "not-decodable");
    lab.get("/v1/machines?name=%2")
        .await
        .problem(400, "invalid-request")
        .points_at("name", "not-decodable");
    lab.get("/v1/machines?free=yes")
        .await
        .problem(400, "invalid-request")
        .points_at("free", "not-a-boolean");
    lab.get("/v1/machines?power_state=onn")
        .await
        .problem(400, "invalid-request")
        .points_at("power_state", "not-one-of");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_needs_a_known_lease_or_job() {
    let lab = Lab::start().await;
    let filters = [
        ("/v1/jobs?", "lease"),
        ("/v1/events?wait=0s&", "lease"),
        ("/v1/events?wait=0s&", "job"),
        ("/v1/audit?", "lease"),
        ("/v1/audit?", "job"),
    ];
    for (path, name) in filters {
        let with = |id: &str| format!("{path}{name}={id}");
        for (wrong, code) in [("zz", "not-an-id"), ("16", "not-an-id"), ("", "empty")] {
            lab.get(&with(wrong)).await.problem(400, "invalid-request").points_at(name, code);
        }
        let unknown = "01936f5e-8c00-7000-8000-000000000001";
        let problem = lab.get(&with(unknown)).await.problem(404, "not-found");
        assert!(problem.str("detail").contains(unknown), "{}", problem.text);
    }

    let lease_request = json!({"select": {"machine": "32"}, "ttl": "5m"});
    let lease = lab.post("/v1/leases", lease_request).await.expect(201).json;
    let end = format!("/v1/leases/{}?wait=14s", lease["id"].as_str().unwrap());
    let ended = Answer::from_request(lab.request(Method::DELETE, &end)).await.expect(200).json;
    let [lease, job] = [&ended["id"], &ended["job"]].map(|id| id.as_str().unwrap().to_owned());
    let statuses = async || {
        let mut statuses = Vec::new();
        for (path, name) in filters {
            let id = if name == "lease" { &lease } else { &job };
            let url = format!("{path}{name}={id}");
            statuses.push(lab.request(Method::GET, &url).send().await.unwrap().status().as_u16());
        }
        statuses
    };
    // A removed machine is known while the store has jobs of it, and in the audit while the audit
    // has entries of it.
    assert_eq!(statuses().await, [200; 5]);
    let at_once = RecordRetention { time: Duration::ZERO, at_least: 0, at_most: 0 };
    let leases = Retention { leases: at_once.clone(), ..Retention::default() };
    let jobs = Retention { jobs: at_once, keys: Duration::ZERO, ..Retention::default() };
    let now = Clock::system().now();
    assert_eq!(lab.store.purge(now, &leases).await.unwrap().leases, 1);
    lab.get(&format!("/v1/leases/{lease}")).await.problem(404, "not-found");
    assert_eq!(statuses().await, [200; 5]);
    assert!(lab.store.purge(now, &jobs).await.unwrap().jobs > 0);
    lab.jobs.forget_ended();
    assert_eq!(statuses().await, [404, 404, 404, 200, 200]);
}

#[tokio::test]
async fn empty_names_are_refused_everywhere() {
    let lab = Lab::start().await;
    for (path, place) in [
        ("/v1/machines?name=", "name"),
        ("/v1/machines?mac=", "mac"),
        ("/v1/machines?pool=", "pool"),
        ("/v1/machines/find?name=", "name"),
        ("/v1/machines/name:", "machine"),
        ("/v1/machines/mac:", "machine"),
        ("/v1/machines/uuid:", "machine"),
        ("/v1/jobs?machine=", "machine"),
        ("/v1/machines/16/properties?path=", "path"),
    ] {
        lab.get(path).await.problem(400, "invalid-request").points_at(place, "empty");
    }
    lab.post("/v1/machines/kill", json!({"name": ""}))
        .await
        .problem(400, "invalid-request")
        .points_at("/name", "empty");
    lab.post("/v1/machines/16/revert", json!({"snapshot": ""}))
        .await
        .problem(400, "invalid-request");
}

#[tokio::test]
async fn a_body_is_a_json_object_with_known_fields() {
    let lab = Lab::start().await;
    let json = Some("application/json");
    for (body, place, code) in [
        ("{", "", "not-json"),
        ("", "", "missing"),
        ("{\"action\": \"off\"} trailing", "", "not-json"),
        ("{'action': 'off'}", "", "not-json"),
        ("[]", "", "not-an-object"),
        ("null", "", "not-an-object"),
        ("\"off\"", "", "not-an-object"),
        ("{}", "/action", "missing"),
        ("{\"action\": 1}", "/action", "wrong-type"),
        ("{\"action\": null}", "/action", "wrong-type"),
        ("{\"action\": \"shutdown\", \"force_after\": null}", "/force_after", "wrong-type"),
        ("{\"action\": [\"off\"]}", "/action", "wrong-type"),
        ("{\"action\": \"explode\"}", "/action", "not-one-of"),
        ("{\"action\": \"off\", \"force\": true}", "/force", "unknown-field"),
        ("{\"acton\": \"off\"}", "/acton", "unknown-field"),
        ("{\"a/b~c\": 1}", "/a~1b~0c", "unknown-field"),
    ] {
        let problem = send(&lab, POWER, json, body).await.problem(400, "invalid-request");
        problem.points_at(place, code);
    }
    let near = send(&lab, POWER, json, "{\"acton\": \"off\"}").await;
    assert!(near.str("detail").contains("Did you mean action?"), "{}", near.text);
    let far = r#"{"any": [{"text": "login"}], "wait": "5m"}"#;
    let far = send(&lab, "/v1/machines/16/screen/wait", json, far).await;
    let far = far.problem(400, "invalid-request").points_at("/wait", "unknown-field");
    let detail = far.str("detail");
    assert!(detail.contains("wake") && !detail.contains("Did you mean"), "{detail}");
    let deep = format!("{{\"action\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    send(&lab, POWER, json, deep).await.problem(400, "invalid-request").points_at("", "not-json");
    send(&lab, POWER, json, &b"{\"action\": \"\xff\"}"[..])
        .await
        .problem(400, "invalid-request")
        .points_at("", "not-utf-8");
    send(&lab, "/v1/machines/16/revert", json, "{\"power_on\": \"yes\"}")
        .await
        .problem(400, "invalid-request")
        .points_at("/power_on", "wrong-type");
    assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
}

#[tokio::test]
async fn a_body_is_declared_as_json() {
    let lab = Lab::start().await;
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/json; charset=latin1"),
        Some("application/json; x=y; charset=latin1"),
        Some("application/json; charset=utf-8; charset=latin1"),
        Some("application/json; charset=\"utf-8"),
        Some("application/json; charset="),
        Some("application/json; utf-8"),
        Some("application/json, text/plain"),
        Some("application/json/x"),
        Some("application/jsonp"),
    ] {
        let refused = send(&lab, POWER, content_type, "{\"action\": \"on\"}").await;
        let refused = refused.problem(415, "unsupported-media-type");
        let is_of_curl = content_type.is_some_and(|given| given.contains("form"));
        assert_eq!(refused.text.contains("(curl: write --json"), is_of_curl, "{}", refused.text);
    }
    for content_type in [
        "application/json",
        "application/json;",
        "Application/JSON; charset=UTF-8",
        "application/json;charset=\"utf-8\"",
        "application/json;CharSet=\"UTF-8\"",
        "application/json; charset=\"utf\\-8\"",
        "application/json; charset=utf-8; foo=bar",
        "application/json ; foo=\"a;charset=latin1\" ; charset=utf-8",
        "application/json; profile=\"https://lab.example/schema\"",
        "application/json;odata.metadata=minimal",
    ] {
        send(&lab, POWER, Some(content_type), "{\"action\": \"on\"}").await.expect(202);
    }
}

#[tokio::test]
async fn a_request_without_a_body_has_no_other_content_type() {
    let lab = Lab::start().await;
    let lease = json!({"select": {"name": "ci-runner-1"}, "ttl": "1m"});
    let lease = lab.post("/v1/leases", lease).await.json;
    let job = lab.start_power("ci-runner-2", "off").await;
    let cancel = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
    let lease = format!("/v1/leases/{}", lease["id"].as_str().unwrap_or("none"));
    let (renew, revert) = (format!("{lease}/renew"), "/v1/machines/16/revert");
    for (method, path) in [
        (Method::POST, revert),
        (Method::POST, "/v1/machines/16/snapshots/installed/revert"),
        (Method::POST, cancel.as_str()),
        (Method::POST, renew.as_str()),
        (Method::DELETE, lease.as_str()),
        (Method::DELETE, "/v1/machines/16/snapshots/installed"),
        (Method::DELETE, "/v1/machines/16/quarantine"),
        (Method::DELETE, "/v1/pools/none/quarantine"),
    ] {
        for content_type in [
            "application/x-www-form-urlencoded",
            "text/plain",
            "multipart/form-data; boundary=x",
            "",
        ] {
            let request = lab.request(method.clone(), path).header("content-type", content_type);
            let refused = Answer::from_request(request.header("content-length", "0")).await;
            let refused = refused.problem(415, "unsupported-media-type");
            let is_of_curl = content_type.contains("form-url");
            assert_eq!(
                refused.str("detail").contains("drop curl's -d"),
                is_of_curl,
                "{}",
                refused.text
            );
        }
    }
    let unchanged = lab.get("/v1/machines/16").await.expect(200);
    assert!(unchanged.json["active_job"].is_null(), "{}", unchanged.text);
    for content_type in [None, Some("application/json")] {
        send(&lab, revert, content_type, "").await.expect(202);
    }
}

#[tokio::test]
async fn a_body_with_a_content_encoding_is_refused() {
    let lab = Lab::start().await;
    let encoded = |encoding: &str| {
        let request = lab.request(Method::POST, POWER).header("content-encoding", encoding);
        Answer::from_request(request.json(&json!({"action": "on"})))
    };
    for encoding in ["gzip", "br", "identity, gzip", "x", ""] {
        let refused = encoded(encoding).await.problem(415, "unsupported-media-type");
        assert!(refused.str("detail").contains("Content-Encoding"), "{}", refused.text);
    }
    lab.get_with("/v1/machines", &[("content-encoding", "gzip")])
        .await
        .problem(415, "unsupported-media-type");
    encoded("identity").await.expect(202);
}

#[tokio::test]
async fn a_body_too_large_is_not_read() {
    let lab = Lab::start().await;
    let large = format!("{{\"action\": \"{}\"}}", "x".repeat(1 << 20));
    send(&lab, POWER, Some("application/json"), large).await.problem(413, "payload-too-large");
    let fits = format!("{{\"action\": \"{}\"}}", "x".repeat((1 << 20) - 100));
    let problem =
        send(&lab, POWER, Some("application/json"), fits).await.problem(400, "invalid-request");
    assert!(problem.text.len() < 2_000, "a problem does not repeat the body");
}

#[tokio::test]
async fn unusual_names_cause_no_errors() {
    let lab = Lab::start().await;
    let long = "x".repeat(10_000);
    for name in [
        "a\0b",
        "50%",
        "%2F",
        "a/b",
        "🦦",
        "\u{202e}evil",
        "' OR 1=1 --",
        "<script>",
        "..",
        ".",
        "\\",
        " ",
        long.as_str(),
    ] {
        let encoded = encode(name).replace("..", "%2E%2E");
        let problem =
            lab.get(&format!("/v1/machines/name:{encoded}")).await.problem(404, "not-found");
        assert!(problem.text.len() < 2_000);
        assert!(
            lab.get(&format!("/v1/machines?name={encoded}%01"))
                .await
                .expect(200)
                .items("id")
                .is_empty()
        );
        lab.get(&format!("/v1/machines/16/snapshots/x{encoded}")).await.problem(404, "not-found");
        lab.post("/v1/machines/kill", json!({"name": format!("{name}?")}))
            .await
            .problem(404, "not-found");
        lab.post("/v1/machines/16/revert", json!({"snapshot": format!("{name}?")}))
            .await
            .problem(404, "not-found");
    }
    let longer = "🦦".repeat(100_000);
    let problem =
        lab.post("/v1/machines/kill", json!({"name": longer})).await.problem(404, "not-found");
    assert!(problem.text.len() < 2_000);
    lab.get("/v1/machines/%FF").await.problem(400, "invalid-request");
}

#[tokio::test]
async fn a_deadline_has_a_range() {
    let lab = Lab::start().await;
    let calls = [
        (Method::POST, "/v1/machines/kill", Some(json!({"name": "ci-runner-1"}))),
        (Method::POST, "/v1/machines/51/answer", Some(json!({"question": "19", "choice": "0"}))),
        (Method::POST, POWER, Some(json!({"action": "off"}))),
        (Method::POST, "/v1/machines/16/revert", None),
        (Method::POST, "/v1/machines/16/consolidate", None),
        (Method::POST, "/v1/machines/16/snapshots", Some(json!({"name": "n"}))),
        (Method::PATCH, "/v1/machines/16/snapshots/installed", Some(json!({"name": "n"}))),
        (Method::DELETE, "/v1/machines/16/snapshots/installed", None),
    ];
    for (method, path, body) in calls {
        for (deadline, code) in [
            ("0", "out-of-range"),
            ("0s", "out-of-range"),
            ("365d", "out-of-range"),
            ("8760h", "out-of-range"),
            ("99999999999999999999s", "not-a-duration"),
            ("1y", "not-a-duration"),
        ] {
            let request = lab.request(method.clone(), &format!("{path}?deadline={deadline}"));
            let request = body.iter().fold(request, reqwest::RequestBuilder::json);
            let problem = Answer::from_request(request).await.problem(400, "invalid-request");
            problem.points_at("deadline", code);
        }
    }
    assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
}

#[tokio::test]
async fn a_snapshot_gets_the_given_name_up_to_the_maximum_length() {
    let lab = Lab::start().await;
    let at = "/v1/machines/16/snapshots";
    let mut path = format!("{at}/installed");
    for name in ["a/b", "a%2fb", "%2F", "100%", "..", "x\\y", "name:16", "🦦"] {
        let renamed =
            Answer::from_request(lab.request(Method::PATCH, &path).json(&json!({"name": name})))
                .await;
        assert_eq!(renamed.expect(200).str("name"), name);
        // Clients remove `..` from a URL, even if it is escaped.
        path = format!(
            "{at}/{}",
            if name == ".." { "16-snapshot-1".to_owned() } else { encode(name) }
        );
        assert_eq!(lab.get(&path).await.expect(200).str("name"), name);
        let made = lab.post(&format!("{at}?wait=10s"), json!({"name": name})).await.expect(200);
        let id = made.json["result"]["snapshot"].as_str().unwrap();
        assert_eq!(lab.get(&format!("{at}/{id}")).await.expect(200).str("name"), name);
        let gone =
            Answer::from_request(lab.request(Method::DELETE, &format!("{at}/{id}?wait=10s"))).await;
        gone.expect(200);
    }
    for (body, status, code) in [
        (json!({"name": "n".repeat(81)}), 400, "invalid-request"),
        (json!({"name": ""}), 400, "invalid-request"),
        (json!({"description": "d".repeat(8_193)}), 400, "invalid-request"),
        (json!({"description": "d".repeat(1 << 20)}), 413, "payload-too-large"),
    ] {
        Answer::from_request(lab.request(Method::PATCH, &path).json(&body))
            .await
            .problem(status, code);
    }
    assert_eq!(lab.get(&path).await.expect(200).str("name"), "🦦");
}

#[tokio::test]
async fn an_answer_to_an_unknown_question_is_refused_at_once() {
    let lab = Lab::start().await;
    let path = "/v1/machines/51/answer?wait=10s";
    let other =
        lab.post(path, json!({"question": "18", "choice": "0"})).await.problem(404, "not-found");
    assert!(
        other.str("detail").contains("waits on the question 19, not on \"18\""),
        "{}",
        other.text
    );
    lab.post(path, json!({"question": "19", "choice": "0"})).await.expect(200);
    lab.wait_until("/v1/machines/51", |machine| machine["question"].is_null()).await;
    for (question, choice) in [("19", "0"), ("18", "0"), ("19", "no such choice"), ("🦦", "\u{1}")]
    {
        let answer = lab.post(path, json!({"question": question, "choice": choice})).await;
        let answer = answer.problem(404, "not-found");
        assert_eq!(answer.json["errors"][0]["pointer"], "/question", "{}", answer.text);
        assert!(answer.str("detail").contains("waits on no question"), "{}", answer.text);
    }
    let jobs = lab.get("/v1/jobs?kind=machine.answer").await.expect(200);
    assert_eq!(
        jobs.json["items"].as_array().unwrap().len(),
        1,
        "no job was created: {}",
        jobs.text
    );
}
