//! Who acts, and the origin of a request: the client's address, and the id under which otter logs
//! the request.

use std::fmt;
use std::net::IpAddr;

use uuid::Uuid;

/// The id of one request. It is in the header `X-Request-Id` of the answer, in problems and in the
/// log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Uuid);

/// The origin of a request. The default is for otter's own actions, which have no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestOrigin {
    /// The client's address; absent on a Unix socket.
    pub address: Option<IpAddr>,
    pub request_id: Option<RequestId>,
}

/// The actor: a token's name, `anonymous`, `otter` or a command of its, and the request of the
/// action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub name: String,
    pub origin: RequestOrigin,
}

impl Actor {
    /// otter itself, without a request.
    #[must_use]
    pub fn otter() -> Self {
        Self { name: "otter".to_owned(), origin: RequestOrigin::default() }
    }

    /// The command `otter token`. Its name has a space, so no token has the same.
    #[must_use]
    pub fn token_command() -> Self {
        Self { name: "otter token".to_owned(), origin: RequestOrigin::default() }
    }

    /// The command `otter store`.
    #[must_use]
    pub fn store_command() -> Self {
        Self { name: "otter store".to_owned(), origin: RequestOrigin::default() }
    }
}

impl RequestId {
    /// Takes a UUID made by [`Clock::uuid`](crate::clock::Clock::uuid) or read back from the store.
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

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
