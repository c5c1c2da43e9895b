//! The table of the audit. Records are added and deleted, and never changed.

use std::time::Duration;

use jiff::Timestamp;

use otter::domain::audit::AuditRecord;
use otter::storage::{AuditCursor, AuditEntry, AuditFilter, AuditPage};

use super::tables::{AuditRow, Tables, ago, column, to_the_microsecond};

/// The size that the SQLite storage counts for a row without its texts, in bytes.
const ROW_OVERHEAD: usize = 400;

/// The length of the text of an id.
const ID: usize = 36;

impl Tables {
    pub fn append_audit(&mut self, records: Vec<AuditRecord>) {
        for record in records {
            let last = self.audit.last_key_value();
            let (id, total) = last.map_or((0, 0), |(id, row)| (*id, row.total_bytes));
            let total_bytes = total + bytes(&record);
            let record = AuditRecord {
                at: to_the_microsecond(record.at),
                duration: record.duration.map(to_the_millisecond),
                count: column(record.count),
                ..record
            };
            self.audit.insert(id + 1, AuditRow { record, total_bytes });
        }
    }

    pub fn list_audit(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> AuditPage {
        let before = after.map_or(i64::MAX, |AuditCursor(id)| id);
        let mut passing =
            self.audit.range(..before).rev().filter(|(_, row)| passes(filter, &row.record));
        let items: Vec<AuditEntry> = passing
            .by_ref()
            .take(limit)
            .map(|(id, row)| AuditEntry { id: *id, record: row.record.clone() })
            .collect();
        let next = passing.next().and(items.last()).map(|entry| AuditCursor(entry.id));
        AuditPage { items, next }
    }

    pub fn purge_audit_by_age(&mut self, now: Timestamp, time: Duration) -> u64 {
        let before = ago(now, time);
        self.delete_oldest(|row| row.record.at.as_microsecond() < before)
    }

    pub fn purge_audit_by_bytes(&mut self, max_bytes: u64) -> u64 {
        let total = self.audit.last_key_value().map_or(0, |(_, row)| row.total_bytes);
        self.delete_oldest(|row| {
            row.total_bytes.checked_add(max_bytes).is_some_and(|bytes| bytes <= total)
        })
    }

    /// Deletes records, but never the last one. A batch is the 500 oldest records. The deletion
    /// ends with the first batch that is not deleted completely.
    fn delete_oldest(&mut self, is_old: impl Fn(&AuditRow) -> bool) -> u64 {
        let last = self.audit.last_key_value().map(|(id, _)| *id);
        let mut deleted = 0;
        loop {
            let oldest = self.audit.iter().take(500);
            let old: Vec<i64> = oldest
                .filter(|(id, row)| Some(**id) != last && is_old(row))
                .map(|(id, _)| *id)
                .collect();
            for id in &old {
                self.audit.remove(id);
            }
            deleted += old.len() as u64;
            if old.len() < 500 {
                return deleted;
            }
        }
    }
}

fn to_the_millisecond(duration: Duration) -> Duration {
    Duration::from_millis(
        u64::try_from(duration.as_millis()).map_or(i64::MAX.unsigned_abs(), column),
    )
}

fn bytes(record: &AuditRecord) -> u64 {
    let AuditRecord { actor, address, request_id, machine, lease, job, reference, detail, .. } =
        record;
    let texts = [actor, address, reference, detail].into_iter().flatten().map(String::len);
    let ids = [request_id.is_some(), lease.is_some(), job.is_some()]
        .into_iter()
        .filter(|is_there| *is_there);
    let machine = machine.as_ref().map_or(0, |(id, name)| id.size() + name.len());
    (ROW_OVERHEAD + texts.sum::<usize>() + ids.count() * ID + machine) as u64
}

fn passes(filter: &AuditFilter, record: &AuditRecord) -> bool {
    let AuditFilter { actions, outcomes, actor, machine, lease, job, reference, since, until } =
        filter;
    let of_machine = record.machine.as_ref().map(|(id, _)| id);
    let at = record.at.as_microsecond();
    (actions.is_empty() || actions.contains(&record.action))
        && (outcomes.is_empty() || outcomes.contains(&record.outcome))
        && actor.as_ref().is_none_or(|actor| Some(actor) == record.actor.as_ref())
        && machine.as_ref().is_none_or(|machine| Some(machine) == of_machine)
        && lease.is_none_or(|lease| Some(lease) == record.lease)
        && job.is_none_or(|job| Some(job) == record.job)
        && reference.as_ref().is_none_or(|reference| Some(reference) == record.reference.as_ref())
        && since.is_none_or(|since| at >= since.as_microsecond())
        && until.is_none_or(|until| at < until.as_microsecond())
}
