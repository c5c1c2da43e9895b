//! The origin of a request: the client's address, and the id under which otter logs the request.

use std::fmt;
use std::net::IpAddr;

use uuid::Uuid;

/// The id of one request. It is in the header `X-Request-Id` of the answer, in problems and in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Uuid);

/// The origin of a request. The default is for otter's own actions, which have no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestOrigin {
    /// The client's address; absent on a Unix socket.
    pub address: Option<IpAddr>,
    pub request_id: Option<RequestId>,
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
