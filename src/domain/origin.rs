//! Who did an action (the actor), and where the request came from (the origin): the client's
//! address, and the request id that otter logs.

use std::fmt;
use std::net::IpAddr;

use uuid::Uuid;

/// The id of one request. The response header `X-Request-Id`, problems and the log contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Uuid);

/// The origin of a request. An action of otter itself has no request, so its origin is the default
/// value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestOrigin {
    /// The client's address. `None` if the client connected over a Unix socket.
    pub address: Option<IpAddr>,
    pub request_id: Option<RequestId>,
}

/// Who did an action: the name of a token, `anonymous`, `otter` or a command of otter, and the
/// origin of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub name: String,
    pub origin: RequestOrigin,
}

impl Actor {
    /// The actor for actions of otter itself, which have no request.
    #[must_use]
    pub fn otter() -> Self {
        Self { name: "otter".to_owned(), origin: RequestOrigin::default() }
    }

    /// The actor for actions of the command `otter token`. The name contains a space, so no token
    /// can have it.
    #[must_use]
    pub fn token_command() -> Self {
        Self { name: "otter token".to_owned(), origin: RequestOrigin::default() }
    }

    /// The actor for actions of the command `otter store`.
    #[must_use]
    pub fn store_command() -> Self {
        Self { name: "otter store".to_owned(), origin: RequestOrigin::default() }
    }
}

impl RequestId {
    /// Makes an id from a UUID that [`Clock::uuid`](crate::clock::Clock::uuid) made or that the
    /// store returned.
    #[must_use]
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The number of characters in the text of an id.
    pub const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;

    /// Writes the id as text into `text`, without allocating memory.
    pub fn write_to(self, text: &mut [u8; Self::LENGTH]) -> &mut str {
        self.0.hyphenated().encode_lower(text)
    }

    /// The UUID of this id.
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
