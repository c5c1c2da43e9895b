//! Ids: one type for each kind of object, so that the id of a machine cannot be used as the id of a
//! task.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

/// The text is empty. An empty text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("empty")]
pub struct EmptyId;

/// Declares a newtype around an id of a backend. Clones share the text. Only backends create and
/// interpret the text, and the store restores it. For all other code the id is opaque: it is
/// compared, shown, and parsed from the text of a caller or of the configuration.
macro_rules! backend_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text of a backend.
            pub fn from_backend(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The text of the backend.
            #[must_use]
            pub fn backend_text(&self) -> &str {
                &self.0
            }

            /// The length of the text in bytes.
            #[must_use]
            pub fn size(&self) -> usize {
                self.0.len()
            }
        }

        /// Parses the text of a caller. Every text that is not empty can be an id.
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
    /// A machine's moid: the value of its `VirtualMachine` moref. A host can reuse the id after the
    /// machine is removed. Jobs and leases therefore store a
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
    /// The id of a machine's pending question (`VirtualMachineQuestionInfo.id`).
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
    /// The id of a token. A rotated token keeps its id. A new token with the name of a revoked one
    /// gets another id.
    TokenId
);
uuid_id!(
    /// The id of a lease. Ids sort by the time of the request.
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
