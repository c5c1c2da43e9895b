//! The use of one screen. While there is a user, the connection of the screen stays open.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::frame::{Frame, FrameChange, SeenFrame};
use super::shared_screen::{InputLost, InputMessage, Published, UseCount};
use super::state::ConnectionState;
use super::upstream::Refusal;
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::input::ScreenInput;
use crate::hypervisor::HostErrorKind;

/// How long a caller waits for a confirmed frame: the host has 10 s to answer, and then 10 s on one
/// new connection.
pub const CONFIRM_LIMIT: Duration = Duration::from_secs(25);

/// How long the release of held keys may take, with the time for one new connection.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// A caller that waits for a frame gives up after so many failures of the connection: the one that
/// was open or being opened, and one more.
const FAILURES: u64 = 2;

/// One user of a screen: a request for a picture, a wait, a viewer, an input or a recording.
pub struct ScreenUser {
    /// Ends the use when it is dropped.
    usage: UseCount,
    published: watch::Receiver<Published>,
    /// The frame that [`ScreenUser::changed`] last returned.
    seen: SeenFrame,
    clock: Clock,
}

impl ScreenUser {
    pub(super) fn new(usage: UseCount, clock: Clock) -> Self {
        let published = usage.screen().published.subscribe();
        let seen = published.borrow().frame.seen();
        Self { usage, published, seen, clock }
    }

    /// The newest frame.
    #[must_use]
    pub fn frame(&self) -> Arc<Frame> {
        Arc::clone(&self.published.borrow().frame)
    }

    /// The state of the connection to the host.
    #[must_use]
    pub fn connection(&self) -> ConnectionState {
        self.published.borrow().connection
    }

    /// Why the host does not show the screen, in sentences. `None` while the host shows it, and if
    /// nothing failed since a console was last ready.
    #[must_use]
    pub fn outage(&self) -> Option<String> {
        let published = self.published.borrow();
        let refusal = published.status.refusal.as_ref();
        let refusal = refusal.filter(|_| !published.frame.is_current())?;
        Some(self.unavailable(Some(refusal)).detail)
    }

