//! Counts how much of the disk the artifacts take, together with what running uploads have
//! announced.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The size of the pieces in which a file takes the disk. A file takes at least one, so the number
/// of artifacts has a limit too.
const BLOCK: u64 = 4096;

/// How much of the disk the artifacts take.
#[derive(Debug)]
pub struct Space {
    used: Mutex<u64>,
    most: u64,
}

/// Space for a file that is being written. It is free again when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
    size: u64,
}

/// How much of the disk a file with this number of bytes takes.
#[must_use]
pub const fn size_on_disk(bytes: u64) -> u64 {
    match bytes.div_ceil(BLOCK) {
        0 => BLOCK,
        blocks => blocks.saturating_mul(BLOCK),
    }
}

impl Space {
    /// Counts up to this total.
    #[must_use]
    pub const fn new(most: u64) -> Self {
        Self { used: Mutex::new(0), most }
    }

    /// The total.
    #[must_use]
    pub const fn most(&self) -> u64 {
        self.most
    }

    /// Counts a file that exists.
    pub fn add(&self, bytes: u64) {
        let mut used = self.used();
        *used = used.saturating_add(size_on_disk(bytes));
    }

    /// Stops counting a file.
    pub fn remove(&self, bytes: u64) {
        self.release(size_on_disk(bytes));
    }

    /// Reserves space for a file, even if the total is exceeded by it.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Reservation {
        self.add(bytes);
        Reservation { space: Arc::clone(self), size: size_on_disk(bytes) }
    }

    /// By how much the total is exceeded.
    #[must_use]
    pub fn excess(&self) -> u64 {
        self.used().saturating_sub(self.most)
    }

    fn release(&self, size: u64) {
        let mut used = self.used();
        *used = used.saturating_sub(size);
    }

    fn used(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// The file exists, and has this number of bytes.
    pub fn keep(self, bytes: u64) {
        // `self` is dropped at the end, which frees what was reserved.
        self.space.add(bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.release(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_space_is_free_again_unless_the_file_is_kept() {
        let space = Arc::new(Space::new(10 * BLOCK));
        space.add(1);
        space.add(BLOCK + 1);
        assert_eq!(*space.used(), 3 * BLOCK);
        let abandoned = space.reserve(9 * BLOCK);
        assert_eq!(space.excess(), 2 * BLOCK);
        drop(abandoned);
        assert_eq!((space.excess(), *space.used()), (0, 3 * BLOCK));
        space.reserve(5 * BLOCK).keep(2 * BLOCK);
        assert_eq!(*space.used(), 5 * BLOCK);
        space.remove(BLOCK + 1);
        space.remove(0);
        assert_eq!(*space.used(), 2 * BLOCK);
    }
}
