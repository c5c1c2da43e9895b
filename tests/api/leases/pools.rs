//! Pools, protected machines and quarantines.

use otter::app::Settings;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    STAGING, end_lease, granted_lease, lab, lease_header, lease_path, request_lease, with_lease,
    with_pools,
};
use crate::harness::{Answer, Lab, machine_path};

const NIGHTLY: &str = "qubes-4.3-nightly";

async fn pool(lab: &Lab, name: &str) -> Value {
    let pools = lab.get("/v1/pools").await.expect(200).json;
    let items = pools["items"].as_array().unwrap();
    items.iter().find(|pool| pool["name"] == name).cloned().unwrap_or_default()
}

async fn quarantine(lab: &Lab, name: &str, body: Value) -> Answer {
    Answer::from_request(lab.request(Method::PUT, &machine_path(name, "/quarantine")).json(&body))
        .await
}

async fn clear_quarantine(lab: &Lab, name: &str) -> Value {
    Answer::from_request(lab.request(Method::DELETE, &machine_path(name, "/quarantine")))
        .await
        .expect(200)
        .json
}

#[tokio::test]
async fn an_annotation_puts_a_machine_into_a_pool_and_pools_have_counts() {
    let lab = lab().await;
    for id in ["16", "18", "32"] {
        lab.annotate(id, "A note.\n  otter.pool: nightly \notter.pool:other\nsee otter.pool: none");
        lab.wait_until(&format!("/v1/machines/{id}"), |machine| {
            machine["pools"].as_array().unwrap().len() > 1
        })
        .await;
    }
    assert_eq!(lab.machine("ci-runner-2").await["pools"], json!(["nightly", "other"]));
    let listed = lab.get("/v1/machines?pool=nightly").await.expect(200);
    assert_eq!(listed.items("id"), ["32", "16", "18"]);
    let count = |pool: &Value| {
        ["machine", "free", "held", "quarantined", "waiting"]
            .map(|what| pool[format!("{what}_count")].as_u64().unwrap())
    };
    assert_eq!(count(&pool(&lab, "nightly").await), [3, 3, 0, 0, 0]);
    let lease = granted_lease(
        &lab,
        json!({"select": {"pool": "nightly", "machine": "name:ci-runner-2"}, "ttl": "5m"}),
    )
    .await;
    assert_eq!((&lease["pool"], &lease["machine"]), (&json!("nightly"), &json!("32")));
    quarantine(&lab, STAGING, json!({"reason": "its disk"})).await.expect(200);
    granted_lease(&lab, json!({"select": {"pool": "nightly"}, "ttl": "5m"})).await;
    let waiting = json!({"select": {"pool": "nightly"}, "ttl": "5m", "queue_for": "5m"});
    request_lease(&lab, waiting).await.expect(202);
    assert_eq!(count(&pool(&lab, "nightly").await), [3, 0, 2, 1, 1]);
    lab.annotate("32", "");
    lab.wait_until("/v1/machines/32", |machine| machine["pools"] == json!([])).await;
    assert_eq!(
        lab.get(&lease_path(&lease, "")).await.json["state"],
        "active",
        "a machine that leaves its pool stays leased"
    );
    assert_eq!(count(&pool(&lab, "nightly").await), [2, 0, 1, 1, 1]);
}

#[tokio::test]
async fn the_machine_whose_last_lease_ended_longest_ago_is_granted_first() {
    let lab = lab().await;
    let body = json!({"select": {"name": "qubes-4", "pool": "qubes"}, "ttl": "5m"});
    let mut names = Vec::new();
    for _ in 0..4 {
        let lease = granted_lease(&lab, body.clone()).await;
        names.push(lease["machine_name"].as_str().unwrap().to_owned());
        end_lease(&lab, &lease).await;
    }
    assert_eq!(names, [STAGING, NIGHTLY, STAGING, NIGHTLY]);
}

