//! Tokens: every operation × every kind of caller, compared with the roles in the OpenAPI document;
//! and the rules of tokens.

use std::collections::BTreeMap;

use otter::clock::Clock;
use otter::domain::access::{Role, Token, TokenLimits};
use otter::domain::ids::TokenId;
use otter::domain::scope::Scope;
use otter::storage::{Storage, StoredToken};
use otter::store::Store;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Answer, Lab, LabOptions, eventually};

/// A lab that requires tokens, with one token of each role and a revoked one.
pub struct Guarded {
    pub lab: Lab,
    tokens: BTreeMap<&'static str, String>,
    shared_store: Store,
    _state: tempfile::TempDir,
}

impl Guarded {
    pub async fn start() -> Self {
        Self::with(LabOptions::default()).await
    }

    pub async fn with(plan: LabOptions) -> Self {
        let state = tempfile::tempdir().unwrap();
        let shared_store = Store::open_or_create_shared(state.path()).await.unwrap();
        let writer = shared_store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        let mut tokens = BTreeMap::new();
        for role in Role::ALL {
            tokens.insert(role.as_str(), make(&shared_store, role.as_str(), role).await);
        }
        tokens.insert("revoked", make(&shared_store, "revoked", Role::Admin).await);
        assert!(shared_store.revoke_token("revoked", Clock::system().now()).await.unwrap());
        let lab = Lab::with_state_dir_and_options(state.path(), plan).await;
        let guarded = Self { lab, tokens, shared_store, _state: state };
        eventually("the inventory to load", async || {
            guarded.lab.get("/readyz").await.status == 200
        })
        .await;
        guarded
    }

    async fn call(&self, method: &Method, path: &str, authorization: Option<&str>) -> Answer {
        let mut request = self.lab.request(method.clone(), path);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        if matches!(*method, Method::POST | Method::PATCH) {
            request = request.json(&json!({}));
        }
        if !path.starts_with("/v1/events") {
            return Answer::from_request(request).await;
        }
        // Not checked against the document, because the response can be a stream.
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer::from_parts(status, headers, response.bytes().await.unwrap().to_vec())
    }

    /// Creates a token with restrictions and waits until otter accepts it.
    pub async fn restricted(
        &self,
        name: &str,
        role: Role,
        scope: Scope,
        limits: TokenLimits,
    ) -> String {
        let (stored, token) = unrestricted(name, role);
        let stored = StoredToken { scope, limits, ..stored };
        assert!(self.shared_store.insert_token(&stored).await.unwrap());
        let bearer = format!("Bearer {token}");
        eventually("the token to be known", async || {
            self.call(&Method::GET, "/v1/about", Some(&bearer)).await.status == 200
        })
        .await;
        token
    }

    /// Revokes a token and creates another with the same name, before otter reads the tokens again.
    pub async fn made_again(&self, name: &str, role: Role, scope: Scope) -> String {
        assert!(self.shared_store.revoke_token(name, Clock::system().now()).await.unwrap());
        let (stored, token) = unrestricted(name, role);
        assert!(self.shared_store.insert_token(&StoredToken { scope, ..stored }).await.unwrap());
        token
    }

    /// Gives a token another secret, and an expiry if one is given.
    pub async fn rotated(&self, name: &str, expires_at: Option<jiff::Timestamp>) -> String {
        let clock = Clock::system();
        let token = Token::new(&clock.random().unwrap());
        assert!(
            self.shared_store
                .rotate_token(name, token.digest(), clock.now(), expires_at)
                .await
                .unwrap()
        );
        token.text().to_owned()
    }

    /// The token of this role.
    pub fn token(&self, role: &str) -> &str {
        &self.tokens[role]
    }

    /// A request by a caller of this role.
    pub fn request(&self, role: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.lab
            .request(method, path)
            .header("authorization", format!("Bearer {}", self.tokens[role]))
    }

    async fn as_role(&self, role: &str, method: &Method, path: &str) -> Answer {
        self.call(method, path, Some(&format!("Bearer {}", self.tokens[role]))).await
    }
}

async fn make(store: &Store, name: &str, role: Role) -> String {
    let (stored, token) = unrestricted(name, role);
    assert!(store.insert_token(&stored).await.unwrap());
    token
}

