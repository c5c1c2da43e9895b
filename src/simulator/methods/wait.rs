//! `WaitForUpdatesEx` and `WaitForUpdates`: block until there is something to tell, without
//! polling.

use std::sync::Arc;
use std::time::Duration;

use super::{CallContext, lost_session, number, smaller, with_collector};
use crate::simulator::Shared;
use crate::simulator::fault::Fault;
use crate::simulator::soap::{self, Request};

pub async fn run(
    shared: &Arc<Shared>,
    request: &Request,
    context: &CallContext,
) -> Result<String, Fault> {
    let longest = longest_wait(request)?;
    let deadline = longest.map(|longest| shared.clock.elapsed() + longest);
    let mut changes = shared.changes();
    let pending = Pending::begin(shared, request, context)?;
    shared.notify();
    loop {
        changes.borrow_and_update();
        if let Some(answer) = pending.look()? {
            return Ok(answer);
        }
        let left = deadline.map(|deadline| deadline.saturating_sub(shared.clock.elapsed()));
        if left == Some(Duration::ZERO) {
            return soap::void(&request.method);
        }
        let over = async {
            match left {
                Some(left) => shared.clock.sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            moved = changes.changed() => if moved.is_err() {
                return soap::void(&request.method);
            },
        }
    }
}

/// `maxWaitSeconds`: 0 is one look, and a negative one is illegal.
fn longest_wait(request: &Request) -> Result<Option<Duration>, Fault> {
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

/// A wait that goes on: its session is not idle meanwhile.
struct Pending<'a> {
    shared: &'a Arc<Shared>,
    request: &'a Request,
    cookie: Option<&'a str>,
    /// How often waits of the collector had been cancelled when this one began.
    cancelled: u64,
    most: Option<usize>,
}

impl<'a> Pending<'a> {
    fn begin(
        shared: &'a Arc<Shared>,
        request: &'a Request,
        context: &'a CallContext,
    ) -> Result<Self, Fault> {
        let cookie = context.cookie.as_deref();
        let mut state = shared.lock();
        let now = state.world.now();
        state.sessions.note_call(cookie, now);
        if state.sessions.get(cookie).is_none() {
            return Err(lost_session(&state, request));
        }
        let most = match request.method.as_str() {
            "WaitForUpdatesEx" => {
                smaller(number(request, &["options", "maxObjectUpdates"])?, state.faults.page_limit)
            }
            _ => None,
        };
        let cancelled = with_collector(&mut state, cookie, &request.target.id, |collector, _| {
            Ok(collector.cancelled)
        })?;
        if let Some(session) = state.sessions.get_mut(cookie) {
            session.waits += 1;
        }
        Ok(Self { shared, request, cookie, cancelled, most })
    }

    /// The answer, if there is something to tell.
    fn look(&self) -> Result<Option<String>, Fault> {
        let mut state = self.shared.lock();
        if state.sessions.get(self.cookie).is_none() {
            return Err(lost_session(&state, self.request));
        }
        let known = self.request.text("version").unwrap_or_default();
        let mut something = false;
        let answer =
            with_collector(&mut state, self.cookie, &self.request.target.id, |collector, look| {
                if collector.cancelled != self.cancelled {
                    return Err(Fault::new(
                        "RequestCanceled",
                        "The request was canceled by a user.",
                    ));
                }
                soap::answer(&self.request.method, |writer| {
                    something = collector.updates(look, known, self.most, writer)?;
                    Ok(())
                })
            })?;
        Ok(something.then_some(answer))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let now = state.world.now();
        if let Some(session) = state.sessions.get_mut(self.cookie) {
            session.waits = session.waits.saturating_sub(1);
        }
        // A wait that ends counts as activity, so that the session is idle from now on.
        state.sessions.touch(self.cookie, now);
    }
}
