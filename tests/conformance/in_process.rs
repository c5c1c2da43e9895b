//! The suite on the in-process backend.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use otter::clock::Clock;
use otter::simulator::world::World;
use otter::simulator::{self, Fault};

use super::suite::{ConnectionCut, HostContents, HostFactory, TaskPacing, TestHost};
use super::world_control::{WorldAccess, WorldControl, scenario};
use crate::in_process::{CallFault, InProcess, PlannedFaults, SimulatedHost, datastore, machine};

pub struct InProcessFactory;

#[async_trait]
impl HostFactory for InProcessFactory {
    async fn create(&self, pacing: TaskPacing) -> Result<TestHost> {
        let pace = match pacing {
            TaskPacing::Automatic => simulator::Pace::Auto { scale: 0.002 },
            TaskPacing::Stepped => simulator::Pace::Stepped,
        };
        let host = SimulatedHost::new(&scenario(), pace, Clock::system());
        let planned = Arc::new(PlannedFaults::default());
        let backend = InProcess::new(host.clone()).with_hooks(Arc::clone(&planned) as _);
        let control = WorldControl::new(InProcessAccess { host, planned });
        Ok(TestHost { backend: Arc::new(backend), control: Box::new(control) })
    }
}

struct InProcessAccess {
    host: SimulatedHost,
    planned: Arc<PlannedFaults>,
}

#[async_trait]
impl WorldAccess for InProcessAccess {
    fn change(&self, change: &mut (dyn FnMut(&mut World) + Send)) {
        self.host.mutate(change);
    }

    async fn contents(&self) -> Result<HostContents> {
        Ok(self.host.look(|world| HostContents {
            machines: world
                .machines()
                .map(|found| machine(world, found))
                .map(|seen| (seen.id.clone(), seen))
                .collect(),
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

    fn cut_next_snapshot(&self, cut: ConnectionCut) {
        self.planned.push(match cut {
            ConnectionCut::BeforeItRuns => CallFault::CutBefore,
            ConnectionCut::AfterItRan => CallFault::CutAfter,
        });
    }

    fn refuse_next_snapshot(&self, fault: Fault) {
        self.planned.push(CallFault::Fault(fault));
    }

    fn reboot_host(&self) {
        self.host.reboot();
    }
}
