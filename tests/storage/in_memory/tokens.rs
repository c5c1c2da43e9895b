//! The table of tokens. Each change of a token is audited.

use jiff::Timestamp;

use otter::domain::access::TokenDigest;
use otter::domain::audit::AuditAction;
use otter::domain::scope::Scope;
use otter::storage::{StorageError, StoredToken, TokenUse};

use super::tables::{Tables, conflict, to_the_microsecond};

impl Tables {
    pub fn insert_token(&mut self, token: StoredToken) -> Result<bool, StorageError> {
        if self.unrevoked(&token.name).is_some() {
            return Ok(false);
        }
        if self.tokens.iter().any(|other| other.id == token.id || other.digest == token.digest) {
            return Err(conflict("a token with this id or secret exists"));
        }
        let record = token.audit_record(token.created_at, AuditAction::TokenCreated);
        self.tokens.push(as_stored(token));
        self.append_audit(vec![record]);
        Ok(true)
    }

    pub fn revoke_token(&mut self, name: &str, now: Timestamp) -> bool {
        let Some(place) = self.unrevoked(name) else { return false };
        let record = self.tokens[place].audit_record(now, AuditAction::TokenRevoked);
        self.tokens[place].revoked_at = Some(to_the_microsecond(now));
        self.append_audit(vec![record]);
        true
    }

    pub fn rotate_token(
        &mut self,
        name: &str,
        digest: TokenDigest,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, StorageError> {
        let Some(place) = self.unrevoked(name) else { return Ok(false) };
        if self
            .tokens
            .iter()
            .enumerate()
            .any(|(other, token)| other != place && token.digest == digest)
        {
            return Err(conflict("a token with this secret exists"));
        }
        let token = &mut self.tokens[place];
        token.digest = digest;
        token.rotated_at = Some(to_the_microsecond(now));
        token.expires_at = expires_at.map(to_the_microsecond).or(token.expires_at);
        token.last_used_at = None;
        let record = token.audit_record(now, AuditAction::TokenRotated);
        self.append_audit(vec![record]);
        Ok(true)
    }

    pub fn mark_tokens_used(&mut self, uses: &[TokenUse]) {
        for TokenUse { id, digest, at } in uses {
            let marked =
                self.tokens.iter_mut().filter(|token| token.id == *id && token.digest == *digest);
            marked.for_each(|token| token.last_used_at = Some(to_the_microsecond(*at)));
        }
    }

    pub fn all_tokens(&self) -> Vec<StoredToken> {
        let mut tokens = self.tokens.clone();
        tokens.sort_by_key(|token| (token.created_at, token.id));
        tokens
    }

    fn unrevoked(&self, name: &str) -> Option<usize> {
        self.tokens.iter().position(|token| token.name == name && token.revoked_at.is_none())
    }
}

/// The token that a read returns.
fn as_stored(token: StoredToken) -> StoredToken {
    let scope = match token.scope {
        Scope::All => Scope::All,
        Scope::Selected { machines, pools } => Scope::new(machines, pools),
    };
    StoredToken {
        scope,
        created_at: to_the_microsecond(token.created_at),
        expires_at: token.expires_at.map(to_the_microsecond),
        rotated_at: token.rotated_at.map(to_the_microsecond),
        last_used_at: token.last_used_at.map(to_the_microsecond),
        revoked_at: token.revoked_at.map(to_the_microsecond),
        ..token
    }
}
