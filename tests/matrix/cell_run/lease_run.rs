//! Runs a cell of the lease matrix: it requests the lease, injects faults between the calls of its
//! jobs, and lets the lease end after its job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use otter::clock::Clock;
use otter::simulator::world::{Machine, PowerState, World};
use reqwest::Method;
use serde_json::{Value, json};

use super::super::lease::table::{LeaseCell, LeaseFault, LeaseKind, ManualChange};
use super::super::table::{Cell, Expected};
use super::{CellRun, DeliveryProof, TestBench, stop};
use crate::harness::{Answer, TIMEOUT};

/// The lease of a cell.
pub struct LeaseRun {
    pub kind: LeaseKind,
    /// The manual change of the machine. `None` if the fault is an injected one.
    pub manual_change: Option<ManualChangeRun>,
    /// The id of another machine that matches the lease. `None` if there is none.
    pub spare: Option<String>,
    pub id: String,
    secret: String,
    /// The different states of the lease in polls.
    pub polls: Vec<Value>,
}

/// A manual change of a machine, and whether it was made.
#[derive(Clone)]
pub struct ManualChangeRun {
    change: ManualChange,
    snapshot: Option<&'static str>,
    has_acted: Arc<AtomicBool>,
}

impl ManualChangeRun {
    /// Makes the change.
    pub fn apply(&self, world: &mut World, id: &str) {
        match self.change {
            ManualChange::PowersOn => {
                if let Some(machine) = world.machine_mut(id) {
                    self.has_acted.fetch_or(machine.power != PowerState::On, Ordering::SeqCst);
                    machine.power = PowerState::On;
                }
            }
            ManualChange::PowersOff => {
                if let Some(machine) = world.machine_mut(id) {
                    self.has_acted.fetch_or(machine.power != PowerState::Off, Ordering::SeqCst);
                    stop(machine);
                }
            }
            ManualChange::RemovesSnapshot => {
                let Some(machine) = world.machine_mut(id) else { return };
                let is_target = |snapshot: &otter::simulator::world::Snapshot| {
                    Some(&*snapshot.name) == self.snapshot
                };
                let Some(gone) =
                    machine.snapshots.iter().find(|snapshot| is_target(snapshot)).cloned()
                else {
                    return;
                };
                machine.snapshots.retain(|snapshot| snapshot.id != gone.id);
                for child in machine
                    .snapshots
                    .iter_mut()
                    .filter(|child| child.parent.as_ref() == Some(&gone.id))
                {
                    child.parent.clone_from(&gone.parent);
                }
                if machine.current_snapshot.as_ref() == Some(&gone.id) {
                    machine.current_snapshot.clone_from(&gone.parent);
                }
                self.has_acted.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Whether the change was made.
    pub fn has_acted(&self) -> bool {
        self.has_acted.load(Ordering::SeqCst)
    }
}

impl<'b> CellRun<'b> {
    /// Runs a cell to the end of its job. Returns the run and the proof that the fault was
    /// delivered.
    pub async fn run_lease(
        bench: &'b mut TestBench,
        cell: LeaseCell,
        job: Cell,
        expected: &'b Expected,
    ) -> Result<(Self, DeliveryProof), String> {
        let running = bench.machine();
        let mut off = running.clone();
        stop(&mut off);
        bench.place(&off).await?;
        let mut lease_run = LeaseRun {
            kind: cell.kind,
            manual_change: match cell.fault {
                LeaseFault::Manual(change) => Some(ManualChangeRun {
                    change,
                    snapshot: cell.kind.snapshot(),
                    has_acted: Arc::default(),
                }),
                LeaseFault::Injected(_) => None,
            },
            spare: None,
            id: String::new(),
            secret: String::new(),
            polls: Vec::new(),
        };
        if cell.spare {
            let mut spare = bench.machine();
            stop(&mut spare);
            // Of two matching machines, the first by name is granted.
            spare.name = format!("{} spare", off.name);
            bench.place(&spare).await?;
            lease_run.spare = Some(spare.id);
        }
        let before = if cell.kind.prepares() {
            off
        } else {
            bench.acquire(&mut lease_run, &off, None).await?;
            bench.leave_on(&running).await?;
            running
        };
        let mut run = Self::new(bench, job, expected, before, Some(lease_run));
        let proof = run.run_job().await?;
        Ok((run, proof))
    }

    /// The lease. Every cell of the lease matrix has one.
    pub fn lease(&self) -> &LeaseRun {
        self.lease_run.as_ref().unwrap()
    }

    /// Requests or releases the lease, which starts the job.
    pub(super) async fn start_lease(&mut self) -> Result<(), String> {
        let lease_run = self.lease_run.as_mut().unwrap();
        let kind = if lease_run.kind.prepares() {
            let until = if lease_run.kind == LeaseKind::AwaitAddress { "ip" } else { "tools" };
            // Long enough to inject a fault.
            let settle = if lease_run.kind == LeaseKind::Settle { "5s" } else { "1s" };
            let prepare = match lease_run.kind {
                LeaseKind::PrepareOff => json!({"snapshot": "base/awake", "power": "off"}),
                _ => {
                    json!({"snapshot": "base/middle", "power": "on", "until": until, "settle": settle})
                }
            };
            self.bench.acquire(lease_run, &self.before, Some(prepare)).await?;
            "lease.prepare"
        } else {
            self.bench.release(lease_run).await?;
            "lease.release"
        };
        // The lease may already have a job on the next machine.
        let list = format!("/v1/jobs?lease={}&kind={kind}&machine={}", lease_run.id, self.id);
        self.job = self.bench.job_at(&list).await?;
        self.read_all().await;
        Ok(())
    }

    /// Reads the lease and records a new state.
    pub(super) async fn read_lease(&mut self) {
        // While its job runs, the lease does not change.
        let runs = !self.job.is_empty() && !self.has_ended() && !self.reads.is_multiple_of(4);
        let Some(lease_run) =
            self.lease_run.as_mut().filter(|lease_run| !lease_run.id.is_empty() && !runs)
        else {
            return;
        };
        let (status, _, lease) = self.bench.read(&format!("/v1/leases/{}", lease_run.id)).await;
        if status != StatusCode::OK {
            self.wrong_reads.push(format!("the lease answered {status}"));
        } else if lease_run.polls.last() != Some(&lease) {
            lease_run.polls.push(lease);
        }
    }

    /// Whether this list has the current state of every guest. Until then a guest must not change,
    /// because otter would not see the change.
    pub(super) fn shows_guests(&self, list: &Value) -> bool {
        let Some(listed) = list["items"].as_array() else { return false };
        self.control().look(|world| {
            world.machines().all(|machine| {
                let on = machine.power == PowerState::On;
                let tools = machine.guest.tools_running;
                listed.iter().any(|item| {
                    item["id"] == machine.id.as_str()
                        && (item["power_state"] == "on") == on
                        && (item["tools_status"] == "running") == tools
                })
            })
        })
    }

    /// Whether no job follows a task that starts a guest. If otter learned of the start after a
    /// change of the guest, it would attribute the change to the previous run of the guest.
    pub(super) async fn has_no_starting_guest(&self) -> bool {
        let (_, _, jobs) = self.bench.read("/v1/jobs?state=running").await;
        let starts = |step: &Value| {
            step["state"] == "running"
                && matches!(step["name"].as_str(), Some("revert" | "power_on"))
        };
        let mut jobs = jobs["items"].as_array().into_iter().flatten();
        jobs.all(|job| !job["steps"].as_array().into_iter().flatten().any(starts))
    }

    /// Steps the guests, once otter reports their current state. A guest that a manual change
    /// started comes up too.
    pub(super) fn step_guests(&self) {
        if !self.guests_are_current
            || self.control().pending_waits() == 0
            || self.control().step_guests() > 0
        {
            return;
        }
        let is_booting = |machine: &Machine| {
            machine.power == PowerState::On
                && !machine.guest.tools_running
                && machine.question.is_none()
        };
        let ids: Vec<String> = self.control().look(|world| {
            world
                .machines()
                .filter(|machine| is_booting(machine))
                .map(|machine| machine.id.clone())
                .collect()
        });
        for id in ids.iter().filter(|id| *id != super::MARKER) {
            self.control().mutate(|world| {
                if let Some(machine) = world.machine_mut(id) {
                    machine.guest.tools_running = true;
                    machine.guest.reported_address.clone_from(&machine.guest.address);
                }
            });
        }
    }

    /// Injects the fault between two calls, or after the last call.
    pub(super) async fn inject_between_calls(&mut self) -> Result<DeliveryProof, String> {
        match self.lease().kind {
            LeaseKind::ReleaseCheck => {
                self.reach_the_call().await?;
                self.reach_the_step().await?;
                self.wait_for_reads_to_stop().await;
                let planned =
                    self.control().disrupt_next("RetrievePropertiesEx", self.read_disruption());
                self.finish_first_call();
                self.until("the read to be disrupted", |_| planned.delivered() > 0).await?;
                Ok(DeliveryProof::planned(planned))
            }
            LeaseKind::AwaitTools => self.inject_during_wait("waiting for tools").await,
            LeaseKind::AwaitAddress => self.inject_during_wait("waiting for ip").await,
            LeaseKind::Settle => {
                self.reach_settling().await?;
                self.inject_while_running().await
            }
            kind => {
                self.reach_settling().await?;
                let planned = if kind == LeaseKind::PrepareCheck {
                    self.control().disrupt_next("RetrievePropertiesEx", self.read_disruption())
                } else {
                    self.control().disrupt_next("CancelWaitForUpdates", self.barrier_disruption())
                };
                self.until("the last read to be disrupted", |_| planned.delivered() > 0).await?;
                Ok(DeliveryProof::planned(planned))
            }
        }
    }

    async fn inject_during_wait(&mut self, phase: &'static str) -> Result<DeliveryProof, String> {
        self.finish_calls().await?;
        self.until("the wait", |run| run.last_poll()["phase"] == phase).await?;
        self.ticks(3).await;
        self.inject_while_running().await
    }

    async fn reach_settling(&mut self) -> Result<(), String> {
        self.finish_calls().await?;
        let settles = |run: &Self| {
            let settles = run.last_poll()["phase"] == "letting the machine come to rest";
            if !settles {
                run.step_guests();
            }
            settles
        };
        self.until("the job to settle", settles).await
    }

    /// Finishes the revert and the power-on.
    async fn finish_calls(&mut self) -> Result<(), String> {
        self.start().await?;
        for method in ["RevertToSnapshot_Task", "PowerOnVM_Task"] {
            let mut found = None;
            self.until(method, |run| {
                found = run.control().look(|world| {
                    let is_own_task = |task: &&otter::simulator::world::Task| {
                        task.machine == run.id
                            && !task.state.is_end()
                            && task.operation.method() == method
                    };
                    world.tasks().find(is_own_task).map(|task| task.id.clone())
                });
                found.is_some()
            })
            .await?;
            let task = found.unwrap_or_default();
            self.until("the task to be known", |run| run.last_poll()["host_task"] == task.as_str())
                .await?;
            self.control().finish_task(&task);
            // The guests must not change until otter reports their new state.
            self.guests_are_current = false;
        }
        Ok(())
    }

    /// Lets the lease end on the recovered host. An active lease is released. Returns the lease as
    /// it was when it was active, or `None` if it was never active.
    pub async fn lease_to_the_end(&mut self) -> Result<Option<Value>, String> {
        let patience = Clock::system();
        let mut active = None;
        loop {
            let lease = self.lease().polls.last().cloned().unwrap_or_default();
            match lease["state"].as_str().unwrap_or_default() {
                "active" if active.is_none() => {
                    active = Some(lease.clone());
                    self.bench.release(self.lease_run.as_mut().unwrap()).await?;
                }
                "released" | "expired" | "revoked" | "failed" => {
                    // The end of the lease must stay the same.
                    self.ticks(3).await;
                    return Ok(active);
                }
                _ => {}
            }
            if patience.elapsed() > TIMEOUT {
                return Err(format!("the lease does not end: {lease}"));
            }
            self.step_guests();
            self.control().step_tasks();
            self.tick().await;
        }
    }
}

impl TestBench {
    /// Requests a lease of the machine.
    async fn acquire(
        &self,
        lease_run: &mut LeaseRun,
        machine: &Machine,
        prepare: Option<Value>,
    ) -> Result<(), String> {
        let mut body = json!({"select": {"name": machine.name}, "ttl": "10h"});
        if let Some(prepare) = prepare {
            body["prepare"] = prepare;
        } else if let Some(snapshot) = lease_run.kind.snapshot() {
            body["release"] = json!({"snapshot": format!("base/{snapshot}")});
        }
        if lease_run.spare.is_some() {
            body["queue_for"] = json!("10m");
        }
        let answer = self.lab.post("/v1/leases", body).await;
        if answer.status != 201 || answer.json["machine"] != machine.id.as_str() {
            return Err(format!("the lease was not granted: {}", answer.text));
        }
        answer.str("id").clone_into(&mut lease_run.id);
        answer.str("secret").clone_into(&mut lease_run.secret);
        Ok(())
    }

    /// Releases the lease.
    async fn release(&self, lease_run: &mut LeaseRun) -> Result<(), String> {
        let request = self.lab.request(Method::DELETE, &format!("/v1/leases/{}", lease_run.id));
        let secret = format!("{}.{}", lease_run.id, lease_run.secret);
        let answer = Answer::from_request(request.header("otter-lease", secret)).await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("the lease was not released: {}", answer.text))
        }
    }

    /// Powers the machine on, as a holder may leave it.
    async fn leave_on(&mut self, running: &Machine) -> Result<(), String> {
        let mut booting = running.clone();
        booting.guest.tools_running = false;
        booting.guest.reported_address = None;
        let path = format!("/v1/machines/{}", running.id);
        for (now, field, value) in [
            (&booting, "power_state", json!("on")),
            (running, "ip_address", json!(running.guest.reported_address)),
        ] {
            self.control.mutate(|world| {
                if let Some(machine) = world.machine_mut(&running.id) {
                    machine.clone_from(now);
                }
            });
            self.until("otter to report the machine as on", async |bench| {
                bench.read(&path).await.2[field] == value
            })
            .await?;
        }
        Ok(())
    }
}
