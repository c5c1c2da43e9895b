//! How a fault is injected at a point of a job: disruptions of calls, and changes of the host.

use otter::simulator::world::{Machine, PowerState, World};
use otter::simulator::{
    Control, Disruption, DownMode, Fault as HostFault, HostChange, HostChangeKind, HostdRestart,
    PlannedDisruption, TestHook,
};
use tokio_util::sync::CancellationToken;

use super::super::table::{Cell, Fault, InjectionPoint, Kind};
use super::{CellRun, question, stop};

/// The proof that a fault was delivered.
pub struct DeliveryProof(Box<dyn Fn(&Control) -> bool + Send>);

impl DeliveryProof {
    /// Proven once the planned disruption was delivered.
    pub fn planned(planned: PlannedDisruption) -> Self {
        Self(Box::new(move |_| planned.delivered() > 0))
    }

    fn all(proofs: Vec<Self>) -> Self {
        Self(Box::new(move |control| proofs.iter().all(|proof| proof.holds(control))))
    }

    /// Whether the fault was delivered.
    pub fn holds(&self, control: &Control) -> bool {
        (self.0)(control)
    }
}

impl CellRun<'_> {
    /// Starts the job and injects the fault at its point.
    pub(super) async fn inject_fault(&mut self) -> Result<DeliveryProof, String> {
        let kind = self.cell.kind;
        match self.cell.point {
            _ if self.lease_run.as_ref().is_some_and(|lease_run| lease_run.kind.is_between()) => {
                self.inject_between_calls().await
            }
            InjectionPoint::Before if kind.first().is_none() => {
                let planned =
                    self.control().disrupt_next("RetrievePropertiesEx", self.read_disruption());
                self.start().await?;
                self.until("the read to be disrupted", |_| planned.delivered() > 0).await?;
                Ok(DeliveryProof::planned(planned))
            }
            InjectionPoint::Before => {
                self.start().await?;
                self.reach_first_call().await?;
                let planned =
                    self.control().disrupt_next("RetrievePropertiesEx", self.read_disruption());
                self.finish_first_call();
                self.until("the read to be disrupted", |_| planned.delivered() > 0).await?;
                Ok(DeliveryProof::planned(planned))
            }
            InjectionPoint::AtCall => {
                let planned = self.control().disrupt_next(kind.method(), self.call_disruption());
                self.reach_the_call().await?;
                self.until("the call to be disrupted", |_| planned.delivered() > 0).await?;
                Ok(DeliveryProof::planned(planned))
            }
            InjectionPoint::Unanswered => self.inject_unanswered().await,
            InjectionPoint::Accepted | InjectionPoint::Progress | InjectionPoint::Unreported => {
                self.reach_the_call().await?;
                self.reach_the_step().await?;
                self.inject_while_running().await
            }
            InjectionPoint::ResultRead => self.inject_at_result().await,
        }
    }

    /// The disruption of a read: the one before the call, or the wait that is the barrier.
    pub fn read_disruption(&self) -> Disruption {
        match self.cell.fault {
            Fault::CutBefore => Disruption::CloseBeforeRunning,
            Fault::CutMid => Disruption::CloseMidAnswer,
            Fault::CutAfter => Disruption::CloseAfterRunning,
            Fault::SlowDone => Disruption::NeverAnswer { run: true },
            Fault::Garbage => garbage(),
            Fault::Unavailable => unavailable(),
            _ => Disruption::Hook(self.hook(false), None),
        }
    }

    /// The disruption of the call as it arrives.
    fn call_disruption(&self) -> Disruption {
        match self.cell.fault {
            Fault::PowerStateInCall if !is_refused_by_power_state(self.cell.kind) => {
                Disruption::Fault(HostFault::invalid_power_state(Some("poweredOn"), "poweredOff"))
            }
            Fault::HostRestarted | Fault::HostRebooted | Fault::GoneInOutage => {
                // `NotAuthenticated` would be an answer, so the connection is closed.
                Disruption::Hook(self.hook(false), Some(Box::new(Disruption::CloseBeforeRunning)))
            }
            _ => Disruption::Hook(self.hook(false), None),
        }
    }

    /// Injects the fault while the host has the call and has not answered it.
    async fn inject_unanswered(&mut self) -> Result<DeliveryProof, String> {
        let method = self.cell.kind.method();
        let released = CancellationToken::new();
        let simple = match self.cell.fault {
            Fault::CutBefore => Some(Disruption::CloseBeforeRunning),
            Fault::CutMid => Some(Disruption::CloseMidAnswer),
            Fault::CutAfter => Some(Disruption::CloseAfterRunning),
            Fault::SlowDone => Some(Disruption::NeverAnswer { run: true }),
            Fault::SlowUndone => Some(Disruption::NeverAnswer { run: false }),
            Fault::Garbage => Some(garbage()),
            Fault::Unavailable => Some(unavailable()),
            _ => None,
        };
        let held = simple.is_none();
        let disruption =
            simple.unwrap_or(Disruption::CloseWhen { run: true, cancelled: released.clone() });
        let planned = self.control().disrupt_next(method, disruption);
        self.reach_the_call().await?;
        self.until("the call to be disrupted", |_| planned.delivered() > 0).await?;
        if !held {
            return Ok(DeliveryProof::planned(planned));
        }
        if self.cell.kind.has_task() {
            self.until("the task", |run| run.running_task().is_some()).await?;
            self.task = self.running_task();
        } else {
            // A call without a task runs as soon as it arrives.
            self.ticks(2).await;
        }
        let proof = self.inject_while_running().await?;
        released.cancel();
        Ok(DeliveryProof::all(vec![DeliveryProof::planned(planned), proof]))
    }

    /// Starts the job and lets it reach the disrupted call.
    pub async fn reach_the_call(&mut self) -> Result<(), String> {
        self.start().await?;
        if self.cell.kind.first().is_some() {
            self.reach_first_call().await?;
            self.finish_first_call();
        }
        Ok(())
    }

    /// Lets the host accept the first call of the job.
    pub async fn reach_first_call(&mut self) -> Result<(), String> {
        if self.cell.kind == Kind::ForcedPowerOff {
            self.until("the guest to be asked", |run| {
                run.last_poll()["phase"] == "waiting for the guest"
            })
            .await?;
            self.ticks(3).await;
            return Ok(());
        }
        self.until("the first task", |run| run.running_task().is_some()).await?;
        self.control().step_tasks();
        self.control().step_tasks();
        self.until("its progress", |run| run.last_poll()["progress"] == 25).await?;
        self.wait_for_reads_to_stop().await;
        Ok(())
    }

    /// Waits until no read is pending, so that the next read is the one before the next call.
    pub async fn wait_for_reads_to_stop(&mut self) {
        let (mut reads, mut quiet) = (0, 0);
        while quiet < 5 {
            self.tick().await;
            let now = self.control().calls("RetrievePropertiesEx");
            quiet = if now == reads { quiet + 1 } else { 0 };
            reads = now;
        }
    }

    /// Finishes the task of the first call.
    pub fn finish_first_call(&self) {
        if let Some(task) = self.running_task() {
            self.control().finish_task(&task);
        }
    }

    /// Lets the disrupted call reach the injection point.
    pub async fn reach_the_step(&mut self) -> Result<(), String> {
        let kind = self.cell.kind;
        if kind.is_guest_call() {
            self.until("the guest to be watched", |run| {
                run.last_poll()["phase"] == "waiting for the guest"
            })
            .await?;
            self.ticks(3).await;
            if kind == Kind::Reboot && self.cell.point != InjectionPoint::Accepted {
                self.control().step_guests();
                let gone = |run: &Self| {
                    run.control().look(|world| {
                        world.machine(&run.id).is_some_and(|m| !m.guest.tools_running)
                    })
                };
                self.until("the tools to go", gone).await?;
                self.ticks(3).await;
            }
            return Ok(());
        }
        let method = kind.method();
        let is_own_task = move |run: &Self| {
            run.control().look(|world| {
                world.tasks().any(|task| {
                    task.machine == run.id
                        && !task.state.is_end()
                        && task.operation.method() == method
                })
            })
        };
        self.until("the disrupted task", is_own_task).await?;
        self.task = self.running_task();
        let task = self.task.clone();
        self.until("the task to be shown", |run| {
            run.last_poll()["host_task"].as_str() == task.as_deref()
        })
        .await?;
        if self.cell.point != InjectionPoint::Accepted {
            self.control().step_tasks();
            self.control().step_tasks();
            self.until("its progress", |run| run.last_poll()["progress"] == 25).await?;
        }
        Ok(())
    }

    /// Injects the fault while the call runs, or at the moment at which it is done.
    pub async fn inject_while_running(&mut self) -> Result<DeliveryProof, String> {
        let finish = self.cell.point == InjectionPoint::Unreported;
        let stream = match self.cell.fault {
            Fault::CutBefore => Some(Disruption::CloseBeforeRunning),
            Fault::CutMid => Some(Disruption::CloseMidAnswer),
            Fault::CutAfter => Some(Disruption::CloseAfterRunning),
            Fault::SlowDone => Some(Disruption::NeverAnswer { run: true }),
            Fault::Garbage => Some(garbage()),
            Fault::Unavailable => Some(unavailable()),
            _ => None,
        };
        if let Some(disruption) = stream {
            let planned = if finish {
                let hook = self.hook(true);
                self.control().disrupt_next(
                    "WaitForUpdatesEx",
                    Disruption::Hook(hook, Some(Box::new(disruption))),
                )
            } else {
                self.control().disrupt_next("WaitForUpdatesEx", disruption)
            };
            self.bench.nudge();
            self.until("the stream to be disrupted", |_| planned.delivered() > 0).await?;
            return Ok(DeliveryProof::planned(planned));
        }
        let proof = self.proof_of_host_change();
        self.hook(finish).run(self.control());
        Ok(proof)
    }

    /// Injects the fault into the barrier, the read that makes the inventory current.
    pub async fn inject_at_result(&mut self) -> Result<DeliveryProof, String> {
        let kind = self.cell.kind;
        if kind.is_immediate() && self.cell.fault == Fault::SlowDone {
            // otter gets no updates from before the call on.
            let planned = self
                .control()
                .disrupt_next("WaitForUpdatesEx", Disruption::NeverAnswer { run: true });
            self.bench.nudge();
            self.until("the stream to be disrupted", |_| planned.delivered() > 0).await?;
            self.start().await?;
            return Ok(DeliveryProof::planned(planned));
        }
        let planned = if kind.is_immediate() {
            let barrier_disruption = self.barrier_disruption();
            let planned = self.control().disrupt_next("CancelWaitForUpdates", barrier_disruption);
            self.start().await?;
            planned
        } else {
            self.reach_the_call().await?;
            self.reach_the_step().await?;
            let planned = if self.lease_run.is_some() {
                // The job reads the machine once more before its barrier.
                let disruption = self.barrier_disruption();
                self.control().disrupt_next("CancelWaitForUpdates", disruption)
            } else {
                // The wait after the end of the task is the barrier.
                self.until("a wait", |run| run.control().pending_waits() == 1).await?;
                let disruption = self.read_disruption();
                self.control().disrupt_next("WaitForUpdatesEx", disruption)
            };
            let task = self.task.clone();
            self.control().mutate(|world| finish(world, task.as_deref(), kind));
            planned
        };
        self.until("the barrier to be disrupted", |_| planned.delivered() > 0).await?;
        Ok(DeliveryProof::planned(planned))
    }

    /// The disruption of a barrier that begins with a cancel of the pending wait.
    pub fn barrier_disruption(&self) -> Disruption {
        match self.read_disruption() {
            hook @ Disruption::Hook(..) => hook,
            disruption => {
                let hook = TestHook::new(move |control| {
                    control.disrupt_next("WaitForUpdatesEx", disruption.clone());
                });
                Disruption::Hook(hook, None)
            }
        }
    }

    /// The proof of a fault that is not a disruption of a call.
    fn proof_of_host_change(&self) -> DeliveryProof {
        let id = self.id.clone();
        let method = self.cell.kind.method();
        if let Some(manual_change) =
            self.lease_run.as_ref().and_then(|lease_run| lease_run.manual_change.clone())
        {
            return DeliveryProof(Box::new(move |_| manual_change.has_acted()));
        }
        let has_occurred = |kind: HostChangeKind| {
            let before = self.control().occurrences(kind);
            DeliveryProof(Box::new(move |control| control.occurrences(kind) > before))
        };
        match self.cell.fault {
            Fault::SessionExpired | Fault::AccountRefused => {
                has_occurred(HostChangeKind::ExpireSessions)
            }
            Fault::HostRestarted
            | Fault::HostRestartedIdle
            | Fault::HostRebooted
            | Fault::GoneInOutage => has_occurred(HostChangeKind::RestartHostd),
            Fault::TaskVanished => has_occurred(HostChangeKind::VanishTasks),
            Fault::Licence => has_occurred(HostChangeKind::Licence),
            Fault::QuestionAnswered | Fault::QuestionLeft => has_occurred(HostChangeKind::Question),
            Fault::TaskFailed | Fault::PowerStateInTask => {
                DeliveryProof(Box::new(move |control| {
                    control.look(|world| {
                        world.tasks().any(|task| {
                            task.machine == id
                                && task.operation.method() == method
                                && task.error.is_some()
                        })
                    })
                }))
            }
            Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                let uuid = self.before.instance_uuid.clone();
                DeliveryProof(Box::new(move |control| {
                    control.look(|world| {
                        world.machine(&id).is_none_or(|machine| machine.instance_uuid != uuid)
                    })
                }))
            }
            _ => DeliveryProof(Box::new(|_| false)),
        }
    }

    /// The change of the host. If `done` is set, the disrupted call is completed immediately before
    /// the change.
    fn hook(&self, done: bool) -> TestHook {
        let (cell, id, task) = (self.cell, self.id.clone(), self.task.clone());
        let before = self.before.clone();
        let manual_change =
            self.lease_run.as_ref().and_then(|lease_run| lease_run.manual_change.clone());
        let between = self.lease_run.as_ref().is_some_and(|lease_run| lease_run.kind.is_between());
        TestHook::new(move |control| {
            let task = task.as_deref();
            let finish = |world: &mut World| {
                if done {
                    finish(world, task, cell.kind);
                }
            };
            let down = Some(DownMode::Refuse);
            let restart =
                |drop_running| Some(HostChange::RestartHostd(HostdRestart { down, drop_running }));
            let finish_unseen = |world: &mut World| {
                if let Some(task) = task {
                    world.finish_task(task);
                }
            };
            if let Some(manual_change) = &manual_change {
                control.mutate(|world| {
                    finish(world);
                    manual_change.apply(world, &id);
                });
                return;
            }
            match cell.fault {
                Fault::SessionExpired => {
                    control.mutate_and_apply(finish, Some(HostChange::ExpireSessions));
                }
                Fault::AccountRefused => {
                    control.refuse_logins(true);
                    control.mutate_and_apply(finish, Some(HostChange::ExpireSessions));
                }
                Fault::HostRestarted => {
                    control.mutate_and_apply(finish, restart(false));
                    control.mutate(finish_unseen);
                }
                Fault::HostRestartedIdle => control.mutate_and_apply(finish, restart(true)),
                Fault::HostRebooted => control.mutate_and_apply(
                    |world| {
                        finish(world);
                        world.reboot_host();
                    },
                    restart(true),
                ),
                Fault::GoneInOutage => {
                    control.mutate_and_apply(finish, restart(true));
                    control.mutate(|world| drop(world.remove_machine(&id)));
                }
                Fault::TaskVanished => {
                    control.mutate_and_apply(finish, Some(HostChange::VanishTasks));
                    control.mutate(finish_unseen);
                }
                Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                    control.mutate(|world| {
                        finish(world);
                        let removed = world.remove_machine(&id).unwrap();
                        finish_unseen(world);
                        match cell.fault {
                            Fault::Reregistered => world.add_machine(with_new_moid(removed)),
                            Fault::MoidReused => {
                                world.add_machine(different_machine(before.clone()));
                            }
                            _ => {}
                        }
                    });
                }
                Fault::QuestionAnswered | Fault::QuestionLeft => {
                    let pending = between || !is_held_by_question(cell);
                    control.mutate_and_apply(finish, Some(ask(&id, pending)));
                }
                Fault::Licence => {
                    control.mutate_and_apply(finish, Some(HostChange::ReadOnlyLicence(true)));
                }
                Fault::TaskFailed => {
                    let fault =
                        HostFault::new("SnapshotFault", "An error occurred during the operation.");
                    control.apply(HostChange::FailNextTask(cell.kind.method(), fault));
                }
                Fault::PowerStateInCall | Fault::PowerStateInTask
                    if is_refused_by_power_state(cell.kind) =>
                {
                    control.mutate(|world| {
                        world.rules.refuse_in_call = cell.fault == Fault::PowerStateInCall;
                        change_power(world, &id, cell.kind);
                    });
                }
                Fault::PowerStateInTask => {
                    let fault = HostFault::invalid_power_state(Some("poweredOn"), "poweredOff");
                    control.apply(HostChange::FailNextTask(cell.kind.method(), fault));
                }
                _ => control.mutate(finish),
            }
        })
    }
}

