//! The suite on the vim25 backend and otter's own simulator.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use otter::clock::Clock;
use otter::esx::EsxHypervisor;
use otter::simulator::world::World;
use otter::simulator::{
    self, Disruption, DownMode, Fault, HostdRestart, SessionLoss, Simulator, SimulatorOptions,
};

use super::fresh_backend;
use super::suite::{ConnectionCut, HostContents, HostFactory, TaskPacing, TestHost};
use super::world_control::{WorldAccess, WorldControl, scenario};
use crate::harness::record_answer;

/// Creates simulators whose lost sessions look like `loss`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimulatorFactory {
    loss: SessionLoss,
    page_limit: Option<usize>,
}

impl SimulatorFactory {
    /// One factory for each other form of a lost session, with answers of at most two objects.
    pub fn session_loss_variants() -> [Self; 3] {
        [SessionLoss::MissingSet, SessionLoss::EmptyAnswer, SessionLoss::NoCollector]
            .map(|loss| Self { loss, page_limit: Some(2) })
    }
}

#[async_trait]
impl HostFactory for SimulatorFactory {
    async fn create(&self, pacing: TaskPacing) -> Result<TestHost> {
        let mut options = SimulatorOptions::new(scenario(), Clock::system());
        options.on_answer = Some(record_answer);
        options.pace = match pacing {
            TaskPacing::Automatic => simulator::Pace::Auto { scale: 0.01 },
            TaskPacing::Stepped => simulator::Pace::Stepped,
        };
        let simulator = Simulator::start(options).await?;
        simulator.control().set_session_loss(self.loss);
        simulator.control().set_page_limit(self.page_limit);
        let backend =
            EsxHypervisor::new(&fresh_backend::options(&simulator.url()), Clock::system())?;
        Ok(TestHost {
            backend: Arc::new(backend),
            control: Box::new(WorldControl::new(SimulatorAccess(simulator))),
        })
    }
}

struct SimulatorAccess(Simulator);

#[async_trait]
impl WorldAccess for SimulatorAccess {
    fn change(&self, change: &mut (dyn FnMut(&mut World) + Send)) {
        self.0.control().mutate(change);
    }

    /// Reads with a fresh backend.
    async fn contents(&self) -> Result<HostContents> {
        fresh_backend::contents(&self.0.url()).await
    }

    fn drop_sessions(&self) {
        self.0.control().expire_sessions();
    }

    fn set_reachable(&self, reachable: bool) {
        if reachable {
            self.0.control().resume();
        } else {
            let how = HostdRestart { down: Some(DownMode::Refuse), drop_running: false };
            self.0.control().restart_hostd(how);
        }
    }

    fn refuse_logins(&self, refuse: bool) {
        self.0.control().refuse_logins(refuse);
    }

    fn login_attempts(&self) -> u64 {
        self.0.control().calls("Login")
    }

    fn cut_next_snapshot(&self, cut: ConnectionCut) {
        let what = match cut {
            ConnectionCut::BeforeItRuns => Disruption::CloseBeforeRunning,
            ConnectionCut::AfterItRan => Disruption::CloseAfterRunning,
        };
        self.0.control().disrupt_next("CreateSnapshot_Task", what);
    }

    fn refuse_next_snapshot(&self, fault: Fault) {
        self.0.control().disrupt_next("CreateSnapshot_Task", Disruption::Fault(fault));
    }

    fn reboot_host(&self) {
        self.0.control().reboot_host();
    }
}