#[tokio::test]
async fn a_quarantined_machine_is_not_granted_until_the_quarantine_is_lifted() {
    let lab = lab().await;
    for (body, pointer, code) in [
        (json!({"reason": ""}), "/reason", "out-of-range"),
        (json!({"reason": " \t "}), "/reason", "out-of-range"),
        (json!({"reason": "x".repeat(513)}), "/reason", "out-of-range"),
        (json!({}), "/reason", "missing"),
        (json!({"reason": "x", "until": "1h"}), "/until", "unknown-field"),
    ] {
        quarantine(&lab, STAGING, body)
            .await
            .problem(400, "invalid-request")
            .points_at(pointer, code);
    }
    quarantine(&lab, "none", json!({"reason": "x"})).await.problem(404, "not-found");
    let first = quarantine(&lab, STAGING, json!({"reason": "one"})).await.expect(200).json;
    assert_eq!(
        (&first["free"], &first["not_free_because"]),
        (&json!(false), &json!(["quarantined"]))
    );
    let second = quarantine(&lab, STAGING, json!({"reason": "two"})).await.expect(200).json;
    assert_eq!(second["quarantine"]["reason"], "two");
    let waiting = json!({"select": {"name": STAGING}, "ttl": "5m", "queue_for": "5m"});
    let waiting = request_lease(&lab, waiting).await.expect(202).json;
    assert_eq!(clear_quarantine(&lab, STAGING).await["quarantine"], Value::Null);
    assert_eq!(
        clear_quarantine(&lab, STAGING).await["quarantine"],
        Value::Null,
        "a repeat returns the same machine"
    );
    lab.wait_until(&lease_path(&waiting, ""), |lease| lease["state"] == "active").await;
    // A quarantine does not end a lease. The machine is not granted after the lease.
    quarantine(&lab, STAGING, json!({"reason": "three"})).await.expect(200);
    let on = machine_path(STAGING, "/power?wait=20s");
    with_lease(&lab, Method::POST, &on, &lease_header(&waiting), Some(json!({"action": "on"})))
        .await
        .expect(200);
    assert_eq!(
        lab.machine(STAGING).await["not_free_because"],
        json!(["powered_on", "leased", "quarantined"])
    );
    assert_eq!(end_lease(&lab, &waiting).await["warnings"], json!([]));
    let seen = lab.machine(STAGING).await;
    assert_eq!(
        (&seen["power_state"], &seen["not_free_because"]),
        (&json!("off"), &json!(["quarantined"]))
    );
}

#[tokio::test]
async fn protected_machines_and_templates_are_never_granted() {
    let lab = Lab::with_settings(|settings: &mut Settings| {
        with_pools(settings);
        // Patterns match the exact case, and ids match as well.
        settings.protection.protected =
            ["golden-*", "QUBES-4.3*", "16"].map(|pattern| pattern.parse().unwrap()).to_vec();
    })
    .await;
    lab.annotate("42", "otter.pool: gold");
    lab.annotate("43", "otter.pool: gold");
    lab.wait_until("/v1/pools", |pools| pools["items"].to_string().contains("gold")).await;
    lab.wait_until("/v1/machines/43", |machine| machine["pools"] == json!(["gold"])).await;
    for select in [
        json!({"machine": "42"}),
        json!({"machine": "name:golden-debian-12"}),
        json!({"name": "golden-d"}),
        json!({"pool": "gold"}),
        json!({"machine": "16"}),
        json!({"name": STAGING}),
        json!({"machine": "43"}),
    ] {
        let body = json!({"select": select, "ttl": "1m", "queue_for": "10m"});
        request_lease(&lab, body).await.problem(409, "no-free-machine");
    }
    let gold = pool(&lab, "gold").await;
    assert_eq!((&gold["machine_count"], &gold["free_count"]), (&json!(2), &json!(0)));
    granted_lease(&lab, json!({"select": {"name": NIGHTLY}, "ttl": "1m"})).await;
}

