//! Plays a cell of a lease: what asks for its jobs, what strikes between their calls, and how the
//! lease is seen to its end once its job has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use otter::clock::Clock;
use otter::simulator::world::{Machine, PowerState, World};
use reqwest::Method;
use serde_json::{Value, json};

use super::super::lease::table::{Hand, LeaseCell, LeaseKind, Trouble};
use super::super::table::{Cell, Expected};
use super::{Bench, Play, Proof, stop};
use crate::harness::{Answer, PATIENCE};

/// What a lease adds to the play of its job.
pub struct Leased {
    pub kind: LeaseKind,
    /// What another hand does, where that is the fault.
    pub by_hand: Option<ByHand>,
    /// The machine that would do as well.
    pub spare: Option<String>,
    pub id: String,
    secret: String,
    /// Every different state of the lease that a poll showed.
    pub polls: Vec<Value>,
}

/// What another hand does, and whether it did.
#[derive(Clone)]
pub struct ByHand {
    hand: Hand,
    snapshot: Option<&'static str>,
    acted: Arc<AtomicBool>,
}

impl ByHand {
    /// Does it.
    pub fn act(&self, world: &mut World, id: &str) {
        match self.hand {
            Hand::PowersOn => {
                if let Some(machine) = world.machine_mut(id) {
                    self.acted.fetch_or(machine.power != PowerState::On, Ordering::SeqCst);
                    machine.power = PowerState::On;
                }
            }
            Hand::PowersOff => {
                if let Some(machine) = world.machine_mut(id) {
                    self.acted.fetch_or(machine.power != PowerState::Off, Ordering::SeqCst);
                    stop(machine);
                }
            }
            Hand::RemovesSnapshot => {
                let Some(machine) = world.machine_mut(id) else { return };
                let named = |snapshot: &otter::simulator::world::Snapshot| {
                    Some(&*snapshot.name) == self.snapshot
                };
                let Some(gone) = machine.snapshots.iter().find(|snapshot| named(snapshot)).cloned()
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
                self.acted.store(true, Ordering::SeqCst);
            }
        }
    }

    pub fn acted(&self) -> bool {
        self.acted.load(Ordering::SeqCst)
    }
}

impl<'b> Play<'b> {
    /// Plays the cell to the end of its job, and gives the proof that the fault struck.
    pub async fn of_lease(
        bench: &'b mut Bench,
        cell: LeaseCell,
        job: Cell,
        expected: &'b Expected,
    ) -> Result<(Self, Proof), String> {
        let running = bench.machine();
        let mut off = running.clone();
        stop(&mut off);
        bench.place(&off).await?;
        let mut leased = Leased {
            kind: cell.kind,
            by_hand: match cell.trouble {
                Trouble::ByHand(hand) => {
                    Some(ByHand { hand, snapshot: cell.kind.snapshot(), acted: Arc::default() })
                }
                Trouble::Of(_) => None,
            },
            spare: None,
            id: String::new(),
            secret: String::new(),
            polls: Vec::new(),
        };
        if cell.spare {
            let mut spare = bench.machine();
            stop(&mut spare);
            // Of two that fit the first by name is granted first.
            spare.name = format!("{} spare", off.name);
            bench.place(&spare).await?;
            leased.spare = Some(spare.id);
        }
        let before = if cell.kind.prepares() {
            off
        } else {
            bench.take(&mut leased, &off, None).await?;
            bench.left_on(&running).await?;
            running
        };
        let mut play = Self::new(bench, job, expected, before, Some(leased));
        let proof = play.go_to_the_end().await?;
        Ok((play, proof))
    }

    /// The lease, which every play of one has.
    pub fn lease(&self) -> &Leased {
        self.leased.as_ref().unwrap()
    }

