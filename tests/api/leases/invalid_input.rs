//! Invalid requests for leases, and the lists of leases.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    STAGING, end_lease, granted_lease, lab, lease_header, lease_path, request_lease, with_lease,
};
use crate::harness::{Answer, Lab};

#[tokio::test]
async fn leases_are_filtered_and_paged() {
    let lab = lab().await;
    let mut ids = Vec::new();
    for (number, machine) in ["16", "18", "32"].into_iter().enumerate() {
        let body =
            json!({"select": {"machine": machine}, "ttl": "5m", "holder": format!("ci {number}")});
        let lease = granted_lease(&lab, body).await;
        ids.push(lease["id"].as_str().unwrap().to_owned());
        if number == 0 {
            end_lease(&lab, &lease).await;
        }
    }
    ids.reverse();
    let list = async |query: &str| lab.get(&format!("/v1/leases{query}")).await.expect(200);
    assert_eq!(list("").await.items("id"), ids);
    assert_eq!(list("?state=released").await.items("id"), ids[2..]);
    assert_eq!(list("?state=active,released").await.items("id"), ids);
    assert_eq!(list("?holder=ci%201").await.items("id"), ids[1..2]);
    assert_eq!(list("?holder=CI%201").await.items("id").len(), 0, "a holder matches exactly");
    assert_eq!(
        list("?pool=qubes&state=active").await.items("id"),
        ids[1..2],
        "the pool of a lease is known for every selection"
    );
    let machine = list("").await.json["items"][0]["machine"].as_str().unwrap().to_owned();
    let of_machine = list(&format!("?machine={machine}")).await;
    assert_eq!(of_machine.items("id")[0], ids[0]);
    let name = list("").await.json["items"][0]["machine_name"].as_str().unwrap().to_owned();
    assert_eq!(
        list(&format!("?machine=name:{name}")).await.json["items"],
        of_machine.json["items"]
    );
    let first = list("?limit=2").await.json;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let second = list(&format!("?limit=2&cursor={next}")).await;
    assert_eq!(
        (second.items("id"), &second.json["next"]),
        (ids[2..].iter().map(String::as_str).collect(), &Value::Null)
    );
    for (query, code) in [
        ("state=open", "invalid-request"),
        ("state=", "invalid-request"),
        ("state=active,", "invalid-request"),
        ("holder=", "invalid-request"),
        ("pool=", "invalid-request"),
        ("machine=", "invalid-request"),
        ("reference=", "invalid-request"),
        ("limit=0", "invalid-request"),
        ("limit=1001", "invalid-request"),
        ("limit=ten", "invalid-request"),
        ("cursor=", "invalid-cursor"),
        ("cursor=x", "invalid-cursor"),
        ("holder=a&holder=b", "unknown-parameter"),
        ("sate=active", "unknown-parameter"),
    ] {
        let answer = lab.get(&format!("/v1/leases?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text);
        let actual = answer.str("code");
        assert!(actual == code || actual == "invalid-request", "{query}: {}", answer.text);
    }
    lab.get("/v1/leases?machine=name:missing").await.problem(404, "not-found");
    lab.get("/v1/leases?machine=name:qubes-scratch").await.problem(409, "ambiguous-name");
    lab.get("/v1/leases?machine=999").await.problem(404, "not-found");
}

#[tokio::test]
async fn an_invalid_body_is_rejected_with_the_field() {
    let lab = lab().await;
    let good = json!({"name": STAGING});
    let with = |field: &str, value: Value| {
        let mut body = json!({"select": good, "ttl": "1m"});
        body[field] = value;
        body
    };
    for (body, pointer, code) in [
        (with("holder", json!("")), "/holder", "empty"),
        (with("holder", json!("x".repeat(256))), "/holder", "out-of-range"),
        (with("queue_for", json!("0s")), "/queue_for", "out-of-range"),
        (with("queue_for", json!("-1s")), "/queue_for", "not-a-duration"),
        (with("prepare", json!({"settle": "0s"})), "/prepare/settle", "out-of-range"),
        (with("prepare", json!({"settle": "soon"})), "/prepare/settle", "not-a-duration"),
        (with("prepare", json!({"snapshot": ""})), "/prepare/snapshot", "empty"),
        (
            with("prepare", json!({"power": "off", "until": "ip"})),
            "/prepare/until",
            "not-applicable",
        ),
        (
            with("prepare", json!({"power": "on", "until": "ip", "cidr": "10.0.0.0/33"})),
            "/prepare/cidr",
            "not-a-network",
        ),
        (with("prepare", json!({"until": "ip", "cidr": ""})), "/prepare/cidr", "not-a-network"),
        (
            with("prepare", json!({"until": "tools", "cidr": "10.0.0.0/8"})),
            "/prepare/cidr",
            "not-applicable",
        ),
        (with("prepare", json!({"cidr": "10.0.0.0/8"})), "/prepare/cidr", "not-applicable"),
        (with("prepare", json!({"until": "ip", "cdir": "x"})), "/prepare/cdir", "unknown-field"),
        (with("prepare", json!({"until": "ip"})), "/prepare/until", "not-applicable"),
        (with("prepare", json!({"until": "screen: "})), "/prepare/until", "invalid-text"),
        (with("prepare", json!({"until": "screen:a\nb"})), "/prepare/until", "invalid-text"),
        (with("prepare", json!({"snap": "x"})), "/prepare/snap", "unknown-field"),
        (with("release", json!({"snapshot": ""})), "/release/snapshot", "empty"),
        (with("release", json!({"pwoer": "off"})), "/release/pwoer", "unknown-field"),
        (with("select", json!({"machine": ""})), "/select/machine", "empty"),
        (with("select", json!({"pool": ""})), "/select/pool", "empty"),
        (with("select", json!({"mac": ""})), "/select/mac", "invalid-mac"),
        (with("select", json!({"name": STAGING, "uuid": "x"})), "/select/uuid", "unknown-field"),
        (with("ttl", json!("25h")), "/ttl", "out-of-range"),
        (with("select", json!({"name": STAGING, "pool": null})), "/select/pool", "wrong-type"),
    ] {
        request_lease(&lab, body).await.problem(400, "invalid-request").points_at(pointer, code);
    }
    for body in [
        with("select", Value::Null),
        with("ttl", json!(60)),
        with("select", json!("x")),
        json!([]),
        json!(null),
    ] {
        request_lease(&lab, body).await.problem(400, "invalid-request");
    }
    let text =
        lab.request(Method::POST, "/v1/leases").header("content-type", "text/plain").body("{}");
    Answer::from_request(text).await.problem(415, "unsupported-media-type");
    let long = "x".repeat(513);
    lab.post_with("/v1/leases", with("ttl", json!("1m")), &[("otter-reference", &long)])
        .await
        .problem(400, "invalid-request");
    // None of these requests made a lease. Each of the following selections matches the machine.
    assert_eq!(lab.get("/v1/leases").await.expect(200).json["items"], json!([]));
    let seen = lab.machine(STAGING).await;
    let mac = seen["network_cards"][0]["mac_address"].as_str().unwrap();
    let uuid = seen["uuid"].as_str().unwrap();
    for select in [
        json!({"machine": "16"}),
        json!({"machine": format!("uuid:{}", uuid.to_uppercase())}),
        json!({"machine": format!("mac:{}", mac.replace(':', "-"))}),
        json!({"machine": format!("name:{STAGING}")}),
        json!({"mac": mac.to_uppercase()}),
        json!({"name": STAGING.to_uppercase(), "machine": "16", "pool": "qubes", "mac": mac}),
    ] {
        let lease = granted_lease(&lab, json!({"select": select, "ttl": "1m"})).await;
        assert_eq!(lease["machine"], "16", "{select}");
        end_lease(&lab, &lease).await;
    }
    for select in [
        json!({"name": STAGING, "machine": "18"}),
        json!({"machine": format!("name:{}", STAGING.to_uppercase())}),
        json!({"machine": "uuid:nonsense"}),
        json!({"mac": "00:00:00:00:00:01"}),
    ] {
        let body = json!({"select": select, "ttl": "1m", "queue_for": "5m"});
        request_lease(&lab, body).await.problem(409, "no-free-machine");
    }
    for (broken, code) in [("name:", "empty"), ("uuid:", "empty"), ("mac:zz", "invalid-mac")] {
        let body = json!({"select": {"machine": broken}, "ttl": "1m", "queue_for": "5m"});
        request_lease(&lab, body)
            .await
            .problem(400, "invalid-request")
            .points_at("/select/machine", code);
    }
    let several =
        json!({"select": {"machine": "name:qubes-scratch"}, "ttl": "1m", "queue_for": "5m"});
    let refused = request_lease(&lab, several).await.problem(409, "ambiguous-name");
    assert_eq!(refused.json["candidates"].as_array().map(Vec::len), Some(2), "{}", refused.text);
}

/// A machine whose files were copied has both UUIDs of the original until the host asks about it.
#[tokio::test]
async fn a_uuid_of_two_copies_is_ambiguous_wherever_it_refers_to_a_machine() {
    let lab = lab().await;
    let uuids = lab.control().look(|world| {
        let original = world.machine("21").unwrap();
        [original.instance_uuid.clone(), original.bios_uuid.clone()]
    });
    lab.control().mutate(|world| {
        let [instance, bios] = uuids.clone();
        let copy = world.machine_mut("16").unwrap();
        (copy.instance_uuid, copy.bios_uuid) = (instance, bios);
    });
    lab.wait_for_field("16", "uuid", json!(uuids[0])).await;
    let candidates = json!([{"id": "16", "name": STAGING}, {"id": "21", "name": "qubes-scratch"}]);
    for uuid in &uuids {
        let reference = format!("uuid:{}", uuid.to_uppercase());
        let body = json!({"select": {"machine": reference}, "ttl": "1m", "queue_for": "5m"});
        let machine = format!("/v1/machines/{reference}");
        for answer in [
            request_lease(&lab, body).await,
            lab.get(&machine).await,
            lab.post(&format!("{machine}/power"), json!({"action": "on"})).await,
            lab.post(&format!("{machine}/revert"), json!({})).await,
            lab.get(&format!("{machine}/snapshots")).await,
            lab.get(&format!("{machine}/wait?until=no_job&wait=0s")).await,
            lab.get(&format!("/v1/jobs?machine={reference}")).await,
            lab.get(&format!("/v1/leases?machine={reference}")).await,
            lab.get(&format!("/v1/audit?machine={reference}")).await,
            lab.get(&format!("/v1/events?machine={reference}&wait=0s")).await,
        ] {
            assert_eq!(answer.problem(409, "ambiguous-name").json["candidates"], candidates);
        }
    }
    assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
}

/// Pools, exclusions, memory and nested virtualization in a selection.
#[tokio::test]
async fn an_invalid_selection_is_rejected_with_the_field() {
    let lab = lab().await;
    let with = |field: &str, value: Value| {
        let mut body = json!({"select": {"name": STAGING}, "ttl": "1m"});
        body[field] = value;
        body
    };
    for (body, pointer, code) in [
        (with("select", json!({"pools": []})), "/select/pools", "empty"),
        (with("select", json!({"pools": ["qubes", ""]})), "/select/pools/1", "empty"),
        (with("select", json!({"pools": "qubes"})), "/select/pools", "wrong-type"),
        (with("select", json!([STAGING])), "/select", "wrong-type"),
        (with("select", json!({"pools": vec!["a"; 101]})), "/select/pools", "out-of-range"),
        (
            with("select", json!({"pool": "qubes", "pools": ["ready"]})),
            "/select/pools",
            "not-with-this",
        ),
        (with("select", json!({"exclude": ["17"]})), "/select", "empty"),
        (
            with("select", json!({"name": STAGING, "exclude": ["17", "mac:zz"]})),
            "/select/exclude/1",
            "invalid-mac",
        ),
        (with("select", json!({"name": STAGING, "exclude": [""]})), "/select/exclude/0", "empty"),
        (
            with("select", json!({"name": STAGING, "exclude": ["uuid:zz"]})),
            "/select/exclude/0",
            "invalid-uuid",
        ),
        (
            with("select", json!({"memory_bytes_at_least": 0})),
            "/select/memory_bytes_at_least",
            "out-of-range",
        ),
        (
            with("select", json!({"memory_bytes_at_least": -1})),
            "/select/memory_bytes_at_least",
            "wrong-type",
        ),
        (
            with("select", json!({"nested_virtualization": "yes"})),
            "/select/nested_virtualization",
            "wrong-type",
        ),
        (with("select", json!({"poolz": ["a"]})), "/select/poolz", "unknown-field"),
        (with("keep_on_failure", json!("0s")), "/keep_on_failure", "out-of-range"),
        (with("keep_on_failure", json!("soon")), "/keep_on_failure", "not-a-duration"),
        (with("keep_on_failures", json!("1h")), "/keep_on_failures", "unknown-field"),
        // The pools have different preparations.
        (with("select", json!({"pools": ["qubes", "ready"]})), "/prepare", "missing"),
    ] {
        request_lease(&lab, body).await.problem(400, "invalid-request").points_at(pointer, code);
    }
    assert_eq!(lab.get("/v1/leases").await.expect(200).json["items"], json!([]));
}

#[tokio::test]
async fn a_machine_must_have_what_a_selection_names() {
    let lab = lab().await;
    for select in [
        json!({"pools": ["other", "qubes"], "memory_bytes_at_least": 32_u64 << 30}),
        json!({
            "nested_virtualization": true, "memory_bytes_at_least": 32_u64 << 30,
            "exclude": ["name:golden/qubes-4.2"],
        }),
        json!({
            "pool": "qubes", "memory_bytes_at_least": 24_u64 << 30,
            "exclude": ["name:qubes-4.3-nightly", "999", "name:no such machine"],
        }),
    ] {
        let lease = granted_lease(&lab, json!({"select": select, "ttl": "1m"})).await;
        assert_eq!(lease["machine"], "16", "{select}");
        end_lease(&lab, &lease).await;
    }
    for (select, pointer, words) in [
        (json!({"pools": ["qubez", "other"]}), "/select/pools", "did you mean qubes?"),
        (json!({"machine": "16", "exclude": ["16"]}), "/select/exclude", "exclude names every"),
        (
            json!({"memory_bytes_at_least": 1_u64 << 50}),
            "/select/memory_bytes_at_least",
            "the largest machine has 34359738368 bytes",
        ),
        (
            json!({"name": "ci-runner", "nested_virtualization": true}),
            "/select",
            "none matches all",
        ),
    ] {
        let body = json!({"select": select, "ttl": "1m", "queue_for": "5m"});
        let refused = request_lease(&lab, body).await.problem(409, "no-free-machine");
        assert!(refused.str("detail").contains(words), "{}", refused.text);
        refused.points_at(pointer, "matches-none");
    }
    let body = json!({"select": {"machine": "16", "pools": ["qubez", "qubes"]}, "ttl": "1m"});
    let lease = granted_lease(&lab, body).await;
    let warning = lease["warnings"][0].as_str().unwrap();
    assert!(warning.contains("qubez") && warning.contains("did you mean qubes?"), "{warning}");
    assert_eq!(lease["pool"], "qubes");
    end_lease(&lab, &lease).await;
}

#[tokio::test]
async fn a_queued_lease_waits_while_its_machine_name_is_ambiguous() {
    let lab = lab().await;
    let name_of = |id: &str| lab.control().look(|world| world.machine(id).unwrap().name.clone());
    let rename = |id: &str, name: &str| {
        lab.control().mutate(|world| name.clone_into(&mut world.machine_mut(id).unwrap().name));
    };
    let first = granted_lease(&lab, json!({"select": {"machine": "16"}, "ttl": "5m"})).await;
    let body =
        json!({"select": {"machine": format!("name:{STAGING}")}, "ttl": "5m", "queue_for": "10m"});
    let waits = request_lease(&lab, body).await.expect(202).json;
    let before = name_of("18");
    rename("18", STAGING);
    lab.wait_for_field("18", "name", json!(STAGING)).await;
    end_lease(&lab, &first).await;
    lab.wait_for_field("16", "free", json!(true)).await;
    assert_eq!(
        lab.get(&lease_path(&waits, "")).await.json["state"],
        "queued",
        "two machines have this name"
    );
    rename("18", &before);
    lab.wait_until(&lease_path(&waits, ""), |lease| lease["state"] == "active").await;
    assert_eq!(lab.get(&lease_path(&waits, "")).await.json["machine"], "16");
}

#[tokio::test]
async fn invalid_queries_of_ends_and_waits_are_rejected() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "5m"})).await;
    let end = async |query: &str, header: &str| {
        with_lease(&lab, Method::DELETE, &lease_path(&lease, query), header, None).await
    };
    for query in [
        "?wait=soon",
        "?wait=-1s",
        "?wait=",
        "?reason=",
        "?resaon=x",
        "?wait=1s&wait=2s",
        "?outcome=",
        "?outcome=unknown",
        "?outcome=Failed",
        "?outcome=failed&outcome=failed",
    ] {
        assert_eq!(end(query, &lease_header(&lease)).await.status, 400, "{query}");
    }
    let long = format!("?reason={}", "x".repeat(513));
    end(&long, &lease_header(&lease)).await.problem(400, "invalid-request");
    let id = lease["id"].as_str().unwrap();
    end("", &format!("{id}.{}", "0".repeat(64))).await.problem(423, "machine-leased");
    end("", id).await.problem(400, "invalid-request");
    let other = granted_lease(&lab, json!({"select": {"pool": "qubes"}, "ttl": "5m"})).await;
    end("", &lease_header(&other)).await.problem(423, "machine-leased");
    for query in ["?wait=x", "?wait=-5s"] {
        lab.get(&lease_path(&lease, &format!("/wait{query}")))
            .await
            .problem(400, "invalid-request");
    }
    lab.get("/v1/leases/01936f5e-8c00-7000-8000-000000000002/wait").await.problem(404, "not-found");
    assert_eq!(
        lab.get(&lease_path(&lease, "")).await.json["state"],
        "active",
        "an invalid request ended the lease"
    );
    let waited = end("?wait=20s&reason=done", &lease_header(&lease)).await.expect(200);
    assert!(waited.header("otter-wait").is_some());
    assert_eq!((waited.str("state"), &waited.json["end"]["detail"]), ("released", &json!("done")));
    let again = end("?wait=20s", &lease_header(&lease)).await.expect(200);
    assert_eq!(again.json, waited.json, "a repeat returns the same lease");
}

