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

use super::client::{ANSWER, Answer, Client, Unanswered};
use super::lease::{Desk, Lease, LeaseView};
use super::progress::Progress;

/// The shortest time between two renewals, and before a stream is opened again.
const SHORTEST: Duration = Duration::from_millis(250);
const REOPEN: Duration = Duration::from_secs(2);
/// Between two tries of a renewal: a tenth of what is left, within these.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// When a lease ends, and whether it can be held longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// By [`Clock::elapsed`](crate::clock::Clock::elapsed).
    end: Duration,
    /// Nothing holds it longer.
    last: bool,
}

impl Term {
    /// The term that an answer tells, which was asked for at `asked`; `ttl` is the longest it can
    /// be.
    pub fn of(view: &LeaseView, answer: &Answer, asked: Duration, ttl: Duration) -> Self {
        let told = view
            .expires_at
            .zip(answer.date)
            .map(|(end, now)| end.duration_since(now).unsigned_abs());
        let last = view.expires_at.is_some() && view.expires_at >= view.max_expires_at;
        Self { end: asked + told.map_or(ttl, |told| told.min(ttl)), last }
    }
}

/// Holds the lease for as long as this is awaited. Comes back once it is lost, and says why.
pub async fn keep(
    desk: &Desk,
    lease: &Lease,
    term: Term,
    ttl: Duration,
    mut progress: Progress,
) -> String {
    tokio::select! {
        why = renew(desk, lease, term, ttl, &mut progress) => why,
        why = hear(desk, lease) => why,
    }
}

async fn renew(
    desk: &Desk,
    lease: &Lease,
    mut term: Term,
    ttl: Duration,
    progress: &mut Progress,
) -> String {
    let path = format!("/leases/{}/renew", lease.id);
    let mut failed: Option<Failed> = None;
    loop {
        let left = term.end.saturating_sub(desk.clock.elapsed());
        if left.is_zero() {
            let why = failed.map(|failed| format!(" and could not be held longer: {}", failed.why));
            let why = why.unwrap_or_default();
            return format!("the time of the lease is over{why}");
        }
        let pause = match &failed {
            _ if term.last => left,
            Some(failed) => failed.pause(left),
            None => (left / 2).max(SHORTEST),
        };
        desk.clock.sleep(pause.min(left)).await;
        if term.last {
            continue;
        }
        let asked = desk.clock.elapsed();
        let request = desk.client.with_lease(Method::POST, &path, &lease.shown).json(&json!({}));
        let left = term.end.saturating_sub(asked);
        let (why, retry_after) = match Client::answer(request, left.min(ANSWER)).await {
            Ok(answer) if answer.status == 200 => match answer.read::<LeaseView>() {
                Ok(view) => {
                    term = Term::of(&view, &answer, asked, ttl);
                    if failed.take().is_some() {
                        progress.note("the lease is renewed again");
                    }
                    if term.last {
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
            Err(Unanswered { why, retry_after, .. }) => (why, retry_after),
        };
        if failed.is_none() {
            progress.warn(&format!(
                "the lease cannot be renewed, and is tried again until its time is over: {why}"
            ));
        }
        failed = Some(Failed { why, retry_after });
    }
}

/// A renewal that failed.
struct Failed {
    why: String,
    /// How long otter said to wait.
    retry_after: Option<Duration>,
}

impl Failed {
    /// How long to wait until the next try. Of the time that is left, at least half stays.
    fn pause(&self, left: Duration) -> Duration {
        let pause = self.retry_after.unwrap_or_else(|| (left / 10).clamp(AGAIN.0, AGAIN.1));
        pause.min(left / 2).max(SHORTEST)
    }
}

/// Follows what becomes of the lease. A stream that is not to be had is opened again; the renewals
/// hear of an end too, only later.
async fn hear(desk: &Desk, lease: &Lease) -> String {
    let path = format!("/events?types=lease.changed&lease={}", lease.id);
    loop {
        let request =
            desk.client.request(Method::GET, &path).header("accept", "application/x-ndjson");
        let mut pause = REOPEN;
        match Client::stream(request).await {
            Err(Unanswered { retry_after: Some(time), .. }) => pause = time.max(SHORTEST),
            // There is no stream of a lease that is no longer known.
            Err(_) => {
                if let Some(why) = why_ended(desk, lease).await {
                    return why;
                }
            }
            Ok(mut lines) => {
                // What happened before the stream began is not in it.
                if let Some(why) = why_ended(desk, lease).await {
                    return why;
                }
                while let Some(mut event) = lines.next().await {
                    let view = serde_json::from_value::<LeaseView>(event["object"].take());
                    if let Ok(view) = view
                        && !view.is_active()
                    {
                        return view.why_ended();
                    }
                }
            }
        }
        desk.clock.sleep(pause).await;
    }
}

/// Why the lease has ended; `None` if it goes on, or if that is not known now.
async fn why_ended(desk: &Desk, lease: &Lease) -> Option<String> {
    let look = desk.client.request(Method::GET, &format!("/leases/{}", lease.id));
    let answer = Client::answer(look, ANSWER).await.ok()?;
    match answer.status.as_u16() {
        200 => answer
            .read::<LeaseView>()
            .ok()
            .filter(|view| !view.is_active())
            .map(|view| view.why_ended()),
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
        let pause = |retry_after, left| Failed { why: String::new(), retry_after }.pause(left);
        assert_eq!(pause(Some(seconds(60)), seconds(300)), seconds(60));
        assert_eq!(pause(Some(seconds(5)), seconds(5)), Duration::from_millis(2_500));
        assert_eq!(pause(Some(Duration::ZERO), seconds(5)), SHORTEST);
        assert_eq!(pause(None, seconds(50)), seconds(5));
        assert_eq!(pause(None, Duration::from_millis(1_500)), Duration::from_millis(750));
    }
}
