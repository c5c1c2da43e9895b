//! Holds a lease while the command of `otter run` runs: renews the lease in time, and watches the
//! event stream for its end.
//!
//! ```text
//!         half of the rest of the lease            200
//! renewed ─────────────────────────────► request ─────► renewed
//!    ▲                                      │ no answer, or an error: again, until the expiry
//!    └──────────────────────────────────────┤
//!                                           └── 423, 404, expiry, or an event ─► lost
//! ```
//! The remaining time of the lease is the difference between two times of otter's clock. From then
//! on it is counted down on the local monotonic clock. So the two clocks are never compared.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::client::{ANSWER_TIMEOUT, Answer, NoAnswer, OtterClient};
use super::lease::{Lease, LeaseClient, RemoteLease};
use super::progress::Progress;

/// The minimum pause between two renewals.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// The pause before the event stream is opened again after it broke.
const REOPEN_PAUSE: Duration = Duration::from_secs(2);
/// The minimum and the maximum of the pause after a failed renewal. The pause is a tenth of the
/// remaining time, as far as it lies between the two.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// When the lease expires, and whether a renewal can still extend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseExpiry {
    /// The time at which the lease expires, on [`Clock::elapsed`](crate::clock::Clock::elapsed).
    at: Duration,
    /// Whether the lease has reached its maximum duration, so that a renewal no longer extends it.
    is_final: bool,
}

impl LeaseExpiry {
    /// Reads from an answer of otter when the lease expires.
    ///
    /// # Parameters
    /// - `asked`: when the request was sent, on the monotonic clock.
    /// - `ttl`: the duration that the lease asked for. The remaining time counts as at most this
    ///   long.
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

/// Holds the lease for as long as the future is polled. If the lease is lost, returns the reason.
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
                failed.map(|failed| format!(" and it could not be renewed: {}", failed.reason));
            let reason = reason.unwrap_or_default();
            return format!("the lease has expired{reason}");
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
            client.http.with_lease(Method::POST, &path, lease.credential.as_ref()).json(&json!({}));
        let left = expiry.at.saturating_sub(asked);
        let (reason, retry_after) =
            match OtterClient::answer(request, left.min(ANSWER_TIMEOUT)).await {
                Ok(answer) if answer.status == 200 => match answer.read::<RemoteLease>() {
                    Ok(remote) => {
                        expiry = LeaseExpiry::from_answer(&remote, &answer, asked, ttl);
                        if failed.take().is_some() {
                            progress.info("renewing the lease works again");
                        }
                        if expiry.is_final {
                            progress.warn(
                                "the lease has its longest duration and cannot be renewed: otter \
                                 takes the machine back when it expires",
                            );
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
                "the lease could not be renewed; otter run retries until it expires: {reason}"
            ));
        }
        failed = Some(FailedRenewal { reason, retry_after });
    }
}

/// A try to renew the lease that failed.
struct FailedRenewal {
    reason: String,
    /// How long otter asks to wait before the next try.
    retry_after: Option<Duration>,
}

impl FailedRenewal {
    /// The pause before the next try, at most half of the remaining time `left`.
    fn pause(&self, left: Duration) -> Duration {
        let pause =
            self.retry_after.unwrap_or_else(|| (left / 10).clamp(RETRY_PAUSE.0, RETRY_PAUSE.1));
        pause.min(left / 2).max(SHORTEST_PAUSE)
    }
}

/// Watches the events of the lease, and returns the reason when the lease ends. If the event stream
/// cannot be opened or breaks, opens it again. While the stream is closed, only the next renewal
/// can notice the end of the lease.
async fn watch_events(client: &LeaseClient, lease: &Lease) -> String {
    let path = format!("/events?types=lease.changed&lease={}", lease.id);
    loop {
        let request =
            client.http.request(Method::GET, &path).header("accept", "application/x-ndjson");
        let mut pause = REOPEN_PAUSE;
        match OtterClient::stream(request).await {
            Err(NoAnswer { retry_after: Some(time), .. }) => pause = time.max(SHORTEST_PAUSE),
            // otter refuses the stream if it does not know the lease any more, so the lease is read
            // to find out.
            Err(_) => {
                if let Some(reason) = fetch_end(client, lease).await {
                    return reason;
                }
            }
            Ok(mut lines) => {
                // The stream contains no event from before it was opened, so the lease is read once
                // to see whether it had already ended.
                if let Some(reason) = fetch_end(client, lease).await {
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

/// Reads the lease and returns why it ended. `None` if the lease is active, or if no answer came.
async fn fetch_end(client: &LeaseClient, lease: &Lease) -> Option<String> {
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
    fn the_pause_of_retry_after_leaves_time_for_another_attempt() {
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
