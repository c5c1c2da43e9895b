//! Checks of all leases and machines after the last client has ended, by the store and by the last
//! daemon.

use std::collections::BTreeMap;

use jiff::Timestamp;
use otter::domain::lease::{Lease, LeaseState};
use otter::storage::{LeaseFilter, Storage};
use otter::store::Store;
use serde_json::Value;

/// The errors found, and the number of leases by end reason.
#[derive(Default)]
pub struct FinalCheck {
    pub errors: Vec<String>,
    pub ends: BTreeMap<&'static str, usize>,
    pub quarantined: usize,
}

impl FinalCheck {
    /// Checks that every lease has ended, that the fences of each machine increase, and that no two
    /// leases held a machine at the same time.
    pub async fn for_leases(store: &Store) -> Self {
        let mut check = Self::default();
        let (mut by_machine, mut last): (BTreeMap<String, Vec<Lease>>, Option<Lease>) =
            Default::default();
        loop {
            let page = store.leases(&LeaseFilter::default(), last.as_ref(), 1_000).await.unwrap();
            let Some(oldest) = page.last() else { break };
            last = Some(oldest.clone());
            for lease in page {
                let reason = lease.end.as_ref().map_or("open", |end| end.reason.as_str());
                *check.ends.entry(reason).or_default() += 1;
                if !lease.state.is_end() {
                    check.add_error(format!(
                        "{} has not ended: it is {}",
                        lease.id,
                        lease.state.as_str()
                    ));
                }
                let may_have_no_machine = matches!(reason, "abandoned" | "released");
                if lease.state == LeaseState::Failed && reason != "abandoned"
                    || lease.machine.is_none() && !may_have_no_machine
                {
                    check.add_error(format!("{} ended {reason}: {:?}", lease.id, lease.error));
                }
                if let Some(machine) = &lease.machine {
                    by_machine.entry(machine.id.to_string()).or_default().push(lease);
                }
            }
        }
        for (machine, mut leases) in by_machine {
            leases.sort_by_key(granted_at);
            for pair in leases.windows(2) {
                let [one, next] = pair else { continue };
                if one.fence >= next.fence {
                    let (one, next) = (one.fence, next.fence);
                    check.add_error(format!(
                        "machine {machine} had the fence {one:?}, then {next:?}"
                    ));
                }
                if one.ended_at.is_none_or(|ended| ended > granted_at(next)) {
                    let (one, next) = (one.id, next.id);
                    check.add_error(format!(
                        "machine {machine} was held by {one} and {next} at one time"
                    ));
                }
            }
        }
        check
    }

    /// Checks that every machine is off and free, or quarantined with a reason, or on since the
    /// start.
    pub fn check_machines(&mut self, shown: &Value, on_from_the_start: &[&str]) {
        for machine in shown["items"].as_array().unwrap() {
            let is_quarantined =
                machine["quarantine"]["reason"].as_str().is_some_and(|reason| !reason.is_empty());
            self.quarantined += usize::from(is_quarantined);
            let is_free = machine["free"] == true && machine["power_state"] == "off";
            let is_unchanged = on_from_the_start.iter().any(|id| machine["id"] == *id)
                && machine["not_free_because"] == serde_json::json!(["powered_on"]);
            if !(is_free || is_quarantined || is_unchanged) {
                let (id, reasons) = (&machine["id"], &machine["not_free_because"]);
                self.add_error(format!("machine {id} is not free because {reasons}"));
            }
        }
    }

    pub fn add_error(&mut self, error: String) {
        self.errors.push(error);
    }
}

/// When the machine was granted to the lease.
fn granted_at(lease: &Lease) -> Timestamp {
    let granted = lease.history.iter().rev().find(|entry| entry.what.starts_with("granted"));
    granted.map_or(lease.created_at, |entry| entry.at)
}
