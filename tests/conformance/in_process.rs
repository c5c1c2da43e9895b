//! The backend in this process.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use otter::clock::Clock;
use otter::simulator::world::World;
use otter::simulator::{self, Fault};

use super::suite::{Bench, Cut, Pace, Set, Truth};
use super::world_stage::{Hand, WorldStage, scenario};
use crate::in_process::{InProcess, Plan, Planned, SimulatedHost, datastore, machine};

pub struct InProcessBench;

#[async_trait]
impl Bench for InProcessBench {
    async fn set(&self, pace: Pace) -> Result<Set> {
        let pace = match pace {
            Pace::Brisk => simulator::Pace::Auto { scale: 0.002 },
            Pace::Held => simulator::Pace::Stepped,
        };
        let host = SimulatedHost::new(&scenario(), pace, Clock::system());
        let planned = Arc::new(Planned::default());
        let backend = InProcess::new(host.clone()).with_hooks(Arc::clone(&planned) as _);
        let stage = WorldStage::new(InProcessHand { host, planned });
        Ok(Set { backend: Arc::new(backend), stage: Box::new(stage) })
    }
}

struct InProcessHand {
    host: SimulatedHost,
    planned: Arc<Planned>,
}

#[async_trait]
impl Hand for InProcessHand {
    fn change(&self, change: &mut (dyn FnMut(&mut World) + Send)) {
        self.host.mutate(change);
    }

    async fn truth(&self) -> Result<Truth> {
        Ok(self.host.look(|world| Truth {
            machines: world.machines().map(machine).map(|seen| (seen.id.clone(), seen)).collect(),
            datastores: (world.datastores().map(|found| datastore(world, found)))
                .map(|seen| (seen.id.clone(), seen))
                .collect(),
        }))
    }

    fn drop_sessions(&self) {
        self.host.drop_sessions();
    }

    fn set_reachable(&self, reachable: bool) {
        self.host.set_reachable(reachable);
    }

    fn refuse_logins(&self, refuse: bool) {
        self.host.refuse_logins(refuse);
    }

    fn login_attempts(&self) -> u64 {
        self.host.login_attempts()
    }

    fn cut_next_snapshot(&self, cut: Cut) {
        self.planned.plan(match cut {
            Cut::BeforeItRuns => Plan::CutBefore,
            Cut::AfterItRan => Plan::CutAfter,
        });
    }

    fn refuse_next_snapshot(&self, fault: Fault) {
        self.planned.plan(Plan::Fault(fault));
    }

    fn reboot(&self) {
        self.host.reboot();
    }
}
