//! The time that is left to answer the question of a job's machine. When the time is over, a
//! preparation ends because of the question, and does not wait until its deadline.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::table::JobTable;
use super::{JobsParts, observation};
use crate::domain::ids::{MachineId, QuestionId};
use crate::domain::job::{Job, JobKind};
use crate::hypervisor::SessionState;

/// The largest number of characters of a question in a failure.
const MAX_QUESTION: usize = 200;

/// If the question counts as unanswered, but the job could not end at that moment, the job is
/// interrupted again after this pause.
const RETRY: Duration = Duration::from_secs(1);

/// The question of a job's machine, and the time that is left to answer it.
pub struct QuestionTimer<'r> {
    parts: &'r JobsParts,
    table: &'r JobTable,
    machine: &'r MachineId,
    /// Whether the job is a preparation. Only a preparation ends because of an unanswered question.
    is_preparation: bool,
    question: Option<QuestionId>,
    timer: BoxFuture<'r, ()>,
}

impl<'r> QuestionTimer<'r> {
    /// The timer for a job that starts or continues now.
    pub fn new(
        parts: &'r JobsParts,
        table: &'r JobTable,
        machine: &'r MachineId,
        job: &Job,
    ) -> Self {
        // Any other job waits for the answer, because its caller sees the question and can answer
        // it.
        let is_preparation = job.kind() == JobKind::LeasePrepare;
        let timer = Box::pin(std::future::pending());
        let mut this = Self { parts, table, machine, is_preparation, question: None, timer };
        this.update();
        this
    }

    /// Reads the question from the inventory. Returns whether the question changed.
    pub fn update(&mut self) -> bool {
        let contents = self.parts.inventory.contents();
        let question = observation::question(&contents, self.machine);
        if question == self.question {
            return false;
        }
        self.question = question;
        self.restart();
        true
    }

    /// Whether the machine waits on a question.
    pub const fn is_asked(&self) -> bool {
        self.question.is_some()
    }

    /// Waits until the question counts as unanswered, and returns its text. Waits forever if a
    /// question does not end the job.
    pub async fn unanswered(&mut self) -> String {
        loop {
            self.timer.as_mut().await;
            if let Some(text) = self.unanswered_text() {
                self.timer = Box::pin(self.parts.clock.sleep(RETRY));
                return text;
            }
            self.restart();
        }
    }

    fn restart(&mut self) {
        let parts = self.parts;
        self.timer = if self.is_preparation && self.question.is_some() {
            Box::pin(parts.clock.sleep(parts.settings.question_grace))
        } else {
            Box::pin(std::future::pending())
        };
    }

    /// The text of the question if it is pending and no job is answering it. `None` if the question
    /// is gone. Also `None` while the host is away, because someone may have answered the question
    /// meanwhile.
    fn unanswered_text(&self) -> Option<String> {
        let inventory = &self.parts.inventory;
        let is_connected = inventory.session().state == SessionState::Connected;
        if !is_connected || self.table.is_answering(self.machine) {
            return None;
        }
        let contents = inventory.contents();
        let question = contents.machine(self.machine)?.question.as_ref()?;
        Some(question.text.chars().take(MAX_QUESTION).collect())
    }
}