#[tokio::test]
async fn after_a_failed_preparation_another_machine_is_granted() {
    let lab = lab().await;
    let fault = otter::simulator::Fault::new("FileLocked", "Locked.");
    lab.control().fail_next_task("PowerOnVM_Task", fault);
    let select = json!({"name": "qubes-4", "pool": "qubes"});
    let prepare = json!({"power": "on"});
    let body = json!({"select": select, "ttl": "5m", "queue_for": "1m", "prepare": prepare});
    let lease = granted_lease(&lab, body).await;
    assert_eq!(lease["machine_name"], STAGING);
    let active = lab.get(&lease_path(&lease, "/wait?wait=20s")).await.expect(200).json;
    assert_eq!((&active["machine_name"], &active["state"]), (&json!(NIGHTLY), &json!("active")));
    let warned = active["warnings"].as_array().unwrap();
    assert!(warned.len() == 1 && warned[0].as_str().unwrap().contains(STAGING), "{active}");
    let seen = lab.machine(STAGING).await;
    assert_eq!(seen["not_free_because"], json!(["quarantined"]));
    let job = lab
        .get(&format!("/v1/jobs/{}", seen["quarantine"]["job"].as_str().unwrap()))
        .await
        .expect(200)
        .json;
    assert_eq!(
        (&job["kind"], &job["state"], &job["requested_by"]),
        (&json!("lease.prepare"), &json!("failed"), &json!("otter"))
    );
    assert_eq!(job["lease"], lease["id"]);
}

#[tokio::test]
async fn only_a_machine_with_the_required_snapshots_is_granted() {
    let lab = lab().await;
    // The first of the two machines has `updated`, the second has `clean/empty`. Both are free.
    let body = |how: &str, snapshot: &str| {
        let mut body =
            json!({"select": {"name": "qubes-4", "pool": "qubes"}, "ttl": "5m", "queue_for": "1m"});
        body[how] = json!({"snapshot": snapshot});
        body
    };
    for (how, snapshot, id) in [
        ("prepare", "updated", "16"),
        ("prepare", "clean/empty", "18"),
        ("release", "clean/empty", "18"),
        ("release", "updated", "16"),
    ] {
        let lease = granted_lease(&lab, body(how, snapshot)).await;
        assert_eq!(lease["machine"], id, "{how} {snapshot}");
        lab.get(&lease_path(&lease, "/wait?wait=20s")).await.expect(200);
        end_lease(&lab, &lease).await;
    }
    for how in ["prepare", "release"] {
        request_lease(&lab, body(how, "no such")).await.problem(404, "not-found");
    }
    for machine in [STAGING, NIGHTLY] {
        assert_eq!(lab.machine(machine).await["free"], true);
    }
}

#[tokio::test]
async fn the_limit_of_a_pool_applies_to_leases_that_select_the_pool() {
    let lab = lab().await;
    for (select, longest) in [(json!({"pool": "qubes"}), "2h"), (json!({"name": STAGING}), "3h")] {
        let lease = granted_lease(&lab, json!({"select": select, "ttl": longest})).await;
        let renew = async |ttl: &str| {
            let body = Some(json!({"ttl": ttl}));
            with_lease(
                &lab,
                Method::POST,
                &lease_path(&lease, "/renew"),
                &lease_header(&lease),
                body,
            )
            .await
        };
        renew(longest).await.expect(200);
        if longest == "2h" {
            renew("3h").await.problem(400, "invalid-request").points_at("/ttl", "out-of-range");
        }
        end_lease(&lab, &lease).await;
    }
}

