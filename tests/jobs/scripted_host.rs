//! The host of these tests: it executes each call at once, or as the test says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use otter::domain::call::HostCall;
use otter::domain::ids::MachineId;
use otter::simulator::Fault;
use otter::simulator::world::{Choice, Question};
use tokio::sync::{Notify, watch};

use crate::in_process::{Hooks, Interruption, Request, SimulatedHost};

/// The host's behavior for a call that it does not execute at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallBehavior {
    /// The task of the call runs until [`ScriptedHost::release`].
    Hold,
    /// The host answers only after [`ScriptedHost::release`].
    AnswerLate,
    /// The call reaches the host only after [`ScriptedHost::release`], and its task then runs.
    Delayed,
    /// The backend itself fails, and the host does not act.
    Panic,
    /// The connection breaks, and the host does not act.
    Lost,
    /// The task of the call fails. A host that a vCenter manages may have done the work
    /// nevertheless.
    UncertainFailure,
}

/// The simulated host with the behavior of the next calls, and a record of the requests.
pub struct ScriptedHost {
    host: SimulatedHost,
    state: Mutex<ScriptState>,
    released: Notify,
    called: watch::Sender<usize>,
}

#[derive(Default)]
struct ScriptState {
    behaviors: VecDeque<CallBehavior>,
    /// The behavior of the call that is under way on a machine.
    current: BTreeMap<MachineId, CallBehavior>,
    calls: Vec<(MachineId, HostCall)>,
    cancels: usize,
    examinations: usize,
    panics_if_examined: bool,
    /// Whether a direct read of a machine shows a question.
    asks: bool,
}

impl ScriptedHost {
    pub fn new(host: SimulatedHost) -> Self {
        Self {
            host,
            state: Mutex::default(),
            released: Notify::new(),
            called: watch::Sender::new(0),
        }
    }

    /// Sets the behavior of the next calls.
    pub fn set_behavior(&self, behaviors: &[CallBehavior]) {
        self.lock().behaviors.extend(behaviors);
    }

    /// Sets whether the backend panics each time that a machine is read directly.
    pub fn panic_if_examined(&self, panics: bool) {
        self.lock().panics_if_examined = panics;
    }

    /// The calls that reached the host or were lost, in order.
    pub fn calls(&self) -> Vec<(MachineId, HostCall)> {
        self.lock().calls.clone()
    }

    /// How often a machine was read directly.
    pub fn examinations(&self) -> usize {
        self.lock().examinations
    }

    /// How often otter asked the host to cancel a task.
    pub fn cancelled(&self) -> usize {
        self.lock().cancels
    }

    /// Waits until the host was called this often.
    pub async fn called(&self, times: usize) {
        self.called.subscribe().wait_for(|called| *called >= times).await.unwrap();
    }

    /// Ends all waits and all running tasks.
    pub fn release(&self) {
        self.released.notify_waiters();
        self.host
            .mutate(|world| world.running_tasks().iter().for_each(|task| world.finish_task(task)));
    }

    /// Sets whether a direct read of a machine shows a question that the inventory does not have.
    pub fn show_question(&self, asks: bool) {
        self.lock().asks = asks;
    }

    fn count_call(&self) {
        self.called.send_modify(|called| *called += 1);
    }

    /// Ends the tasks of a machine. If `fails`, they fail with a fault that does not prove that
    /// nothing was done.
    fn finish(&self, machine: &MachineId, fails: bool) {
        self.host.mutate(|world| {
            for task in world.running_tasks() {
                let Some(running) = world.task(&task) else { continue };
                if running.machine != machine.backend_text() {
                    continue;
                }
                let method = running.operation.method();
                if fails {
                    world.fail_next_task(
                        method,
                        Fault::new("SystemError", "The host does not answer."),
                    );
                }
                world.finish_task(&task);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, ScriptState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Hooks for ScriptedHost {
    async fn before_request(&self, request: Request<'_>) -> Result<(), Interruption> {
        match request {
            Request::Examine(machine) => {
                let (panics, asks) = {
                    let mut state = self.lock();
                    state.examinations += 1;
                    (state.panics_if_examined, state.asks)
                };
                assert!(!panics, "the test requested a panic");
                if asks {
                    self.host.mutate(|world| world.ask(machine.backend_text(), question()));
                }
            }
            Request::Cancel(_) => self.lock().cancels += 1,
            Request::Call(machine, call) => {
                let released = self.released.notified();
                tokio::pin!(released);
                released.as_mut().enable();
                let behavior = self.lock().behaviors.pop_front();
                if behavior == Some(CallBehavior::Delayed) {
                    self.count_call();
                    released.await;
                }
                {
                    let mut state = self.lock();
                    state.calls.push((machine.clone(), call.clone()));
                    state.current.extend(behavior.map(|behavior| (machine.clone(), behavior)));
                }
                if matches!(behavior, Some(CallBehavior::Panic | CallBehavior::Lost)) {
                    self.lock().current.remove(machine);
                    self.count_call();
                }
                assert!(behavior != Some(CallBehavior::Panic), "the test requested a panic");
                if behavior == Some(CallBehavior::Lost) {
                    return Err(Interruption::Cut);
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn after_request(&self, request: Request<'_>) -> Result<(), Interruption> {
        if let Request::Examine(machine) = request
            && self.lock().asks
        {
            self.host
                .mutate(|world| world.machine_mut(machine.backend_text()).unwrap().question = None);
        }
        let Request::Call(machine, _) = request else { return Ok(()) };
        let released = self.released.notified();
        tokio::pin!(released);
        released.as_mut().enable();
        let behavior = self.lock().current.remove(machine);
        match behavior {
            None | Some(CallBehavior::UncertainFailure) => self.finish(machine, behavior.is_some()),
            Some(CallBehavior::Delayed) => return Ok(()),
            _ => {}
        }
        self.count_call();
        if behavior == Some(CallBehavior::AnswerLate) {
            released.await;
        }
        Ok(())
    }
}

fn question() -> Question {
    let choice = Choice {
        key: "1".to_owned(),
        label: "button.uuid.moved".to_owned(),
        summary: "moved".to_owned(),
        fails_with: None,
    };
    Question {
        id: "q".to_owned(),
        message_id: "msg.uuid.altered".to_owned(),
        text: "Was it moved, or copied?".to_owned(),
        choices: vec![choice],
        default_choice: None,
    }
}
