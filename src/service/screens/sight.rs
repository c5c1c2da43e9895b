//! What a wait for a screen saw last.

use std::sync::Arc;

use tokio::sync::watch;

use super::Frame;

/// What a wait saw last. Shared between the wait and its caller, who reads it if the time is up.
#[derive(Debug, Default)]
pub struct Sight(watch::Sender<Seen>);

/// What was seen last.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The text of the last check.
    pub text: Option<Arc<str>>,
    /// The last complete frame.
    pub frame: Option<Arc<Frame>>,
    /// Why there is no frame or no text, for the caller. `None` if all is well.
    pub trouble: Option<String>,
    /// Whether each condition was tested once.
    pub is_tested: bool,
}

impl Sight {
    /// What was seen last.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.0.borrow().clone()
    }

    /// Notifies of each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Seen> {
        self.0.subscribe()
    }

    /// Waits until each condition was tested once.
    pub async fn tested(&self) {
        // The sender is alive as long as `self`.
        let _ = self.0.subscribe().wait_for(|seen| seen.is_tested).await;
    }

    /// Changes what was seen.
    pub(super) fn note(&self, change: impl FnOnce(&mut Seen)) {
        self.0.send_modify(change);
    }
}
