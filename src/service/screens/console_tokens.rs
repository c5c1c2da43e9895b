//! Console tokens: each opens one WebSocket for the caller that asked for it. A browser cannot send
//! headers with a WebSocket, so it offers the token as a subprotocol.
//!
//! ```text
//! created ──redeemed──► burned (then checked)
//!    └──60 s──► expired
//! ```
//! Tokens are kept in memory alone, as digests.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::state::ViewerMode;
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::{Machine, MachineIdentity};
use crate::service::callers::{Caller, Credential};
use crate::service::jobs::authorization::Requester;

/// How long a token can be used.
pub const LIFETIME: Duration = Duration::from_mins(1);

/// The most tokens of one caller that can still be used.
const MAX_LIVE: usize = 16;

/// The tokens that can still be used.
pub struct ConsoleTokens {
    clock: Clock,
    live: Mutex<HashMap<[u8; 32], LiveToken>>,
}

struct LiveToken {
    grant: ConsoleGrant,
    /// By the monotonic clock.
    expires_at: Duration,
}

/// What a console token stands for.
#[derive(Clone, Debug)]
pub struct ConsoleGrant {
    /// The caller, with the lease or the override that it presented.
    pub requester: Requester,
    /// What identified the caller.
    pub credential: Credential,
    pub machine: MachineIdentity,
    pub console: Console,
    /// The fence of the machine's last grant when the token was made. Zero if there was none.
    pub fence: u64,
}

/// The console that a token opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Console {
    pub kind: ConsoleKind,
    pub mode: ViewerMode,
    /// Whether it takes over from another driver, or from another writer.
    pub force: bool,
}

/// What a console shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleKind {
    Screen,
    /// The serial port with this key.
    Serial(i32),
}

/// A new token.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// 64 hexadecimal digits.
    pub text: SecretString,
    pub expires_at: Timestamp,
}

impl ConsoleTokens {
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, live: Mutex::default() }
    }

    /// Makes a token. The caller has checked that the grant is allowed now.
    ///
    /// # Errors
    /// `too-many-requests` if the caller has 16 tokens that can still be used.
    pub fn issue(&self, grant: ConsoleGrant) -> Result<IssuedToken, Failure> {
        let random = self.clock.random().map_err(|error| {
            Failure::new(FailureKind::Internal, format!("no random bits for a token: {error}"))
        })?;
        let text = hex::encode(random);
        let now = self.clock.elapsed();
        let mut live = self.live();
        live.retain(|_, token| now < token.expires_at);
        let is_own =
            |token: &&LiveToken| is_same(&token.grant.requester.caller, &grant.requester.caller);
        let own = live.values().filter(is_own);
        let (count, first_end) = own.fold((0, None), |(count, first_end), token| {
            let earlier =
                first_end.map_or(token.expires_at, |end: Duration| end.min(token.expires_at));
            (count + 1, Some(earlier))
        });
        if count >= MAX_LIVE {
            let detail = format!(
                "{} has {count} console tokens that were not used yet, which is the most that \
                 otter keeps. Each ends {} s after it was made.",
                grant.requester.caller.name,
                LIFETIME.as_secs()
            );
            let retry_after = first_end.map(|end| end.saturating_sub(now));
            return Err(Failure {
                retry_after,
                ..Failure::new(FailureKind::TooManyRequests, detail)
            });
        }
        live.insert(digest(&text), LiveToken { grant, expires_at: now + LIFETIME });
        let expires_at = self.clock.now() + LIFETIME;
        Ok(IssuedToken { text: SecretString::from(text), expires_at })
    }

    /// Uses a token up, and returns what it stands for. Any further use of it is refused, whatever
    /// becomes of this one.
    ///
    /// # Errors
    /// `unauthenticated` if it is unknown, was used before, or has expired. The failure does not
    /// say which.
    pub fn redeem(&self, text: &str) -> Result<ConsoleGrant, Failure> {
        let now = self.clock.elapsed();
        let burned = self.live().remove(&digest(text));
        burned.filter(|token| now < token.expires_at).map(|token| token.grant).ok_or_else(|| {
            let detail = format!(
                "The console token was used before, is older than {} s, or is not one of this \
                 otter's. Ask for another one: POST /v1/machines/{{machine}}/console-tokens.",
                LIFETIME.as_secs()
            );
            Failure::new(FailureKind::Unauthenticated, detail)
        })
    }

    fn live(&self) -> MutexGuard<'_, HashMap<[u8; 32], LiveToken>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsoleGrant {
    /// Checks that the token opens this console of this machine.
    ///
    /// # Parameters
    /// - `machine`, `kind`: from the path of the request.
    /// - `mode`, `force`: from the query; `None` if they are absent, which is always right.
    /// - `fence`: the fence of the machine's last grant now.
    ///
    /// # Errors
    /// `forbidden` if it was made for another machine or console, `lease-ended` if the machine was
    /// leased again since then.
    pub fn check(
        &self,
        machine: &Machine,
        kind: ConsoleKind,
        mode: Option<ViewerMode>,
        force: Option<bool>,
        fence: u64,
    ) -> Result<(), Failure> {
        let own = self.console;
        let is_of_console = kind == own.kind
            && mode.is_none_or(|mode| mode == own.mode)
            && force.is_none_or(|force| force == own.force);
        if !self.machine.can_be(&machine.identity()) || !is_of_console {
            let detail = format!(
                "The console token was made for another machine, console, mode or force than this \
                 request names. It is used up; ask for another one for {}.",
                machine.name
            );
            return Err(Failure::new(FailureKind::Forbidden, detail)
                .with_machine(&machine.id, &machine.name));
        }
        if self.fence != fence {
            let detail = format!(
                "{} was leased again after the console token was made. The token is used up.",
                machine.name
            );
            return Err(Failure::new(FailureKind::LeaseEnded, detail)
                .with_machine(&machine.id, &machine.name));
        }
        Ok(())
    }
}

