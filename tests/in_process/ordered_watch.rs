//! A watched value that wakes its waiters in the order in which they began to wait. `watch` of
//! tokio wakes them in a random order.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A watched value with the number of its changes.
pub struct OrderedWatch<T> {
    value: Mutex<(T, u64)>,
    changed: Notify,
}

impl<T: Clone> OrderedWatch<T> {
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new((value, 0)), changed: Notify::new() }
    }

    /// The current value.
    pub fn get(&self) -> T {
        self.lock().0.clone()
    }

    /// How often the value has changed.
    pub fn version(&self) -> u64 {
        self.lock().1
    }

    /// Sets the value and wakes all waiters.
    pub fn set(&self, value: T) {
        {
            let mut guard = self.lock();
            *guard = (value, guard.1 + 1);
        }
        self.changed.notify_waiters();
    }

    /// Waits until the number of changes exceeds `version`.
    pub async fn changed_since(&self, version: u64) {
        self.wait_for(|_, now| (now > version).then_some(())).await;
    }

    /// Waits until the condition returns a result for the value and the number of its changes.
    pub async fn wait_for<R>(&self, mut condition: impl FnMut(&T, u64) -> Option<R>) -> R {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let result = {
                let guard = self.lock();
                condition(&guard.0, guard.1)
            };
            match result {
                Some(result) => return result,
                None => changed.await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (T, u64)> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
