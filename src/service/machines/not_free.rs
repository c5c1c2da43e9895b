//! The reasons why a machine is not free. The API shows them in `not_free_because`.

use crate::domain::machine::Machine;
use crate::domain::power::PowerState;

/// A reason why a machine is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFreeReason {
    PoweredOn,
    Suspended,
    PowerUnknown,
    Template,
    NotConnected,
    /// The machine waits for an answer to a question.
    Question,
    Leased,
    Quarantined,
    /// otter must still release the machine, because a preparation of the machine met a fault of
    /// the host.
    Releasing,
    /// A job of otter works on the machine or waits for it.
    Job,
    /// Another client of the host works on the machine.
    HostTask,
    /// Otter runs in the machine.
    OtterItself,
    Protected,
}

impl NotFreeReason {
    /// The word for the reason in the HTTP API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PoweredOn => "powered_on",
            Self::Suspended => "suspended",
            Self::PowerUnknown => "power_unknown",
            Self::Template => "template",
            Self::NotConnected => "not_connected",
            Self::Question => "question",
            Self::Leased => "leased",
            Self::Quarantined => "quarantined",
            Self::Releasing => "releasing",
            Self::Job => "job",
            Self::HostTask => "host_task",
            Self::OtterItself => "self",
            Self::Protected => "protected",
        }
    }

    /// All reasons that can follow from the state of the machine, each with whether it applies.
    #[must_use]
    pub fn from_state(machine: &Machine) -> [(Self, bool); 6] {
        [
            (Self::PoweredOn, machine.power_state == Some(PowerState::On)),
            (Self::Suspended, machine.power_state == Some(PowerState::Suspended)),
            (Self::PowerUnknown, machine.power_state.is_none()),
            (Self::Template, machine.template),
            (Self::NotConnected, machine.connection_state != "connected"),
            (Self::Question, machine.question.is_some()),
        ]
    }
}
