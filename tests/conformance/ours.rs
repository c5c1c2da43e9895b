//! The vim25 backend in front of our simulator.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use otter::clock::Clock;
use otter::esx::EsxHypervisor;
use otter::simulator::world::World;
use otter::simulator::{
    self, Comeback, Disruption, Fault, Restart, SessionLoss, Simulator, SimulatorOptions,
};

use super::newcomer;
use super::suite::{Bench, Cut, Pace, Set, Truth};
use super::world_stage::{Hand, WorldStage, scenario};
use crate::harness::record;

/// How the host is.
#[derive(Clone, Copy, Debug, Default)]
pub struct OurBench {
    loss: SessionLoss,
    page_limit: Option<usize>,
}

impl OurBench {
    /// All but the usual one.
    pub fn moods() -> [Self; 3] {
        [SessionLoss::MissingSet, SessionLoss::EmptyAnswer, SessionLoss::NoCollector]
            .map(|loss| Self { loss, page_limit: Some(2) })
    }
}

#[async_trait]
impl Bench for OurBench {
    async fn set(&self, pace: Pace) -> Result<Set> {
        let mut options = SimulatorOptions::new(scenario(), Clock::system());
        options.on_answer = Some(record);
        options.pace = match pace {
            Pace::Brisk => simulator::Pace::Auto { scale: 0.01 },
            Pace::Held => simulator::Pace::Stepped,
        };
        let simulator = Simulator::start(options).await?;
        simulator.control().set_session_loss(self.loss);
        simulator.control().set_page_limit(self.page_limit);
        let backend = EsxHypervisor::new(&newcomer::options(&simulator.url()), Clock::system())?;
        Ok(Set { backend: Arc::new(backend), stage: Box::new(WorldStage::new(OurHand(simulator))) })
    }
}

struct OurHand(Simulator);

#[async_trait]
impl Hand for OurHand {
    fn change(&self, change: &mut (dyn FnMut(&mut World) + Send)) {
        self.0.control().mutate(change);
    }

    /// What a newcomer reads.
    async fn truth(&self) -> Result<Truth> {
        newcomer::truth(&self.0.url()).await
    }

    fn drop_sessions(&self) {
        self.0.control().expire_sessions();
    }

    fn set_reachable(&self, reachable: bool) {
        if reachable {
            self.0.control().resume();
        } else {
            let how = Restart { away: Some(Comeback::Refuse), drop_running: false };
            self.0.control().restart_hostd(how);
        }
    }

    fn refuse_logins(&self, refuse: bool) {
        self.0.control().refuse_logins(refuse);
    }

    fn login_attempts(&self) -> u64 {
        self.0.control().calls("Login")
    }

    fn cut_next_snapshot(&self, cut: Cut) {
        let what = match cut {
            Cut::BeforeItRuns => Disruption::CloseBeforeRunning,
            Cut::AfterItRan => Disruption::CloseAfterRunning,
        };
        self.0.control().disrupt_next("CreateSnapshot_Task", what);
    }

    fn refuse_next_snapshot(&self, fault: Fault) {
        self.0.control().disrupt_next("CreateSnapshot_Task", Disruption::Fault(fault));
    }

    fn reboot(&self) {
        self.0.control().reboot_host();
    }
}
