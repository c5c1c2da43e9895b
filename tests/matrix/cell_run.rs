//! Runs a cell of the matrix against a whole otter: it starts the job, injects the fault at its
//! point, brings the host back, and lets the job end. The time of otter and of the host advances
//! only by the ticks here, and tasks and guests advance only by steps.

mod fault_injection;
mod lease_run;

use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use otter::app::Settings;
use otter::clock::Clock;
use otter::simulator::world::{CdDrive, Choice, FileContent, Machine, PowerState, Question};
use otter::simulator::{Control, Pace, Scenario};
use reqwest::Method;
use serde_json::{Value, json};

pub use self::fault_injection::DeliveryProof;
pub use self::lease_run::{LeaseRun, ManualChangeRun};
use super::OtterSetup;
use super::table::{Cell, Expected, Fault, Kind};
use crate::harness::{ACCEPT_NDJSON, Answer, EventStream, Lab, LabOptions, TIMEOUT, encode};

/// The time of otter and of the host that a tick adds.
const TICK: Duration = Duration::from_millis(100);

/// The real time that a tick takes.
const TICK_PAUSE: Duration = Duration::from_millis(4);

/// The maximum number of pauses in a tick, if the test machine is too busy.
const MAX_TICK_PAUSES: usize = 50;

/// The deadline of every job.
const DEADLINE: Duration = Duration::from_mins(10);

/// The ISO that jobs put into the drive of their machine.
pub const ISO: &str = "[isos] iso/qubes.iso";

/// The machine that only [`TestBench::nudge`] changes.
const MARKER: &str = "31";

/// A whole otter and its host. It runs cells one after the other.
pub struct TestBench {
    pub lab: Lab,
    pub control: Control,
    pub clock: Clock,
    pub events: EventStream,
    template: Machine,
    cells: u32,
    nudges: u32,
}

/// The run of a cell.
pub struct CellRun<'b> {
    pub bench: &'b mut TestBench,
    pub cell: Cell,
    pub expected: &'b Expected,
    /// The moid of the machine of the job.
    pub id: String,
    /// The machine before the job.
    pub before: Machine,
    pub job: String,
    /// The different states of the job in polls.
    pub polls: Vec<Value>,
    /// The failed reads.
    pub wrong_reads: Vec<String>,
    /// Whether reads have the header `otter-stale`.
    stale: bool,
    /// The lease of the job. `None` if the job has no lease.
    pub lease_run: Option<LeaseRun>,
    /// Whether otter reports running tools of the machine.
    tools_shown: bool,
    /// Whether otter reports the current state of all guests.
    guests_are_current: bool,
    reads: u32,
    /// The task of the disrupted call.
    task: Option<String>,
    logins: u64,
}

impl TestBench {
    pub async fn start(OtterSetup { settings, between }: OtterSetup) -> Self {
        let clock = Clock::stepped("2026-11-25T00:00:00Z".parse().unwrap());
        let mut scenario = Scenario::lab().unwrap();
        scenario.files.extend([(ISO.to_owned(), FileContent::of(b"an image"))]);
        scenario.host.session_timeout_minutes = 0;
        scenario.machines.retain(|machine| machine.id == MARKER);
        scenario.machines[0].annotation = "mark 0".to_owned();
        let plan = LabOptions {
            scenario,
            pace: Pace::Stepped,
            settings,
            clock: clock.clone(),
            wrap_backend: between,
        };
        let lab = Lab::with_options(plan).await;
        let events = EventStream::open_with(
            &lab,
            "?types=job.changed,machine.changed,lease.changed",
            &[ACCEPT_NDJSON],
        )
        .await;
        let control = lab.control().clone();
        // The machine is on, its tools run, and its address is known.
        let template = control.look(|world| world.machine(MARKER).unwrap().clone());
        Self { lab, control, clock, events, template, cells: 0, nudges: 0 }
    }

