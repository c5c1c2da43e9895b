//! `GET /v1/machines/find`

use serde_json::json;

use crate::harness::{Lab, on_every_host};

on_every_host! {
    async fn the_first_match_by_name_is_found_and_matches_are_counted(lab: &Lab) {
        let list = lab.get(&format!("/v1/machines?name={}", lab.machines.name_part)).await.expect(200);
        let found = lab.get(&format!("/v1/machines/find?name={}", lab.machines.name_part)).await.expect(200);
        assert_eq!(found.str("id"), list.items("id")[0]);
        assert_eq!(found.header("otter-matches").unwrap(), list.items("id").len().to_string());
    }

    async fn with_unique_several_matches_are_a_conflict(lab: &Lab) {
        let list = lab.get(&format!("/v1/machines?name={}", lab.machines.name_part)).await.expect(200);
        let path = format!("/v1/machines/find?name={}&unique=true", lab.machines.name_part);
        let problem = lab.get(&path).await.problem(409, "ambiguous-name");
        assert_eq!(problem.json["candidates"].as_array().unwrap().len(), list.items("id").len());
        let path = format!("/v1/machines/find?name={}&unique=true", lab.machines.running);
        assert_eq!(lab.get(&path).await.expect(200).str("name"), lab.machines.running);
    }

    async fn a_mac_finds_its_machine(lab: &Lab) {
        let found = lab.get(&format!("/v1/machines/find?mac={}", lab.machines.running_mac)).await.expect(200);
        assert_eq!(found.str("name"), lab.machines.running);
        assert_eq!(found.header("otter-matches"), Some("1"));
    }

    async fn no_match_is_not_found(lab: &Lab) {
        lab.get("/v1/machines/find?name=no-such-machine").await.problem(404, "not-found");
        lab.get("/v1/machines/find?mac=02:00:00:00:00:99").await.problem(404, "not-found");
        lab.get("/v1/machines/find?pool=none-such").await.problem(400, "invalid-request").points_at("pool", "not-one-of");
    }

    async fn without_a_filter_the_first_machine_is_found(lab: &Lab) {
        let list = lab.get("/v1/machines").await.expect(200);
        let found = lab.get("/v1/machines/find").await.expect(200);
        assert_eq!(found.str("id"), list.items("id")[0]);
        assert_eq!(found.header("otter-matches").unwrap(), lab.machines.count.to_string());
    }
}

/// Only on otter's simulator: govmomi cannot give two machines the same address.
#[tokio::test]
async fn a_mac_of_two_machines_is_a_conflict_by_default() {
    let lab = Lab::start().await;
    let mac = "00:0c:29:4a:10:21";
    lab.control().mutate(|world| {
        world.machine_mut("22").unwrap().network_cards[0].mac_address = mac.to_owned();
    });
    lab.wait_until("/v1/machines/22", |machine| machine["network_cards"][0]["mac_address"] == mac)
        .await;
    let problem =
        lab.get(&format!("/v1/machines/find?mac={mac}")).await.problem(409, "ambiguous-name");
    assert_eq!(problem.json["candidates"].as_array().unwrap().len(), 2);
    let found = lab.get(&format!("/v1/machines/find?mac={mac}&unique=false")).await.expect(200);
    assert_eq!((found.str("id"), found.header("otter-matches")), ("21", Some("2")));
    lab.get(&format!("/v1/machines/mac:{mac}")).await.problem(409, "ambiguous-name");
}

#[tokio::test]
async fn a_mac_is_accepted_in_every_notation() {
    let lab = Lab::start().await;
    for spelling in [
        "00:0c:29:4a:10:16",
        "00-0C-29-4A-10-16",
        "0:c:29:4a:10:16",
        "00.0c.29.4a.10.16",
        "000c294a1016",
        "c294A1016",
        "000c.294a.1016",
    ] {
        let found = lab.get(&format!("/v1/machines/find?mac={spelling}")).await.expect(200);
        assert_eq!(found.str("id"), "16", "{spelling}");
        let machine = lab.get(&format!("/v1/machines/mac:{spelling}")).await.expect(200);
        assert_eq!(machine.str("id"), "16", "{spelling}");
    }
}

#[tokio::test]
async fn a_malformed_mac_is_refused() {
    let lab = Lab::start().await;
    for broken in [
        "x",
        "00:0c:29:4a:10",
        "00:0c:29:4a:10:16:17",
        "00:0c:29:4a:10:1g",
        "000:0c:29:4a:10:16",
        "00:0c-29:4a:10:16",
        "0000c294a10166",
        "%C3%BC:0c:29:4a:10:16",
        "::::::",
    ] {
        let problem = lab.get(&format!("/v1/machines/find?mac={broken}")).await;
        problem.problem(400, "invalid-request").points_at("mac", "invalid-mac");
        let problem = lab.get(&format!("/v1/machines/mac:{broken}")).await;
        problem.problem(400, "invalid-request").points_at("machine", "invalid-mac");
    }
    lab.get("/v1/machines/find?mac=")
        .await
        .problem(400, "invalid-request")
        .points_at("mac", "empty");
}

#[tokio::test]
async fn find_and_list_return_the_same_free_machines() {
    let lab = Lab::start().await;
    let list = lab.get("/v1/machines?free=true&name=qubes").await.expect(200);
    let found = lab.get("/v1/machines/find?free=true&name=QUBES").await.expect(200);
    assert_eq!(found.json, list.json["items"][0]);
    assert_eq!(found.json["not_free_because"], json!([]));
}
