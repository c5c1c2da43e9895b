//! Answers the questions of machines by the rules of the configuration.
//!
//! ```text
//! a machine asks ─► the rule of its pool, else of [answers] ─► a job machine.answer
//!                      │ none, or its choice is not offered       └─► the history of its lease
//!                      └─► nothing: a caller answers, or the preparation fails after its grace
//! ```
//! One rule is built in: if a job takes a disc out of a drive that the guest has locked, the host
//! asks whether it shall override the lock, and the answer is yes.
//!
//! otter starts one job for each question, and remembers the questions for which it did. A host may
//! use the id of a question again once the question is answered. So otter forgets a question when
//! it is gone or its job has succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Services;
use super::event_stream::EventStream;
use super::inventory::Inventory;
use super::jobs::authorization::Requester;
use super::jobs::{Jobs, NewJob};
use super::leases::Leases;
use super::live_settings::LiveSettings;
use super::machines::Machines;
use crate::clock::Clock;
use crate::domain::answers::AnswerRule;
use crate::domain::event::{EventFilter, EventType};
use crate::domain::failure::FailureKind;
use crate::domain::ids::{JobId, QuestionId};
use crate::domain::job::{JobRequest, JobState};
use crate::domain::machine::{Choice, Machine, Question};
use crate::hypervisor::SessionState;

/// The pause before otter tries again to start an answer that could not be started.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The longest pause between two answers to the same message of one machine. There is a pause
/// because a host may ask again at once, for example whether to retry on a full datastore.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// If a machine has not asked a message for this time, the next answer to the message needs no
/// pause.
const PAUSE_MEMORY: Duration = Duration::from_mins(1);

/// The id of the question whether a drive that the guest has locked is disconnected.
const LOCK_QUESTION: &str = "msg.cdromdisconnect.locked";

/// Looks for questions of machines, and answers those for which the configuration has a rule.
pub struct QuestionWatch {
    settings: LiveSettings,
    clock: Clock,
    event_stream: EventStream,
    inventory: Arc<Inventory>,
    jobs: Jobs,
    leases: Leases,
    machines: Arc<Machines>,
}

/// A question of a machine. The field `machine` has the key of the machine's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AskedQuestion {
    machine: String,
    question: QuestionId,
}

/// What the watch did about a question that is still pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handling {
    /// This job answers the question.
    Job(JobId),
    /// The rule for the question cannot answer it. The log has the reason.
    Impossible,
}

/// The last answer that the watch gave to a message of a machine.
#[derive(Clone, Copy, Debug)]
struct LastAnswer {
    at: Duration,
    /// The pause before the next answer to the same message.
    pause: Duration,
}

/// What the watch remembers about the questions of machines.
#[derive(Debug, Default)]
struct Memory {
    questions: BTreeMap<AskedQuestion, Handling>,
    /// The last answers. A key has the key of the machine's identity, and the id of the message.
    answers: BTreeMap<(String, String), LastAnswer>,
}

impl QuestionWatch {
    /// A watch that remembers no questions yet.
    ///
    /// # Parameters
    /// - `settings`: the rules for all machines, and the rules of pools, which take precedence.
    #[must_use]
    pub fn new(settings: LiveSettings, services: &Services, clock: Clock) -> Self {
        let Services { event_stream, inventory, jobs, leases, machines, .. } = services.clone();
        Self { settings, clock, event_stream, inventory, jobs, leases, machines }
    }

    /// Answers questions until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let types =
            vec![EventType::MachineChanged, EventType::MachineRemoved, EventType::SessionChanged];
        let mut changes =
            self.event_stream.subscribe(EventFilter { types, ..EventFilter::default() });
        let mut memory = Memory::default();
        let mut again = None;
        let mut may_have_changed = true;
        loop {
            if std::mem::take(&mut may_have_changed) {
                again = self.answer_all(&mut memory).await;
            }
            let wait = async {
                match again {
                    Some(pause) => self.clock.sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = changes.wait_for_more() => {
                    // If no question is pending, an event of a job or of a lease changes nothing.
                    let is_pending = again.is_some() || !memory.questions.is_empty();
                    may_have_changed = changes.take_unread() || is_pending;
                }
                () = wait => may_have_changed = true,
            }
        }
    }

