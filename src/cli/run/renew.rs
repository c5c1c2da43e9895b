//! Keeps a lease while its command runs: renews it, and hears of its end.
//!
//! ```text
//!          half of what is left        200
//! renewed ─────────────────────► asks ─────► renewed
//!    ▲                            │ no answer, or none that helps: again, until the time is over
//!    └────────────────────────────┤
//!                                 └── 423, 404, time over, or an event says so ─► lost
//! ```
//! What is left is counted on a clock that does not jump, and from what otter's own clock says: the
//! two are never compared.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::client::{ANSWER_TIMEOUT, Answer, NoAnswer, OtterClient};
use super::lease::{Lease, LeaseClient, RemoteLease};
use super::progress::Progress;

/// The shortest time between two renewals, and before a stream is opened again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const REOPEN_PAUSE: Duration = Duration::from_secs(2);
/// Between two tries of a renewal: a tenth of what is left, within these.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// When a lease ends, and whether it can be held longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseExpiry {
    /// By [`Clock::elapsed`](crate::clock::Clock::elapsed).
    at: Duration,
    /// Nothing holds it longer.
    is_final: bool,
}

impl LeaseExpiry {
    /// The expiry that an answer tells, which was asked for at `asked`; `ttl` is the longest it can
    /// be.
    pub fn from_answer(
        remote: &RemoteLease,
        answer: &Answer,
        asked: Duration,
        ttl: Duration,
    ) -> Self {
        let remaining = remote
            .expires_at
            .zip(answer.date)
            .map(|(end, now)| end.duration_since(now).unsigned_abs());
        let is_final = remote.expires_at.is_some() && remote.expires_at >= remote.max_expires_at;
        Self { at: asked + remaining.map_or(ttl, |remaining| remaining.min(ttl)), is_final }
    }
}

/// Holds the lease for as long as this is awaited. Comes back once it is lost, and says reason.
pub async fn hold_lease(
    client: &LeaseClient,
    lease: &Lease,
    expiry: LeaseExpiry,
    ttl: Duration,
    mut progress: Progress,
) -> String {
    tokio::select! {
        reason = renew_until_lost(client, lease, expiry, ttl, &mut progress) => reason,
        reason = watch_events(client, lease) => reason,
    }
}

async fn renew_until_lost(
    client: &LeaseClient,
    lease: &Lease,
    mut expiry: LeaseExpiry,
    ttl: Duration,
    progress: &mut Progress,
) -> String {
    let path = format!("/leases/{}/renew", lease.id);
    let mut failed: Option<FailedRenewal> = None;
    loop {
        let left = expiry.at.saturating_sub(client.clock.elapsed());
        if left.is_zero() {
            let reason =
                failed.map(|failed| format!(" and could not be held longer: {}", failed.reason));
            let reason = reason.unwrap_or_default();
            return format!("the time of the lease is over{reason}");
        }
        let pause = match &failed {
            _ if expiry.is_final => left,
            Some(failed) => failed.pause(left),
            None => (left / 2).max(SHORTEST_PAUSE),
        };
        client.clock.sleep(pause.min(left)).await;
        if expiry.is_final {
            continue;
        }
        let asked = client.clock.elapsed();
        let request =
            client.http.with_lease(Method::POST, &path, &lease.credential).json(&json!({}));
        let left = expiry.at.saturating_sub(asked);
        let (reason, retry_after) = match OtterClient::answer(request, left.min(ANSWER_TIMEOUT))
            .await
        {
            Ok(answer) if answer.status == 200 => match answer.read::<RemoteLease>() {
                Ok(remote) => {
                    expiry = LeaseExpiry::from_answer(&remote, &answer, asked, ttl);
                    if failed.take().is_some() {
                        progress.info("the lease is renewed again");
                    }
                    if expiry.is_final {
                        progress.warn("the lease cannot be renewed any further: its machine is taken back in the end");
                    }
                    continue;
                }
                Err(failure) => (failure.message, None),
            },
            Ok(answer) if matches!(answer.status.as_u16(), 404 | 423) => {
                return answer.failure().message;
            }
            Ok(answer) => (answer.failure().message, answer.retry_after),
            Err(NoAnswer { reason, retry_after, .. }) => (reason, retry_after),
        };
        if failed.is_none() {
            progress.warn(&format!(
                "the lease cannot be renewed, and is tried again until its time is over: {reason}"
            ));
        }
        failed = Some(FailedRenewal { reason, retry_after });
    }
}

/// A renewal that failed.
struct FailedRenewal {
    reason: String,
    /// How long otter said to wait.
    retry_after: Option<Duration>,
}

impl FailedRenewal {
    /// How long to wait until the next try. Of the time that is left, at least half stays.
    fn pause(&self, left: Duration) -> Duration {
        let pause =
            self.retry_after.unwrap_or_else(|| (left / 10).clamp(RETRY_PAUSE.0, RETRY_PAUSE.1));
        pause.min(left / 2).max(SHORTEST_PAUSE)
    }
}

/// Follows what becomes of the lease. A stream that is not to be had is opened again; the renewals
/// watch_events of an end too, only later.
async fn watch_events(client: &LeaseClient, lease: &Lease) -> String {
    let path = format!("/events?types=lease.changed&lease={}", lease.id);
    loop {
        let request =
            client.http.request(Method::GET, &path).header("accept", "application/x-ndjson");
        let mut pause = REOPEN_PAUSE;
        match OtterClient::stream(request).await {
            Err(NoAnswer { retry_after: Some(time), .. }) => pause = time.max(SHORTEST_PAUSE),
            // There is no stream of a lease that is no longer known.
            Err(_) => {
                if let Some(reason) = end_text(client, lease).await {
                    return reason;
                }
            }
            Ok(mut lines) => {
                // What happened before the stream began is not in it.
                if let Some(reason) = end_text(client, lease).await {
                    return reason;
                }
                while let Some(mut event) = lines.next().await {
                    let remote = serde_json::from_value::<RemoteLease>(event["object"].take());
                    if let Ok(remote) = remote
                        && !remote.is_active()
                    {
                        return remote.end_text();
                    }
                }
            }
        }
        client.clock.sleep(pause).await;
    }
}

/// Why the lease has ended; `None` if it goes on, or if that is not known now.
async fn end_text(client: &LeaseClient, lease: &Lease) -> Option<String> {
    let request = client.http.request(Method::GET, &format!("/leases/{}", lease.id));
    let answer = OtterClient::answer(request, ANSWER_TIMEOUT).await.ok()?;
    match answer.status.as_u16() {
        200 => answer
            .read::<RemoteLease>()
            .ok()
            .filter(|remote| !remote.is_active())
            .map(|remote| remote.end_text()),
        404 => Some(answer.failure().message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_kept_as_far_as_it_leaves_time_for_another_try() {
        let seconds = Duration::from_secs;
        let pause =
            |retry_after, left| FailedRenewal { reason: String::new(), retry_after }.pause(left);
        assert_eq!(pause(Some(seconds(60)), seconds(300)), seconds(60));
        assert_eq!(pause(Some(seconds(5)), seconds(5)), Duration::from_millis(2_500));
        assert_eq!(pause(Some(Duration::ZERO), seconds(5)), SHORTEST_PAUSE);
        assert_eq!(pause(None, seconds(50)), seconds(5));
        assert_eq!(pause(None, Duration::from_millis(1_500)), Duration::from_millis(750));
    }
}
