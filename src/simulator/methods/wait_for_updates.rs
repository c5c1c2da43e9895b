//! `WaitForUpdatesEx` and `WaitForUpdates`: a call waits until there are updates. The simulator
//! wakes the wait after each change, so the wait does not poll.

use std::sync::Arc;
use std::time::Duration;

use super::{CallContext, lost_session, number_option, smaller_limit, with_collector};
use crate::simulator::Shared;
use crate::simulator::soap::{self, Request};
use crate::simulator::vim_fault::Fault;

/// Waits for updates and answers with them. The answer is empty if the time `maxWaitSeconds` passes
/// without an update.
pub async fn run(
    shared: &Arc<Shared>,
    request: &Request,
    context: &CallContext,
) -> Result<String, Fault> {
    let max_wait = max_wait_option(request)?;
    let deadline = max_wait.map(|max_wait| shared.clock.elapsed() + max_wait);
    let mut changes = shared.changes();
    let mut pending = PendingWait::begin(shared, request, context)?;
    shared.notify();
    loop {
        changes.borrow_and_update();
        if let Some(answer) = pending.try_answer()? {
            return Ok(answer);
        }
        let remaining = deadline.map(|deadline| deadline.saturating_sub(shared.clock.elapsed()));
        if remaining == Some(Duration::ZERO) {
            return soap::empty_answer(&request.method);
        }
        let timeout = async {
            match remaining {
                Some(remaining) => shared.clock.sleep(remaining).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timeout => {}
            moved = changes.changed() => if moved.is_err() {
                return soap::empty_answer(&request.method);
            },
        }
    }
}

/// The parameter `maxWaitSeconds`. 0 means that the call does not wait. `None` means that it waits
/// without limit.
///
/// # Errors
/// `InvalidArgument` for a negative number.
fn max_wait_option(request: &Request) -> Result<Option<Duration>, Fault> {
    let text =
        request.call().descend(&["options", "maxWaitSeconds"]).map(|element| element.text().trim());
    match text {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
            Err(_) => Err(Fault::invalid_argument("options.maxWaitSeconds")),
        },
    }
}

/// A pending wait for updates. The session of the wait is not idle until this value is dropped.
struct PendingWait<'a> {
    shared: &'a Arc<Shared>,
    request: &'a Request,
    cookie: Option<&'a str>,
    /// How many calls of `CancelWaitForUpdates` the collector had when this wait began. A different
    /// number later means that this wait is cancelled.
    cancelled: u64,
    limit: Option<usize>,
    /// The revision of the world when this wait last looked for updates.
    looked_at: Option<u64>,
}

impl<'a> PendingWait<'a> {
    fn begin(
        shared: &'a Arc<Shared>,
        request: &'a Request,
        context: &'a CallContext,
    ) -> Result<Self, Fault> {
        let cookie = context.cookie.as_deref();
        let mut state = shared.lock();
        let now = state.world.now();
        state.sessions.record_call(cookie, now);
        if state.sessions.get(cookie).is_none() {
            return Err(lost_session(&state, request));
        }
        let limit = match request.method.as_str() {
            "WaitForUpdatesEx" => smaller_limit(
                number_option(request, &["options", "maxObjectUpdates"])?,
                state.fault_plan.page_limit,
            ),
            _ => None,
        };
        let cancelled = with_collector(&mut state, cookie, &request.target.id, |collector, _| {
            Ok(collector.cancelled)
        })?;
        if let Some(session) = state.sessions.get_mut(cookie) {
            session.waits += 1;
        }
        Ok(Self { shared, request, cookie, cancelled, limit, looked_at: None })
    }

    /// Looks for updates and makes the answer. `None` if there are no updates yet.
    fn try_answer(&mut self) -> Result<Option<String>, Fault> {
        let mut state = self.shared.lock();
        if state.sessions.get(self.cookie).is_none() {
            return Err(lost_session(&state, self.request));
        }
        let revision = state.world.revision();
        let looked_at = self.looked_at.replace(revision);
        let is_unchanged = state.fault_plan.hides_additions && looked_at == Some(revision);
        let known = self.request.text("version").unwrap_or_default();
        let mut has_updates = false;
        let answer = with_collector(
            &mut state,
            self.cookie,
            &self.request.target.id,
            |collector, scope| {
                if collector.cancelled != self.cancelled {
                    return Err(Fault::new(
                        "RequestCanceled",
                        "The request was canceled by a user.",
                    ));
                }
                if is_unchanged {
                    return Ok(String::new());
                }
                soap::answer(&self.request.method, |writer| {
                    has_updates = collector.updates(scope, known, self.limit, writer)?;
                    Ok(())
                })
            },
        )?;
        Ok(has_updates.then_some(answer))
    }
}

impl Drop for PendingWait<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let now = state.world.now();
        if let Some(session) = state.sessions.get_mut(self.cookie) {
            session.waits = session.waits.saturating_sub(1);
        }
        // The end of a wait counts as activity of its session, so the idle time starts again now.
        state.sessions.mark_active(self.cookie, now);
    }
}
