//! Lists of audit records: the filter, the cursor, and the pages.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::ids::{JobId, LeaseId, MachineId};

/// An audit record together with its id in the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// The id of the record. Each new record gets a higher id than all records before it.
    pub id: i64,
    pub record: AuditRecord,
}

/// Selects audit records. A record must match every field. A field that is an empty list or `None`
/// matches every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub actions: Vec<AuditAction>,
    pub outcomes: Vec<AuditOutcome>,
    pub actor: Option<String>,
    pub machine: Option<MachineId>,
    pub lease: Option<LeaseId>,
    pub job: Option<JobId>,
    pub reference: Option<String>,
    /// Matches records that were made at this time or later.
    pub since: Option<Timestamp>,
    /// Matches records that were made before this time.
    pub until: Option<Timestamp>,
}

/// The position in the list of audit records at which a page ended and the next page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCursor(
    /// The id of the last record on the page.
    pub i64,
);

/// The error for a text that is not a cursor of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of the audit")]
pub struct InvalidAuditCursor;

/// One page of audit records, newest first.
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
        // A number can be written in several ways. Only the text that otter writes is accepted as a
        // cursor.
        let cursor = Self(id);
        if cursor.to_string() == text { Ok(cursor) } else { Err(InvalidAuditCursor) }
    }
}
