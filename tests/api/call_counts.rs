//! The costs that otter promises, as counts of calls and statements instead of times. Only on
//! otter's simulator, which counts calls.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::{Lab, LabOptions};
use otter::clock::Clock;
use otter::simulator::world::PowerState;
use otter::simulator::{Disruption, Pace, Scenario};
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
async fn a_power_job_costs_four_commits_of_one_statement() {
    const JOBS: u64 = 20;
    let lab = many(2).await;
    let power = async |action| {
        let power = json!({"action": action});
        lab.post("/v1/machines/1/power?wait=15s", power).await.expect(200);
    };
    power("on").await;
    let before = (lab.store.statements(), lab.store.transactions());
    for round in 0..JOBS {
        power(if round % 2 == 0 { "off" } else { "on" }).await;
    }
    let statements = lab.store.statements() - before.0;
    let commits = lab.store.transactions() - before.1;
    // While there is a job, otter records every ten seconds that it runs.
    let allowed = 4 * JOBS + 2;
    assert!(statements <= allowed && commits <= allowed, "{statements} and {commits}");
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

/// The number of calls to the host.
fn all_calls(lab: &Lab) -> u64 {
    lab.control().all_calls().values().sum()
}

fn stepped_clock() -> Clock {
    Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap())
}

/// A lab with machines that are off, whose tasks end at once, and whose clock stands still.
async fn machines_that_are_off(machines: usize) -> Lab {
    machines_that_are_off_by(machines, stepped_clock()).await
}

async fn machines_that_are_off_by(machines: usize, clock: Clock) -> Lab {
    let mut scenario = Scenario::generated(machines);
    for machine in &mut scenario.machines {
        machine.power = PowerState::Off;
    }
    let pace = Pace::Auto { scale: 0.0 };
    Lab::with_options(LabOptions { scenario, pace, clock, ..LabOptions::default() }).await
}

/// Runs one power job on each of these machines at once.
async fn power_all(lab: &Lab, machines: std::ops::RangeInclusive<usize>, action: &str) {
    let started = machines.map(async |machine| {
        let path = format!("/v1/machines/{machine}/power");
        lab.post(&path, json!({"action": action})).await.expect(202).json
    });
    for job in join_all(started).await {
        assert_eq!(lab.wait_for_end(&job).await["state"], "succeeded");
    }
}

#[tokio::test]
async fn a_power_job_alone_makes_six_calls_whatever_the_history_of_its_machine() {
    let lab = machines_that_are_off(3).await;
    for round in 0..15 {
        let before = all_calls(&lab);
        for _ in 0..5 {
            for action in ["on", "off"] {
                power_all(&lab, 1..=1, action).await;
            }
        }
        // The call that waits for updates after the last job may be sent after its round was
        // counted.
        let calls = all_calls(&lab) - before;
        assert!(calls <= 6 * 10 + 1, "{calls} calls for 10 jobs in round {round}");
    }
    assert_eq!(lab.control().calls("CancelWaitForUpdates"), 0);
}

#[tokio::test]
async fn five_hundred_power_jobs_at_once_make_three_calls_each() {
    let lab = machines_that_are_off(500).await;
    for (round, action) in ["on", "off"].into_iter().enumerate() {
        let before = all_calls(&lab);
        power_all(&lab, 1..=500, action).await;
        let calls = all_calls(&lab) - before;
        assert!(calls <= 3 * 500, "{calls} calls for 500 jobs in round {round}");
    }
}

#[tokio::test]
async fn an_idle_hour_makes_sixty_calls() {
    let clock = stepped_clock();
    let lab = machines_that_are_off_by(10, clock.clone()).await;
    lab.control().until(|control| control.pending_waits() == 1).await;
    let before = all_calls(&lab);
    for _ in 0..60 {
        let waits = lab.control().calls("WaitForUpdatesEx");
        clock.advance(Duration::from_mins(1));
        lab.control().until_called("WaitForUpdatesEx", waits + 1).await;
    }
    assert_eq!(all_calls(&lab) - before, 60);
}

#[tokio::test]
async fn six_hundred_power_jobs_at_once_share_eight_connections_and_the_wait() {
    let lab = machines_that_are_off(600).await;
    for action in ["on", "off"] {
        power_all(&lab, 1..=600, action).await;
    }
    let control = lab.control();
    assert!(control.peak_connections() <= 9, "{}", control.peak_connections());
    // The connections stay open: no call needed another TLS handshake.
    assert!(control.accepted_connections() <= 9, "{}", control.accepted_connections());
}

#[tokio::test]
async fn a_kill_goes_before_the_calls_that_wait_for_a_connection_and_these_keep_their_deadlines() {
    let clock = stepped_clock();
    let mut scenario = Scenario::generated(300);
    for (index, machine) in scenario.machines.iter_mut().enumerate() {
        machine.power = if index == 0 { PowerState::On } else { PowerState::Off };
    }
    let pace = Pace::Auto { scale: 0.0 };
    let options = LabOptions { scenario, pace, clock: clock.clone(), ..LabOptions::default() };
    let lab = Lab::with_options(options).await;
    let control = lab.control();
    control.disrupt("PowerOnVM_Task", 0, None, Disruption::NeverAnswer { run: false });
    let started = (2..=300).map(async |machine| {
        let path = format!("/v1/machines/{machine}/power");
        lab.post(&path, json!({"action": "on"})).await.expect(202).str("id").to_owned()
    });
    let jobs = join_all(started).await;
    control.until_called("PowerOnVM_Task", 7).await;
    let name = lab.get("/v1/machines/1").await.expect(200).str("name").to_owned();
    let killed = lab.post("/v1/machines/kill?wait=15s", json!({"name": name})).await.expect(200);
    assert_eq!(killed.str("state"), "succeeded");
    assert_eq!(control.calls("PowerOnVM_Task"), 7, "one connection is reserved");
    clock.advance(Duration::from_mins(11));
    let is_waiting = |job: &&String| control.calls_of_operation(job).is_empty();
    let waiting: Vec<&String> = jobs.iter().filter(is_waiting).collect();
    assert_eq!(waiting.len(), 299 - 7);
    for job in waiting {
        let ended = lab.get(&format!("/v1/jobs/{job}?wait=15s")).await.expect(200);
        assert_eq!(ended.str("state"), "failed", "{}", ended.text);
        assert_eq!(ended.json["error"]["code"], "deadline-exceeded", "{}", ended.text);
    }
    assert_eq!(control.calls("PowerOnVM_Task"), 7);
}
