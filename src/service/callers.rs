//! Identifies callers: compares the token of a request with the tokens of the storage.
//!
//! As long as no token was ever created, every caller is an admin, and otter listens only on
//! addresses that other machines cannot reach. Other processes create, rotate and revoke tokens, so
//! the daemon reloads them twice a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::limits::Limiter;
use crate::clock::Clock;
use crate::domain::access::{Role, Token, TokenDigest, TokenLimits, TokenStatus, is_reserved_name};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::TokenId;
use crate::domain::machine::Machine;
use crate::domain::origin::{Actor, RequestOrigin};
use crate::domain::scope::Scope;
use crate::storage::{Storage, StorageError, StoredToken, TokenUse};
use crate::telemetry;

/// The time between two reads of the tokens. So a change of a token takes effect within a second.
const RELOAD_INTERVAL: Duration = Duration::from_millis(500);

/// otter writes the last use of a token to the storage at most once in this time.
const USE_WRITE_INTERVAL: Duration = Duration::from_mins(1);

/// The name of every caller while otter has no tokens.
const ANONYMOUS: &str = "anonymous";

/// The client that made a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name of the token.
    pub name: Arc<str>,
    /// The token of the caller. `None` if the caller needs no token, and for otter itself.
    pub token: Option<TokenId>,
    pub role: Role,
    /// The address and the id of the request. For otter itself, this is the default value.
    pub origin: RequestOrigin,
    /// The machines that this caller sees.
    pub scope: Arc<Scope>,
    pub limits: TokenLimits,
}

impl Caller {
    /// A caller without a restricted scope and without limits.
    #[must_use]
    pub fn new(name: &str, role: Role) -> Self {
        Self {
            name: Arc::from(name),
            token: None,
            role,
            origin: RequestOrigin::default(),
            scope: Arc::default(),
            limits: TokenLimits::default(),
        }
    }

    /// The caller as the actor of an audit record.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor { name: self.name.to_string(), origin: self.origin }
    }

    /// Checks that the caller may change this machine without a lease on it.
    ///
    /// # Errors
    /// `forbidden` if the caller is not an operator.
    pub fn may_change(&self, machine: &Machine) -> Result<(), Failure> {
        if self.role >= Role::Operator {
            return Ok(());
        }
        let role = self.role.with_article();
        let detail = format!("{} is {role} and does not hold {}.", self.name, machine.name);
        Err(Failure::new(FailureKind::Forbidden, detail).with_machine(&machine.id, &machine.name))
    }

    /// Checks that the caller may cancel a job that the caller `requested_by` requested.
    ///
    /// # Errors
    /// `forbidden` if this caller is not an operator and did not request the job.
    pub fn may_cancel(&self, requested_by: &str) -> Result<(), Failure> {
        if self.role >= Role::Operator || *self.name == *requested_by {
            return Ok(());
        }
        let detail = format!(
            "{} is {} and may cancel its own jobs; this one is {requested_by}'s.",
            self.name,
            self.role.with_article()
        );
        Err(Failure::new(FailureKind::Forbidden, detail))
    }
}

/// The known tokens, and the records of their use.
pub struct Callers {
    store: Arc<dyn Storage>,
    clock: Clock,
    known: ArcSwap<KnownTokens>,
    /// Notifies when the known tokens change or one of them expires.
    changes: watch::Sender<()>,
    uses: Mutex<HashMap<TokenId, RecordedUse>>,
    limiter: Limiter,
    /// The caller of every request while otter has no tokens.
    anonymous: Caller,
}

/// A caller, and what identified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentifiedCaller {
    pub caller: Caller,
    pub credential: Credential,
}

/// What identified a caller: the digest of its token, or `None` while otter has no tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential(Option<TokenDigest>);

impl Credential {
    /// The credential of a caller while otter has no tokens.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Whether otter has no tokens, so that all callers have the same name.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct KnownTokens {
    /// Whether any token exists, including revoked ones.
    exists_any: bool,
    /// The tokens that are not revoked. Some may have expired.
    valid: Vec<KnownToken>,
}

