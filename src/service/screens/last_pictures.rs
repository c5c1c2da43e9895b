//! The pictures that waits for a screen saw last, for people who want to know why a wait timed out.
//! They are in memory only: each for an hour, and all together at most 64 MiB.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Clock;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::ScreenPictureId;
use crate::domain::machine::MachineIdentity;
use crate::service::callers::Caller;
use crate::service::leases::published::PublishedLeases;

/// How long a picture is kept.
pub const KEPT_FOR: Duration = Duration::from_hours(1);

/// The size of all pictures together, in bytes.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Pictures, the oldest first.
pub struct LastPictures {
    clock: Clock,
    leases: Arc<PublishedLeases>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    pictures: VecDeque<KeptPicture>,
    bytes: usize,
}

struct KeptPicture {
    id: ScreenPictureId,
    png: Bytes,
    until: Duration,
    /// The names of the callers that may read it: the one that waited, and the one that requested
    /// the lease that held the machine.
    readers: Vec<String>,
}

impl LastPictures {
    /// Keeps no picture yet.
    #[must_use]
    pub fn new(clock: Clock, leases: Arc<PublishedLeases>) -> Self {
        Self { clock, leases, kept: Mutex::default() }
    }

    /// Keeps a picture. Drops the oldest ones if there are too many bytes.
    ///
    /// # Parameters
    /// - `caller`: the caller whose wait saw it.
    ///
    /// # Returns
    /// `None` if the picture alone is too large.
    pub fn keep(
        &self,
        machine: &MachineIdentity,
        caller: &Caller,
        png: Bytes,
    ) -> Option<ScreenPictureId> {
        if png.len() > MAX_BYTES {
            return None;
        }
        let mut readers = vec![caller.name.to_string()];
        let leases = self.leases.load();
        readers.extend(leases.holder_of(machine).map(|open| open.lease.requested_by.clone()));
        let (id, now) = (ScreenPictureId::new(self.clock.uuid()), self.clock.elapsed());
        let mut kept = self.lock();
        kept.drop_old(now);
        kept.bytes += png.len();
        kept.pictures.push_back(KeptPicture { id, png, until: now + KEPT_FOR, readers });
        while kept.bytes > MAX_BYTES {
            kept.drop_oldest();
        }
        Some(id)
    }

    /// A picture, as PNG. Callers without a token, operators, the caller whose wait saw it and the
    /// caller of the lease may read it.
    ///
    /// # Errors
    /// `not-found`, also for callers that may not read it.
    pub fn get(&self, caller: &Caller, id: ScreenPictureId) -> Result<Bytes, Failure> {
        let now = self.clock.elapsed();
        let mut kept = self.lock();
        kept.drop_old(now);
        let may_read = |picture: &&KeptPicture| {
            caller.role >= Role::Operator
                || picture.readers.iter().any(|reader| **reader == *caller.name)
        };
        let found = kept.pictures.iter().filter(|picture| picture.id == id).find(may_read);
        found.map(|picture| picture.png.clone()).ok_or_else(|| {
            let detail = format!(
                "There is no picture {id}. otter keeps the last picture of a wait for an hour, and \
                 at most {} MiB of them.",
                MAX_BYTES / 1024 / 1024
            );
            Failure::new(FailureKind::NotFound, detail)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn drop_old(&mut self, now: Duration) {
        while self.pictures.front().is_some_and(|oldest| oldest.until <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.pictures.pop_front() {
            self.bytes -= oldest.png.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::ids::MachineId;

    const MIB: usize = 1024 * 1024;

    fn machine() -> MachineIdentity {
        MachineIdentity { id: MachineId::from_backend("16"), instance_uuid: None, path: None }
    }

    fn pictures(clock: &Clock) -> LastPictures {
        LastPictures::new(clock.clone(), Arc::default())
    }

    #[test]
    fn a_picture_is_kept_for_an_hour() {
        let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
        let pictures = pictures(&clock);
        let caller = Caller::new("ci", Role::Runner);
        let id = pictures.keep(&machine(), &caller, Bytes::from_static(b"png")).unwrap();
        clock.advance(KEPT_FOR.saturating_sub(Duration::from_millis(1)));
        assert_eq!(pictures.get(&caller, id).unwrap(), "png");
        clock.advance(Duration::from_millis(1));
        assert_eq!(pictures.get(&caller, id).unwrap_err().kind, FailureKind::NotFound);
    }

    #[test]
    fn the_oldest_make_room() {
        let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
        let pictures = pictures(&clock);
        let caller = Caller::new("ci", Role::Runner);
        let keep = |bytes| pictures.keep(&machine(), &caller, Bytes::from(vec![0; bytes]));
        let (first, second) = (keep(30 * MIB).unwrap(), keep(30 * MIB).unwrap());
        let third = keep(30 * MIB).unwrap();
        assert!(pictures.get(&caller, first).is_err());
        assert!(pictures.get(&caller, second).is_ok() && pictures.get(&caller, third).is_ok());
        assert_eq!(keep(65 * MIB), None);
    }

    #[test]
    fn others_do_not_see_it() {
        let pictures = pictures(&Clock::stepped(Timestamp::UNIX_EPOCH));
        let caller = Caller::new("ci", Role::Runner);
        let id = pictures.keep(&machine(), &caller, Bytes::from_static(b"png")).unwrap();
        assert!(pictures.get(&Caller::new("other", Role::Runner), id).is_err());
        assert!(pictures.get(&Caller::new("ops", Role::Operator), id).is_ok());
    }
}