    /// Asks for what the struck job is for.
    pub(super) async fn start_lease(&mut self) -> Result<(), String> {
        let leased = self.leased.as_mut().unwrap();
        let kind = if leased.kind.prepares() {
            let until = if leased.kind == LeaseKind::AwaitAddress { "ip" } else { "tools" };
            // Long enough to be struck.
            let settle = if leased.kind == LeaseKind::Settle { "5s" } else { "1s" };
            let prepare = match leased.kind {
                LeaseKind::PrepareOff => json!({"snapshot": "base/awake", "power": "off"}),
                _ => {
                    json!({"snapshot": "base/middle", "power": "on", "until": until, "settle": settle})
                }
            };
            self.bench.take(leased, &self.before, Some(prepare)).await?;
            "lease.prepare"
        } else {
            self.bench.give_back(leased).await?;
            "lease.release"
        };
        // That of the next machine may have come already.
        let list = format!("/v1/jobs?lease={}&kind={kind}&machine={}", leased.id, self.id);
        self.job = self.bench.job_at(&list).await?;
        self.look().await;
        Ok(())
    }

    /// Notes how the lease stands.
    pub(super) async fn look_at_lease(&mut self) {
        // While its job runs it stays as it is.
        let runs = !self.job.is_empty() && !self.ended() && !self.looks.is_multiple_of(4);
        let Some(leased) = self.leased.as_mut().filter(|leased| !leased.id.is_empty() && !runs)
        else {
            return;
        };
        let (status, _, lease) = self.bench.read(&format!("/v1/leases/{}", leased.id)).await;
        if status != StatusCode::OK {
            self.wrong_reads.push(format!("the lease answered {status}"));
        } else if leased.polls.last() != Some(&lease) {
            leased.polls.push(lease);
        }
    }

    /// Whether this list shows every guest as it is: what one does together with its start proves
    /// nothing.
    pub(super) fn shows_guests(&self, list: &Value) -> bool {
        let Some(shown) = list["items"].as_array() else { return false };
        self.control().look(|world| {
            world.machines().all(|machine| {
                let on = machine.power == PowerState::On;
                let tools = machine.guest.tools_running;
                shown.iter().any(|shown| {
                    shown["id"] == machine.id.as_str()
                        && (shown["power_state"] == "on") == on
                        && (shown["tools_status"] == "running") == tools
                })
            })
        })
    }

    /// Whether no job still follows a task that starts a guest: a start that is told after what the
    /// guest did makes that an old guest's.
    pub(super) async fn knows_the_starts(&self) -> bool {
        let (_, _, jobs) = self.bench.read("/v1/jobs?state=running").await;
        let starts = |step: &Value| {
            step["state"] == "running"
                && matches!(step["name"].as_str(), Some("revert" | "power_on"))
        };
        let mut jobs = jobs["items"].as_array().into_iter().flatten();
        jobs.all(|job| !job["steps"].as_array().into_iter().flatten().any(starts))
    }

