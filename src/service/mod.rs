//! The rules of otter, one module for each subject. The API calls these modules, and they know
//! nothing of HTTP.

pub mod artifacts;
pub mod audit;
pub mod call_ends;
pub mod callers;
pub mod datastores;
pub mod event_stream;
pub mod files;
pub mod host_failure;
pub mod hosts;
pub mod idempotency;
pub mod inventory;
pub mod jobs;
pub mod leases;
pub mod limits;
pub mod live_settings;
pub mod machines;
pub mod overrides;
pub mod patterns;
pub mod protection;
pub mod questions;
pub mod recordings;
pub mod retention;
pub mod screens;
pub mod seats;
pub mod serial;
pub mod snapshots;
pub mod storage_watch;
pub mod visibility;
pub mod wait_conditions;

use std::sync::Arc;

use self::artifacts::Artifacts;
use self::audit::Audit;
use self::callers::Callers;
use self::event_stream::EventStream;
use self::files::Files;
use self::hosts::Hosts;
use self::inventory::Inventory;
use self::jobs::Jobs;
use self::leases::Leases;
use self::machines::Machines;
use self::overrides::Overrides;
use self::patterns::PatternWatch;
use self::screens::Screens;
use self::screens::input_calls::InputCalls;
use self::screens::wait::ScreenWaits;
use self::serial::Serial;
use self::serial::input_calls::SerialInputs;
use self::storage_watch::StorageWatch;

/// Everything that the API calls.
#[derive(Clone)]
pub struct Services {
    pub callers: Arc<Callers>,
    pub event_stream: EventStream,
    pub inventory: Arc<Inventory>,
    pub machines: Arc<Machines>,
    pub patterns: Arc<PatternWatch>,
    pub jobs: Jobs,
    pub leases: Leases,
    pub storage: StorageWatch,
    pub audit: Arc<Audit>,
    pub artifacts: Arc<Artifacts>,
    /// The files on datastores.
    pub files: Arc<Files>,
    pub screens: Arc<Screens>,
    /// Waits for what screens show.
    pub screen_waits: Arc<ScreenWaits>,
    /// Records operators who act on the consoles of leased machines.
    pub overrides: Arc<Overrides>,
    /// Types and clicks on machines.
    pub inputs: Arc<InputCalls>,
    pub serial: Arc<Serial>,
    /// Sends input to serial ports.
    pub serial_inputs: Arc<SerialInputs>,
    /// The hosts, for reads that go to the host and not to the inventory.
    pub hosts: Hosts,
}