#[derive(Debug, PartialEq, Eq)]
struct KnownToken {
    id: TokenId,
    digest: TokenDigest,
    expires_at: Option<Timestamp>,
    caller: Caller,
}

/// The last use of a token, and whether it was written to the storage.
#[derive(Clone, Copy, Debug)]
struct RecordedUse {
    last: TokenUse,
    is_written: bool,
    /// When a use was last written, as the elapsed time of the clock.
    written_at: Option<Duration>,
}

impl Callers {
    /// Reads the tokens from the storage.
    ///
    /// # Errors
    /// Fails if the storage cannot be read.
    pub async fn load(store: Arc<dyn Storage>, clock: Clock) -> Result<Self, StorageError> {
        let known = read(&*store).await?;
        for KnownToken { caller, .. } in &known.valid {
            if is_reserved_name(&caller.name) {
                tracing::warn!(
                    token = &*caller.name,
                    "otter uses the name of this token for itself: \
                     make one of another name and revoke it"
                );
            }
        }
        Ok(Self {
            store,
            clock,
            known: ArcSwap::from_pointee(known),
            changes: watch::Sender::new(()),
            uses: Mutex::default(),
            limiter: Limiter::default(),
            anonymous: Caller::new(ANONYMOUS, Role::Admin),
        })
    }

    /// Whether callers need a token.
    #[must_use]
    pub fn need_tokens(&self) -> bool {
        self.known.load().exists_any
    }

    /// Whether there is a token that is neither revoked nor expired.
    #[must_use]
    pub fn has_tokens_in_force(&self) -> bool {
        let now = self.clock.now();
        self.known.load().valid.iter().any(|token| token.is_in_force(now))
    }

    /// Whether a token is in force, expired or revoked.
    #[must_use]
    pub fn status(&self, token: TokenId) -> TokenStatus {
        let known = self.known.load();
        match known.valid.iter().find(|known| known.id == token) {
            Some(known) if known.is_in_force(self.clock.now()) => TokenStatus::Valid,
            Some(_) => TokenStatus::Expired,
            None => TokenStatus::Revoked,
        }
    }

    /// Notifies of every change of the tokens that are in force.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The caller that sent this text as its token.
    ///
    /// # Errors
    /// `unauthenticated` if a token is needed, and the text is missing or is not a token in force.
    /// The failure does not reveal whether a token is unknown, revoked or expired.
    pub fn identify(&self, token: Option<&str>) -> Result<IdentifiedCaller, Failure> {
        let known = self.known.load();
        if !known.exists_any {
            let (caller, credential) = (self.anonymous.clone(), Credential(None));
            return Ok(IdentifiedCaller { caller, credential });
        }
        let Some(token) = token else {
            return Err(unauthenticated(
                "This otter asks for a token: send Authorization: Bearer otter_…",
            ));
        };
        let refused = || {
            unauthenticated(
                "The token is not one of this otter's, or it was revoked, rotated or has expired.",
            )
        };
        let digest = Token::parse(token).map_err(|_| refused())?.digest();
        let now = self.clock.now();
        let in_force = |token: &&KnownToken| token.is_in_force(now);
        let KnownToken { id, caller, .. } =
            known.find(&digest).filter(in_force).ok_or_else(refused)?;
        self.record_use(TokenUse { id: *id, digest, at: now });
        Ok(IdentifiedCaller { caller: caller.clone(), credential: Credential(Some(digest)) })
    }

