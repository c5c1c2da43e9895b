//! The identifiers of the field, one type for each, so that a machine's moid is never taken for a
//! task's.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// The text is empty, so it is the id of nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("empty")]
pub struct EmptyId;

/// Declares a newtype around the text by which a backend knows something; clones share the text.
/// Only backends make and read such a text, and the store brings it back. To everybody else it is
/// opaque: it is compared and shown, and read from what a caller or the configuration wrote.
macro_rules! backend_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text of a backend.
            pub fn from_backend(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The text of the backend.
            #[must_use]
            pub fn backend_text(&self) -> &str {
                &self.0
            }

            /// How many bytes its text takes.
            #[must_use]
            pub fn size(&self) -> usize {
                self.0.len()
            }
        }

        /// Reads what a caller wrote. Any text but the empty one may be an id.
        impl FromStr for $name {
            type Err = EmptyId;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                if text.is_empty() { Err(EmptyId) } else { Ok(Self(Arc::from(text))) }
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, text: &str) -> bool {
                *self.0 == *text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

backend_id!(
    /// A machine's moid: the value of its `VirtualMachine` moref. Hosts use an id again after the
    /// machine is gone, so whatever outlives a moment binds a
    /// [`MachineIdentity`](super::machine::MachineIdentity).
    MachineId
);
backend_id!(
    /// The value of a `VirtualMachineSnapshot` moref.
    SnapshotId
);
backend_id!(
    /// The value of a `Datastore` moref: a UUID on VMFS, `server:/export` on NFS.
    DatastoreId
);
backend_id!(
    /// The value of a `Task` moref, such as `haTask-16-vim.VirtualMachine.powerOn-123456`.
    TaskId
);
backend_id!(
    /// The id of a question that a machine waits on (`VirtualMachineQuestionInfo.id`).
    QuestionId
);

/// Declares a newtype around a UUID of version 7, so that ids sort by the time they were made.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes a UUID made by [`Clock::uuid`](crate::clock::Clock::uuid) or read back from
            /// the store.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID itself.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// A job.
    JobId
);
uuid_id!(
    /// A token. A rotated token keeps its id; a token that is made again under the name of a
    /// revoked one has another.
    TokenId
);
uuid_id!(
    /// A lease. Ids sort by the time at which the leases were asked for.
    LeaseId
);
