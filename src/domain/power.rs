//! A machine's power state.

/// The power state of a machine. In a field of type `Option<PowerState>`, `None` means that the
/// host reports a word that otter does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PowerState {
    On,
    Off,
    Suspended,
}

impl PowerState {
    /// Every power state, for filters of the HTTP API.
    pub const ALL: &'static [Self] = &[Self::On, Self::Off, Self::Suspended];

    /// The word for this power state in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Suspended => "suspended",
        }
    }

    /// Parses the word of a power state. `None` if the word names no state.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == word)
    }
}
