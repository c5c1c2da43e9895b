//! The vim25 backend in front of govmomi's simulator, over a wire that can be cut; a colleague is
//! the hand on the host.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use otter::clock::Clock;
use otter::domain::ids::{MachineId, SnapshotId};
use otter::domain::machine::Machine;
use otter::esx::EsxHypervisor;
use tokio::sync::Mutex;

use super::colleague::{Colleague, Seen, lacks};
use super::newcomer;
use super::proxy::Proxy;
use super::suite::{Ability, Bench, Cast, Cut, Pace, Set, Stage, Truth};
use crate::harness::{Host, HostKind, Plan};

/// The cases that cannot be played here.
pub const NOT_APPLICABLE: &[&str] = &[
    "an_arrival_is_told",
    "a_datastore_is_told_with_its_machines",
    "a_question_is_told_and_is_gone_once_answered",
    "machines_that_come_and_go_are_neither_lost_nor_kept",
    "a_refused_account_is_told_and_left_alone",
    "a_guest_without_tools_cannot_be_asked",
    "what_is_off_cannot_be_suspended",
    "an_answer_to_no_question_is_refused",
    "a_task_can_fail_in_its_course",
    "reboot_of_a_guest_shows_in_its_tools",
    "a_busy_machine_refuses_and_names_its_task",
    "a_running_task_can_be_cancelled",
    "what_cannot_be_cancelled_goes_on",
    "a_revert_leaves_the_power_as_recorded",
    "a_snapshot_is_renamed",
    "a_refusal_has_its_kind_and_did_not_run",
    "progress_is_told_and_never_falls",
    "a_task_is_followed_from_its_middle",
    "a_follower_that_leaves_does_not_disturb_another",
    "a_task_of_somebody_else_can_be_followed",
    "a_task_that_is_forgotten_has_vanished",
    "following_goes_on_over_a_lost_session",
    "recent_tasks_tell_what_was_called_and_by_whom",
    "the_boot_time_tells_a_restart_of_the_host",
    "a_running_task_is_among_the_recent_ones",
    "it_stops_while_the_account_is_refused",
    "a_follower_is_let_go_at_the_end",
];

/// A host of this kind.
pub struct GovmomiBench(pub HostKind);

#[async_trait]
impl Bench for GovmomiBench {
    async fn set(&self, _: Pace) -> Result<Set> {
        let clock = Clock::system();
        let host = Host::start(self.0, &Plan::default(), &clock).await;
        let url = host.url();
        let address = url
            .strip_prefix("https://")
            .and_then(|rest| rest.strip_suffix("/sdk"))
            .context("a URL")?;
        let proxy = Proxy::to(address.parse()?).await?;
        let options = newcomer::options(&format!("https://{}", proxy.address));
        let backend = Arc::new(EsxHypervisor::new(&options, clock)?);
        let mut colleague = Colleague::at(&url).await?;
        let first = newcomer::truth(&url).await?;
        let named = |suffix: &str| {
            let machine = first.machines.values().find(|machine| machine.name.ends_with(suffix));
            machine.map(|machine| machine.id.clone()).context("the cast is not there")
        };
        let [reverted, running, steady, stopped] =
            [named("VM0")?, named("VM1")?, named("VM2")?, named("VM3")?];
        for off in [&reverted, &stopped] {
            colleague.task("PowerOffVM_Task", ("VirtualMachine", off.backend_text()), "").await?;
        }
        let with_tools = running.clone();
        let cast = Cast { running, stopped, reverted, with_tools, steady };
        let colleague = Mutex::new(colleague);
        Ok(Set {
            backend,
            stage: Box::new(GovmomiStage { _host: host, proxy, colleague, cast, first }),
        })
    }
}

struct GovmomiStage {
    _host: Host,
    proxy: Proxy,
    colleague: Mutex<Colleague>,
    cast: Cast,
    /// What there was before anybody came.
    first: Truth,
}

impl GovmomiStage {
    async fn task(
        &self,
        method: &str,
        machine: &MachineId,
        parameters: &str,
    ) -> Result<Option<String>> {
        let of = ("VirtualMachine", machine.backend_text());
        self.colleague.lock().await.task(method, of, parameters).await
    }
}

#[async_trait]
impl Stage for GovmomiStage {
    fn cast(&self) -> Cast {
        self.cast.clone()
    }

    fn lacks(&self, ability: Ability) -> Option<&'static str> {
        lacks(ability)
    }

    /// What was there at first, as the colleague sees it now. A newcomer would do harm: the host
    /// tells of changes to whoever came last alone.
    async fn truth(&self) -> Result<Truth> {
        let seen = self.colleague.lock().await.machines_beside(&self.cast.steady).await?;
        let mut truth =
            Truth { machines: BTreeMap::new(), datastores: self.first.datastores.clone() };
        for Seen { id, name, power_state, snapshots } in seen {
            let machine = self.first.machines.get(&id).context("a machine that came")?;
            let now =
                Machine { name, power_state: Some(power_state), snapshots, ..machine.clone() };
            truth.machines.insert(id, now);
        }
        Ok(truth)
    }

    async fn power(&self, machine: &MachineId, on: bool) -> Result<()> {
        let method = if on { "PowerOnVM_Task" } else { "PowerOffVM_Task" };
        self.task(method, machine, "").await.map(drop)
    }

    async fn rename(&self, machine: &MachineId, name: &str) -> Result<()> {
        self.task("Rename_Task", machine, &format!("<newName>{name}</newName>")).await.map(drop)
    }

    async fn take_snapshot(&self, machine: &MachineId, name: &str) -> Result<SnapshotId> {
        let parameters =
            format!("<name>{name}</name><memory>false</memory><quiesce>false</quiesce>");
        let made = self.task("CreateSnapshot_Task", machine, &parameters).await?;
        made.map(SnapshotId::from_backend).context("no snapshot")
    }

    async fn remove_snapshots(&self, machine: &MachineId) -> Result<()> {
        self.task("RemoveAllSnapshots_Task", machine, "").await.map(drop)
    }

    async fn remove_machine(&self, machine: &MachineId) -> Result<()> {
        self.task("Destroy_Task", machine, "").await.map(drop)
    }

    async fn lose_session(&self) -> Result<()> {
        self.colleague.lock().await.end_other_sessions().await
    }

    async fn go_away(&self) -> Result<()> {
        self.proxy.set_away(true);
        Ok(())
    }

    async fn come_back(&self) -> Result<()> {
        self.proxy.set_away(false);
        Ok(())
    }

    async fn cut_next_snapshot(&self, cut: Cut) -> Result<()> {
        self.proxy.cut_next("CreateSnapshot_Task", cut);
        Ok(())
    }
}
