//! The suite of what any backend must do, on the vim25 backend in front of each host of the tests
//! and on the backend in this process. `wrong` shows that the suite finds a wrong backend.

#[cfg(feature = "interop")]
mod colleague;
#[cfg(feature = "interop")]
mod govmomi;
mod in_process;
mod newcomer;
mod ours;
#[cfg(feature = "interop")]
mod proxy;
mod suite;
mod whole_otter;
mod world_stage;
mod wrong;

pub use wrong::without_capabilities;

use std::time::Duration;

#[cfg(feature = "interop")]
use crate::harness::HostKind;
use suite::{Ability, Bench, Conformance, Report};

const SUITE: Conformance = Conformance { patience: Duration::from_secs(20), at_once: 8 };

/// Runs every case, and tells how it went.
async fn tried(host: &str, bench: &dyn Bench) -> Report {
    let report = SUITE.of(bench).await;
    println!("{host}: {report}");
    report
}

/// Nothing failed, and exactly these cases could not be played.
#[track_caller]
fn conforms(report: &Report, not_applicable: &[&str]) {
    assert!(report.failed().is_empty(), "{report}");
    let names: Vec<_> = report.not_applicable().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, not_applicable, "what cannot be played is listed here, and no more");
    assert_eq!(report.passed() + names.len(), report.0.len());
}

#[tokio::test]
async fn the_backend_in_process() {
    let report = tried("in process", &in_process::InProcessBench).await;
    conforms(&report, &[]);
}

#[tokio::test]
async fn vim25_on_our_simulator() {
    let report = tried("our simulator", &ours::OurBench::default()).await;
    conforms(&report, &[]);
}

/// However a lost session looks, and with answers in small parts.
#[tokio::test]
async fn vim25_on_our_simulator_in_its_moods() {
    for bench in ours::OurBench::moods() {
        let report = SUITE.of_those(&bench, |case| case.needs(Ability::LoseSession)).await;
        println!("our simulator, {bench:?}: {report}");
        assert!(report.0.len() > 5);
        conforms(&report, &[]);
    }
}

#[cfg(feature = "interop")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vim25_on_govmomis_esx() {
    let report = tried("govmomi's ESX", &govmomi::GovmomiBench(HostKind::GovmomiEsx)).await;
    conforms(&report, govmomi::NOT_APPLICABLE);
}

#[cfg(feature = "interop")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vim25_on_govmomis_vcenter() {
    let report = tried("govmomi's vCenter", &govmomi::GovmomiBench(HostKind::GovmomiVcenter)).await;
    conforms(&report, govmomi::NOT_APPLICABLE);
}
