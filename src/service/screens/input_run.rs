//! The turn of one call of input: sends its events one after the other, as long as the right to
//! drive, the connection to the screen, the client and otter itself last, and releases its keys.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::RightChanges;
use super::guest_changes::GuestChanges;
use super::input_call::{InputCall, InputCallsParts, InputDone, Until};
use super::input_lane::Turn;
use super::rights::DriveRight;
use super::screen_user::ScreenUser;
use super::shared_screen::InputLost;
use super::wait::{FIRST_TEST_LIMIT, ScreenMatch, Sight, WaitTerms};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::input::{
    HeldKeys, InputEvent, InputStroke, Point, ScreenInput, SentInput, character_strokes,
    default_interval, key_stroke, pointer_strokes,
};
use crate::domain::machine::Machine;
use crate::domain::power::PowerState;
use crate::fail_points::fail_point;
use crate::service::call_ends::{CallEnds, reason_after_input};
use crate::service::idempotency::KeyClaim;
use crate::service::jobs::authorization::Authorization;
use crate::storage::InputAnswer;

/// The turn of one call.
pub(super) struct InputRun<'c> {
    parts: &'c InputCallsParts,
    call: &'c InputCall,
    machine: Arc<Machine>,
    right: DriveRight,
    right_changes: RightChanges,
    user: ScreenUser,
    /// The connection to the screen on which the call began. It never goes on on another one.
    epoch: u64,
    guest_changes: GuestChanges,
    turn: &'c Turn,
    ends: &'c CallEnds,
    claim: Option<&'c KeyClaim>,
    started: Duration,
    held: HeldKeys,
    sent: SentInput,
    /// Whether the key is committed, or the machine may have got a message. From then on a repeat
    /// could type twice.
    has_begun: bool,
    /// Why the call was allowed to send its last message. `None` before the first one.
    allowed_by: Option<Authorization>,
    /// The centre of what the last condition found.
    last_match: Option<Point>,
}

impl<'c> InputRun<'c> {
    /// The turn of a call whose screen is open. Nothing is sent yet.
    #[expect(clippy::too_many_arguments, reason = "one call site, and all are of other types")]
    pub(super) fn new(
        parts: &'c InputCallsParts,
        call: &'c InputCall,
        machine: Arc<Machine>,
        right: DriveRight,
        user: ScreenUser,
        turn: &'c Turn,
        ends: &'c CallEnds,
        claim: Option<&'c KeyClaim>,
    ) -> Self {
        let guest_changes = GuestChanges::since_now(&parts.inventory, &machine.id);
        Self {
            parts,
            call,
            machine,
            right,
            right_changes: parts.screens.right_changes(),
            epoch: user.epoch(),
            guest_changes,
            user,
            turn,
            ends,
            claim,
            started: parts.clock.elapsed(),
            held: HeldKeys::default(),
            sent: SentInput::default(),
            has_begun: false,
            allowed_by: None,
            last_match: None,
        }
    }

    /// Sends all events.
    ///
    /// # Errors
    /// Why it ended before the last event. [`InputRun::finish`] makes the caller's failure of it.
    pub(super) async fn send_all(&mut self) -> Result<(), Failure> {
        self.check_first_points()?;
        let call = self.call;
        for (index, event) in call.list.events.iter().enumerate() {
            self.send(index, event).await?;
            self.sent.events += 1;
        }
        // The key of a call that only waited has an answer too.
        self.begin().await
    }

    /// Releases the keys and buttons that the call holds, also those that its last stroke may have
    /// pressed on a connection that was lost.
    pub(super) async fn release(&mut self) {
        let releases = self.held.releases();
        if releases.is_empty() {
            return;
        }
        if !self.user.release(&releases).await {
            tracing::debug!(machine = %self.machine.id, "held keys were not released");
        }
        self.held.record(&releases);
    }

