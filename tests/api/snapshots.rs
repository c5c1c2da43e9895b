//! Lists and reads of snapshots.

use serde_json::json;

use crate::harness::{Lab, encode, machine_path, on_every_host};

on_every_host! {
    async fn the_whole_tree_is_listed_parents_first(lab: &Lab) {
        let owner = lab.machine(lab.machines.with_snapshots).await;
        let list = lab.get(&machine_path(lab.machines.with_snapshots, "/snapshots")).await.expect(200);
        let ids = list.items("id");
        assert_eq!(ids.len(), usize::try_from(owner["snapshot_count"].as_u64().unwrap()).unwrap());
        for (place, snapshot) in list.json["items"].as_array().unwrap().iter().enumerate() {
            assert_eq!(snapshot["machine"], owner["id"]);
            if let Some(parent) = snapshot["parent"].as_str() {
                assert!(ids[..place].contains(&parent), "{snapshot}");
            }
            for child in snapshot["children"].as_array().unwrap() {
                assert!(ids[place..].contains(&child.as_str().unwrap()), "{snapshot}");
            }
            assert_eq!(snapshot["current"], snapshot["id"] == owner["current_snapshot"]);
        }
        assert!(list.json["next"].is_null());
    }

    async fn a_snapshot_is_read_by_id_path_and_unique_name(lab: &Lab) {
        let path = machine_path(lab.machines.with_snapshots, &format!("/snapshots/{}", encode(lab.machines.snapshot_path)));
        let expected = lab.get(&path).await.expect(200);
        assert_eq!((expected.str("path"), &expected.json["current"]), (lab.machines.snapshot_path, &json!(true)));
        let by_id = machine_path(lab.machines.with_snapshots, &format!("/snapshots/{}", encode(expected.str("id"))));
        assert_eq!(lab.get(&by_id).await.expect(200).json, expected.json);
        let by_name = lab.get(&machine_path(lab.machines.with_snapshots, "/snapshots/updated")).await.expect(200);
        assert_eq!(by_name.json["id"], expected.json["parent"]);
    }

    async fn a_machine_without_snapshots_has_an_empty_list(lab: &Lab) {
        let list = lab.get(&machine_path(lab.machines.running, "/snapshots")).await.expect(200);
        assert!(list.items("id").is_empty());
        let owner = lab.machine(lab.machines.running).await;
        assert_eq!((&owner["snapshot_count"], &owner["current_snapshot"]), (&json!(0), &json!(null)));
    }

    async fn an_unknown_snapshot_is_not_found(lab: &Lab) {
        let problem = lab.get(&machine_path(lab.machines.with_snapshots, "/snapshots/none-such")).await;
        let problem = problem.problem(404, "not-found");
        assert_eq!(problem.str("machine_name"), lab.machines.with_snapshots);
        lab.get(&machine_path("none-such", "/snapshots")).await.problem(404, "not-found");
    }
}

/// Only on otter's simulator: govmomi's snapshots have unique names.
#[tokio::test]
async fn an_ambiguous_name_is_refused_with_the_paths() {
    let lab = Lab::start().await;
    let problem =
        lab.get("/v1/machines/16/snapshots/kickstart").await.problem(409, "ambiguous-name");
    let candidates = problem.json["candidates"].as_array().unwrap();
    let names: Vec<&str> =
        candidates.iter().map(|candidate| candidate["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["installed/updated/kickstart", "installed/updated-rc/kickstart"]);
    for candidate in candidates {
        let path = encode(candidate["name"].as_str().unwrap());
        let found = lab.get(&format!("/v1/machines/16/snapshots/{path}")).await.expect(200);
        assert_eq!(found.json["id"], candidate["id"]);
    }
}

/// Only on otter's simulator: govmomi's names have no characters that need escapes.
#[tokio::test]
async fn a_slash_and_a_percent_of_a_name_are_escaped_in_paths() {
    let lab = Lab::start().await;
    let slashed = lab.get("/v1/machines/18/snapshots/clean%2Fempty").await.expect(200);
    assert_eq!((slashed.str("name"), slashed.str("path")), ("clean/empty", "clean%2Fempty"));
    // The escape of the path, percent-encoded again.
    let below = lab.get("/v1/machines/18/snapshots/clean%252Fempty%2Fkickstart").await.expect(200);
    assert_eq!(below.str("path"), "clean%2Fempty/kickstart");
    let lower = lab.get("/v1/machines/18/snapshots/clean%252fempty%2fkickstart").await.expect(200);
    assert_eq!(lower.json, below.json);
    lab.get("/v1/machines/18/snapshots/clean%2Fempty%2Fkickstart").await.problem(404, "not-found");
    lab.control().mutate(|world| {
        let snapshots = &mut world.machine_mut("18").unwrap().snapshots;
        snapshots[0].name = "100%/2F".to_owned();
    });
    lab.wait_until("/v1/machines/18/snapshots", |list| list["items"][0]["name"] == "100%/2F").await;
    let renamed = lab.get("/v1/machines/18/snapshots").await.expect(200);
    assert_eq!(renamed.items("path")[1], "100%25%2F2F/kickstart");
    let found =
        lab.get(&format!("/v1/machines/18/snapshots/{}", encode("100%25%2F2F/kickstart"))).await;
    assert_eq!(found.expect(200).json["id"], renamed.json["items"][1]["id"]);
}

/// Only on otter's simulator: govmomi's snapshots have no branches.
#[tokio::test]
async fn a_path_distinguishes_equal_names_in_a_branch() {
    let lab = Lab::start().await;
    lab.get("/v1/machines/18/snapshots/kickstart").await.problem(409, "ambiguous-name");
    let deeper = lab
        .get(&format!("/v1/machines/18/snapshots/{}", encode("clean%2Fempty/kickstart/kickstart")))
        .await;
    assert_eq!(deeper.expect(200).json["current"], true);
}

/// Only on otter's simulator: govmomi's snapshots all have the same properties.
#[tokio::test]
async fn a_snapshot_has_all_fields() {
    let lab = Lab::start().await;
    let snapshot = lab.get("/v1/machines/17/snapshots/logged%20in").await.expect(200);
    assert_eq!(snapshot.str("power_state"), "on");
    assert_eq!(snapshot.str("created_at"), "2026-03-01T10:20:00Z");
    assert_eq!(snapshot.json["quiesced"], false);
    assert_eq!(snapshot.json["children"], json!([]));
    assert_eq!(snapshot.json["current"], false);
    let described = lab
        .get(&format!("/v1/machines/16/snapshots/{}", encode("installed/updated/kickstart")))
        .await;
    assert_eq!(described.expect(200).str("description"), "Reverted to before each run");
}
