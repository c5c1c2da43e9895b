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

/// Only on otter's simulator: govmomi's names have no characters that need escapes.
#[tokio::test]
async fn a_snapshot_is_found_by_the_name_that_its_maker_gave_it() {
    let lab = Lab::start().await;
    // The maker wrote `11/13/2019`, its client escaped the name, and the host escaped it again.
    lab.control().mutate(|world| {
        let snapshot = &mut world.machine_mut("16").unwrap().snapshots[0];
        "11%2f13%2f2019".clone_into(&mut snapshot.name);
    });
    lab.wait_until("/v1/machines/16/snapshots", |list| list["items"][0]["name"] != "installed")
        .await;
    let at = "/v1/machines/16/snapshots";
    let snapshot = lab.get(&format!("{at}/16-snapshot-1")).await.expect(200);
    assert_eq!(
        (snapshot.str("name"), snapshot.str("path")),
        ("11%2f13%2f2019", "11%252f13%252f2019")
    );
    for given in ["11/13/2019", "11%2f13%2f2019", "11%2F13%2F2019", "11%252f13%252f2019"] {
        let found = lab.get(&format!("{at}/{}", encode(given))).await.expect(200);
        assert_eq!(found.json["id"], snapshot.json["id"], "{given}");
        let body = json!({"snapshot": given});
        let job = lab.post("/v1/machines/16/revert?wait=30s", body).await.expect(200);
        assert_eq!(job.json["result"]["snapshot"], "16-snapshot-1", "{given}");
    }
    let below = lab.get(&format!("{at}/{}", encode("11%2F13%2F2019/updated"))).await.expect(200);
    let shown = lab.get(&format!("{at}/{}", encode(below.str("path")))).await.expect(200);
    assert_eq!(below.json, shown.json);
    assert_eq!(shown.str("name"), "updated");

    let lease = json!({"select": {"machine": "16"}, "ttl": "5m",
        "prepare": {"snapshot": "11/13/2019"}});
    let lease = lab.post("/v1/leases", lease).await.expect(201);
    let path = format!("/v1/leases/{}/wait?wait=30s", lease.str("id"));
    assert_eq!(lab.get(&path).await.expect(200).str("state"), "active");
}

/// Only on otter's simulator: govmomi's names have no characters that need escapes.
#[tokio::test]
async fn a_name_that_is_a_form_of_several_names_is_ambiguous() {
    let lab = Lab::start().await;
    lab.control().mutate(|world| {
        let snapshots = &mut world.machine_mut("16").unwrap().snapshots;
        "a/b".clone_into(&mut snapshots[0].name);
        "a%2fb".clone_into(&mut snapshots[1].name);
    });
    lab.wait_until("/v1/machines/16/snapshots", |list| list["items"][1]["name"] == "a%2fb").await;
    let at = "/v1/machines/16/snapshots";
    for given in ["a/b", "a%2fb"] {
        let problem = lab.get(&format!("{at}/{}", encode(given))).await;
        let problem = problem.problem(409, "ambiguous-name");
        let ids: Vec<&str> = problem.json["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .map(|candidate| candidate["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, ["16-snapshot-1", "16-snapshot-2"], "{given}");
        let body = json!({"snapshot": given});
        lab.post("/v1/machines/16/revert?wait=30s", body).await.problem(409, "ambiguous-name");
    }
    let found = lab.get(&format!("{at}/{}", encode("a%252fb"))).await.expect(200);
    assert_eq!(found.str("id"), "16-snapshot-2");
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
