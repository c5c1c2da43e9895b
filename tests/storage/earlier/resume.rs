//! Every unfinished job of the database goes on: an engine over the store brings it to the end that
//! the state of its machine proves.

use std::sync::Arc;
use std::time::Duration;

use otter::clock::Clock;
use otter::hypervisor::Hypervisor;
use otter::service::event_stream::EventStream;
use otter::service::hosts::Hosts;
use otter::service::inventory::Inventory;
use otter::service::jobs::{Deadlines, JobSettings, Jobs, JobsParts};
use otter::service::leases::published::PublishedLeases;
use otter::service::live_settings::LiveSettings;
use otter::service::snapshots::SnapshotProtection;
use otter::simulator::Pace;
use otter::storage::Storage;
use otter::store::Store;
use otter::supervisor::Supervisor;
use otter::telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;

use super::{jobs, state_directory};
use crate::in_process::{InProcess, MemoryFiles, NoScreens, SimulatedHost};

#[tokio::test]
async fn every_unfinished_job_of_an_earlier_version_comes_to_its_end() {
    let directory = state_directory().await;
    let store = Store::open(directory.path()).await.unwrap();
    let writer = store.clone();
    tokio::spawn(async move { writer.run(CancellationToken::new()).await });
    let clock = Clock::stepped(jobs::start());
    let engine = engine(&clock, &store).await;
    let unfinished = store.unfinished_jobs().await.unwrap();
    assert_eq!(engine.recover().await.unwrap(), unfinished.len());
    let ended = async {
        let mut ended = Vec::new();
        for job in &unfinished {
            ended.push(engine.ended(job.id).await.unwrap().unwrap().job);
        }
        ended
    };
    let ended = tokio::select! {
        ended = ended => ended,
        () = time_passes(&clock, &store) => unreachable!("it never returns"),
    };
    let wrong: Vec<String> = unfinished
        .iter()
        .zip(&ended)
        .filter(|(before, after)| after.state != jobs::end_of(before))
        .map(|(before, after)| {
            let detail = after.error.as_ref().map(|error| &error.detail);
            format!("{} {}: {:?} {detail:?}", before.target_name, before.phase, after.state)
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Advances the clock by one second at a time. After each second, the tasks that it wakes run and
/// make several commits one after the other: the writer commits in order, so a write of this task
/// ends after the writes that were submitted before it.
async fn time_passes(clock: &Clock, store: &Store) {
    loop {
        clock.advance(Duration::from_secs(1));
        for _ in 0..5 {
            store.record_last_seen(clock.now()).await.unwrap();
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// An engine over the store and a host with the machines of the jobs.
async fn engine(clock: &Clock, store: &Store) -> Jobs {
    let store: Arc<dyn Storage> = Arc::new(store.clone());
    let event_stream = EventStream::new(clock);
    let inventory =
        Arc::new(Inventory::new(clock.clone(), event_stream.clone(), Duration::from_secs(30)));
    let host = SimulatedHost::new(&jobs::scenario(), Pace::Auto { scale: 1.0 }, clock.clone());
    let backend = Arc::new(InProcess::new(host.clone()));
    let (running, observer) = (Arc::clone(&backend), Arc::clone(&inventory));
    tokio::spawn(async move { running.run(observer, CancellationToken::new()).await });
    tokio::spawn(async move { host.drive().await });
    inventory.connected().await;
    Jobs::new(JobsParts {
        store: Arc::clone(&store),
        hosts: Hosts::from_host(backend as _),
        inventory,
        clock: clock.clone(),
        event_stream,
        supervisor: Supervisor::new(clock.clone(), Duration::from_secs(30)),
        settings: JobSettings {
            settle: Duration::from_secs(30),
            outage_grace: Duration::from_mins(1),
            question_grace: Duration::from_mins(1),
            queue_per_machine: 16,
            queue_in_all: 1_000,
            deadlines: Deadlines {
                power: Duration::from_mins(10),
                guest: Duration::from_mins(15),
                create: Duration::from_hours(1),
                revert: Duration::from_hours(1),
                remove: Duration::from_hours(24),
                prepare: Duration::from_mins(30),
            },
        },
        metrics: Metrics::default(),
        authorizer: Arc::new(PublishedLeases::default()),
        snapshots: Arc::new(SnapshotProtection::new(LiveSettings::default(), store)),
        screens: Arc::new(NoScreens),
        serial: Arc::new(NoScreens),
        files: Arc::new(MemoryFiles::default()),
    })
}
