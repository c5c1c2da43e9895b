//! The costs that otter promises, as counts of calls and statements instead of times. Only on
//! otter's simulator, which counts calls.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{Lab, LabOptions};
use otter::simulator::{Pace, Scenario};
use otter::storage::Storage;

async fn many(machines: usize) -> Lab {
    let pace = Pace::Auto { scale: 0.0 };
    Lab::with_options(LabOptions {
        scenario: Scenario::generated(machines),
        pace,
        ..LabOptions::default()
    })
    .await
}

/// The calls to the host, except those of the update stream.
fn calls(lab: &Lab) -> BTreeMap<String, u64> {
    let mut calls = lab.control().all_calls();
    calls.remove("WaitForUpdatesEx");
    calls
}

#[tokio::test]
async fn ten_thousand_reads_do_not_call_the_host() {
    let lab = many(50).await;
    let before = calls(&lab);
    let queries = lab.store.statements();
    for _ in 0..1_000 {
        for path in [
            "/v1/machines?limit=5",
            "/v1/machines/find?free=true",
            "/v1/machines/7",
            "/v1/machines/mac:00:0c:29:00:00:07",
            "/v1/machines/name:qubes-0007/snapshots",
            "/v1/machines/7/snapshots/kickstart",
            "/v1/machines/7/wait?until=free",
            "/v1/datastores",
            "/v1/about",
            "/readyz?host=true",
        ] {
            assert_eq!(lab.status(path).await, 200, "{path}");
        }
    }
    assert_eq!(calls(&lab), before);
    assert_eq!(lab.store.statements(), queries);
}

#[tokio::test]
async fn a_thousand_jobs_use_one_login_and_one_view_of_machines() {
    let lab = many(50).await;
    for round in 0..20 {
        let action = json!({"action": if round % 2 == 0 { "on" } else { "off" }});
        let started = (1..=50).map(|machine| {
            let (lab, action) = (&lab, action.clone());
            async move {
                let path = format!("/v1/machines/{machine}/power?wait=15s");
                lab.post(&path, action).await.expect(200).json["state"].clone()
            }
        });
        assert!(join_all(started).await.iter().all(|state| state == "succeeded"));
    }
    assert_eq!(lab.control().calls("Login"), 1);
    assert_eq!(lab.control().sessions(), 1);
    assert_eq!(lab.control().calls("CreateContainerView"), 1);
    assert!(lab.control().pending_waits() <= 1);
    assert_eq!(lab.get("/v1/about").await.expect(200).json["session"]["logins"], 1);
    assert_eq!(
        lab.get("/v1/jobs?limit=1000&state=succeeded").await.expect(200).items("id").len(),
        1_000
    );
}

#[tokio::test]
async fn reads_of_a_job_that_has_just_ended_do_not_read_the_store() {
    let lab = many(2).await;
    let ended =
        lab.post("/v1/machines/1/power?wait=15s", json!({"action": "on"})).await.expect(200);
    let path = format!("/v1/jobs/{}", ended.str("id"));
    let queries = lab.store.statements();
    for _ in 0..100 {
        let read = lab.get(&path).await.expect(200);
        assert_eq!((&read.text, read.header("etag")), (&ended.text, ended.header("etag")));
    }
    assert_eq!(lab.store.statements(), queries);
}

#[tokio::test]
async fn ten_thousand_waits_do_not_read_the_store_and_all_are_answered() {
    let lab = Lab::stepped().await;
    let job = lab.start_power("ci-runner-1", "off").await;
    let task = lab.wait_for_job_task(&job).await;
    let id = job["id"].as_str().unwrap();
    // The job is visible a moment before it is committed.
    crate::harness::eventually("the task to be committed", async || {
        lab.store.job(id.parse().unwrap()).await.unwrap().is_some_and(|job| job.host_task.is_some())
    })
    .await;
    let before = calls(&lab);
    let paths = [
        format!("/v1/jobs/{id}/wait?wait=60s"),
        format!("/v1/jobs/{id}?wait=60s"),
        "/v1/machines/31/wait?until=power_state:off&wait=60s".to_owned(),
        "/v1/machines/31/wait?until=no_job&wait=60s".to_owned(),
    ];
    let mut waits: Vec<_> =
        (0..10_000).map(|n| Box::pin(lab.status(&paths[n % paths.len()]))).collect();
    let queries = lab.store.statements();
    // Polling each call once makes it wait.
    for wait in &mut waits {
        assert!(futures_util::poll!(wait.as_mut()).is_pending());
    }
    tokio::task::yield_now().await;
    // While there is a job, otter records every ten seconds that it runs, independent of waiting
    // calls.
    assert!(lab.store.statements() - queries <= 3, "ten thousand wait");
    assert_eq!(calls(&lab), before);
    lab.control().finish_task(&task);
    let answered = join_all(waits).await;
    assert!(answered.iter().all(|status| *status == 200));
    // The end of the job is committed once, not once for each call.
    assert!(lab.store.statements() - queries < 20, "{}", lab.store.statements() - queries);
}

#[tokio::test]
async fn a_thousand_machines_are_listed_found_and_paged() {
    let lab = many(1_000).await;
    let list = lab.get("/v1/machines").await.expect(200);
    assert_eq!(list.items("id").len(), 1_000);
    let mut seen = Vec::new();
    let mut path = "/v1/machines?limit=300".to_owned();
    loop {
        let page = lab.get(&path).await.expect(200);
        seen.extend(page.items("id").into_iter().map(str::to_owned));
        let Some(next) = page.json["next"].as_str() else { break };
        path = format!("/v1/machines?limit=300&cursor={next}");
    }
    assert_eq!(seen, list.items("id"));
    let found = lab.get("/v1/machines/find?mac=00:0c:29:00:03:e7").await.expect(200);
    assert_eq!(found.str("id"), "999");
    let runners = lab.get("/v1/machines/find?name=RUNNER").await.expect(200);
    assert_eq!(runners.header("otter-matches"), Some("333"));
}