#[tokio::test]
async fn a_wait_for_a_release_times_out_and_the_release_continues() {
    let lab = Lab::stepped().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "5m"})).await;
    lab.control().mutate(|world| {
        world.machine_mut("16").unwrap().power = otter::simulator::world::PowerState::On;
    });
    lab.wait_for_field("16", "power_state", json!("on")).await;
    let waited = with_lease(
        &lab,
        Method::DELETE,
        &lease_path(&lease, "?wait=0s"),
        &lease_header(&lease),
        None,
    )
    .await;
    let problem = waited.problem(504, "wait-timeout");
    assert_eq!(problem.json["lease"], lease["id"]);
    let task = lab.wait_for_machine_task("16").await;
    assert_eq!(
        lab.machine(STAGING).await["not_free_because"],
        json!(["powered_on", "leased", "job"])
    );
    lab.get(&format!("/v1/machines/find?free=true&name={STAGING}")).await.problem(404, "not-found");
    let free = format!("/v1/machines/name:{STAGING}/wait?until=free&wait=14s");
    let waiting = tokio::spawn(Answer::from_request(lab.request(Method::GET, &free)));
    lab.control().finish_task(&task);
    assert_eq!(
        waiting.await.unwrap().expect(200).json["lease"],
        Value::Null,
        "the machine is free before its lease has ended"
    );
    lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "released").await;
    assert_eq!(lab.machine(STAGING).await["free"], true);
}
