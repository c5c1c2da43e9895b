//! Tokens as the storage keeps them, and the uses of tokens.

use jiff::Timestamp;

use crate::domain::access::{Role, TokenDigest, TokenLimits};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::ids::TokenId;
use crate::domain::origin::Actor;
use crate::domain::scope::Scope;

/// A token as the storage keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredToken {
    pub id: TokenId,
    /// The name of the token, which is also the name of its callers. Among the tokens that are not
    /// revoked, no two have the same name.
    pub name: String,
    pub role: Role,
    pub digest: TokenDigest,
    pub scope: Scope,
    pub limits: TokenLimits,
    pub created_at: Timestamp,
    /// The time from which otter refuses the token. `None` if it never expires.
    pub expires_at: Option<Timestamp>,
    /// The time at which the token last got a new secret. `None` if it still has its first one.
    pub rotated_at: Option<Timestamp>,
    /// The time at which the token's secret was last used. It is exact to the minute.
    pub last_used_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

impl StoredToken {
    /// Makes a new token without restrictions.
    #[must_use]
    pub fn new(
        id: TokenId,
        name: &str,
        role: Role,
        digest: TokenDigest,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id,
            name: name.to_owned(),
            role,
            digest,
            scope: Scope::All,
            limits: TokenLimits::default(),
            created_at,
            expires_at: None,
            rotated_at: None,
            last_used_at: None,
            revoked_at: None,
        }
    }

    /// The limits, the expiry and the scope of the token as text. Each part begins with a comma.
    /// The text is empty if the token has no restriction.
    #[must_use]
    pub fn restrictions(&self) -> String {
        let mut parts = Vec::new();
        let TokenLimits { leases, queued_leases, queued_jobs, streams, requests_per_second } =
            self.limits;
        for (limit, unit) in [
            (leases, "leases"),
            (queued_leases, "queued leases"),
            (queued_jobs, "queued jobs"),
            (streams, "streams"),
            (requests_per_second, "requests per second"),
        ] {
            parts.extend(limit.map(|limit| format!("at most {limit} {unit}")));
        }
        parts.extend(self.expires_at.map(|expires_at| format!("until {expires_at:.0}")));
        // The scope comes last in the text, because a scope can be long and the audit truncates
        // long texts.
        if let Scope::Selected { machines, pools } = &self.scope {
            let machines = machines.iter().map(|machine| format!("machines {machine}"));
            let all: Vec<String> =
                machines.chain(pools.iter().map(|pool| format!("pool {pool}"))).collect();
            parts.push(format!("only {}", all.join(", ")));
        }
        parts.into_iter().flat_map(|part| [", ".to_owned(), part]).collect()
    }

    /// Makes the audit record for a change of the token. Only commands of otter change tokens, so
    /// the actor is the command `otter token`.
    #[must_use]
    pub fn audit_record(&self, at: Timestamp, action: AuditAction) -> AuditRecord {
        let detail = format!("{}, {}{}", self.name, self.role, self.restrictions());
        AuditRecord::new(at, action, AuditOutcome::Done)
            .with_actor(&Actor::token_command())
            .with_detail(detail)
    }
}

/// The fact that a token's secret was used at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenUse {
    pub id: TokenId,
    pub digest: TokenDigest,
    pub at: Timestamp,
}
