//! Lists of audit records: the filter, the cursor and the pages.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::ids::{JobId, LeaseId, MachineId};

/// A stored audit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Increases with each record.
    pub id: i64,
    pub record: AuditRecord,
}

/// Selects audit records. An empty list or `None` matches every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub actions: Vec<AuditAction>,
    pub outcomes: Vec<AuditOutcome>,
    pub actor: Option<String>,
    pub machine: Option<MachineId>,
    pub lease: Option<LeaseId>,
    pub job: Option<JobId>,
    pub reference: Option<String>,
    /// Matches records at this time or later.
    pub since: Option<Timestamp>,
    /// Matches records before this time.
    pub until: Option<Timestamp>,
}

/// The position after a page of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCursor(
    /// The id of the page's last record.
    pub i64,
);

/// The text is not a cursor of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of the audit")]
pub struct InvalidAuditCursor;

/// One page of audit records, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    pub items: Vec<AuditEntry>,
    /// The cursor of the next page. `None` on the last page.
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
        // A number has several spellings. Only the spelling that otter writes is a cursor.
        let cursor = Self(id);
        if cursor.to_string() == text { Ok(cursor) } else { Err(InvalidAuditCursor) }
    }
}
