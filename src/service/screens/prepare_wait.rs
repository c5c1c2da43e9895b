//! Waits of preparations for a text on the screen. Faults of the console are faults of the host:
//! the preparation goes on waiting, and its machine is never quarantined for them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::conditions::ScreenConditions;
use super::wait::{ScreenWaits, Seen, Sight, WaitTerms};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::MachineIdentity;
use crate::domain::screen_text::ScreenText;
use crate::service::jobs::text_watch::{ScreenWatch, TextSight};

/// The pause before a preparation tries again to get a screen.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

#[async_trait]
impl ScreenWatch for ScreenWaits {
    async fn await_text(
        &self,
        machine: &MachineIdentity,
        text: &ScreenText,
        sight: &watch::Sender<TextSight>,
    ) -> Result<bool, Failure> {
        let Some(conditions) = ScreenConditions::of_text(text) else {
            let detail =
                format!("Nothing of the text {:?} can be compared with a screen.", text.as_str());
            return Err(Failure::new(FailureKind::InvalidRequest, detail));
        };
        let terms = WaitTerms {
            conditions: Arc::new(conditions),
            once: false,
            tests_until: None,
            may_look: &|_| Ok(()),
            wake: None,
            has_job: &|_| false,
        };
        loop {
            let failure = match self.watch_for(machine, &terms, sight).await {
                Ok(()) => return Ok(true),
                Err(failure) => failure,
            };
            match failure.kind {
                FailureKind::InvalidPowerState | FailureKind::MachineGone => return Ok(false),
                // No other machine would do better.
                FailureKind::NotSupported => {
                    return Err(failure.caused_by(FailureKind::ConsoleUnavailable));
                }
                _ => {
                    sight.send_modify(|sight| sight.trouble = Some(failure.detail));
                    self.clock().sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

impl ScreenWaits {
    /// Makes one wait, and passes on what it sees.
    async fn watch_for(
        &self,
        machine: &MachineIdentity,
        terms: &WaitTerms<'_>,
        sight: &watch::Sender<TextSight>,
    ) -> Result<(), Failure> {
        let own = Sight::default();
        let mut changes = own.subscribe();
        let mut wait = std::pin::pin!(self.wait(machine, terms, &own));
        loop {
            let is_over = tokio::select! {
                biased;
                // The sender lives as long as this function.
                Ok(()) = changes.changed() => None,
                found = &mut wait => Some(found.map(|_| ())),
            };
            let Seen { text, trouble, .. } = own.seen();
            sight.send_if_modified(|sight| {
                let text = text.or_else(|| sight.text.clone());
                let next = TextSight { text, trouble };
                let is_new = *sight != next;
                *sight = next;
                is_new
            });
            if let Some(end) = is_over {
                return end;
            }
        }
    }
}