    /// Starts the answers to all questions for which there is a rule. Returns the pause before the
    /// next call. `None` if another answer becomes possible only when a machine changes.
    async fn answer_all(&self, memory: &mut Memory) -> Option<Duration> {
        // Do nothing while the host is away, because a question that the inventory shows may have
        // been answered already.
        if self.inventory.session().state != SessionState::Connected {
            return None;
        }
        let contents = self.inventory.contents();
        let asking = || contents.machines.iter().filter(|machine| machine.question.is_some());
        let pending: BTreeSet<AskedQuestion> =
            asking().filter_map(|machine| AskedQuestion::from_machine(machine)).collect();
        memory.questions.retain(|asked, _| pending.contains(asked));
        let now = self.clock.elapsed();
        memory.answers.retain(|_, last| now.saturating_sub(last.at) < PAUSE_MEMORY);
        let mut again = None;
        for machine in asking() {
            let pause = self.answer(machine, memory).await;
            again = again.into_iter().chain(pause).min();
        }
        again
    }

    /// Starts the answer to the question of a machine, if a rule has an answer. Returns the pause
    /// before another try. `None` if no other try is needed before the machine changes.
    async fn answer(&self, machine: &Arc<Machine>, memory: &mut Memory) -> Option<Duration> {
        let Self { clock, jobs, leases, machines, .. } = self;
        let settings = self.settings.load();
        let question = machine.question.as_ref()?;
        let asked = AskedQuestion::from_machine(machine)?;
        match memory.questions.get(&asked) {
            None => {}
            Some(Handling::Impossible) => return None,
            Some(Handling::Job(job)) => match jobs.get(*job).await {
                // The job has not ended. Its end changes the machine, and so wakes the watch.
                Ok(Some(view)) if !view.job.state.is_end() => return None,
                // The job has succeeded, and the inventory is at least as new as its end. So the
                // question that is pending now is a new one with the same id.
                Ok(Some(view)) if view.job.state == JobState::Succeeded => {
                    memory.questions.remove(&asked);
                }
                Ok(_) => {
                    tracing::warn!(
                        machine = machine.name,
                        question = %question.id,
                        %job,
                        "the question was not answered by its rule; answer it"
                    );
                    memory.questions.insert(asked, Handling::Impossible);
                    return None;
                }
                Err(_) => return Some(RETRY_DELAY),
            },
        }
        let of_pool = settings.pools.answer_rule(machine, question);
        let rule = lock_rule(question)
            .filter(|_| jobs.is_changing_media(&machine.id))
            .or(of_pool)
            .or_else(|| settings.answers.for_question(question))?;
        let view = machines.get(&machine.id)?;
        // Look at the newest state of the machine, because the question may be gone by now. If the
        // question changes, the watch wakes again.
        let is_pending = view.machine.question.as_ref() == Some(question);
        if !is_pending || machines.may_change(&view).is_err() || jobs.is_answering(&machine.id) {
            return None;
        }
        let AnswerRule { message_id, label } = rule;
        let Some(choice) = rule.choice(question) else {
            let offered: Vec<&str> =
                question.choices.iter().map(|choice| choice.label.as_str()).collect();
            tracing::warn!(
                machine = machine.name,
                message_id,
                label,
                offered = offered.join(", "),
                "the question does not offer the choice of its rule; correct the rule, and answer"
            );
            memory.questions.insert(asked, Handling::Impossible);
            return None;
        };
        let pace = (asked.machine.clone(), message_id.to_owned());
        if let Some(left) = memory.pause_left(&pace, clock.elapsed()) {
            return Some(left);
        }
        let new = NewJob {
            machine: Arc::clone(&view.machine),
            request: JobRequest::Answer {
                question: question.id.clone(),
                choice: choice.key.clone(),
            },
            requester: Requester::for_rule(),
            reference: view.lease.and_then(|lease| leases.reference_of(lease.lease)),
            deadline: None,
            key: None,
        };
        let job = match jobs.start(new).await {
            Ok(job) => job,
            // `not-found` means that the question is gone, so it needs no answer.
            Err(failure) if failure.kind == FailureKind::NotFound => return None,
            Err(failure) => {
                let detail = failure.detail;
                tracing::debug!(machine = machine.name, detail, "the answer cannot be started yet");
                return Some(RETRY_DELAY);
            }
        };
        let name = &machine.name;
        tracing::info!(machine = name, message_id, label, %job, "a rule answers a question");
        memory.questions.insert(asked, Handling::Job(job));
        memory.record_answer(pace, clock.elapsed());
        if let Ok(Some(view)) = jobs.get(job).await
            && let Some(lease) = view.job.lease
        {
            let what = format!("{message_id} is answered with {label} by rule: job {job}");
            leases.record_answer(lease, what).await;
        }
        None
    }
}