    /// Waits until a caller with this credential would be refused: its token was revoked or rotated
    /// or has expired, or the caller has no token and the first token was created.
    pub async fn until_refused(&self, Credential(digest): Credential) {
        let mut changes = self.changes.subscribe();
        loop {
            let expires_at = {
                let known = self.known.load();
                let now = self.clock.now();
                match digest.map(|digest| known.find(&digest)) {
                    None if !known.exists_any => None,
                    Some(Some(token)) if token.is_in_force(now) => token.expires_at,
                    None | Some(_) => return,
                }
            };
            let expired = async {
                let Some(expires_at) = expires_at else { return std::future::pending().await };
                let left = expires_at.duration_since(self.clock.now());
                self.clock.sleep(Duration::try_from(left).unwrap_or_default()).await;
            };
            tokio::select! {
                biased;
                // `changed` never returns an error, because `self` owns the sender.
                _ = changes.changed() => {}
                () = expired => {}
            }
        }
    }

    /// Counts a request of this caller.
    ///
    /// # Errors
    /// `too-many-requests`
    pub fn count_request(&self, caller: &Caller) -> Result<(), Failure> {
        self.limiter.count_request(&caller.name, &caller.limits, self.clock.elapsed())
    }

    /// The counts of requests and streams of tokens with limits.
    #[must_use]
    pub const fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Reloads the tokens from the storage and writes their last uses to it, again and again until
    /// `stop` is cancelled. While the tokens cannot be read, the tokens that were read last stay in
    /// force.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut is_failing = false;
        let mut in_force = self.in_force();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(RELOAD_INTERVAL) => {}
            }
            match read(&*self.store).await {
                Ok(known) => {
                    is_failing = false;
                    if known != **self.known.load() {
                        let now = self.clock.now();
                        let record =
                            AuditRecord::new(now, AuditAction::TokensReloaded, AuditOutcome::Done);
                        let detail = format!("{} in force", known.valid.len());
                        // Only log that the tokens changed: the process that changed them has
                        // already written a record to the audit.
                        telemetry::audit::log(
                            &record.with_actor(&Actor::otter()).with_detail(detail),
                        );
                        self.known.store(Arc::new(known));
                        self.changes.send_replace(());
                    }
                }
                Err(error) if !is_failing => {
                    is_failing = true;
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the tokens cannot be read: the known tokens stay in force"
                    );
                }
                Err(_) => {}
            }
            let before = std::mem::replace(&mut in_force, self.in_force());
            if before != in_force {
                self.changes.send_replace(());
            }
            self.write_uses().await;
        }
    }

    fn in_force(&self) -> Vec<TokenId> {
        let now = self.clock.now();
        let known = self.known.load();
        known.valid.iter().filter(|token| token.is_in_force(now)).map(|token| token.id).collect()
    }

    fn record_use(&self, last: TokenUse) {
        let mut uses = self.uses();
        let recorded = uses.entry(last.id).or_insert(RecordedUse {
            last,
            is_written: false,
            written_at: None,
        });
        (recorded.last, recorded.is_written) = (last, false);
    }

    /// Writes the uses of tokens that are due to the storage. If the storage fails, the next call
    /// of this function tries the same uses again.
    async fn write_uses(&self) {
        let now = self.clock.elapsed();
        let is_due = |recorded: &RecordedUse| {
            !recorded.is_written
                && recorded.written_at.is_none_or(|at| now.saturating_sub(at) >= USE_WRITE_INTERVAL)
        };
        let due: Vec<TokenUse> = self
            .uses()
            .values()
            .filter(|recorded| is_due(recorded))
            .map(|recorded| recorded.last)
            .collect();
        if due.is_empty() {
            return;
        }
        if let Err(error) = self.store.mark_tokens_used(due.clone()).await {
            tracing::debug!(%error, "the last uses of tokens cannot be written");
            return;
        }
        let mut uses = self.uses();
        for written in due {
            if let Some(recorded) = uses.get_mut(&written.id) {
                recorded.is_written = recorded.last == written;
                recorded.written_at = Some(now);
            }
        }
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<TokenId, RecordedUse>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownTokens {
    /// The token with this digest. The search compares all tokens in constant time, and goes on
    /// after a match, so that its duration reveals nothing.
    fn find(&self, digest: &TokenDigest) -> Option<&KnownToken> {
        let mut found = u64::MAX;
        for (position, known) in (0..).zip(&self.valid) {
            found.conditional_assign(&position, known.digest.0.ct_eq(&digest.0));
        }
        self.valid.get(usize::try_from(found).ok()?)
    }
}

impl KnownToken {
    fn from_stored(token: StoredToken) -> Self {
        let StoredToken { id, name, role, digest, scope, limits, expires_at, .. } = token;
        let caller =
            Caller { token: Some(id), scope: Arc::new(scope), limits, ..Caller::new(&name, role) };
        Self { id, digest, expires_at, caller }
    }

    fn is_in_force(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

async fn read(store: &dyn Storage) -> Result<KnownTokens, StorageError> {
    let tokens = store.tokens().await?;
    let exists_any = !tokens.is_empty();
    let valid = tokens.into_iter().filter(|token| token.revoked_at.is_none());
    Ok(KnownTokens { exists_any, valid: valid.map(KnownToken::from_stored).collect() })
}

fn unauthenticated(detail: &str) -> Failure {
    Failure::new(FailureKind::Unauthenticated, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    async fn store() -> Store {
        let store = Store::in_memory().await.unwrap();
        let writer = store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        store
    }

    async fn make(store: &Store, clock: &Clock, name: &str, role: Role) -> Token {
        let token = Token::new(&clock.random().unwrap());
        let stored =
            StoredToken::new(TokenId::new(clock.uuid()), name, role, token.digest(), clock.now());
        assert!(store.insert_token(&stored).await.unwrap());
        assert!(
            !store
                .insert_token(&StoredToken { id: TokenId::new(clock.uuid()), ..stored })
                .await
                .unwrap(),
            "the name of a token in force is taken"
        );
        token
    }

    #[tokio::test]
    async fn a_token_identifies_its_caller_until_it_is_revoked() {
        let (store, clock) = (store().await, Clock::system());
        let callers = Callers::load(Arc::new(store.clone()), clock.clone()).await.unwrap();
        assert!(!callers.need_tokens());
        let anonymous = callers.identify(None).unwrap().caller;
        assert_eq!((&*anonymous.name, anonymous.role), ("anonymous", Role::Admin));

        let [ci, boss] = [
            make(&store, &clock, "ci", Role::Runner).await,
            make(&store, &clock, "boss", Role::Operator).await,
        ];
        let callers = Callers::load(Arc::new(store.clone()), clock.clone()).await.unwrap();
        let identify = |token: &Token| callers.identify(Some(token.text()));
        let caller = identify(&ci).unwrap().caller;
        assert_eq!((&*caller.name, caller.role), ("ci", Role::Runner));
        assert_eq!(callers.status(caller.token.unwrap()), TokenStatus::Valid);
        assert_eq!(identify(&boss).unwrap().caller.role, Role::Operator);
        let unknown = Token::new(&clock.random().unwrap());
        for refused in
            [callers.identify(None), callers.identify(Some("otter_")), identify(&unknown)]
        {
            assert_eq!(refused.unwrap_err().kind, FailureKind::Unauthenticated);
        }

        for name in ["ci", "boss"] {
            assert!(store.revoke_token(name, clock.now()).await.unwrap());
            assert!(!store.revoke_token(name, clock.now()).await.unwrap(), "once");
        }
        let callers = Callers::load(Arc::new(store.clone()), clock.clone()).await.unwrap();
        assert!(callers.identify(Some(ci.text())).is_err());
        assert!(
            callers.identify(None).is_err(),
            "while every token is revoked, callers without a token are refused"
        );
        assert!(callers.need_tokens() && !callers.has_tokens_in_force());
        // A new token may have the name of a revoked token.
        make(&store, &clock, "ci", Role::Viewer).await;
    }

    #[tokio::test]
    async fn a_token_is_refused_from_its_expiry_on() {
        let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
        let store = store().await;
        let token = Token::new(&clock.random().unwrap());
        let expires_at = clock.now() + jiff::SignedDuration::from_secs(60);
        let plain = StoredToken::new(
            TokenId::new(clock.uuid()),
            "ci",
            Role::Runner,
            token.digest(),
            clock.now(),
        );
        let stored = StoredToken { expires_at: Some(expires_at), ..plain };
        assert!(store.insert_token(&stored).await.unwrap());
        let callers = Callers::load(Arc::new(store), clock.clone()).await.unwrap();
        clock.advance(Duration::from_secs(59));
        assert!(callers.has_tokens_in_force());
        assert_eq!(&*callers.identify(Some(token.text())).unwrap().caller.name, "ci");
        clock.advance(Duration::from_secs(1));
        let unknown = Token::new(&[9; 32]);
        let refused = callers.identify(Some(token.text())).unwrap_err();
        assert_eq!(
            refused,
            callers.identify(Some(unknown.text())).unwrap_err(),
            "the same failure as for an unknown token"
        );
        assert!(callers.need_tokens() && !callers.has_tokens_in_force());
    }

    #[tokio::test]
    async fn a_rotation_replaces_only_the_secret_of_a_token() {
        let (store, clock) = (store().await, Clock::system());
        let old = Token::new(&clock.random().unwrap());
        let plain = StoredToken::new(
            TokenId::new(clock.uuid()),
            "ci",
            Role::Runner,
            old.digest(),
            clock.now(),
        );
        let stored = StoredToken {
            scope: Scope::new(vec!["qubes-*".to_owned()], vec![]),
            limits: TokenLimits { streams: Some(3), ..TokenLimits::default() },
            expires_at: Some(clock.now() + jiff::SignedDuration::from_hours(1)),
            ..plain
        };
        assert!(store.insert_token(&stored).await.unwrap());
        let used = TokenUse { id: stored.id, digest: old.digest(), at: clock.now() };
        store.mark_tokens_used(vec![used]).await.unwrap();
        let new = Token::new(&clock.random().unwrap());
        assert!(store.rotate_token("ci", new.digest(), clock.now(), None).await.unwrap());
        assert!(!store.rotate_token("other", new.digest(), clock.now(), None).await.unwrap());
        // The token was used with its old secret before the rotation. This use, which is written
        // late, must not count as a use of the new secret.
        store.mark_tokens_used(vec![used]).await.unwrap();
        let kept = store.tokens().await.unwrap().remove(0);
        let expires_at =
            stored.expires_at.map(|at| Timestamp::from_microsecond(at.as_microsecond()).unwrap());
        assert_eq!((kept.expires_at, kept.last_used_at), (expires_at, None));
        let callers = Callers::load(Arc::new(store), clock).await.unwrap();
        assert!(callers.identify(Some(old.text())).is_err());
        let caller = callers.identify(Some(new.text())).unwrap().caller;
        assert_eq!((&*caller.scope, caller.limits), (&stored.scope, stored.limits));
    }

    #[tokio::test]
    async fn the_last_use_of_a_token_is_written_once_a_minute_at_most() {
        let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
        let store = store().await;
        let token = make(&store, &clock, "ci", Role::Runner).await;
        let callers = Callers::load(Arc::new(store.clone()), clock.clone()).await.unwrap();
        let written = async || {
            callers.write_uses().await;
            store.tokens().await.unwrap()[0].last_used_at
        };
        assert_eq!(written().await, None);
        let first = clock.now();
        callers.identify(Some(token.text())).unwrap();
        assert_eq!(written().await, Some(first));
        clock.advance(Duration::from_secs(59));
        callers.identify(Some(token.text())).unwrap();
        assert_eq!(written().await, Some(first));
        clock.advance(Duration::from_secs(1));
        assert_eq!(written().await, Some(first + jiff::SignedDuration::from_secs(59)));
    }
}
