//! How scenarios and faults of the simulator write a question of a machine.

use serde::Deserialize;

use crate::simulator::vim_fault::Fault;
use crate::simulator::world::{Choice, Question};

/// A question of a machine, as a scenario or a fault of the simulator writes it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionEntry {
    id: String,
    message_id: String,
    text: String,
    default_choice: Option<i32>,
    choices: Vec<ChoiceEntry>,
    /// Whether a power-on already waits for the answer to the question. If not, the next power-on
    /// raises the question.
    #[serde(default)]
    pending: bool,
    /// Whether each power-on raises the question. A host asks such a question if a serial port
    /// writes to a file that exists already.
    #[serde(default)]
    repeats: bool,
}

/// A question of a machine, and when the machine asks it.
pub struct ScenarioQuestion {
    pub question: Question,
    /// Whether a power-on waits for the answer to the question from the start.
    pub pending: bool,
    /// Whether each power-on raises the question.
    pub repeats: bool,
}

/// A possible answer to the question. If `cancels` is set, this answer ends the waiting power-on
/// with a fault.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChoiceEntry {
    key: String,
    label: String,
    summary: String,
    #[serde(default)]
    cancels: bool,
}

impl QuestionEntry {
    /// The question as the world has it, and when the machine asks it.
    pub fn convert(self) -> ScenarioQuestion {
        let Self { id, message_id, text, default_choice, choices, pending, repeats } = self;
        let cancelled = |message_id: &str| {
            Fault::new(
                "GenericVmConfigFault",
                format!("The operation was ended by the answer to {message_id}."),
            )
            .with("reason", message_id)
        };
        let choices = choices
            .into_iter()
            .map(|ChoiceEntry { key, label, summary, cancels }| Choice {
                key,
                label,
                summary,
                fails_with: cancels.then(|| cancelled(&message_id)),
            })
            .collect();
        let question = Question { id, message_id, text, choices, default_choice };
        ScenarioQuestion { question, pending, repeats }
    }
}