/// The built-in rule for the question whether a locked drive is disconnected. `None` for other
/// questions, and if the question does not offer yes.
fn lock_rule(question: &Question) -> Option<AnswerRule<'_>> {
    let is_yes = |choice: &&Choice| {
        choice.label == "button.yes"
            || [&choice.label, &choice.summary].iter().any(|text| text.eq_ignore_ascii_case("yes"))
    };
    let message_id = question.message_ids.iter().find(|id| *id == LOCK_QUESTION)?;
    let Choice { label, .. } = question.choices.iter().find(is_yes)?;
    Some(AnswerRule { message_id, label })
}

impl AskedQuestion {
    fn from_machine(machine: &Machine) -> Option<Self> {
        let question = machine.question.as_ref()?.id.clone();
        Some(Self { machine: machine.identity().key(), question })
    }
}

impl Memory {
    /// How long the next answer to this message must still wait. `None` if it need not wait.
    ///
    /// # Parameters
    /// - `pace`: the key of the machine's identity, and the id of the message.
    /// - `now`: the elapsed time of the clock.
    fn pause_left(&self, pace: &(String, String), now: Duration) -> Option<Duration> {
        let LastAnswer { at, pause } = self.answers.get(pace)?;
        (*at + *pause).checked_sub(now).filter(|left| !left.is_zero())
    }

    fn record_answer(&mut self, pace: (String, String), now: Duration) {
        let last = self.answers.get(&pace);
        let pause = last.map_or(RETRY_DELAY, |last| (last.pause * 2).min(LONGEST_PAUSE));
        self.answers.insert(pace, LastAnswer { at: now, pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_question_about_a_locked_drive_is_answered_with_yes() {
        let choice = |label: &str, summary: &str| Choice {
            key: "0".to_owned(),
            label: label.to_owned(),
            summary: summary.to_owned(),
            default: false,
        };
        for (message, choices, expected) in [
            (
                LOCK_QUESTION,
                vec![choice("a", "No"), choice("button.yes", "Yes")],
                Some("button.yes"),
            ),
            (LOCK_QUESTION, vec![choice("b", "Yes")], Some("b")),
            (LOCK_QUESTION, vec![choice("Yes", "")], Some("Yes")),
            (LOCK_QUESTION, vec![choice("button.no", "No")], None),
            ("msg.uuid.altered", vec![choice("button.yes", "Yes")], None),
        ] {
            let question = Question {
                id: QuestionId::from_backend("19"),
                message_ids: vec!["msg.first".to_owned(), message.to_owned()],
                text: String::new(),
                choices,
            };
            assert_eq!(lock_rule(&question).map(|rule| rule.label), expected, "{question:?}");
        }
    }

    #[test]
    fn a_message_that_comes_again_at_once_is_answered_with_growing_pauses() {
        let pace = || ("uuid:1".to_owned(), "msg.hbacommon.outofspace".to_owned());
        let mut memory = Memory::default();
        let mut now = Duration::from_secs(100);
        assert_eq!(memory.pause_left(&pace(), now), None, "the first answer needs no pause");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            memory.record_answer(pace(), now);
            let left = memory.pause_left(&pace(), now).unwrap();
            pauses.push(left.as_secs());
            now += left;
            assert_eq!(memory.pause_left(&pace(), now), None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(LONGEST_PAUSE < PAUSE_MEMORY, "the pauses of a loop never begin again");
        let other = ("uuid:2".to_owned(), "msg.hbacommon.outofspace".to_owned());
        assert_eq!(memory.pause_left(&other, now), None, "another machine");
    }
}
