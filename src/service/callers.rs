//! Who calls: the token of a request, held against those that are known.
//!
//! Where the store has never had a token, everybody is an admin: otter then listens where only its own machine
//! reaches it. Tokens are made and revoked by another process; what it changes is read again twice a second.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::access::{Role, Token, TokenDigest};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::Machine;
use crate::domain::origin::RequestOrigin;
use crate::store::{Store, StoreError, StoredToken};

/// What is changed takes effect within a second.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// Everybody, where no token was ever made.
const ANYBODY: &str = "anonymous";

/// Whoever made a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's name.
    pub name: Arc<str>,
    pub role: Role,
    /// Where the request came from; the default if there is none.
    pub origin: RequestOrigin,
}

impl Caller {
    /// Whether it may change this machine: a runner only one that it holds.
    ///
    /// # Errors
    /// `forbidden`
    pub fn may_change(&self, machine: &Machine) -> Result<(), Failure> {
        if self.role >= Role::Operator {
            return Ok(());
        }
        let detail = format!("{} is a {} and does not hold {}.", self.name, self.role, machine.name);
        Err(Failure::new(FailureKind::Forbidden, detail).of_machine(&machine.id, &machine.name))
    }

    /// Whether it may cancel a job that this one asked for.
    ///
    /// # Errors
    /// `forbidden`
    pub fn may_cancel(&self, requested_by: &str) -> Result<(), Failure> {
        if self.role >= Role::Operator || *self.name == *requested_by {
            return Ok(());
        }
        let detail = format!(
            "{} is a {} and may cancel its own jobs; this one is {requested_by}'s.",
            self.name, self.role
        );
        Err(Failure::new(FailureKind::Forbidden, detail))
    }
}

/// The tokens that are known.
pub struct Callers {
    store: Store,
    clock: Clock,
    known: ArcSwap<Known>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    /// Whether there is any, one that was revoked too.
    any: bool,
    in_force: Vec<(TokenDigest, Caller)>,
}

impl Callers {
    /// Reads the tokens from the store.
    ///
    /// # Errors
    /// The store's.
    pub async fn load(store: Store, clock: Clock) -> Result<Self, StoreError> {
        let known = ArcSwap::from_pointee(read(&store).await?);
        Ok(Self { store, clock, known })
    }

    /// Where there are no tokens.
    ///
    /// # Panics
    /// Where there is no memory for a database.
    #[cfg(test)]
    pub async fn anybody(clock: Clock) -> Self {
        Self::load(Store::in_memory().await.unwrap(), clock).await.unwrap()
    }

    /// Whether callers need a token.
    #[must_use]
    pub fn need_tokens(&self) -> bool {
        self.known.load().any
    }

    /// Whether anybody can call at all where tokens are needed.
    #[must_use]
    pub fn has_tokens_in_force(&self) -> bool {
        !self.known.load().in_force.is_empty()
    }

    /// Who calls with this text as the token.
    ///
    /// # Errors
    /// `unauthenticated` where a token is needed and this is none, or none that is in force. It never says which.
    pub fn identify(&self, token: Option<&str>) -> Result<Caller, Failure> {
        let known = self.known.load();
        if !known.any {
            let origin = RequestOrigin::default();
            return Ok(Caller { name: Arc::from(ANYBODY), role: Role::Admin, origin });
        }
        let Some(token) = token else {
            return Err(unauthenticated("This otter asks for a token: send Authorization: Bearer otter_…"));
        };
        let refused = || unauthenticated("The token is not one of this otter's, or was revoked.");
        let digest = Token::parse(token).map_err(|_| refused())?.digest();
        known.find(&digest).cloned().ok_or_else(refused)
    }

