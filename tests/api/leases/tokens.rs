//! Leases of tokens that are revoked, created again, rotated, or expired.

use otter::clock::Clock;
use otter::domain::access::{Role, TokenLimits};
use otter::domain::scope::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use super::{lease_header, lease_path};
use crate::api::tokens::Guarded;
use crate::harness::{Answer, eventually};

/// The moids of machines of the lab's host.
const HELD: &str = "16";
const OTHER: &str = "32";

async fn request_lease(guarded: &Guarded, token: &str, machine: &str) -> Answer {
    let body = json!({"select": {"machine": machine}, "ttl": "30m", "queue_for": "10m"});
    Answer::from_request(
        guarded.lab.request(Method::POST, "/v1/leases").bearer_auth(token).json(&body),
    )
    .await
}

async fn read(guarded: &Guarded, lease: &Value) -> Value {
    let call = guarded.request("viewer", Method::GET, &lease_path(lease, ""));
    Answer::from_request(call).await.expect(200).json
}

async fn end_lease(guarded: &Guarded, lease: &Value) {
    let call = guarded.request("operator", Method::DELETE, &lease_path(lease, "?wait=14s"));
    Answer::from_request(call.header("otter-lease", lease_header(lease))).await.expect(200);
}

/// Waits until a queued lease has ended because of its token, and checks its end.
async fn check_ended(guarded: &Guarded, lease: &Value, detail: &str) {
    eventually("the queued lease to end", async || read(guarded, lease).await["state"] != "queued")
        .await;
    let ended = read(guarded, lease).await;
    let end = &ended["end"];
    let expected = (&json!("revoked"), &json!("revoked"), &json!("otter"), &json!(detail));
    assert_eq!((&ended["state"], &end["reason"], &end["by"], &end["detail"]), expected, "{ended}");
    assert!(ended["machine"].is_null(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_lease_of_a_revoked_token_ends_and_a_held_machine_stays_leased() {
    let guarded = Guarded::start().await;
    let held = request_lease(&guarded, guarded.token("operator"), HELD).await.expect(201).json;
    let token =
        guarded.restricted("passing", Role::Runner, Scope::All, TokenLimits::default()).await;
    let active = request_lease(&guarded, &token, OTHER).await.expect(201).json;
    let queued = request_lease(&guarded, &token, HELD).await.expect(202).json;
    // The machine of the queued lease is outside the scope of the new token.
    let narrow = Scope::new(vec!["ci-runner-*".to_owned()], vec![]);
    let again = guarded.made_again("passing", Role::Runner, narrow).await;
    check_ended(&guarded, &queued, "The token passing was revoked.").await;
    end_lease(&guarded, &held).await;
    let seen = Answer::from_request(guarded.request("viewer", Method::GET, "/v1/machines/16"))
        .await
        .expect(200)
        .json;
    assert_eq!((&seen["free"], &seen["lease"]), (&json!(true), &Value::Null), "{seen}");
    assert_eq!(read(&guarded, &active).await["state"], "active");
    // A lease of the new token is granted.
    let own = request_lease(&guarded, &again, OTHER).await.expect(202).json;
    end_lease(&guarded, &active).await;
    let granted = Answer::from_request(guarded.request(
        "viewer",
        Method::GET,
        &lease_path(&own, "/wait?wait=14s"),
    ));
    assert_eq!(granted.await.expect(200).json["machine"], OTHER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_lease_outlives_a_rotation_of_its_token_and_ends_when_the_token_expires() {
    let guarded = Guarded::start().await;
    request_lease(&guarded, guarded.token("operator"), HELD).await.expect(201);
    let old = guarded.restricted("passing", Role::Runner, Scope::All, TokenLimits::default()).await;
    let queued = request_lease(&guarded, &old, HELD).await.expect(202).json;
    let status = async |token: &str| {
        let call = guarded.lab.request(Method::GET, &lease_path(&queued, "")).bearer_auth(token);
        call.send().await.unwrap().status().as_u16()
    };
    let new = guarded.rotated("passing", None).await;
    eventually("the old secret to be refused", async || status(&old).await == 401).await;
    assert_eq!(status(&new).await, 200);
    assert_eq!(read(&guarded, &queued).await["state"], "queued");
    // No change of the tokens accompanies the expiry.
    let soon = Clock::system().now() + jiff::SignedDuration::from_secs(2);
    guarded.rotated("passing", Some(soon)).await;
    check_ended(&guarded, &queued, "The token passing has expired.").await;
}