    /// Lets guests do what they would do next; one that another hand started comes up as any.
    pub(super) fn step_guests(&self) {
        if !self.in_step || self.control().pending_waits() == 0 || self.control().step_guests() > 0
        {
            return;
        }
        let silent = |machine: &Machine| {
            machine.power == PowerState::On
                && !machine.guest.tools_running
                && machine.question.is_none()
        };
        let ids: Vec<String> = self.control().look(|world| {
            world
                .machines()
                .filter(|machine| silent(machine))
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

    /// The fault strikes between two calls, or after the last.
    pub(super) async fn between(&mut self) -> Result<Proof, String> {
        match self.lease().kind {
            LeaseKind::ReleaseCheck => {
                self.reach_the_call().await?;
                self.reach_the_step().await?;
                self.reads_rest().await;
                let planned = self.control().disrupt_next("RetrievePropertiesEx", self.at_read());
                self.first_done();
                self.until("the read to be struck", |_| planned.delivered() > 0).await?;
                Ok(Proof::planned(planned))
            }
            LeaseKind::AwaitTools => self.waiting("waiting for tools").await,
            LeaseKind::AwaitAddress => self.waiting("waiting for ip").await,
            LeaseKind::Settle => {
                self.settling().await?;
                self.at_work().await
            }
            kind => {
                self.settling().await?;
                let planned = if kind == LeaseKind::PrepareCheck {
                    self.control().disrupt_next("RetrievePropertiesEx", self.at_read())
                } else {
                    self.control().disrupt_next("CancelWaitForUpdates", self.catch_up())
                };
                self.until("the last read to be struck", |_| planned.delivered() > 0).await?;
                Ok(Proof::planned(planned))
            }
        }
    }

    async fn waiting(&mut self, phase: &'static str) -> Result<Proof, String> {
        self.calls_done().await?;
        self.until("the wait", |play| play.seen()["phase"] == phase).await?;
        self.ticks(3).await;
        self.at_work().await
    }

    async fn settling(&mut self) -> Result<(), String> {
        self.calls_done().await?;
        let settles = |play: &Self| {
            let settles = play.seen()["phase"] == "letting the machine come to rest";
            if !settles {
                play.step_guests();
            }
            settles
        };
        self.until("the settling", settles).await
    }

    /// The revert and the power-on are done.
    async fn calls_done(&mut self) -> Result<(), String> {
        self.start().await?;
        for method in ["RevertToSnapshot_Task", "PowerOnVM_Task"] {
            let mut found = None;
            self.until(method, |play| {
                found = play.control().look(|world| {
                    let mine = |task: &&otter::simulator::world::Task| {
                        task.machine == play.id
                            && !task.state.is_end()
                            && task.operation.method() == method
                    };
                    world.tasks().find(mine).map(|task| task.id.clone())
                });
                found.is_some()
            })
            .await?;
            let task = found.unwrap_or_default();
            self.until("the task to be known", |play| play.seen()["host_task"] == task.as_str())
                .await?;
            self.control().finish_task(&task);
            // Guests wait until that is shown.
            self.in_step = false;
        }
        Ok(())
    }

    /// The host is well again, and does what it is asked until the lease has come to its end; one
    /// that is active is given back. Gives the lease as it was when it was active, if it was.
    pub async fn lease_to_the_end(&mut self) -> Result<Option<Value>, String> {
        let patience = Clock::system();
        let mut active = None;
        loop {
            let lease = self.lease().polls.last().cloned().unwrap_or_default();
            match lease["state"].as_str().unwrap_or_default() {
                "active" if active.is_none() => {
                    active = Some(lease.clone());
                    self.bench.give_back(self.leased.as_mut().unwrap()).await?;
                }
                "released" | "expired" | "revoked" | "failed" => {
                    // An end is an end: a while later it is the same.
                    self.ticks(3).await;
                    return Ok(active);
                }
                _ => {}
            }
            if patience.elapsed() > PATIENCE {
                return Err(format!("the lease comes to no end: {lease}"));
            }
            self.step_guests();
            self.control().step_tasks();
            self.tick().await;
        }
    }
}

impl Bench {
    /// Asks for the machine, or for one like it.
    async fn take(
        &self,
        leased: &mut Leased,
        machine: &Machine,
        prepare: Option<Value>,
    ) -> Result<(), String> {
        let mut body = json!({"select": {"name": machine.name}, "ttl": "10h"});
        if let Some(prepare) = prepare {
            body["prepare"] = prepare;
        } else if let Some(snapshot) = leased.kind.snapshot() {
            body["release"] = json!({"snapshot": format!("base/{snapshot}")});
        }
        if leased.spare.is_some() {
            body["queue_for"] = json!("10m");
        }
        let answer = self.lab.post("/v1/leases", body).await;
        if answer.status != 201 || answer.json["machine"] != machine.id.as_str() {
            return Err(format!("the lease was not granted: {}", answer.text));
        }
        answer.str("id").clone_into(&mut leased.id);
        answer.str("secret").clone_into(&mut leased.secret);
        Ok(())
    }

    async fn give_back(&self, leased: &mut Leased) -> Result<(), String> {
        let request = self.lab.request(Method::DELETE, &format!("/v1/leases/{}", leased.id));
        let shown = format!("{}.{}", leased.id, leased.secret);
        let answer = Answer::of(request.header("otter-lease", shown)).await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("it was not given back: {}", answer.text))
        }
    }

    /// The holder has left the machine on.
    async fn left_on(&mut self, running: &Machine) -> Result<(), String> {
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
            self.until("the machine to be shown on", async |bench| {
                bench.read(&path).await.2[field] == value
            })
            .await?;
        }
        Ok(())
    }
}