/// Whether two callers are the same one. A new token can have the name of an earlier one.
fn is_same(one: &Caller, other: &Caller) -> bool {
    one.token == other.token && one.name == other.name
}

/// The digest by which a token is found. A slow hash is not necessary: the text holds 256 random
/// bits.
fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::domain::access::Role;
    use crate::domain::ids::MachineId;
    use crate::service::jobs::authorization::LeaseCredential;

    fn tokens() -> (ConsoleTokens, Clock) {
        let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
        (ConsoleTokens::new(clock.clone()), clock)
    }

    fn machine(id: &str) -> Machine {
        Machine::new(MachineId::from_backend(id))
    }

    fn grant(caller: &str) -> ConsoleGrant {
        ConsoleGrant {
            requester: Requester {
                caller: Caller::new(caller, Role::Runner),
                credential: LeaseCredential::Absent,
                override_reason: None,
            },
            credential: Credential::none(),
            machine: machine("16").identity(),
            console: Console { kind: ConsoleKind::Screen, mode: ViewerMode::Drive, force: false },
            fence: 3,
        }
    }

    fn text(issued: &IssuedToken) -> &str {
        issued.text.expose_secret()
    }

    #[test]
    fn a_token_is_used_once_and_in_time() {
        let (tokens, clock) = tokens();
        let [first, second] = [(); 2].map(|()| tokens.issue(grant("ci")).unwrap());
        assert_ne!(text(&first), text(&second));
        assert_eq!(first.expires_at.to_string(), "1970-01-01T00:01:00Z");
        assert_eq!(&*tokens.redeem(text(&first)).unwrap().requester.caller.name, "ci");
        clock.advance(LIFETIME);
        for used_or_late in [text(&first), text(&second), "", "00"] {
            let refused = tokens.redeem(used_or_late).unwrap_err();
            assert_eq!(refused.kind, FailureKind::Unauthenticated, "{refused}");
        }
    }

    #[test]
    fn a_caller_has_at_most_16_tokens_that_can_be_used() {
        let (tokens, clock) = tokens();
        let first = tokens.issue(grant("ci")).unwrap();
        clock.advance(LIFETIME / 4);
        for _ in 1..MAX_LIVE {
            tokens.issue(grant("ci")).unwrap();
        }
        let refused = tokens.issue(grant("ci")).unwrap_err();
        assert_eq!(refused.kind, FailureKind::TooManyRequests);
        assert_eq!(refused.retry_after, Some(LIFETIME / 4 * 3));
        tokens.issue(grant("ann")).unwrap();
        tokens.redeem(text(&first)).unwrap();
        tokens.issue(grant("ci")).unwrap();
        clock.advance(LIFETIME);
        tokens.issue(grant("ci")).unwrap();
        assert_eq!(tokens.live().len(), 1, "expired tokens are forgotten");
    }

    #[test]
    fn a_token_opens_only_its_console_of_its_machine_under_its_grant() {
        let grant = grant("ci");
        let check = |id: &str, mode, force, fence| {
            let checked = grant.check(&machine(id), ConsoleKind::Screen, mode, force, fence);
            checked.map_err(|failure| failure.kind)
        };
        let (view, drive) = (Some(ViewerMode::View), Some(ViewerMode::Drive));
        assert_eq!(check("16", None, None, 3), Ok(()));
        assert_eq!(check("16", drive, Some(false), 3), Ok(()));
        assert_eq!(check("16", view, None, 3), Err(FailureKind::Forbidden));
        assert_eq!(check("16", None, Some(true), 3), Err(FailureKind::Forbidden));
        assert_eq!(check("17", None, None, 3), Err(FailureKind::Forbidden));
        assert_eq!(check("16", None, None, 4), Err(FailureKind::LeaseEnded));
        let of_port = grant.check(&machine("16"), ConsoleKind::Serial(9000), None, None, 3);
        assert_eq!(of_port.map_err(|failure| failure.kind), Err(FailureKind::Forbidden));
    }

    #[test]
    fn debug_output_hides_the_token() {
        let issued = tokens().0.issue(grant("ci")).unwrap();
        assert!(!format!("{issued:?}").contains(text(&issued)));
    }
}