    /// Stores the answer and the audit record of the call, and makes its result.
    ///
    /// # Errors
    /// The failure of the call: itself if the machine got nothing, otherwise `input-interrupted`.
    pub(super) async fn finish(self, result: Result<(), Failure>) -> Result<InputDone, Failure> {
        let interruption = match result {
            Err(failure) if !self.has_begun => return Err(failure),
            Err(failure) => Some(self.interrupted(failure)),
            Ok(()) => None,
        };
        let finished_at = self.parts.clock.now();
        let answer = InputAnswer {
            sent: self.sent,
            finished_at,
            interruption: interruption.clone().map(Box::new),
            result: None,
        };
        let record = self.audit_record(interruption.as_ref());
        fail_point!("input-answer");
        self.parts.records.finish(self.claim, answer, record).await;
        fail_point!("input-answer-committed");
        match interruption {
            Some(failure) => Err(failure),
            None => Ok(InputDone { sent: self.sent, finished_at }),
        }
    }

    async fn send(&mut self, index: usize, event: &InputEvent<Until>) -> Result<(), Failure> {
        match event {
            InputEvent::Text(text) => {
                for character in text.expose_secret().chars() {
                    for stroke in character_strokes(self.call.list.layout, character, &self.held) {
                        self.send_stroke(stroke).await?;
                    }
                }
                Ok(())
            }
            InputEvent::Keys(keys) => {
                for combination in keys {
                    self.send_stroke(key_stroke(combination, &self.held)).await?;
                }
                Ok(())
            }
            InputEvent::Hold(keysym) | InputEvent::Release(keysym) => {
                let down = matches!(event, InputEvent::Hold(_));
                let messages = vec![ScreenInput::Key { keysym: *keysym, down }];
                self.send_stroke(InputStroke { messages, characters: 0 }).await
            }
            InputEvent::Pause(time) => {
                let pause = self.parts.clock.clone();
                let time = *time;
                self.unless_ended(async move { pause.sleep(time).await }).await
            }
            InputEvent::Move(_)
            | InputEvent::Click(_)
            | InputEvent::Drag { .. }
            | InputEvent::Scroll { .. } => {
                if self.last_match.is_none() && event.needs_match() {
                    return Err(self.no_match(index));
                }
                for stroke in pointer_strokes(event, self.last_match) {
                    self.check_on_screen(index, event, &stroke)?;
                    self.send_stroke(stroke).await?;
                }
                Ok(())
            }
            InputEvent::Until(until) => self.wait_until(until).await,
        }
    }

    async fn wait_until(&mut self, until: &Until) -> Result<(), Failure> {
        let InputCallsParts { waits, screens, clock, .. } = self.parts;
        let requester = &self.call.requester;
        let (machine, sight) = (Arc::clone(&self.machine), Sight::default());
        let identity = machine.identity();
        let may_look = |machine: &Machine| screens.may_look(requester, machine);
        let terms = WaitTerms {
            conditions: Arc::clone(&until.conditions),
            once: false,
            tests_until: Some(clock.elapsed() + until.wait),
            may_look: &may_look,
            wake: None,
            has_job: &|_| false,
        };
        let wait = async {
            let time_up = async {
                clock.sleep(until.wait).await;
                sight.tested().await;
            };
            tokio::select! {
                biased;
                found = waits.wait(&identity, &terms, &sight) => found.map(Some),
                () = time_up => Ok(None),
                () = clock.sleep(until.wait.max(FIRST_TEST_LIMIT)) => Ok(None),
            }
        };
        let Some(ScreenMatch { matched, .. }) = self.unless_ended(wait).await?? else {
            let time = until.wait;
            let detail = format!("until did not become true on {} within {time:?}.", machine.name);
            return Err(waits.timed_out(&machine, &requester.caller, &sight, &detail).await);
        };
        let found = matched.and_then(|matched| matched.found.region);
        self.last_match = found.map(|region| Point {
            x: region.x.saturating_add(region.width / 2),
            y: region.y.saturating_add(region.height / 2),
        });
        Ok(())
    }

