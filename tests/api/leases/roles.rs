//! The rights of viewers, runners and operators.

use otter::app::Settings;
use otter::domain::pool::Pools;
use reqwest::Method;
use serde_json::{Value, json};

use super::{STAGING, lease_header, lease_path, with_pools};
use crate::api::tokens::Guarded;
use crate::harness::{Answer, LabOptions, machine_path};

async fn guarded() -> Guarded {
    let settings = |settings: &mut Settings| {
        with_pools(settings);
        let Pools(pools) = &mut settings.pools;
        let mut keep_power = pools["qubes"].clone();
        keep_power.may_keep_power = true;
        pools.insert("keep-power".to_owned(), keep_power);
    };
    Guarded::with(LabOptions { settings, ..LabOptions::default() }).await
}

async fn call(
    guarded: &Guarded,
    role: &str,
    method: Method,
    path: &str,
    lease: Option<&Value>,
    body: Value,
) -> Answer {
    let mut request = guarded.request(role, method, path);
    if let Some(lease) = lease {
        request = request.header("otter-lease", lease_header(lease));
    }
    if !body.is_null() {
        request = request.json(&body);
    }
    Answer::from_request(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_changes_only_the_machines_of_its_leases() {
    let guarded = guarded().await;
    let ask = json!({"select": {"name": STAGING}, "ttl": "30m"});
    call(&guarded, "viewer", Method::POST, "/v1/leases", None, ask.clone())
        .await
        .problem(403, "forbidden");
    let lease =
        call(&guarded, "runner", Method::POST, "/v1/leases", None, ask).await.expect(201).json;
    assert_eq!((&lease["requested_by"], &lease["holder"]), (&json!("runner"), &json!("runner")));
    let on = machine_path(STAGING, "/power?wait=20s");
    let body = json!({"action": "on"});
    let refused = call(&guarded, "runner", Method::POST, &on, None, body.clone())
        .await
        .problem(423, "machine-leased");
    assert!(!refused.str("detail").contains("Otter-Override"), "{}", refused.text);
    let job = call(&guarded, "runner", Method::POST, &on, Some(&lease), body.clone())
        .await
        .expect(200)
        .json;
    assert_eq!((&job["requested_by"], &job["lease"]), (&json!("runner"), &lease["id"]));
    // An operator needs the lease, too, or an override.
    let refused = call(&guarded, "operator", Method::POST, &on, None, body.clone())
        .await
        .problem(423, "machine-leased");
    assert!(refused.str("detail").contains("Otter-Override: <reason>"), "{}", refused.text);
    let other = machine_path("qubes-4.3-nightly", "/power");
    call(&guarded, "runner", Method::POST, &other, None, body.clone())
        .await
        .problem(403, "forbidden");
    call(&guarded, "runner", Method::POST, &other, Some(&lease), body.clone())
        .await
        .problem(423, "machine-leased");
    let over =
        guarded.request("runner", Method::POST, &on).header("otter-override", "I want").json(&body);
    Answer::from_request(over).await.problem(403, "forbidden");
    let over = guarded
        .request("operator", Method::POST, &on)
        .header("otter-override", "I must")
        .json(&body);
    assert_eq!(Answer::from_request(over).await.expect(200).json["requested_by"], "operator");
    let read = call(&guarded, "viewer", Method::GET, &lease_path(&lease, ""), None, Value::Null)
        .await
        .expect(200)
        .json;
    let warned = read["warnings"][0].as_str().unwrap();
    assert!(warned.contains("operator") && warned.contains("I must"), "{warned}");
    assert_eq!(read["secret"], Value::Null);

    let quarantine = machine_path(STAGING, "/quarantine");
    let why = json!({"reason": "mine"});
    call(&guarded, "runner", Method::PUT, &quarantine, Some(&lease), why)
        .await
        .problem(403, "forbidden");
    call(&guarded, "runner", Method::DELETE, &quarantine, None, Value::Null)
        .await
        .problem(403, "forbidden");
    call(&guarded, "runner", Method::DELETE, "/v1/pools/qubes/quarantine", None, Value::Null)
        .await
        .problem(403, "forbidden");
    let properties = machine_path(STAGING, "/properties?path=name");
    call(&guarded, "runner", Method::GET, &properties, Some(&lease), Value::Null)
        .await
        .problem(403, "forbidden");

    // A runner needs the secret of the lease. A viewer may not end a lease even with it.
    let renew = lease_path(&lease, "/renew");
    call(&guarded, "runner", Method::POST, &renew, None, json!({})).await.problem(403, "forbidden");
    call(&guarded, "runner", Method::DELETE, &lease_path(&lease, ""), None, Value::Null)
        .await
        .problem(403, "forbidden");
    call(&guarded, "viewer", Method::DELETE, &lease_path(&lease, ""), Some(&lease), Value::Null)
        .await
        .problem(403, "forbidden");
    call(&guarded, "runner", Method::POST, &renew, Some(&lease), json!({})).await.expect(200);
    let ended = call(
        &guarded,
        "runner",
        Method::DELETE,
        &lease_path(&lease, "?wait=20s"),
        Some(&lease),
        Value::Null,
    )
    .await
    .expect(200)
    .json;
    assert_eq!((&ended["state"], &ended["end"]["by"]), (&json!("released"), &json!("runner")));
    call(&guarded, "runner", Method::POST, &on, None, json!({"action": "on"}))
        .await
        .problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_pool_or_an_operator_can_allow_to_keep_the_power_on() {
    let guarded = guarded().await;
    let ask = |pool: Option<&str>| {
        let mut body =
            json!({"select": {"name": STAGING}, "ttl": "30m", "release": {"power": "keep"}});
        if let Some(pool) = pool {
            body["select"]["pool"] = json!(pool);
        }
        body
    };
    for pool in [None, Some("qubes")] {
        call(&guarded, "runner", Method::POST, "/v1/leases", None, ask(pool))
            .await
            .problem(403, "forbidden");
    }
    for (role, pool) in [("runner", Some("keep-power")), ("operator", None)] {
        let lease = call(&guarded, role, Method::POST, "/v1/leases", None, ask(pool))
            .await
            .expect(201)
            .json;
        assert_eq!(lease["release"]["power"], "keep");
        let on = machine_path(STAGING, "/power?wait=20s");
        call(&guarded, role, Method::POST, &on, Some(&lease), json!({"action": "on"}))
            .await
            .expect(200);
        let end = lease_path(&lease, "?wait=20s");
        let ended = call(&guarded, role, Method::DELETE, &end, Some(&lease), Value::Null)
            .await
            .expect(200)
            .json;
        assert_eq!((&ended["state"], &ended["warnings"]), (&json!("released"), &json!([])));
        // The machine is on and without a lease, so it is not free.
        let seen =
            call(&guarded, "viewer", Method::GET, &machine_path(STAGING, ""), None, Value::Null)
                .await
                .json;
        assert_eq!(
            (&seen["not_free_because"], &seen["lease"]),
            (&json!(["powered_on"]), &Value::Null)
        );
        call(&guarded, "operator", Method::POST, &on, None, json!({"action": "off"}))
            .await
            .expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_revokes_a_lease_and_each_caller_has_its_own_keys() {
    let guarded = guarded().await;
    let ask = |role: &'static str| {
        let request =
            guarded.request(role, Method::POST, "/v1/leases").header("idempotency-key", "k");
        Answer::from_request(request.json(&json!({"select": {"pool": "qubes"}, "ttl": "30m"})))
    };
    let mine = ask("runner").await.expect(201).json;
    let theirs = ask("operator").await.expect(201).json;
    assert_ne!(mine["id"], theirs["id"]);
    assert_ne!(mine["secret"], theirs["secret"]);
    let revoke = lease_path(&mine, "?reason=maintenance&wait=20s");
    let revoked = call(&guarded, "operator", Method::DELETE, &revoke, None, Value::Null)
        .await
        .expect(200)
        .json;
    let end = &revoked["end"];
    assert_eq!(
        (&revoked["state"], &end["by"], &end["detail"]),
        (&json!("revoked"), &json!("operator"), &json!("maintenance"))
    );
    // Ending an ended lease changes nothing.
    let again =
        call(&guarded, "runner", Method::DELETE, &lease_path(&mine, ""), Some(&mine), Value::Null)
            .await
            .expect(200)
            .json;
    assert_eq!(again, revoked);
    let header = |role, reason| {
        let request = guarded.request(role, Method::DELETE, &lease_path(&theirs, "?wait=14s"));
        Answer::from_request(request.header("otter-override", reason))
    };
    header("runner", "mine now").await.problem(403, "forbidden");
    header("admin", " ").await.problem(400, "invalid-request");
    let taken = header("admin", "the lab moves").await.expect(200).json;
    assert_eq!(
        (&taken["state"], &taken["end"]["detail"]),
        (&json!("revoked"), &json!("the lab moves"))
    );
    // A holder may not cancel the release.
    let job = format!("/v1/jobs/{}/cancel", revoked["job"].as_str().unwrap());
    call(&guarded, "runner", Method::POST, &job, Some(&mine), json!({}))
        .await
        .problem(403, "forbidden");
}