fn unrestricted(name: &str, role: Role) -> (StoredToken, String) {
    let clock = Clock::system();
    let token = Token::new(&clock.random().unwrap());
    let stored =
        StoredToken::new(TokenId::new(clock.uuid()), name, role, token.digest(), clock.now());
    (stored, token.text().to_owned())
}

/// A path of the operation with unknown objects, so that the call changes nothing.
fn example(path: &str) -> String {
    path.replace("{machine}", "no-such-machine")
        .replace("{snapshot}", "none")
        .replace("{datastore}", "none")
        .replace("{job}", "0191e0a0-c0e0-7000-a000-000000000001")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_requires_the_role_in_the_document() {
    let guarded = Guarded::start().await;
    let document = guarded.lab.get("/openapi.json").await.expect(200).json;
    let mut checked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            if !operation.is_object() || operation["operationId"].is_null() {
                continue;
            }
            let id = &operation["operationId"];
            let open = operation["security"] == json!([]);
            let least = operation["x-otter-role"].as_str().and_then(Role::parse);
            assert_eq!(open, least.is_none(), "{id} names a role or is open");
            assert_eq!(least == Some(Role::Admin), id == "list_audit", "{id} is for admins");
            // A stream does not end.
            let path = match id.as_str().unwrap() {
                "stream_events" => "/v1/events?wait=0s".to_owned(),
                _ => example(path),
            };
            for authorization in [
                None,
                Some("Bearer otter_"),
                Some(&*format!("Bearer {}", guarded.tokens["revoked"])),
            ] {
                let answer = guarded.call(&method, &path, authorization).await;
                assert_eq!(answer.status == 401, !open, "{id} {authorization:?}: {}", answer.text);
                if !open {
                    answer.problem(401, "unauthenticated");
                    checked += 1;
                }
            }
            for role in Role::ALL {
                let answer = guarded.as_role(role.as_str(), &method, &path).await;
                let admitted = least.is_none_or(|least| role >= least);
                assert_eq!(answer.status != 403, admitted, "{id} as {role}: {}", answer.text);
                assert_ne!(answer.status, 401, "{id} as {role}");
                checked += 1;
            }
        }
    }
    for (path, least) in [
        ("/metrics", Some(Role::Viewer)),
        ("/docs", None),
        ("/problems", None),
        ("/openapi-3.0.json", None),
    ] {
        let status = guarded.lab.request(Method::GET, path).send().await.unwrap().status().as_u16();
        assert_eq!(status, if least.is_some() { 401 } else { 200 }, "{path}");
    }
    println!("{checked} pairs of operation and caller");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_token_is_unauthenticated_with_the_correct_form() {
    let guarded = Guarded::start().await;
    let good = guarded.tokens["viewer"].clone();
    let mut wrong_checksum = good.clone();
    wrong_checksum.replace_range(good.len() - 8.., "00000000");
    for header in [
        "Bearer",
        "Bearer ",
        "Basic cm9vdDpvdHRlcg==",
        &*format!("Bearer {}", &good[..good.len() - 1]),
        &*format!("Bearer {good}0"),
        &*format!("Bearer {wrong_checksum}"),
        &*format!("Bearer {}", good.to_uppercase()),
        &*format!("Bearer {}", &good[..20]),
        &good,
    ] {
        let answer = guarded.call(&Method::GET, "/v1/machines", Some(header)).await;
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        let answer = answer.problem(401, "unauthenticated");
        assert!(
            !answer.text.contains(&good[6..20]),
            "the response does not repeat the token: {}",
            answer.text
        );
    }
    let bytes = guarded
        .lab
        .request(Method::GET, "/v1/machines")
        .header("authorization", &b"Bearer \xff\xfe"[..]);
    Answer::from_request(bytes).await.problem(401, "unauthenticated");
    let words = format!("Bearer {}é", &good[..good.len() - 2]);
    let words =
        guarded.lab.request(Method::GET, "/v1/machines").header("authorization", words.as_bytes());
    Answer::from_request(words).await.problem(401, "unauthenticated");
    let twice = guarded.lab.request(Method::GET, "/v1/machines");
    let bearer = format!("Bearer {good}");
    let twice = twice.header("authorization", &bearer).header("authorization", &bearer);
    Answer::from_request(twice).await.problem(401, "unauthenticated");
    guarded.call(&Method::GET, "/v1/machines", Some(&format!("bearer {good}"))).await.expect(200);
    // A caller without a token does not learn which paths exist.
    guarded.call(&Method::GET, "/v1/nowhere", None).await.problem(401, "unauthenticated");
    guarded.as_role("viewer", &Method::GET, "/v1/nowhere").await.problem(404, "not-found");
    guarded
        .as_role("viewer", &Method::PUT, "/v1/machines")
        .await
        .problem(405, "method-not-allowed");
    assert_eq!(
        guarded.as_role("viewer", &Method::GET, "/v1/about").await.json["authentication"],
        "token"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn about_has_the_name_and_role_of_the_token() {
    let guarded = Guarded::start().await;
    for role in Role::ALL {
        let about = guarded.as_role(role.as_str(), &Method::GET, "/v1/about").await.expect(200);
        assert_eq!(about.json["caller"], json!({"name": role.as_str(), "role": role.as_str()}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_another_process_creates_or_revokes_takes_effect_at_once() {
    let guarded = Guarded::start().await;
    let newcomer = make(&guarded.shared_store, "newcomer", Role::Viewer).await;
    let bearer = format!("Bearer {newcomer}");
    let status = async || guarded.call(&Method::GET, "/v1/machines", Some(&bearer)).await.status;
    eventually("the new token to count", async || status().await == 200).await;
    assert!(guarded.shared_store.revoke_token("newcomer", Clock::system().now()).await.unwrap());
    eventually("the revocation to count", async || status().await == 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_its_caller_and_a_runner_changes_only_leased_machines() {
    let guarded = Guarded::start().await;
    let power = |role: &str, key: &'static str| {
        let request = guarded.lab.request(Method::POST, "/v1/machines/16/power?wait=30s");
        let request = request.header("authorization", format!("Bearer {}", guarded.tokens[role]));
        Answer::from_request(request.header("idempotency-key", key).json(&json!({"action": "on"})))
    };
    let job = power("operator", "k").await.expect(200).json;
    assert_eq!(job["requested_by"], "operator");
    // A key is valid for one caller.
    let other = power("admin", "k").await.expect(200).json;
    assert_ne!(job["id"], other["id"]);
    assert_eq!(other["requested_by"], "admin");
    let refused = power("runner", "k").await.problem(403, "forbidden");
    assert_eq!(refused.json["machine"], "16");
    let cancel = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
    guarded.as_role("runner", &Method::POST, &cancel).await.problem(403, "forbidden");
    guarded.as_role("operator", &Method::POST, &cancel).await.expect(200);
    let mine: Value = guarded
        .as_role("viewer", &Method::GET, "/v1/jobs?requested_by=admin")
        .await
        .expect(200)
        .json;
    assert_eq!(mine["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_caller_with_a_lease_gets_its_expiry() {
    let guarded = Guarded::start().await;
    let taken = guarded.request("runner", Method::POST, "/v1/leases");
    let lease =
        Answer::from_request(taken.json(&json!({"select": {"machine": "16"}, "ttl": "30m"})))
            .await
            .expect(201)
            .json;
    let shown = format!("{}.{}", lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap());
    let anonymous = guarded.lab.request(Method::GET, "/v1/machines");
    let viewer = guarded
        .request("viewer", Method::POST, "/v1/machines/16/power")
        .json(&json!({"action": "on"}));
    let too_long = guarded.request("runner", Method::GET, &format!("/v1/{}", "x".repeat(20_000)));
    for (call, status) in [(anonymous, 401), (viewer, 403), (too_long, 414)] {
        let refused = Answer::from_request(call.header("otter-lease", &shown)).await.expect(status);
        assert_eq!(refused.header("otter-lease-expires"), lease["expires_at"].as_str(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_any_host_name_is_accepted() {
    let guarded = Guarded::start().await;
    let named = guarded.lab.request(Method::GET, "/v1/machines").header("host", "otter.lab");
    Answer::from_request(
        named.header("authorization", format!("Bearer {}", guarded.tokens["viewer"])),
    )
    .await
    .expect(200);
}