/// Makes a machine ask a question: now if `pending`, otherwise at its next power-on.
fn ask(machine: &str, pending: bool) -> HostChange {
    let question = Box::new(question());
    HostChange::Question { machine: machine.to_owned(), question, pending, repeats: false }
}

/// Whether the task of the call is a power-on that has not raised its question yet. A power-on
/// raises its question at 50 percent.
const fn is_held_by_question(cell: Cell) -> bool {
    cell.kind.powers_on()
        && matches!(
            cell.point,
            InjectionPoint::Unanswered | InjectionPoint::Accepted | InjectionPoint::Progress
        )
}

/// Finishes the operation of the call.
fn finish(world: &mut World, task: Option<&str>, kind: Kind) {
    match task {
        Some(task) => world.finish_task(task),
        None if kind.is_guest_call() => {
            world.step_guests();
        }
        None => {}
    }
}

/// Whether the host refuses the call in some power states.
const fn is_refused_by_power_state(kind: Kind) -> bool {
    kind.depends_on_power() || kind.is_guest_call()
}

/// Another client changes the power state of the machine: to the result of the call, or to a state
/// in which the call is refused.
fn change_power(world: &mut World, id: &str, kind: Kind) {
    let Some(machine) = world.machine_mut(id) else { return };
    match kind {
        Kind::PowerOn | Kind::RevertOnPower => machine.power = PowerState::On,
        Kind::Suspend => {
            stop(machine);
            machine.power = PowerState::Suspended;
        }
        _ => stop(machine),
    }
}

