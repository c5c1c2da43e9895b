//! The otter that `otter screen`, `otter type`, `otter vnc` and `otter serial` call, with the lease
//! that they work with.

use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{RequestBuilder, Upgraded};
use secrecy::SecretString;

use super::run::{self, Answer, NoAnswer, OtterClient, Pieces, ServerArguments};

/// The largest answer, in bytes: a PNG of a large screen.
const ANSWER_LIMIT: usize = 64 << 20;

/// The address of otter, the token and the lease.
#[derive(Debug, Args)]
pub struct CallArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// The lease on the machine: `<id>.<secret>`. The default is `OTTER_LEASE`, if it is set.
    #[arg(long, value_name = "LEASE")]
    lease: Option<String>,
}

/// A client of one otter that sends the lease with each request.
pub struct OtterCalls {
    client: OtterClient,
    lease: Option<SecretString>,
}

impl CallArguments {
    /// The client for these arguments. It connects with its first request.
    ///
    /// # Errors
    /// The address, a file or the token is wrong.
    pub async fn connect(&self) -> anyhow::Result<OtterCalls> {
        let client = run::connect(&self.server).await?;
        let lease = self.lease.clone().or_else(|| run::variable("OTTER_LEASE"));
        Ok(OtterCalls { client, lease: lease.map(SecretString::from) })
    }
}

impl OtterCalls {
    /// Starts to build a request.
    ///
    /// # Parameters
    /// - `machine`: a machine as the API accepts it in a path.
    /// - `below`: the path below the machine, with its query, such as `/screen.png?width=800`.
    pub fn request(&self, method: Method, machine: &str, below: &str) -> RequestBuilder {
        let machine = utf8_percent_encode(machine, NON_ALPHANUMERIC);
        let path = format!("/machines/{machine}{below}");
        self.client.with_lease(method, &path, self.lease.as_ref())
    }

    /// Sends a request, and reads the answer if it is a success.
    ///
    /// # Parameters
    /// - `timeout`: the longest time until the whole answer is there.
    ///
    /// # Errors
    /// No answer came, or the answer is a problem.
    pub async fn call(request: RequestBuilder, timeout: Duration) -> anyhow::Result<Answer> {
        let answer = Self::answer(request, timeout).await?;
        if answer.status.is_success() { Ok(answer) } else { bail!(answer.failure()) }
    }

    /// Sends a request, and reads the answer, which may be a problem.
    ///
    /// # Parameters
    /// - `timeout`: the longest time until the whole answer is there.
    ///
    /// # Errors
    /// No answer came.
    pub async fn answer(request: RequestBuilder, timeout: Duration) -> anyhow::Result<Answer> {
        let answered = OtterClient::answer_up_to(request, timeout, ANSWER_LIMIT).await;
        answered.map_err(|NoAnswer { reason, .. }| anyhow!("otter gave no answer: {reason}"))
    }

    /// Opens an answer whose body is read piece by piece.
    ///
    /// # Errors
    /// No answer came, or the answer is a problem.
    pub async fn open(request: RequestBuilder) -> anyhow::Result<Pieces> {
        match OtterClient::open(request).await {
            Ok(Ok(pieces)) => Ok(pieces),
            Ok(Err(refused)) => bail!(refused.failure()),
            Err(NoAnswer { reason, .. }) => bail!("otter gave no answer: {reason}"),
        }
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// No answer came, or the answer is a problem.
    pub async fn open_websocket(request: RequestBuilder) -> anyhow::Result<Upgraded> {
        match OtterClient::open_websocket(request).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(refused)) => bail!(refused.failure()),
            Err(NoAnswer { reason, .. }) => bail!("otter gave no answer: {reason}"),
        }
    }
}
