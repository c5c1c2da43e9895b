//! Deletes ended jobs and leases, and keys, whose retention is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use otter::storage::RecordRetention;

use super::tables::{Call, Key, Row, Tables, ago};
use super::{jobs, leases};

impl Tables {
    /// Deletes jobs and their keys. Returns the number of each.
    pub fn purge_jobs(
        &mut self,
        now: Timestamp,
        retention: &RecordRetention,
        keys: Duration,
    ) -> (u64, u64) {
        purge(
            &mut self.jobs,
            &mut self.keys,
            jobs::ended_at,
            ago(now, retention.time),
            retention,
            ago(now, keys),
        )
    }

    /// Deletes leases and their keys. Returns the number of each.
    pub fn purge_leases(
        &mut self,
        now: Timestamp,
        retention: &RecordRetention,
        keys: Duration,
    ) -> (u64, u64) {
        let Self { leases, lease_keys, created_snapshots, .. } = self;
        let deleted = purge(
            leases,
            lease_keys,
            leases::ended_at,
            ago(now, retention.time),
            retention,
            ago(now, keys),
        );
        created_snapshots.retain(|_, lease| leases.contains_key(lease));
        deleted
    }
}

fn purge<I: Ord + Copy, T>(
    rows: &mut BTreeMap<I, Row<T>>,
    keys: &mut BTreeMap<Call, Key<I>>,
    ended_at: impl Fn(&T) -> Option<i64>,
    ended_before: i64,
    RecordRetention { time: _, at_least, at_most }: &RecordRetention,
    called_before: i64,
) -> (u64, u64) {
    let known = keys.len();
    let has_ended = |rows: &BTreeMap<I, Row<T>>, id: &I| {
        rows.get(id).is_some_and(|row| ended_at(&row.record).is_some())
    };
    keys.retain(|_, key| key.created_at >= called_before || !has_ended(rows, &key.owner));
    let owners: BTreeSet<I> = keys.values().map(|key| key.owner).collect();
    let mut delete = |count: u32, before: i64| {
        let mut ends: Vec<(i64, I)> =
            rows.iter().filter_map(|(id, row)| Some((ended_at(&row.record)?, *id))).collect();
        ends.sort_by_key(|end| std::cmp::Reverse(*end));
        let surplus = ends.into_iter().skip(count as usize);
        let old = surplus.filter(|(at, id)| *at < before && !owners.contains(id));
        old.map(|(_, id)| rows.remove(&id)).count() as u64
    };
    let deleted = delete(*at_least, ended_before) + delete((*at_most).max(*at_least), i64::MAX);
    (deleted, (known - keys.len()) as u64)
}
