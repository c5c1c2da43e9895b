//! The audit as it is listed: its facts, which of them a list has, and its pages.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::ids::{JobId, LeaseId, MachineId};

/// A fact as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Grows with each one.
    pub id: i64,
    pub record: AuditRecord,
}

/// Which facts to list. A filter that is empty or `None` matches every fact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub actions: Vec<AuditAction>,
    pub outcomes: Vec<AuditOutcome>,
    pub actor: Option<String>,
    pub machine: Option<MachineId>,
    pub lease: Option<LeaseId>,
    pub job: Option<JobId>,
    pub reference: Option<String>,
    /// This time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

/// The end of a page of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCursor(
    /// The id of its last fact.
    pub i64,
);

/// The text is no cursor of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of the audit")]
pub struct InvalidAuditCursor;

/// Some facts, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    pub items: Vec<AuditEntry>,
    /// The start of the next page; `None` on the last page.
    pub next: Option<AuditCursor>,
}

impl fmt::Display for AuditCursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "audit_{}", self.0)
    }
}

impl FromStr for AuditCursor {
    type Err = InvalidAuditCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id =
            text.strip_prefix("audit_").and_then(|id| id.parse().ok()).ok_or(InvalidAuditCursor)?;
        // A number has several spellings. A cursor must have the one that otter gave out.
        let cursor = Self(id);
        if cursor.to_string() == text { Ok(cursor) } else { Err(InvalidAuditCursor) }
    }
}
