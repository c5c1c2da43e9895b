//! Seats: each belongs to at most one holder at a time, such as the driver of a screen or the
//! writer of a serial port.
//!
//! ```text
//! free ──take──► held ──take with force──► held by another
//!  ▲               │ leaves                     ▲
//!  │ dropped       ▼                            │
//!  └───────────── left ───────take──────────────┘
//! ```

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::domain::ids::ViewerId;

/// All seats of one kind.
///
/// # Parameters
/// - `K`: names a seat.
/// - `I`: what others see of its holder.
pub struct Seats<K, I> {
    held: Mutex<HashMap<K, Held<I>>>,
}

/// A seat, as the table has it.
struct Held<I> {
    holder: ViewerId,
    info: I,
    taken_over: CancellationToken,
    vacated: CancellationToken,
    /// Whether the holder has left. It holds the seat only until it has cleared it.
    has_left: bool,
}

/// The right of one holder, until this value is dropped or another one takes over.
pub struct Seat<K: Eq + Hash, I> {
    seats: Arc<Seats<K, I>>,
    key: K,
    holder: ViewerId,
    taken_over: CancellationToken,
    vacated: CancellationToken,
    /// Ends when the holder before this one has given the seat back. `None` if there was none.
    earlier: Option<CancellationToken>,
}

impl<K, I> Default for Seats<K, I> {
    fn default() -> Self {
        Self { held: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, I: Clone> Seats<K, I> {
    /// The holder of a seat.
    #[must_use]
    pub fn of(&self, key: &K) -> Option<I> {
        self.held().get(key).filter(|held| !held.has_left).map(|held| held.info.clone())
    }

    /// Takes a seat.
    ///
    /// # Parameters
    /// - `force`: whether to take over from another holder, whose right then ends.
    ///
    /// # Errors
    /// The holder, if there is one and `force` is not set.
    pub fn take(
        self: &Arc<Self>,
        key: &K,
        holder: ViewerId,
        info: I,
        force: bool,
    ) -> Result<Seat<K, I>, I> {
        let (taken_over, vacated) = (CancellationToken::new(), CancellationToken::new());
        let new = Held {
            holder,
            info,
            taken_over: taken_over.clone(),
            vacated: vacated.clone(),
            has_left: false,
        };
        let mut held = self.held();
        if let Some(other) = held.get(key).filter(|held| !force && !held.has_left) {
            return Err(other.info.clone());
        }
        let earlier = held.insert(key.clone(), new).map(|earlier| {
            earlier.taken_over.cancel();
            earlier.vacated
        });
        Ok(Seat { seats: Arc::clone(self), key: key.clone(), holder, taken_over, vacated, earlier })
    }
}

impl<K, I> Seats<K, I> {
    fn held(&self) -> MutexGuard<'_, HashMap<K, Held<I>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, I> Seat<K, I> {
    /// Ends when another holder takes over.
    #[must_use]
    pub fn taken_over(&self) -> CancellationToken {
        self.taken_over.clone()
    }

    /// Waits until the holder before this one has given the seat back.
    pub async fn ready(&mut self) {
        if let Some(earlier) = &self.earlier {
            earlier.cancelled().await;
            self.earlier = None;
        }
    }

    /// Whether the holder before this one has given the seat back.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.earlier.as_ref().is_none_or(CancellationToken::is_cancelled)
    }

    /// Lets another one take the seat without force. It gets ready when this value is dropped.
    pub fn leave(&self) {
        let mut held = self.seats.held();
        if let Some(held) = held.get_mut(&self.key).filter(|held| held.holder == self.holder) {
            held.has_left = true;
        }
    }
}

impl<K: Eq + Hash, I> Drop for Seat<K, I> {
    fn drop(&mut self) {
        self.vacated.cancel();
        let mut held = self.seats.held();
        if held.get(&self.key).is_some_and(|held| held.holder == self.holder) {
            held.remove(&self.key);
        }
    }
}
