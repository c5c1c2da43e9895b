//! What must be true of all leases when nobody is left: read from the disk, and from what the last
//! daemon shows.

use std::collections::BTreeMap;

use jiff::Timestamp;
use otter::domain::lease::{Lease, LeaseState};
use otter::storage::{LeaseFilter, Storage};
use otter::store::Store;
use serde_json::Value;

/// What is wrong, and how many leases ended how.
#[derive(Default)]
pub struct Audit {
    pub wrongs: Vec<String>,
    pub ends: BTreeMap<&'static str, usize>,
    pub quarantined: usize,
}

impl Audit {
    /// Every lease ended; of each machine the fences grow, and nobody held it while another did.
    pub async fn of(store: &Store) -> Self {
        let mut audit = Self::default();
        let (mut of_machines, mut last): (BTreeMap<String, Vec<Lease>>, Option<Lease>) =
            Default::default();
        loop {
            let page = store.leases(&LeaseFilter::default(), last.as_ref(), 1_000).await.unwrap();
            let Some(oldest) = page.last() else { break };
            last = Some(oldest.clone());
            for lease in page {
                let reason = lease.end.as_ref().map_or("open", |end| end.reason.as_str());
                *audit.ends.entry(reason).or_default() += 1;
                if !lease.state.is_end() {
                    audit.wrong(format!(
                        "{} has not ended: it is {}",
                        lease.id,
                        lease.state.as_str()
                    ));
                }
                let waited_in_vain = matches!(reason, "abandoned" | "released");
                if lease.state == LeaseState::Failed && reason != "abandoned"
                    || lease.machine.is_none() && !waited_in_vain
                {
                    audit.wrong(format!("{} ended {reason}: {:?}", lease.id, lease.error));
                }
                if let Some(machine) = &lease.machine {
                    of_machines.entry(machine.id.to_string()).or_default().push(lease);
                }
            }
        }
        for (machine, mut leases) in of_machines {
            leases.sort_by_key(granted_at);
            for pair in leases.windows(2) {
                let [one, next] = pair else { continue };
                if one.fence >= next.fence {
                    let (one, next) = (one.fence, next.fence);
                    audit.wrong(format!("machine {machine} had the fence {one:?}, then {next:?}"));
                }
                if one.ended_at.is_none_or(|ended| ended > granted_at(next)) {
                    let (one, next) = (one.id, next.id);
                    audit.wrong(format!(
                        "machine {machine} was held by {one} and {next} at one time"
                    ));
                }
            }
        }
        audit
    }

    /// Every machine is off and free, or set aside with a reason; those that were on from the start
    /// are on.
    pub fn machines(&mut self, shown: &Value, on_from_the_start: &[&str]) {
        for machine in shown["items"].as_array().unwrap() {
            let aside =
                machine["quarantine"]["reason"].as_str().is_some_and(|reason| !reason.is_empty());
            self.quarantined += usize::from(aside);
            let free = machine["free"] == true && machine["power_state"] == "off";
            let untouched = on_from_the_start.iter().any(|id| machine["id"] == *id)
                && machine["not_free_because"] == serde_json::json!(["powered_on"]);
            if !(free || aside || untouched) {
                let (id, why) = (&machine["id"], &machine["not_free_because"]);
                self.wrong(format!("machine {id} is leaked: it is not free because {why}"));
            }
        }
    }

    pub fn wrong(&mut self, what: String) {
        self.wrongs.push(what);
    }
}

/// When its machine was granted to it.
fn granted_at(lease: &Lease) -> Timestamp {
    let granted = lease.history.iter().rev().find(|entry| entry.what.starts_with("granted"));
    granted.map_or(lease.created_at, |entry| entry.at)
}
