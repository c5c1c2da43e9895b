//! A value that others wait on. Waiters wake in the order in which they came; those of tokio's
//! `watch` wake in a random order.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A value with the number of its changes.
pub struct OrderedWatch<T> {
    value: Mutex<(T, u64)>,
    changed: Notify,
}

impl<T: Clone> OrderedWatch<T> {
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new((value, 0)), changed: Notify::new() }
    }

    /// The value as it is now.
    pub fn get(&self) -> T {
        self.lock().0.clone()
    }

    /// How often the value has changed.
    pub fn version(&self) -> u64 {
        self.lock().1
    }

    /// Changes the value and wakes those who wait.
    pub fn set(&self, value: T) {
        {
            let mut guard = self.lock();
            *guard = (value, guard.1 + 1);
        }
        self.changed.notify_waiters();
    }

    /// Returns once the value has changed more often than this.
    pub async fn changed_since(&self, version: u64) {
        self.wait_for(|_, now| (now > version).then_some(())).await;
    }

    /// Waits until this gives something for the value and the number of its changes.
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