    /// Changes whenever a console becomes ready and whenever it ends. Pass it to
    /// [`ScreenUser::send_on`], so that input of one console never continues on another.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.published.borrow().status.epoch
    }

    /// Waits until the frame is another one than this method last returned (at first: than the
    /// frame when the use began). Returns the newest frame and the damage in between. A slow user
    /// gets one change in place of many. Cancel safe.
    ///
    /// # Errors
    /// The end of the screen: `machine-gone`, `shutting-down`.
    pub async fn changed(&mut self) -> Result<FrameChange, Failure> {
        loop {
            {
                let published = self.published.borrow_and_update();
                let frame = &published.frame;
                if frame.version != self.seen.version {
                    let damage = published.history.since(self.seen, frame);
                    let frame = Arc::clone(frame);
                    self.seen = frame.seen();
                    return Ok(FrameChange { frame, damage });
                }
                if let Some(end) = &published.end {
                    return Err(end.clone());
                }
            }
            // The sender lives as long as `usage`.
            let _ = self.published.changed().await;
        }
    }

    /// A complete frame that the host confirmed after this call: a connection that was requested
    /// after it painted the whole screen, or the host answered a request that was sent after it.
    ///
    /// # Parameters
    /// - `limit`: how long to wait. [`CONFIRM_LIMIT`] leaves time for one new connection.
    ///
    /// # Errors
    /// `console-unavailable` if the host did not answer in time, also not on one new connection, or
    /// refuses the console; `host-unreachable` in an outage of the host; `host-login-refused` if
    /// the host refuses the login; `invalid-power-state` if the machine is not on; and as
    /// [`ScreenUser::changed`].
    pub async fn confirmed(&self, limit: Duration) -> Result<Arc<Frame>, Failure> {
        let number = self.usage.screen().ask();
        self.until(limit, |published| {
            let is_confirmed = published.status.confirmed >= number;
            let frame = Some(&published.frame).filter(|frame| is_confirmed && frame.is_current());
            frame.map(|frame| Ok(Arc::clone(frame)))
        })
        .await
    }

    /// The newest frame if it is complete and the host confirmed it not longer ago than this.
    #[must_use]
    pub fn confirmed_within(&self, max_age: Duration) -> Option<Arc<Frame>> {
        let heard_at = self.usage.screen().heard_at()?;
        let is_new = self.clock.elapsed().saturating_sub(heard_at) <= max_age;
        Some(self.frame()).filter(|frame| is_new && frame.is_current())
    }

    /// Waits until a console is open, so that input can be sent.
    ///
    /// # Errors
    /// As [`ScreenUser::confirmed`]. A screen that the fallback shows takes no input:
    /// `console-unavailable`.
    pub async fn opened(&self, limit: Duration) -> Result<(), Failure> {
        self.until(limit, |published| match published.connection {
            ConnectionState::Open => Some(Ok(())),
            ConnectionState::Fallback => {
                Some(Err(self.unavailable(published.status.refusal.as_ref())))
            }
            _ => None,
        })
        .await
    }

    /// Hands input to the socket of the host, all of it in one message. Returns when the socket has
    /// taken it. Nothing is ever sent twice.
    ///
    /// # Errors
    /// [`InputLost`] if no console is open, or if it broke meanwhile.
    pub async fn send(&self, input: &[ScreenInput]) -> Result<(), InputLost> {
        self.send_message(None, input).await
    }

    /// As [`ScreenUser::send`], only on the console of this [`ScreenUser::epoch`].
    ///
    /// # Errors
    /// [`InputLost`] as for [`ScreenUser::send`], and if another console is open.
    pub async fn send_on(&self, epoch: u64, input: &[ScreenInput]) -> Result<(), InputLost> {
        self.send_message(Some(epoch), input).await
    }

    /// Releases keys and buttons. Those that were down on a console that was lost stay down in the
    /// guest, so they are released on the next one, if it opens in time. To release a key twice
    /// does no harm.
    ///
    /// # Parameters
    /// - `releases`: only keys that come up, and pointers without buttons.
    ///
    /// # Returns
    /// Whether a console took it.
    pub async fn release(&self, releases: &[ScreenInput]) -> bool {
        let sending = async {
            let is_sent = self.send(releases).await.is_ok();
            is_sent
                || (self.opened(RELEASE_LIMIT).await.is_ok() && self.send(releases).await.is_ok())
        };
        tokio::select! {
            biased;
            is_sent = sending => is_sent,
            () = self.clock.sleep(RELEASE_LIMIT) => false,
        }
    }

    async fn send_message(
        &self,
        epoch: Option<u64>,
        input: &[ScreenInput],
    ) -> Result<(), InputLost> {
        let (reply, taken) = oneshot::channel();
        let since = self.clock.elapsed();
        let message = InputMessage { input: input.to_vec(), epoch, since, reply };
        let not_sent = InputLost { maybe_sent: false };
        self.usage.screen().inputs.send(message).await.map_err(|_| not_sent)?;
        // The task replies to each message, unless it panics.
        taken.await.unwrap_or(Err(InputLost { maybe_sent: true }))
    }

    /// Waits until `look` finds what it looks for, until the connection has failed too often, or
    /// until the limit.
    async fn until<T>(
        &self,
        limit: Duration,
        look: impl Fn(&Published) -> Option<Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut published = self.published.clone();
        let failed_before = published.borrow().status.failures;
        let found = async {
            loop {
                {
                    let published = published.borrow_and_update();
                    if let Some(end) = &published.end {
                        return Err(end.clone());
                    }
                    if !published.is_on {
                        return Err(self.not_on());
                    }
                    if let Some(found) = look(&published) {
                        return found;
                    }
                    if published.status.failures >= failed_before + FAILURES {
                        return Err(self.unavailable(published.status.refusal.as_ref()));
                    }
                }
                // The sender lives as long as `usage`.
                let _ = published.changed().await;
            }
        };
        tokio::select! {
            biased;
            found = found => found,
            () = self.clock.sleep(limit) => {
                Err(self.unavailable(self.published.borrow().status.refusal.as_ref()))
            }
        }
    }

    fn not_on(&self) -> Failure {
        let machine = &self.usage.screen().machine;
        let detail = format!(
            "{} is not on, so it has no screen. Power it on first, or wait until it is on.",
            machine.name
        );
        Failure::new(FailureKind::InvalidPowerState, detail)
            .with_machine(&machine.id, &machine.name)
    }

    /// The failure of a caller that got no frame.
    fn unavailable(&self, refusal: Option<&Refusal>) -> Failure {
        let machine = &self.usage.screen().machine;
        let reason =
            refusal.map_or("The host did not answer in time.", |refusal| refusal.message.as_str());
        let kind = match refusal.and_then(|refusal| refusal.kind) {
            Some(HostErrorKind::Unreachable | HostErrorKind::NotAuthenticated) => {
                FailureKind::HostUnreachable
            }
            Some(HostErrorKind::LoginRefused) => FailureKind::HostLoginRefused,
            Some(HostErrorKind::NotFound) => FailureKind::NotFound,
            _ => FailureKind::ConsoleUnavailable,
        };
        let detail = format!("The screen of {} cannot be reached. {reason}", machine.name);
        Failure::new(kind, detail).with_machine(&machine.id, &machine.name)
    }
}
