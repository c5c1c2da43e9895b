//! Uses of several ports of one machine, which keep otter connected to them.

use super::shared_port::PortUse;

/// Keeps otter connected to ports until it is dropped.
#[must_use]
pub struct SerialHold {
    _uses: Vec<PortUse>,
}

impl SerialHold {
    pub(super) fn new(uses: impl Iterator<Item = PortUse>) -> Self {
        Self { _uses: uses.collect() }
    }
}