    /// Reads the tokens again and again, until told to stop. What cannot be read leaves those that are known.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        if !self.store.is_shared() {
            return stop.cancelled().await;
        }
        let mut troubled = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.sleep(READ_AGAIN) => {}
            }
            match read(&self.store).await {
                Ok(known) => {
                    troubled = false;
                    if known != **self.known.load() {
                        tracing::info!(in_force = known.in_force.len(), "the tokens changed");
                        self.known.store(Arc::new(known));
                    }
                }
                Err(error) if !troubled => {
                    troubled = true;
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the tokens cannot be read: those that are known stay in force"
                    );
                }
                Err(_) => {}
            }
        }
    }
}

impl Known {
    /// Looks at every token however early it is found, and compares in constant time.
    fn find(&self, digest: &TokenDigest) -> Option<&Caller> {
        let mut found = u64::MAX;
        for (place, (known, _)) in (0..).zip(&self.in_force) {
            found.conditional_assign(&place, known.0.ct_eq(&digest.0));
        }
        self.in_force.get(usize::try_from(found).ok()?).map(|(_, caller)| caller)
    }
}

async fn read(store: &Store) -> Result<Known, StoreError> {
    let tokens = store.tokens().await?;
    let any = !tokens.is_empty();
    let in_force = tokens.into_iter().filter(|token| token.revoked_at.is_none());
    let caller = |token: StoredToken| {
        let (name, origin) = (Arc::from(token.name), RequestOrigin::default());
        (token.digest, Caller { name, role: token.role, origin })
    };
    let in_force = in_force.map(caller).collect();
    Ok(Known { any, in_force })
}

fn unauthenticated(detail: &str) -> Failure {
    Failure::new(FailureKind::Unauthenticated, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> Store {
        let store = Store::in_memory().await.unwrap();
        let writer = store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        store
    }

    async fn make(store: &Store, clock: &Clock, name: &str, role: Role) -> Token {
        let token = Token::new(&clock.random().unwrap());
        let stored = StoredToken {
            id: clock.uuid(),
            name: name.to_owned(),
            role,
            digest: token.digest(),
            created_at: clock.now(),
            revoked_at: None,
        };
        assert!(store.insert_token(&stored).await.unwrap());
        assert!(!store.insert_token(&StoredToken { id: clock.uuid(), ..stored }).await.unwrap(), "in force");
        token
    }

    #[tokio::test]
    async fn a_caller_is_who_the_token_says_until_it_is_revoked() {
        let (store, clock) = (store().await, Clock::system());
        let callers = Callers::load(store.clone(), clock.clone()).await.unwrap();
        assert!(!callers.need_tokens());
        let anybody = callers.identify(None).unwrap();
        assert_eq!((&*anybody.name, anybody.role), ("anonymous", Role::Admin));

        let [ci, boss] = [
            make(&store, &clock, "ci", Role::Runner).await,
            make(&store, &clock, "boss", Role::Operator).await,
        ];
        let callers = Callers::load(store.clone(), clock.clone()).await.unwrap();
        let who = |token: &Token| callers.identify(Some(token.text()));
        let runner = who(&ci).unwrap();
        assert_eq!((&*runner.name, runner.role), ("ci", Role::Runner));
        assert_eq!(who(&boss).unwrap().role, Role::Operator);
        let unknown = Token::new(&clock.random().unwrap());
        for refused in [callers.identify(None), callers.identify(Some("otter_")), who(&unknown)] {
            assert_eq!(refused.unwrap_err().kind, FailureKind::Unauthenticated);
        }

        for name in ["ci", "boss"] {
            assert!(store.revoke_token(name, clock.now()).await.unwrap());
            assert!(!store.revoke_token(name, clock.now()).await.unwrap(), "once");
        }
        let callers = Callers::load(store.clone(), clock.clone()).await.unwrap();
        assert!(callers.identify(Some(ci.text())).is_err());
        assert!(
            callers.identify(None).is_err(),
            "without a token in force nobody may call, and not everybody"
        );
        assert!(callers.need_tokens() && !callers.has_tokens_in_force());
        // The name is free for another.
        make(&store, &clock, "ci", Role::Viewer).await;
    }
}
