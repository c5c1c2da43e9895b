//! Counts the allocations of a function. The allocator of the test binary is the system's one, which
//! counts for each thread, so that tests that run at the same time do not disturb each other.
#![expect(unsafe_code, reason = "only unsafe code can implement an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use futures_util::FutureExt;

/// The allocations of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    /// How often memory was allocated or resized.
    pub count: u64,
    /// The sum of the sizes in bytes. Resized memory counts with its whole new size, because its
    /// contents may be copied.
    pub bytes: u64,
}

struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

thread_local! {
    // Neither the initial value nor the end of the thread needs an allocation.
    static OF_THREAD: Cell<Allocations> = const { Cell::new(Allocations { count: 0, bytes: 0 }) };
}

/// Runs a function, and counts its allocations on this thread.
pub fn count_allocations<T>(function: impl FnOnce() -> T) -> (T, Allocations) {
    let before = OF_THREAD.get();
    let result = function();
    let after = OF_THREAD.get();
    let made = Allocations { count: after.count - before.count, bytes: after.bytes - before.bytes };
    (result, made)
}

/// Polls a future once, and counts the allocations. No other task runs on this thread meanwhile.
///
/// # Panics
/// The future waits for something.
pub fn count_allocations_of<F: Future>(future: F) -> (F::Output, Allocations) {
    count_allocations(|| future.now_or_never().expect("the future is ready at once"))
}

fn count(layout_size: usize) {
    let Allocations { count, bytes } = OF_THREAD.get();
    let size = u64::try_from(layout_size).unwrap_or(u64::MAX);
    OF_THREAD.set(Allocations { count: count + 1, bytes: bytes.saturating_add(size) });
}

// SAFETY: each method passes its arguments on to the system's allocator, which fulfils the contract.
// Counting neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller fulfils the contract of this method, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
