//! A machine's power state.

/// The power state of a machine. A field of type `Option<PowerState>` is `None` if the host reports
/// an unknown word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PowerState {
    On,
    Off,
    Suspended,
}

impl PowerState {
    /// Every state, for filters.
    pub const ALL: &'static [Self] = &[Self::On, Self::Off, Self::Suspended];

    /// The word in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Suspended => "suspended",
        }
    }

    /// Parses the word. `None` if it names no state.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == word)
    }
}