#[tokio::test]
async fn a_request_that_no_machine_matches_gets_the_field_and_a_hint() {
    let lab = lab().await;
    lab.annotate("32", "otter.pool: nightly");
    lab.wait_until("/v1/machines/32", |machine| machine["pools"] == json!(["nightly"])).await;
    for (select, pointer, hint) in [
        (json!({"machine": STAGING}), "/select/machine", "write \"name:qubes-4.2-sdw-staging\""),
        (json!({"machine": "mac:02:00:00:00:00:99"}), "/select/machine", "No machine goes by"),
        (
            json!({"machine": "name:golden-debian-12"}),
            "/select/machine",
            "golden-debian-12 is protected",
        ),
        (json!({"pool": "nihgtly"}), "/select/pool", "did you mean nightly?"),
        (json!({"pool": "x"}), "/select/pool", "the pools are"),
        (json!({"name": "no-such"}), "/select/name", "no name of a machine contains \"no-such\""),
        (json!({"name": "golden-debian"}), "/select", "golden-debian-12 is protected"),
        (
            json!({"mac": "02:00:00:00:00:99"}),
            "/select/mac",
            "no machine has this hardware address",
        ),
        (json!({"pool": "nightly", "name": "sdw-staging"}), "/select", "none matches all"),
    ] {
        let body = json!({"select": select, "ttl": "1m", "queue_for": "10m"});
        let refused = request_lease(&lab, body)
            .await
            .problem(409, "no-free-machine")
            .points_at(pointer, "matches-none");
        assert!(refused.str("detail").contains(hint), "{hint} in {}", refused.text);
    }
}

#[tokio::test]
async fn an_unknown_pool_in_a_filter_is_rejected_with_the_known_ones() {
    let lab = lab().await;
    lab.annotate("32", "otter.pool: nightly");
    lab.wait_until("/v1/machines/32", |machine| machine["pools"] == json!(["nightly"])).await;
    for path in ["/v1/machines", "/v1/machines/find", "/v1/leases"] {
        let refused =
            lab.get(&format!("{path}?pool=nihgtly")).await.problem(400, "invalid-request");
        let refused = refused.points_at("pool", "not-one-of");
        assert!(refused.str("detail").contains("did you mean nightly?"), "{}", refused.text);
        assert_ne!(lab.get(&format!("{path}?pool=nightly")).await.status, 400, "{path}");
    }
    // While the store has their leases, a pool without machines and a removed machine are known.
    let lease = granted_lease(&lab, json!({"select": {"pool": "nightly"}, "ttl": "5m"})).await;
    end_lease(&lab, &lease).await;
    lab.control().mutate(|world| world.remove_machine("32"));
    lab.wait_until_gone("32").await;
    for filter in ["pool=nightly", "machine=32"] {
        let listed = lab.get(&format!("/v1/leases?{filter}")).await.expect(200);
        assert_eq!(listed.items("id").len(), 1, "{filter}: {}", listed.text);
    }
    assert!(!lab.get("/v1/jobs?machine=32").await.expect(200).items("id").is_empty());
    lab.get("/v1/machines?pool=nightly").await.problem(400, "invalid-request");
}

#[tokio::test]
async fn a_duration_that_is_a_number_gets_a_hint() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "5m"})).await;
    let renew = with_lease(
        &lab,
        Method::POST,
        &lease_path(&lease, "/renew"),
        &lease_header(&lease),
        Some(json!({"ttl": 1800})),
    )
    .await;
    let power =
        lab.post("/v1/machines/18/power", json!({"action": "shutdown", "force_after": 1800}));
    let select = json!({"name": NIGHTLY});
    for (pointer, answer) in [
        ("/ttl", request_lease(&lab, json!({"select": select, "ttl": 1800})).await),
        (
            "/queue_for",
            request_lease(&lab, json!({"select": select, "ttl": "5m", "queue_for": 1800})).await,
        ),
        (
            "/prepare/settle",
            request_lease(
                &lab,
                json!({"select": select, "ttl": "5m", "prepare": {"settle": 1800}}),
            )
            .await,
        ),
        ("/ttl", renew),
        ("/force_after", power.await),
    ] {
        let refused = answer.problem(400, "invalid-request").points_at(pointer, "wrong-type");
        assert!(refused.str("detail").contains("write \"30m\" or \"1800\""), "{}", refused.text);
    }
    let wrong = request_lease(&lab, json!({"select": select, "ttl": "5min"}))
        .await
        .problem(400, "invalid-request");
    assert!(wrong.str("detail").contains("write 5m"), "{}", wrong.text);
}
