//! The ids of objects. Each kind of object has an id type of its own, so that the id of a machine
//! cannot be used as the id of a task.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// The error for an empty text, which cannot be an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("empty")]
pub struct EmptyId;

/// Declares a newtype for an id that a backend gives to an object. Clones share the text in memory.
/// Only backends create and interpret the text, and the store restores it. All other code only
/// compares and shows the id, and parses it from the text of a caller or of the configuration.
macro_rules! backend_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Makes an id from the text that a backend uses.
            pub fn from_backend(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The text that the backend uses for this id.
            #[must_use]
            pub fn backend_text(&self) -> &str {
                &self.0
            }

            /// The length of the id's text in bytes.
            #[must_use]
            pub fn size(&self) -> usize {
                self.0.len()
            }
        }

        /// Parses an id in the text of a caller. Every text that is not empty can be an id.
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
    /// A machine's moid: the value of its managed object reference, whose type is `VirtualMachine`.
    /// A host can use the id again after the machine is removed. Therefore jobs and leases store a
    /// [`MachineIdentity`](super::machine::MachineIdentity).
    MachineId
);
backend_id!(
    /// A snapshot's moid: the value of a managed object reference of the type
    /// `VirtualMachineSnapshot`.
    SnapshotId
);
backend_id!(
    /// A datastore's moid: the value of a managed object reference of the type `Datastore`. It is a
    /// UUID on VMFS, and `server:/export` on NFS.
    DatastoreId
);
backend_id!(
    /// A task's moid: the value of a managed object reference of the type `Task`, for example
    /// `haTask-16-vim.VirtualMachine.powerOn-123456`.
    TaskId
);
backend_id!(
    /// The id of a machine's pending question (`VirtualMachineQuestionInfo.id`).
    QuestionId
);

/// Declares a newtype for a UUID of version 7. Such ids sort by the time at which they were made.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes an id from a UUID that [`Clock::uuid`](crate::clock::Clock::uuid) made or that
            /// the store returned.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID of this id.
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
    /// The id of a job.
    JobId
);
uuid_id!(
    /// The id of a token. A rotated token keeps its id. A new token that has the name of a revoked
    /// token gets another id.
    TokenId
);
uuid_id!(
    /// The id of a lease. Ids sort by the time at which the leases were requested.
    LeaseId
);
uuid_id!(
    /// The id of an open viewer of a screen.
    ViewerId
);
uuid_id!(
    /// The id of a picture of a screen that otter keeps for a while.
    ScreenPictureId
);
uuid_id!(
    /// The id of an artifact. Ids sort by the time at which the artifacts were stored.
    ArtifactId
);
