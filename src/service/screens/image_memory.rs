//! The memory of the images that waits search for. All waits together have a fixed number of bytes,
//! because a PNG of some kilobytes can be a picture of 64 MB.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::failure::{Failure, FailureKind};
use crate::domain::screen::ScreenSize;

/// The bytes of all images together. They are enough for one call with four images of the largest
/// size.
const MAX_BYTES: usize = 256 << 20;

/// The memory of all images. Clones share it.
#[derive(Clone, Debug)]
pub struct ImageMemory(Arc<Semaphore>);

/// The memory of one image, which is free again when this is dropped.
#[derive(Debug)]
pub struct ImageSpace {
    _permit: OwnedSemaphorePermit,
}

impl ImageMemory {
    /// A memory with this number of bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Reserves the memory of an image of this size.
    ///
    /// # Errors
    /// `too-many-waits` if the images of other calls leave too little.
    pub fn reserve(&self, size: ScreenSize) -> Result<ImageSpace, Failure> {
        let bytes = u32::try_from(size.bytes()).unwrap_or(u32::MAX);
        let Ok(permit) = Arc::clone(&self.0).try_acquire_many_owned(bytes) else {
            let detail = format!(
                "The images of the calls that wait for screens, and of this one, need more than {} \
                 MiB; try again in a moment, or send smaller images.",
                MAX_BYTES >> 20
            );
            return Err(Failure::new(FailureKind::TooManyWaits, detail));
        };
        Ok(ImageSpace { _permit: permit })
    }
}

impl Default for ImageMemory {
    fn default() -> Self {
        Self::new(MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::screens::conditions::MAX_IMAGES;
    use crate::service::screens::png::MAX_PIXELS;

    #[test]
    fn images_that_are_dropped_make_room() {
        let size = ScreenSize::new(20, 10);
        let memory = ImageMemory::new(2 * size.bytes());
        let spaces = [memory.reserve(size).unwrap(), memory.reserve(size).unwrap()];
        let refused = memory.clone().reserve(ScreenSize::new(1, 1)).unwrap_err();
        assert_eq!(refused.kind, FailureKind::TooManyWaits);
        drop(spaces);
        assert!(memory.reserve(size).is_ok());
    }

    #[test]
    fn one_call_may_have_the_largest_images() {
        let (memory, largest) = (ImageMemory::default(), ScreenSize::new(4_000, 4_000));
        assert_eq!(largest.pixels(), MAX_PIXELS);
        let spaces: Vec<_> = (0..MAX_IMAGES).map(|_| memory.reserve(largest).unwrap()).collect();
        assert!(memory.reserve(largest).is_err());
        drop(spaces);
    }
}
