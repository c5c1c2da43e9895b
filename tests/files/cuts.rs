//! Uploads that are cut at every step: the datastore is as it was, and the job says so.

use std::time::Duration;

use otter::simulator::world::FileContent;
use otter::simulator::{Disruption, DownMode, HostdRestart, Scenario, TransferEnd, TransferMishap};

use super::{
    bytes_on_host, content, file, on_host, parts_on_host, place, put, until_on_host,
    until_upload_is,
};
use crate::harness::{Lab, LabOptions, RawConnection, eventually};

/// The length of the bodies of these tests.
const LENGTH: usize = 1_000_000;

/// Begins an upload whose body has [`LENGTH`] bytes, and sends the first of them.
async fn begin(lab: &Lab, path: &str, reference: &str, sent: usize) -> RawConnection {
    let mut connection = RawConnection::open(lab.address).await;
    let head = format!(
        "PUT {}&replace=true HTTP/1.1\r\nhost: localhost\r\notter-reference: {reference}\r\n\
         content-length: {LENGTH}\r\n\r\n",
        file(path)
    );
    connection.send(head.as_bytes()).await;
    connection.send(&content(LENGTH)[..sent]).await;
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_at_each_tenth_leaves_the_datastore_as_it_was() {
    let lab = Lab::start().await;
    place(&lab, "iso/there.iso", b"there");
    let before = on_host(&lab);
    for tenth in 0..10 {
        for path in ["iso/new.iso", "iso/there.iso"] {
            let name = if path.contains("new") { "new" } else { "there" };
            let reference = format!("cut-{tenth}-{name}");
            let connection = begin(&lab, path, &reference, tenth * LENGTH / 10).await;
            until_upload_is(&lab, &reference, "running").await;
            drop(connection);
            let failed = until_upload_is(&lab, &reference, "failed").await;
            assert_eq!(failed["error"]["code"], "invalid-request", "{failed}");
            until_on_host(&lab, &before).await;
        }
    }
    assert_eq!(bytes_on_host(&lab, "iso/there.iso").unwrap(), b"there");
    // Nothing keeps the name or a place among the transfers.
    put(&lab, "iso/new.iso", content(LENGTH)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cuts_at_each_tenth_leaves_the_datastore_as_it_was() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    for tenth in 0..10 {
        let end = Some((tenth * LENGTH as u64 / 10, TransferEnd::Cut));
        let mishap = TransferMishap { end, bytes_per_second: None };
        lab.control().disrupt_next("PUT /folder", Disruption::Transfer(mishap));
        let cut = put(&lab, "iso/a.iso", content(LENGTH)).await;
        cut.problem(503, "host-unreachable");
        until_on_host(&lab, &before).await;
    }
}

/// A part that cannot be removed at once is removed at the next session with the host.
#[tokio::test(flavor = "multi_thread")]
async fn the_part_of_an_upload_that_was_cut_with_the_host_is_removed_later() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    let connection = begin(&lab, "iso/a.iso", "away", LENGTH / 2).await;
    eventually("the part", async || !parts_on_host(&lab).is_empty()).await;
    let away = HostdRestart { down: Some(DownMode::Unavailable), drop_running: true };
    lab.control().restart_hostd(away);
    drop(connection);
    until_upload_is(&lab, "away", "failed").await;
    assert_eq!(parts_on_host(&lab).len(), 1);
    assert_eq!(bytes_on_host(&lab, "iso/a.iso"), None);
    lab.control().resume();
    until_on_host(&lab, &before).await;
}

/// A restart of otter finds the part that the last run could not remove.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_remembers_the_parts_that_are_left() {
    let state = tempfile::tempdir().unwrap();
    let settings = |all: &mut otter::app::Settings| all.grace = Duration::from_millis(500);
    let options = || LabOptions { settings, ..LabOptions::default() };
    let lab = Lab::with_state_dir_and_options(state.path(), options()).await;
    lab.wait_until_ready().await;
    let connection = begin(&lab, "iso/a.iso", "away", LENGTH / 2).await;
    eventually("the part", async || !parts_on_host(&lab).is_empty()).await;
    let part = parts_on_host(&lab).remove(0);
    let away = HostdRestart { down: Some(DownMode::Unavailable), drop_running: true };
    lab.control().restart_hostd(away);
    drop(connection);
    until_upload_is(&lab, "away", "failed").await;
    lab.stop().await;

    // The next run has a host of its own, on which the part lies as well.
    let mut scenario = Scenario::lab().unwrap();
    scenario.files.push((part, FileContent::of(b"half")));
    let options = LabOptions { scenario, ..options() };
    let lab = Lab::with_state_dir_and_options(state.path(), options).await;
    eventually("the part to be removed", async || parts_on_host(&lab).is_empty()).await;
}

/// A cancelled upload ends, and so does its call.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_upload_leaves_nothing() {
    let lab = Lab::start().await;
    let before = on_host(&lab);
    let mut connection = begin(&lab, "iso/a.iso", "cancelled", LENGTH / 2).await;
    let job = until_upload_is(&lab, "cancelled", "running").await;
    let cancel = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
    lab.post(&cancel, serde_json::json!({})).await.expect(202);
    until_upload_is(&lab, "cancelled", "cancelled").await;
    connection.next_answer().await.problem(409, "job-cancelled");
    until_on_host(&lab, &before).await;
}
