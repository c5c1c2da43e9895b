//! The notation of a question in scenarios and faults.

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
    /// Whether a power-on waits for the answer now. If not, the next power-on raises the question.
    #[serde(default)]
    pending: bool,
    /// Whether each power-on raises the question, as a host asks for a serial port with an existing
    /// file.
    #[serde(default)]
    repeats: bool,
}

/// A question of a machine, and when the machine asks it.
pub struct ScenarioQuestion {
    pub question: Question,
    /// Whether a power-on waits for the answer now.
    pub pending: bool,
    /// Whether each power-on raises the question.
    pub repeats: bool,
}

/// A choice. If `cancels` is set, the choice ends the waiting power-on.
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
    /// The question, and when it is asked.
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
