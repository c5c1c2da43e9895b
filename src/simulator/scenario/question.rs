//! A question of a machine, as scenarios and planned faults write it.

use serde::Deserialize;

use crate::simulator::vim_fault::Fault;
use crate::simulator::world::{Choice, Question};

/// A question, and whether it is pending.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionEntry {
    id: String,
    message_id: String,
    text: String,
    default_choice: Option<i32>,
    choices: Vec<ChoiceEntry>,
    /// Whether a power-on hangs on it now; else it is asked at the next one.
    #[serde(default)]
    pending: bool,
}

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
    /// The question, and whether it is there now; else it is asked at the next power-on.
    pub fn convert(self) -> (Question, bool) {
        let Self { id, message_id, text, default_choice, choices, pending } = self;
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
        (Question { id, message_id, text, choices, default_choice }, pending)
    }
}