    /// Sends one stroke when its time has come.
    async fn send_stroke(&mut self, stroke: InputStroke) -> Result<(), Failure> {
        let InputStroke { messages, characters } = stroke;
        if messages.is_empty() {
            // All its keys are held.
            self.sent.characters += characters;
            return Ok(());
        }
        let list = &self.call.list;
        let interval = list.interval.unwrap_or_else(|| default_interval(self.user.frame().size));
        let wait = self.turn.time_to_next(interval, self.parts.clock.elapsed());
        if !wait.is_zero() {
            let clock = self.parts.clock.clone();
            self.unless_ended(async move { clock.sleep(wait).await }).await?;
        }
        let mut right = self.check_now()?;
        if !self.has_begun {
            // The commit takes time.
            self.begin().await?;
            right = self.check_now()?;
        }
        self.record_override(right);
        let sent = self.user.send_on(self.epoch, &messages).await;
        self.has_begun |= !matches!(sent, Err(InputLost { maybe_sent: false }));
        if let Err(InputLost { maybe_sent }) = sent {
            if maybe_sent {
                // Perhaps only a part arrived, without what releases its keys.
                let pressed = messages.into_iter().filter(|message| message.presses());
                self.held.record(&pressed.collect::<Vec<_>>());
            }
            return Err(self.screen_lost());
        }
        self.held.record(&messages);
        self.turn.stroke_sent(self.parts.clock.elapsed());
        self.sent.characters += characters;
        Ok(())
    }

    /// Commits the key of the call, before the first message.
    async fn begin(&mut self) -> Result<(), Failure> {
        if let Some(claim) = self.claim.filter(|_| !self.has_begun) {
            fail_point!("input-key");
            self.parts.records.begin(claim).await?;
            self.has_begun = true;
            fail_point!("input-key-committed");
        }
        Ok(())
    }

    /// Records, before a message is sent, that the call overrides a lease: once for each lease, as
    /// the machine can be leased while the call types.
    fn record_override(&mut self, right: DriveRight) {
        let authorization = right.authorization;
        if self.allowed_by.replace(authorization) != Some(authorization) {
            let (overrides, requester) = (&self.parts.overrides, &self.call.requester);
            overrides.record(&self.machine, requester, authorization, AuditAction::ScreenInput);
        }
    }

