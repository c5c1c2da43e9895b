//! Runs the conformance suite on the vim25 backend with each host of the tests, and on the
//! in-process backend. `broken_backends` proves that the suite detects a broken backend.

mod broken_backends;
mod end_to_end;
mod fresh_backend;
#[cfg(feature = "interop")]
mod govmomi;
mod in_process;
#[cfg(feature = "interop")]
mod other_client;
mod own_simulator;
#[cfg(feature = "interop")]
mod proxy;
mod suite;
mod world_control;

pub use broken_backends::{with_lost_calls_as_refused, without_capabilities};

use std::time::Duration;

#[cfg(feature = "interop")]
use crate::harness::HostKind;
use suite::{Ability, Conformance, HostFactory, SuiteReport};

const SUITE: Conformance = Conformance { timeout: Duration::from_secs(20), concurrency: 8 };

/// Runs every case and prints the report.
async fn run_suite(host: &str, factory: &dyn HostFactory) -> SuiteReport {
    let report = SUITE.run_all(factory).await;
    println!("{host}: {report}");
    report
}

/// Fails if a case failed, or if the cases that are not applicable differ from this list.
#[track_caller]
fn check_report(report: &SuiteReport, not_applicable: &[&str]) {
    assert!(report.failed().is_empty(), "{report}");
    let names: Vec<_> = report.not_applicable().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, not_applicable, "the list of cases that are not applicable is wrong");
    assert_eq!(report.passed() + names.len(), report.0.len());
}

#[tokio::test]
async fn in_process_backend_conforms() {
    let report = run_suite("in process", &in_process::InProcessFactory).await;
    check_report(&report, &[]);
}

#[tokio::test]
async fn vim25_conforms_on_the_own_simulator() {
    let report = run_suite("otter's simulator", &own_simulator::SimulatorFactory::default()).await;
    check_report(&report, &[]);
}

/// With each form of a lost session, and with answers in small parts.
#[tokio::test]
async fn vim25_conforms_on_the_own_simulator_for_each_form_of_a_lost_session() {
    for factory in own_simulator::SimulatorFactory::session_loss_variants() {
        let report = SUITE.run_matching(&factory, |case| case.needs(Ability::ExpireSessions)).await;
        println!("otter's simulator, {factory:?}: {report}");
        assert!(report.0.len() > 5);
        check_report(&report, &[]);
    }
}

#[cfg(feature = "interop")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vim25_conforms_on_the_esx_of_govmomi() {
    let report = run_suite("govmomi's ESX", &govmomi::GovmomiFactory(HostKind::GovmomiEsx)).await;
    check_report(&report, govmomi::NOT_APPLICABLE);
}

#[cfg(feature = "interop")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vim25_conforms_on_the_vcenter_of_govmomi() {
    let report =
        run_suite("govmomi's vCenter", &govmomi::GovmomiFactory(HostKind::GovmomiVcenter)).await;
    check_report(&report, govmomi::NOT_APPLICABLE);
}
