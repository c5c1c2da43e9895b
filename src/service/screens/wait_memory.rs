//! The memory of the images and the regular expressions that waits search for. All waits together
//! have a fixed number of bytes, because a PNG of some kilobytes can be a picture of 64 MB, and a
//! regular expression of six characters a program of a megabyte.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::failure::{Failure, FailureKind};

/// The bytes of all images and regular expressions together. They are enough for one call with four
/// images of the largest size.
const MAX_BYTES: usize = 256 << 20;

/// The memory of all waits. Clones share it.
#[derive(Clone, Debug)]
pub struct WaitMemory(Arc<Semaphore>);

/// The memory of one image or regular expression, which is free again when this is dropped.
#[derive(Debug)]
pub struct WaitSpace {
    _permit: OwnedSemaphorePermit,
}

impl WaitMemory {
    /// A memory with this number of bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Reserves so many bytes.
    ///
    /// # Errors
    /// `too-many-waits` if other calls leave too little.
    pub fn reserve(&self, bytes: usize) -> Result<WaitSpace, Failure> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.0).try_acquire_many_owned(bytes) else {
            let detail = format!(
                "The images and regular expressions of the calls that wait for screens and \
                 serial ports, and of this one, need more than {} MiB; try again in a moment, or \
                 send smaller ones.",
                MAX_BYTES >> 20
            );
            return Err(Failure::new(FailureKind::TooManyWaits, detail));
        };
        Ok(WaitSpace { _permit: permit })
    }
}

impl Default for WaitMemory {
    fn default() -> Self {
        Self::new(MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::screen::ScreenSize;
    use crate::service::screens::conditions::MAX_IMAGES;
    use crate::service::screens::png::MAX_PIXELS;

    #[test]
    fn what_is_dropped_makes_room() {
        let memory = WaitMemory::new(200);
        let spaces = [memory.reserve(100).unwrap(), memory.reserve(100).unwrap()];
        let refused = memory.clone().reserve(1).unwrap_err();
        assert_eq!(refused.kind, FailureKind::TooManyWaits);
        drop(spaces);
        assert!(memory.reserve(100).is_ok());
    }

    #[test]
    fn one_call_may_have_the_largest_images() {
        let (memory, largest) = (WaitMemory::default(), ScreenSize::new(4_000, 4_000));
        assert_eq!(largest.pixels(), MAX_PIXELS);
        let spaces: Vec<_> =
            (0..MAX_IMAGES).map(|_| memory.reserve(largest.bytes()).unwrap()).collect();
        assert!(memory.reserve(largest.bytes()).is_err());
        drop(spaces);
    }
}