    /// Sends a GET request to the router, without a socket.
    pub async fn read(&self, path: &str) -> (StatusCode, HeaderMap, Value) {
        let request =
            Request::get(path).header("host", "localhost").body(axum::body::Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(self.lab.service.clone(), request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Changes the marker machine, which ends a pending wait for updates. Returns its new
    /// annotation.
    pub fn nudge(&mut self) -> String {
        self.nudges += 1;
        let mark = format!("mark {}", self.nudges);
        self.lab.annotate(MARKER, &mark);
        mark
    }

    /// A running machine with a unique name and unique ids.
    pub fn machine(&mut self) -> Machine {
        self.cells += 1;
        let number = self.cells;
        let mut machine = self.template.clone();
        machine.id = format!("{}", 1_000 + number);
        machine.name = format!("cell {number:05}");
        machine.path = format!("[datastore1] cell-{number}/cell-{number}.vmx");
        machine.instance_uuid = format!("52000000-0000-4000-8000-{number:012}");
        machine.bios_uuid = format!("56000000-0000-4000-8000-{number:012}");
        machine.network_cards[0].mac_address =
            format!("00:50:56:10:{:02x}:{:02x}", number >> 8, number & 0xff);
        let at = self.clock.now();
        let base = machine.add_snapshot(None, "base", PowerState::Off, at);
        let middle = machine.add_snapshot(Some(&base), "middle", PowerState::Off, at);
        let leaf = machine.add_snapshot(Some(&middle), "leaf", PowerState::Off, at);
        machine.add_snapshot(Some(&base), "awake", PowerState::On, at);
        machine.current_snapshot = Some(leaf);
        machine
    }

    /// Adds a machine to the host and waits until otter reports it.
    pub async fn place(&mut self, machine: &Machine) -> Result<(), String> {
        self.control.mutate(|world| world.add_machine(machine.clone()));
        let path = format!("/v1/machines/{}", machine.id);
        self.until("otter to report the machine", async |bench| {
            bench.read(&path).await.0 == StatusCode::OK
        })
        .await
    }

    /// Removes the machines and the disruptions of a cell.
    pub async fn clear(&mut self) -> Result<(), String> {
        self.control.clear_disruptions();
        self.control.mutate(|world| {
            let ids: Vec<String> = world.machines().map(|machine| machine.id.clone()).collect();
            for id in ids.iter().filter(|id| *id != MARKER) {
                world.remove_machine(id);
            }
        });
        self.until("the machines to go", async |bench| {
            bench.read("/v1/machines").await.2["items"]
                .as_array()
                .is_some_and(|items| items.len() == 1)
        })
        .await?;
        // More than a minute must pass, so that the next outage counts as a new one.
        self.clock.advance(Duration::from_secs(61));
        Ok(())
    }

    /// Ticks until the condition holds.
    pub async fn until(
        &mut self,
        what: &str,
        mut condition: impl AsyncFnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        let patience = Clock::system();
        while !condition(self).await {
            if patience.elapsed() > TIMEOUT {
                return Err(format!("timed out waiting for {what}"));
            }
            self.tick().await;
        }
        Ok(())
    }

    /// Waits until a list has a job. Returns the id of the newest.
    pub async fn job_at(&mut self, list: &str) -> Result<String, String> {
        let mut found = String::new();
        self.until("a job", async |bench| {
            let (_, _, jobs) = bench.read(list).await;
            jobs["items"][0]["id"].as_str().unwrap_or_default().clone_into(&mut found);
            !found.is_empty()
        })
        .await?;
        Ok(found)
    }

    /// Advances the time, and pauses so that otter and the host can react. If a pause takes far
    /// longer than intended, the test machine is busy, and otter and the host get another pause.
    pub async fn tick(&self) {
        self.clock.advance(TICK);
        let real = Clock::system();
        for _ in 0..MAX_TICK_PAUSES {
            let began = real.elapsed();
            real.sleep(TICK_PAUSE).await;
            if real.elapsed().saturating_sub(began) < 3 * TICK_PAUSE {
                return;
            }
        }
    }
}

impl<'b> CellRun<'b> {
    /// Runs a cell to the end of its job. Returns the run and the proof that the fault was
    /// delivered.
    pub async fn run(
        bench: &'b mut TestBench,
        cell: Cell,
        expected: &'b Expected,
    ) -> Result<(Self, DeliveryProof), String> {
        let mut before = bench.machine();
        if cell.kind == Kind::PowerOn {
            stop(&mut before);
        }
        if cell.kind == Kind::Answer {
            before.question = Some(question());
        }
        before.consolidation_needed = cell.kind == Kind::Consolidate;
        before.cd_drives = vec![CdDrive::at(0)];
        bench.place(&before).await?;
        let mut run = Self::new(bench, cell, expected, before, None);
        let proof = run.run_job().await?;
        Ok((run, proof))
    }

    /// Creates the run of a cell. Its machine is on the host, in the state `before`.
    pub fn new(
        bench: &'b mut TestBench,
        cell: Cell,
        expected: &'b Expected,
        before: Machine,
        lease_run: Option<LeaseRun>,
    ) -> Self {
        let logins = bench.control.calls("Login");
        Self {
            bench,
            cell,
            expected,
            id: before.id.clone(),
            before,
            job: String::new(),
            polls: Vec::new(),
            wrong_reads: Vec::new(),
            stale: false,
            lease_run,
            tools_shown: false,
            guests_are_current: false,
            reads: 0,
            task: None,
            logins,
        }
    }

    /// Starts the job, injects the fault, and lets the job end.
    pub async fn run_job(&mut self) -> Result<DeliveryProof, String> {
        let proof = self.inject_fault().await?;
        self.recover_host().await?;
        self.run_to_the_end().await?;
        Ok(proof)
    }

    /// The job as of the last poll.
    pub fn last_poll(&self) -> &Value {
        self.polls.last().unwrap_or(&Value::Null)
    }

    /// Whether the job has ended.
    pub fn has_ended(&self) -> bool {
        !self.last_poll()["finished_at"].is_null()
    }

    /// The number of calls of `Login` that the host got since the cell began.
    pub fn logins(&self) -> u64 {
        self.control().calls("Login") - self.logins
    }

    pub const fn control(&self) -> &Control {
        &self.bench.control
    }

    /// Ticks and reads everything.
    pub async fn tick(&mut self) {
        self.bench.tick().await;
        self.read_all().await;
    }

    /// Reads like clients, and records failed reads and new states of the job.
    pub async fn read_all(&mut self) {
        let machine = format!("/v1/machines/{}", self.id);
        self.reads += 1;
        self.guests_are_current = false;
        let list = if self.reads.is_multiple_of(2) { "/v1/machines" } else { "/v1/datastores" };
        for path in [list, machine.as_str()] {
            let (status, headers, body) = self.bench.read(path).await;
            if path == machine {
                self.tools_shown = body["tools_status"] == "running";
            } else if self.lease_run.is_some() {
                self.guests_are_current =
                    self.shows_guests(&body) && self.has_no_starting_guest().await;
            }
            let gone = status == StatusCode::NOT_FOUND && path == machine && self.is_gone();
            if status != StatusCode::OK && !gone {
                self.wrong_reads.push(format!("{path} answered {status}"));
            }
            self.stale = headers.contains_key("otter-stale");
        }
        self.read_lease().await;
        if self.job.is_empty() {
            return;
        }
        let path = format!("/v1/jobs/{}", self.job);
        let (status, _, job) = self.bench.read(&path).await;
        if status != StatusCode::OK {
            self.wrong_reads.push(format!("{path} answered {status}"));
        } else if self.polls.last() != Some(&job) {
            self.polls.push(job);
        }
    }

    /// Ticks until the condition holds.
    pub async fn until(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<(), String> {
        let patience = Clock::system();
        while !condition(self) {
            if patience.elapsed() > TIMEOUT {
                return Err(format!("timed out waiting for {what}; the job: {}", self.last_poll()));
            }
            if self.has_ended() && !condition(self) {
                return Err(format!("the job ended before {what}: {}", self.last_poll()));
            }
            self.tick().await;
        }
        Ok(())
    }

    async fn ticks(&mut self, count: u32) {
        for _ in 0..count {
            self.tick().await;
        }
    }

    /// Whether the machine of the job no longer has its moid.
    fn is_gone(&self) -> bool {
        self.control().look(|world| {
            world.machine(&self.id).is_none_or(|now| now.instance_uuid != self.before.instance_uuid)
        })
    }

    /// Brings the host back if it is down.
    async fn recover_host(&mut self) -> Result<(), String> {
        match self.cell.fault {
            Fault::HostRestarted
            | Fault::HostRestartedIdle
            | Fault::HostRebooted
            | Fault::GoneInOutage => {
                self.until("reads to be marked as stale", |run| run.stale).await?;
                self.ticks(2).await;
                self.control().resume();
            }
            Fault::AccountRefused => {
                self.until("reads to be marked as stale", |run| run.stale).await?;
                // Long enough for many wrong tries, and too short for the next allowed one.
                self.ticks(20).await;
                let logins = self.logins();
                if logins != 1 {
                    return Err(format!("a refused account was tried {logins} times"));
                }
                self.control().refuse_logins(false);
                self.bench.clock.advance(Duration::from_secs(31));
            }
            _ => {}
        }
        Ok(())
    }

    /// Steps the tasks and guests of the host until the job has ended.
    async fn run_to_the_end(&mut self) -> Result<(), String> {
        let patience = Clock::system();
        self.guests_are_current = false;
        let mut ticks = 0;
        while !self.has_ended() {
            if patience.elapsed() > TIMEOUT {
                return Err(format!("the job does not end: {}", self.last_poll()));
            }
            if self.expected.by_deadline && ticks == 40 {
                self.bench.clock.advance(DEADLINE);
            }
            if self.lease_run.is_some() {
                self.step_guests();
            }
            self.control().step_tasks();
            if self.cell.kind.is_guest_call() && self.guest_is_current() {
                self.control().step_guests();
            }
            if self.cell.fault == Fault::QuestionAnswered
                && self.last_poll()["blocked_by"]["kind"] == "question"
            {
                let id = self.id.clone();
                // The question may be answered already.
                let _ = self.control().mutate(|world| world.answer(&id, "q-1", "2"));
            }
            self.tick().await;
            ticks += 1;
        }
        // The end of the job must stay the same.
        self.ticks(3).await;
        Ok(())
    }

    /// Whether otter reports the current state of the tools and waits for updates. Until then a
    /// guest must not change, because otter would not see the change.
    fn guest_is_current(&self) -> bool {
        let runs = self
            .control()
            .look(|world| world.machine(&self.id).map(|machine| machine.guest.tools_running));
        self.control().pending_waits() > 0 && runs == Some(self.tools_shown)
    }

    /// Starts the job.
    async fn start(&mut self) -> Result<(), String> {
        if self.lease_run.is_some() {
            return self.start_lease().await;
        }
        let id = self.id.clone();
        let on = |rest: &str| format!("/v1/machines/{id}{rest}");
        let snapshot = |name: &str| {
            let found =
                self.before.snapshots.iter().find(|snapshot| snapshot.name == name).unwrap();
            on(&format!("/snapshots/{}", encode(&found.id)))
        };
        let power = |body: Value| (Method::POST, on("/power"), Some(body));
        let revert = |to: &str, power_on: Option<bool>| {
            let mut body = json!({"snapshot": to});
            if let Some(power_on) = power_on {
                body["power_on"] = json!(power_on);
            }
            (Method::POST, on("/revert"), Some(body))
        };
        let (method, path, body) = match self.cell.kind {
            Kind::PowerOn => power(json!({"action": "on"})),
            Kind::PowerOff => power(json!({"action": "off"})),
            Kind::Reset => power(json!({"action": "reset"})),
            Kind::Suspend => power(json!({"action": "suspend"})),
            Kind::Shutdown => power(json!({"action": "shutdown"})),
            Kind::ForcedShutdown | Kind::ForcedPowerOff => {
                power(json!({"action": "shutdown", "force_after": "5s"}))
            }
            Kind::Reboot => power(json!({"action": "reboot"})),
            Kind::Kill => (
                Method::POST,
                "/v1/machines/kill".to_owned(),
                Some(json!({"name": self.before.name})),
            ),
            Kind::Answer => {
                (Method::POST, on("/answer"), Some(json!({"question": "q-1", "choice": "2"})))
            }
            Kind::Create => (Method::POST, on("/snapshots"), Some(json!({"name": "made"}))),
            Kind::Revert => revert("middle", None),
            Kind::RevertOn | Kind::RevertOnPower => revert("middle", Some(true)),
            Kind::RevertOff | Kind::RevertOffPower => revert("awake", Some(false)),
            Kind::Remove => (Method::DELETE, snapshot("middle"), None),
            Kind::RemoveChildren => (Method::DELETE, snapshot("middle") + "?children=true", None),
            Kind::RemoveAll => (Method::DELETE, on("/snapshots?all=true"), None),
            Kind::Consolidate => (Method::POST, on("/consolidate"), None),
            Kind::Rename => (Method::PATCH, snapshot("middle"), Some(json!({"name": "renamed"}))),
            Kind::Insert => (Method::PUT, on("/cdrom"), Some(json!({"iso": ISO}))),
            Kind::Boot => (Method::PUT, on("/boot"), Some(json!({"order": ["cdrom"]}))),
        };
        let mut request = self.bench.lab.request(method, &path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        if self.cell.kind == Kind::Rename {
            // A rename answers at its end, but the list has its job before.
            tokio::spawn(async move { Answer::from_request(request).await });
            self.job = self.bench.job_at(&format!("/v1/jobs?machine={id}")).await?;
        } else {
            let answer = Answer::from_request(request).await;
            if answer.status != 202 {
                return Err(format!("the job was not accepted: {}", answer.text));
            }
            self.job = answer.str("id").to_owned();
        }
        self.read_all().await;
        Ok(())
    }

    fn running_task(&self) -> Option<String> {
        self.control().look(|world| {
            let mut own_tasks =
                world.tasks().filter(|task| task.machine == self.id && !task.state.is_end());
            own_tasks.next().map(|task| task.id.clone())
        })
    }
}

/// Switches a machine off.
pub fn stop(machine: &mut Machine) {
    machine.power = PowerState::Off;
    machine.guest.tools_running = false;
    machine.guest.reported_address = None;
    machine.booted_at = None;
    machine.question = None;
}

/// The question that faults raise.
pub fn question() -> Question {
    let choice = |key: &str, summary: &str| Choice {
        key: key.to_owned(),
        label: format!("button.{summary}"),
        summary: summary.to_owned(),
        fails_with: None,
    };
    Question {
        id: "q-1".to_owned(),
        message_id: "msg.uuid.altered".to_owned(),
        text: "Moved or copied?".to_owned(),
        choices: vec![choice("1", "moved"), choice("2", "copied")],
        default_choice: Some(1),
    }
}

/// The settings of all benches: long intervals, because time advances only by ticks.
pub fn settings(settings: &mut Settings) {
    settings.jobs.settle = Duration::from_secs(1);
    settings.jobs.outage_grace = Duration::from_hours(100);
    settings.jobs.deadlines.power = DEADLINE;
    settings.jobs.deadlines.guest = DEADLINE;
    settings.jobs.deadlines.create = DEADLINE;
    settings.jobs.deadlines.revert = DEADLINE;
    settings.jobs.deadlines.remove = DEADLINE;
    settings.jobs.deadlines.prepare = DEADLINE;
    settings.esx.read_timeout = Duration::from_secs(10);
    settings.esx.login_backoff = Duration::from_secs(30);
    // Only jobs read guests.
    settings.guest_settle = Duration::from_hours(10_000);
    // A machine that otter quarantined stays quarantined until the end of its cell.
    settings.leases.quarantine_retry = Duration::ZERO;
}

/// The settings for faults that take effect by a time-out.
pub fn short_timeouts(to: &mut Settings) {
    settings(to);
    to.esx.read_timeout = Duration::from_millis(700);
    to.esx.max_wait = Duration::from_secs(1);
}