/// The same machine with another moid.
fn with_new_moid(mut machine: Machine) -> Machine {
    let id = format!("{}9", machine.id);
    let old = std::mem::replace(&mut machine.id, id.clone());
    let new = |snapshot: &String| snapshot.replacen(&old, &id, 1);
    for snapshot in &mut machine.snapshots {
        snapshot.id = new(&snapshot.id);
        snapshot.parent = snapshot.parent.as_ref().map(new);
    }
    machine.current_snapshot = machine.current_snapshot.as_ref().map(new);
    stop(&mut machine);
    machine
}

/// Another machine with the same moid, without snapshots.
fn different_machine(mut machine: Machine) -> Machine {
    stop(&mut machine);
    machine.name = format!("other than {}", machine.name);
    machine.instance_uuid = machine.instance_uuid.replace("52", "53");
    machine.bios_uuid = machine.bios_uuid.replace("56", "57");
    machine.path = machine.path.replace("cell", "other");
    machine.snapshots.clear();
    machine.current_snapshot = None;
    machine
}

fn garbage() -> Disruption {
    Disruption::Answer {
        status: 200,
        content_type: "text/html",
        body: "<html><p>\u{fffd}</html".to_owned(),
    }
}

fn unavailable() -> Disruption {
    let body = "503 Service Unavailable (Failed to connect to endpoint: /sdk)".to_owned();
    Disruption::Answer { status: 503, content_type: "text/plain", body }
}