    /// Waits for `work`, unless the call must end before.
    async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let Self { parts, call, machine, right_changes, user, epoch, guest_changes, ends, .. } =
            self;
        tokio::select! {
            biased;
            failure = ends.ended() => return Err(failure),
            failure = right_changes.drive_right_ended(&parts.screens, &call.requester, machine) => {
                return Err(failure);
            }
            () = guest_changes.next(&parts.inventory, &machine.id) => {}
            () = connection_ended(user, *epoch) => {}
            done = work => return Ok(done),
        }
        Err(self.screen_lost())
    }

    /// Checks that the call may send the next message.
    fn check_now(&self) -> Result<DriveRight, Failure> {
        let Self { parts, call, machine, user, epoch, guest_changes, ends, .. } = self;
        if let Some(failure) = ends.failure() {
            return Err(failure);
        }
        if user.epoch() != *epoch || guest_changes.seen(&parts.inventory, &machine.id).is_some() {
            return Err(self.screen_lost());
        }
        parts.screens.may_drive(&call.requester, machine)
    }

    /// Checks the points of the events that act on the screen as it is now: those before the first
    /// pause or condition. Later ones may belong to another screen.
    fn check_first_points(&self) -> Result<(), Failure> {
        let screen = self.user.frame().size;
        let first = self
            .call
            .list
            .events
            .iter()
            .take_while(|event| !matches!(event, InputEvent::Pause(_) | InputEvent::Until(_)));
        for (index, event) in first.enumerate() {
            for (field, point) in event.points() {
                if screen.pixels() > 0 && !point.is_on(screen) {
                    return Err(self.outside(index, field, point));
                }
            }
        }
        Ok(())
    }

    fn check_on_screen(
        &self,
        index: usize,
        event: &InputEvent<Until>,
        stroke: &InputStroke,
    ) -> Result<(), Failure> {
        let screen = self.user.frame().size;
        for message in &stroke.messages {
            if let ScreenInput::Pointer { at, .. } = message
                && !at.is_on(screen)
            {
                return Err(match event.points().first() {
                    Some((field, _)) => self.outside(index, field, *at),
                    None => self.match_outside(index),
                });
            }
        }
        Ok(())
    }

    fn no_match(&self, index: usize) -> Failure {
        let detail = "The last until found nothing that has a place, so there is nothing to click \
                      on.";
        let pointer = format!("/events/{index}/click/last_match");
        self.wrong_event(&pointer, "not-with-this", detail.to_owned())
    }

    fn match_outside(&self, index: usize) -> Failure {
        let (screen, name) = (self.user.frame().size, &self.machine.name);
        let detail = format!(
            "The point that is dx and dy from the last match is outside the screen of {name}, \
             which has {screen} pixels now."
        );
        self.wrong_event(&format!("/events/{index}/click"), "out-of-range", detail)
    }

    fn outside(&self, index: usize, field: &str, point: Point) -> Failure {
        let screen = self.user.frame().size;
        let (Point { x, y }, name) = (point, &self.machine.name);
        let detail = format!(
            "The point {x},{y} of {field} is outside the screen of {name}, which has {screen} \
             pixels now."
        );
        self.wrong_event(&format!("/events/{index}/{field}"), "out-of-range", detail)
    }

    fn wrong_event(&self, pointer: &str, code: &'static str, detail: String) -> Failure {
        Failure::new(FailureKind::InvalidRequest, detail.clone())
            .with_machine(&self.machine.id, &self.machine.name)
            .with_error(InputError {
                pointer: Some(pointer.to_owned()),
                parameter: None,
                code: code.into(),
                detail,
            })
    }

    /// The failure of a call whose screen is gone: its connection ended, or the machine was
    /// reverted or reset.
    fn screen_lost(&self) -> Failure {
        let machine = &self.machine;
        let inventory = &self.parts.inventory;
        let contents = inventory.contents();
        let power_state = contents.machine(&machine.id).and_then(|machine| machine.power_state);
        let (kind, what) = match power_state {
            Some(PowerState::Off) => {
                (FailureKind::InvalidPowerState, "the machine was turned off".to_owned())
            }
            Some(PowerState::Suspended) => {
                (FailureKind::InvalidPowerState, "the machine was suspended".to_owned())
            }
            Some(PowerState::On) | None => {
                let what = match self.guest_changes.seen(inventory, &machine.id) {
                    Some(change) => format!("the machine {change}"),
                    None => "the connection to its screen ended, as it does when the machine is \
                             reverted, turned off or suspended"
                        .to_owned(),
                };
                (FailureKind::ConsoleUnavailable, what)
            }
        };
        let detail = format!("The input to {} ended: {what}.", machine.name);
        Failure::new(kind, detail).with_machine(&machine.id, &machine.name)
    }

    /// The failure of a call that may have typed something: no status of it invites a repeat.
    fn interrupted(&self, cause: Failure) -> Failure {
        let SentInput { events, characters } = self.sent;
        let all = self.call.list.events.len();
        let reason = reason_after_input(&cause.detail);
        let mut errors = cause.errors.clone();
        if errors.is_empty() {
            errors.push(InputError {
                pointer: None,
                parameter: None,
                code: cause.kind.code().into(),
                detail: reason.clone(),
            });
        }
        let code = errors.first().map_or(cause.kind.code(), |error| &*error.code);
        let detail = format!(
            "{} got {events} of {all} events and {characters} characters, then the input ended \
             ({code}). {reason} Look at the screen before you type on.",
            self.machine.name,
        );
        Failure {
            kind: FailureKind::InputInterrupted,
            detail,
            errors,
            retry_after: None,
            sent: Some(self.sent),
            ..cause
        }
        .with_machine(&self.machine.id, &self.machine.name)
    }

    fn audit_record(&self, interruption: Option<&Failure>) -> AuditRecord {
        let SentInput { events, characters } = self.sent;
        let outcome = match interruption {
            None => AuditOutcome::Done,
            Some(_) => AuditOutcome::Failed,
        };
        let InputCall { requester, reference, .. } = self.call;
        let parts = self.parts;
        let record = AuditRecord::new(parts.clock.now(), AuditAction::ScreenInput, outcome)
            .with_actor(&requester.caller.actor())
            .with_detail(format!("events: {events}, characters: {characters}"))
            .with_failure(interruption);
        AuditRecord {
            machine: Some((self.machine.id.clone(), self.machine.name.clone())),
            lease: self.right.lease(),
            reference: reference.clone(),
            duration: Some(parts.clock.elapsed().saturating_sub(self.started)),
            ..record
        }
    }
}

/// Waits until the connection with this epoch has ended.
async fn connection_ended(user: &mut ScreenUser, epoch: u64) {
    while user.epoch() == epoch {
        if user.changed().await.is_err() {
            return;
        }
    }
}
