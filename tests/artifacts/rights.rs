//! Who sees and deletes artifacts: the caller that requested the lease, and operators who see its
//! machine. For others, artifacts do not exist.

use otter::domain::access::{Role, TokenLimits};
use otter::domain::scope::Scope;
use reqwest::Method;
use serde_json::json;

use crate::api::tokens::Guarded;
use crate::harness::Answer;

#[tokio::test(flavor = "multi_thread")]
async fn others_do_not_see_an_artifact() {
    let guarded = Guarded::start().await;
    let ask = json!({"select": {"machine": "16"}, "ttl": "10m"});
    let take = guarded.request("runner", Method::POST, "/v1/leases").json(&ask);
    let lease = Answer::from_request(take).await.expect(201);
    let secret = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let path = format!("/v1/leases/{}/artifacts/result.txt", lease.str("id"));
    let put = async |role: &str, secret: &str| {
        let mut request = guarded.request(role, Method::PUT, &path).body("passed");
        if !secret.is_empty() {
            request = request.header("otter-lease", secret);
        }
        Answer::from_request(request).await
    };
    // The secret decides, also for an operator.
    put("runner", "").await.problem(403, "forbidden");
    put("operator", "").await.problem(403, "forbidden");
    put("viewer", &secret).await.problem(403, "forbidden");
    let wrong = format!("{}.{}", lease.str("id"), "0".repeat(64));
    put("runner", &wrong).await.problem(423, "machine-leased");
    let stored = put("runner", &secret).await.expect(201);

    let everything = Scope::new(vec![], vec![]);
    let of = |names: &str| Scope::new(vec![names.to_owned()], vec![]);
    let mut tokens = Vec::new();
    for (name, role, scope) in [
        ("other", Role::Runner, everything.clone()),
        ("qubes", Role::Operator, of("qubes-*")),
        ("runners", Role::Operator, of("ci-runner-*")),
    ] {
        let token = guarded.restricted(name, role, scope, TokenLimits::default()).await;
        tokens.push((name, token));
    }
    let artifact = format!("/v1/artifacts/{}", stored.str("id"));
    let content = format!("{artifact}/content");
    let call = async |name: &str, method: Method, path: &str| {
        let request = match tokens.iter().find(|(known, _)| *known == name) {
            Some((_, token)) => guarded.lab.request(method, path).bearer_auth(token),
            None => guarded.request(name, method, path),
        };
        Answer::from_request(request).await
    };
    for name in ["viewer", "other", "runners"] {
        for path in [&artifact, &content] {
            call(name, Method::GET, path).await.problem(404, "not-found");
        }
        let list = call(name, Method::GET, "/v1/artifacts").await.expect(200);
        assert!(list.items("id").is_empty(), "{name}: {}", list.text);
    }
    for name in ["other", "runners"] {
        call(name, Method::DELETE, &artifact).await.problem(404, "not-found");
    }
    for name in ["runner", "operator", "admin", "qubes"] {
        assert_eq!(call(name, Method::GET, &content).await.expect(200).text, "passed");
        for query in ["", "?machine=16", "?limit=1"] {
            let list = call(name, Method::GET, &format!("/v1/artifacts{query}")).await.expect(200);
            assert_eq!(list.items("id"), [stored.str("id")], "{name} {query}");
        }
    }
    call("qubes", Method::DELETE, &artifact).await.expect(200);
    call("runner", Method::GET, &artifact).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_filtered_and_comes_in_pages() {
    let guarded = Guarded::start().await;
    let mut leases = Vec::new();
    for (machine, reference) in [("16", "run 1"), ("18", "run 2")] {
        let ask = json!({"select": {"machine": machine}, "ttl": "10m"});
        let taken = guarded.request("runner", Method::POST, "/v1/leases");
        let taken = taken.header("otter-reference", reference).json(&ask);
        let lease = Answer::from_request(taken).await.expect(201);
        for name in ["a.txt", "b.txt"] {
            let path = format!("/v1/leases/{}/artifacts/{name}", lease.str("id"));
            let secret = format!("{}.{}", lease.str("id"), lease.str("secret"));
            let put = guarded.request("runner", Method::PUT, &path).body(name);
            Answer::from_request(put.header("otter-lease", secret)).await.expect(201);
        }
        leases.push(lease.str("id").to_owned());
    }
    let list = async |query: &str| {
        let path = format!("/v1/artifacts{query}");
        Answer::from_request(guarded.request("runner", Method::GET, &path)).await
    };
    let all = list("").await.expect(200);
    assert_eq!(all.items("name"), ["b.txt", "a.txt", "b.txt", "a.txt"], "newest first");
    for query in [
        format!("?lease={}", leases[0]),
        "?reference=run%201".to_owned(),
        "?machine=16".to_owned(),
        format!("?machine=16&reference=run%201&lease={}", leases[0]),
    ] {
        let found = list(&query).await.expect(200);
        assert_eq!(found.items("lease"), [leases[0].as_str(), &leases[0]], "{query}");
    }
    assert!(list("?machine=16&reference=run%202").await.expect(200).items("id").is_empty());
    list("?lease=01936f5e-8c00-7000-8000-000000000002").await.problem(404, "not-found");
    list("?machine=name:none").await.problem(404, "not-found");

    let mut seen: Vec<String> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = list(&format!("?limit=3{cursor}")).await.expect(200);
        seen.extend(page.items("id").into_iter().map(str::to_owned));
        match page.json["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, all.items("id"));
}
