//! The hosts that otter is tested against: otter's simulator, govmomi's simulator as an ESX and as
//! a vCenter, and an in-process host without vim25.
//!
//! Each kind of host has [`KnownMachines`], so that one scenario runs alike on all of them. Tests
//! of features that govmomi's simulator lacks (the power state after a revert, questions, VMware
//! Tools) run only on otter's simulator; each such test names the feature.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use otter::clock::Clock;
use otter::simulator::{Control, Simulator, SimulatorOptions};

use crate::in_process::SimulatedHost;

use super::{LabOptions, TIMEOUT, record_answer};

/// The kind of host in a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "interop"),
    expect(dead_code, reason = "the peers are built by tests/run alone")
)]
pub enum HostKind {
    /// otter's simulator with the scenario of the options.
    Simulator,
    /// govmomi's simulator as an ESX.
    GovmomiEsx,
    /// govmomi's simulator as a vCenter.
    GovmomiVcenter,
    /// The world of otter's simulator without vim25, with the scenario of the options.
    InProcess,
}

/// A running host. Dropping it stops the host.
pub enum Host {
    Simulator(Simulator),
    Govmomi(GovmomiSimulator),
    InProcess(SimulatedHost),
}

/// Machines of a host with known properties.
#[derive(Clone, Copy, Debug)]
pub struct KnownMachines {
    /// The number of machines on the host.
    pub count: usize,
    /// The name of a machine that is on at the start and may be changed.
    pub running: &'static str,
    /// The MAC address of `running`.
    pub running_mac: &'static str,
    /// The name of a machine with a chain of at least three snapshots. The last one is current.
    pub with_snapshots: &'static str,
    /// The path of the current snapshot of `with_snapshots`.
    pub snapshot_path: &'static str,
    /// A part of the names of several machines, in a different case than in the names.
    pub name_part: &'static str,
}

/// govmomi's simulator in a process of its own. It ends when its stdin closes.
pub struct GovmomiSimulator {
    process: Child,
    url: String,
}

impl HostKind {
    pub const fn machines(self) -> KnownMachines {
        match self {
            Self::Simulator | Self::InProcess => KnownMachines {
                count: 13,
                running: "ci-runner-1",
                running_mac: "00:50:56:3f:00:31",
                with_snapshots: "qubes-4.2-sdw-staging",
                snapshot_path: "installed/updated/kickstart",
                name_part: "QUBES",
            },
            Self::GovmomiEsx => KnownMachines {
                count: 4,
                running: "ha-host_VM1",
                running_mac: "00:50:56:00:00:01",
                with_snapshots: "ha-host_VM0",
                snapshot_path: "base/updated/kickstart",
                name_part: "HOST_VM",
            },
            Self::GovmomiVcenter => KnownMachines {
                count: 4,
                running: "DC0_H0_VM1",
                running_mac: "00:50:56:00:00:01",
                with_snapshots: "DC0_H0_VM0",
                snapshot_path: "base/updated/kickstart",
                name_part: "h0_vm",
            },
        }
    }
}

impl Host {
    /// Starts the host. govmomi's simulator ignores the scenario and the pace of the options.
    pub async fn start(kind: HostKind, options: &LabOptions, clock: &Clock) -> Self {
        match kind {
            HostKind::Simulator => {
                let defaults = SimulatorOptions::new(options.scenario.clone(), clock.clone());
                let simulator = SimulatorOptions {
                    pace: options.pace,
                    on_answer: Some(record_answer),
                    ..defaults
                };
                Self::Simulator(Simulator::start(simulator).await.unwrap())
            }
            HostKind::GovmomiEsx => Self::Govmomi(GovmomiSimulator::start("esx").await),
            HostKind::GovmomiVcenter => Self::Govmomi(GovmomiSimulator::start("vpx").await),
            HostKind::InProcess => {
                Self::InProcess(SimulatedHost::new(&options.scenario, options.pace, clock.clone()))
            }
        }
    }

    /// Whether guests on this host can have VMware Tools.
    pub const fn has_tools(&self) -> bool {
        !matches!(self, Self::Govmomi(_))
    }

    pub fn url(&self) -> String {
        match self {
            Self::Simulator(simulator) => simulator.url(),
            Self::Govmomi(simulator) => simulator.url.clone(),
            Self::InProcess(_) => "https://host.invalid".to_owned(),
        }
    }

    /// The test control of otter's simulator. Panics for other hosts.
    pub fn control(&self) -> &Control {
        match self {
            Self::Simulator(simulator) => simulator.control(),
            Self::Govmomi(_) | Self::InProcess(_) => {
                panic!("only otter's simulator has a test control")
            }
        }
    }

    pub async fn stop(self) {
        if let Self::Simulator(simulator) = self {
            simulator.stop().await;
        }
    }
}

impl GovmomiSimulator {
    async fn start(mode: &str) -> Self {
        let program = std::env::var("OTTER_GOVMOMI_PEER").expect(
            "OTTER_GOVMOMI_PEER does not name govmomi's simulator. Run tests/run, which builds it \
             and all else",
        );
        let mut process = Command::new(&program)
            .args(["-mode", mode, "-machines", "4"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program} does not start ({error}). Run tests/run, which builds it")
            });
        let stdout = process.stdout.take().unwrap();
        let first_line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            line
        });
        let line = tokio::time::timeout(TIMEOUT, first_line)
            .await
            .expect("the simulator to start")
            .unwrap();
        let url =
            line.trim().strip_prefix("URL ").expect("the address of the simulator").to_owned();
        Self { process, url }
    }
}

impl Drop for GovmomiSimulator {
    fn drop(&mut self) {
        // If the simulator ends by itself, it removes its temporary files.
        drop(self.process.stdin.take());
        for _ in 0..200 {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Defines one test for each kind of host: `on_every_host! { async fn name(lab: &Lab) { … } }`.
macro_rules! on_every_host {
    ($($(#[$doc:meta])* async fn $name:ident($lab:ident: &Lab) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;

            async fn scenario($lab: &Lab) $body

            #[tokio::test]
            async fn simulator() {
                scenario(&Lab::on_host(crate::harness::HostKind::Simulator).await).await;
            }

            #[tokio::test]
            async fn in_process() {
                scenario(&Lab::on_host(crate::harness::HostKind::InProcess).await).await;
            }

            #[cfg(feature = "interop")]
            #[tokio::test]
            async fn govmomi_esx() {
                scenario(&Lab::on_host(crate::harness::HostKind::GovmomiEsx).await).await;
            }

            #[cfg(feature = "interop")]
            #[tokio::test]
            async fn govmomi_vcenter() {
                scenario(&Lab::on_host(crate::harness::HostKind::GovmomiVcenter).await).await;
            }
        }
    )*};
}
pub(crate) use on_every_host;
