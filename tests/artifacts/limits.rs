//! Which artifacts go: the oldest ones of ended leases if there are too many bytes, old ones, and
//! those without a file. The files of no artifact go too.

use std::path::Path;
use std::time::Duration;

use otter::app::Settings;
use serde_json::json;

use super::Held;
use crate::harness::{Lab, LabOptions, eventually};

async fn lab_in(state: &Path, settings: fn(&mut Settings)) -> Lab {
    let options = LabOptions { settings, ..LabOptions::default() };
    let lab = Lab::with_state_dir_and_options(state, options).await;
    lab.wait_until_ready().await;
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_of_ended_leases_make_room() {
    // Room for three files, each of which takes 4 KiB of the disk.
    let lab = Lab::with_settings(|settings| settings.artifacts.max_total = 3 * 4096).await;
    let ended = Held::take(&lab, json!({})).await;
    for name in ["a", "b"] {
        ended.put(&lab, name, name).await.expect(201);
    }
    ended.end(&lab).await;
    let open = Held::take(&lab, json!({})).await;
    open.put(&lab, "c", "c").await.expect(201);
    assert_eq!(ended.names(&lab).await, ["a", "b"]);
    open.put(&lab, "d", "d").await.expect(201);
    assert_eq!(ended.names(&lab).await, ["b"], "the oldest is deleted");
    // More than all others together: nothing is deleted in vain.
    open.put(&lab, "e", "e".repeat(9_000)).await.problem(507, "insufficient-resources");
    assert_eq!(ended.names(&lab).await, ["b"]);
    open.put(&lab, "f", "f").await.expect(201);
    assert_eq!(ended.names(&lab).await, [""; 0]);
    // The artifacts of an open lease stay.
    open.put(&lab, "g", "g").await.problem(507, "insufficient-resources");
    assert_eq!(open.names(&lab).await, ["c", "d", "f"]);
    // A repeat needs no room.
    open.put(&lab, "f", "f").await.expect(200);
    let audit = lab.get("/v1/audit?action=artifact.deleted").await.expect(200);
    assert_eq!(audit.items("detail"), ["b, 1 bytes (total)", "a, 1 bytes (total)"]);
    open.end(&lab).await;
    let next = Held::take(&lab, json!({})).await;
    next.put(&lab, "h", "h").await.expect(201);
    assert_eq!(open.names(&lab).await, ["d", "f"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_a_largest_size() {
    let lab = Lab::with_settings(|settings| settings.artifacts.max_bytes = 4).await;
    let lease = Held::take(&lab, json!({})).await;
    lease.put(&lab, "four", "1234").await.expect(201);
    let refused = lease.put(&lab, "five", "12345").await.problem(413, "payload-too-large");
    assert!(refused.str("detail").contains("artifacts.max_bytes"), "{}", refused.text);
    assert_eq!(lease.names(&lab).await, ["four"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_artifacts_of_ended_leases_are_deleted() {
    let state = tempfile::tempdir().unwrap();
    let lab = lab_in(state.path(), |_| {}).await;
    let ended = Held::take(&lab, json!({})).await;
    ended.put(&lab, "old", "old").await.expect(201);
    ended.end(&lab).await;
    let open = Held::take(&lab, json!({})).await;
    open.put(&lab, "kept", "kept").await.expect(201);
    lab.stop().await;
    let lab = lab_in(state.path(), |settings| settings.artifacts.retention = Duration::ZERO).await;
    eventually("the old artifact to be deleted", async || ended.names(&lab).await.is_empty()).await;
    assert_eq!(open.bytes(&lab, "kept").await, b"kept");
    assert_eq!(files_in(state.path()).len(), 1);
}

fn files_in(state: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(state.join("artifacts")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_both_kinds_are_found_at_the_start() {
    let state = tempfile::tempdir().unwrap();
    let lab = lab_in(state.path(), |_| {}).await;
    let lease = Held::take(&lab, json!({})).await;
    let mut ids = Vec::new();
    for name in ["whole", "missing", "cut"] {
        let stored = lease.put(&lab, name, name).await.expect(201);
        ids.push(stored.str("id").to_owned());
    }
    lab.stop().await;
    let folder = state.path().join("artifacts");
    std::fs::remove_file(folder.join(&ids[1])).unwrap();
    std::fs::write(folder.join(&ids[2]), "c").unwrap();
    std::fs::write(folder.join("01936f5e-8c00-7000-8000-000000000002"), "no row").unwrap();
    std::fs::write(folder.join("01936f5e-8c00-7000-8000-000000000003.part"), "cut").unwrap();

    let lab = lab_in(state.path(), |_| {}).await;
    eventually("the rows without a file to go", async || lease.names(&lab).await == ["whole"])
        .await;
    assert_eq!(lease.bytes(&lab, "whole").await, b"whole");
    eventually("the cut file to go", async || files_in(state.path()) == [ids[0].as_str()]).await;
    let metrics = lab.get("/metrics").await.text;
    assert!(metrics.contains("otter_artifacts 1\n"), "{metrics}");
    assert!(metrics.contains("otter_artifacts_deleted_total{reason=\"file-missing\"} 2\n"));
    lab.stop().await;
    let lab = lab_in(state.path(), |_| {}).await;
    assert_eq!(lease.names(&lab).await, ["whole"]);
}
