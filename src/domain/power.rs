//! A machine's power state, and the words for it.

/// Whether a machine runs. Unknown words of a host become `None` where this is optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PowerState {
    On,
    Off,
    Suspended,
}

impl PowerState {
    /// Every state, for filters.
    pub const ALL: &'static [Self] = &[Self::On, Self::Off, Self::Suspended];

    /// The word that callers see.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Suspended => "suspended",
        }
    }

    /// Reads the word that callers use; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == word)
    }
}
