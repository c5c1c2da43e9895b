//! The suite on the vim25 backend and govmomi's simulator. A proxy can break their connections, and
//! another client changes the host.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use otter::clock::Clock;
use otter::domain::ids::{MachineId, SnapshotId};
use otter::domain::machine::Machine;
use otter::esx::EsxHypervisor;
use tokio::sync::Mutex;

use super::fresh_backend;
use super::other_client::{ObservedMachine, OtherClient, unsupported};
use super::proxy::Proxy;
use super::suite::{
    Ability, ConnectionCut, HostContents, HostControl, HostFactory, TaskPacing, TestHost,
    TestMachines,
};
use crate::harness::{Host, HostKind, LabOptions};

/// The cases that are not applicable to govmomi's simulator.
pub const NOT_APPLICABLE: &[&str] = &[
    "a_new_machine_is_reported",
    "a_datastore_reports_its_machine_count",
    "a_question_is_reported_until_it_is_answered",
    "added_and_removed_machines_are_tracked",
    "a_refused_login_is_reported_and_not_repeated",
    "guest_calls_need_tools",
    "a_stopped_machine_cannot_be_suspended",
    "an_answer_without_a_question_is_refused",
    "a_running_task_can_fail",
    "guest_reboot_is_seen_in_the_tools_status",
    "a_busy_machine_refuses_a_call_and_names_its_task",
    "a_running_task_can_be_cancelled",
    "a_task_that_cannot_be_cancelled_continues",
    "a_revert_restores_the_recorded_power_state",
    "a_snapshot_is_renamed",
    "disks_are_consolidated",
    "a_refused_call_has_its_kind_and_did_not_run",
    "progress_is_reported_and_never_decreases",
    "a_running_task_can_be_followed",
    "a_dropped_follower_does_not_affect_another",
    "a_task_of_another_client_can_be_followed",
    "a_forgotten_task_has_vanished",
    "following_continues_after_a_lost_session",
    "recent_tasks_name_the_call_and_the_account",
    "the_boot_time_changes_when_the_host_restarts",
    "recent_tasks_include_running_tasks",
    "a_screen_speaks_rfb",
    "a_machine_that_is_off_has_no_screen",
    "a_screen_has_a_picture",
    "screens_of_an_unknown_machine_are_not_found",
    "run_stops_while_the_login_is_refused",
    "followers_are_closed_when_run_returns",
];

/// Creates hosts of this kind.
pub struct GovmomiFactory(pub HostKind);

#[async_trait]
impl HostFactory for GovmomiFactory {
    async fn create(&self, _: TaskPacing) -> Result<TestHost> {
        let clock = Clock::system();
        let host = Host::start(self.0, &LabOptions::default(), &clock).await;
        let url = host.url();
        let address = url
            .strip_prefix("https://")
            .and_then(|rest| rest.strip_suffix("/sdk"))
            .context("a URL")?;
        let proxy = Proxy::start(address.parse()?).await?;
        let options = fresh_backend::options(&format!("https://{}", proxy.address));
        let backend = Arc::new(EsxHypervisor::new(&options, clock)?);
        let mut other_client = OtherClient::log_in(&url).await?;
        let initial = fresh_backend::contents(&url).await?;
        let named = |suffix: &str| {
            let machine = initial.machines.values().find(|machine| machine.name.ends_with(suffix));
            machine.map(|machine| machine.id.clone()).context("a test machine is missing")
        };
        let [with_snapshots, running, permanent, stopped] =
            [named("VM0")?, named("VM1")?, named("VM2")?, named("VM3")?];
        for off in [&with_snapshots, &stopped] {
            other_client
                .run_task("PowerOffVM_Task", ("VirtualMachine", off.backend_text()), "")
                .await?;
        }
        let with_tools = running.clone();
        let machines = TestMachines { running, stopped, with_snapshots, with_tools, permanent };
        let other_client = Mutex::new(other_client);
        Ok(TestHost {
            backend,
            control: Box::new(GovmomiControl {
                _host: host,
                proxy,
                other_client,
                machines,
                initial,
            }),
        })
    }
}

struct GovmomiControl {
    _host: Host,
    proxy: Proxy,
    other_client: Mutex<OtherClient>,
    machines: TestMachines,
    /// The contents at the start.
    initial: HostContents,
}

impl GovmomiControl {
    async fn run_task(
        &self,
        method: &str,
        machine: &MachineId,
        parameters: &str,
    ) -> Result<Option<String>> {
        let object = ("VirtualMachine", machine.backend_text());
        self.other_client.lock().await.run_task(method, object, parameters).await
    }
}

#[async_trait]
impl HostControl for GovmomiControl {
    fn machines(&self) -> TestMachines {
        self.machines.clone()
    }

    fn unsupported(&self, ability: Ability) -> Option<&'static str> {
        unsupported(ability)
    }

    /// The machines of the start, with the properties that the other client reads now. A fresh
    /// backend would disturb the test: this host reports changes only to the client that connected
    /// last.
    async fn contents(&self) -> Result<HostContents> {
        let machines = self
            .other_client
            .lock()
            .await
            .machines_in_same_folder(&self.machines.permanent)
            .await?;
        let mut contents =
            HostContents { machines: BTreeMap::new(), datastores: self.initial.datastores.clone() };
        for ObservedMachine { id, name, power_state, snapshots } in machines {
            let machine = self.initial.machines.get(&id).context("an added machine")?;
            let now =
                Machine { name, power_state: Some(power_state), snapshots, ..machine.clone() };
            contents.machines.insert(id, now);
        }
        Ok(contents)
    }

    async fn set_power(&self, machine: &MachineId, on: bool) -> Result<()> {
        let method = if on { "PowerOnVM_Task" } else { "PowerOffVM_Task" };
        self.run_task(method, machine, "").await.map(drop)
    }

    async fn rename_machine(&self, machine: &MachineId, name: &str) -> Result<()> {
        self.run_task("Rename_Task", machine, &format!("<newName>{name}</newName>")).await.map(drop)
    }

    async fn create_snapshot(&self, machine: &MachineId, name: &str) -> Result<SnapshotId> {
        let parameters =
            format!("<name>{name}</name><memory>false</memory><quiesce>false</quiesce>");
        let created = self.run_task("CreateSnapshot_Task", machine, &parameters).await?;
        created.map(SnapshotId::from_backend).context("no snapshot")
    }

    async fn remove_snapshots(&self, machine: &MachineId) -> Result<()> {
        self.run_task("RemoveAllSnapshots_Task", machine, "").await.map(drop)
    }

    async fn remove_machine(&self, machine: &MachineId) -> Result<()> {
        self.run_task("Destroy_Task", machine, "").await.map(drop)
    }

    async fn expire_sessions(&self) -> Result<()> {
        self.other_client.lock().await.end_other_sessions().await
    }

    async fn disconnect(&self) -> Result<()> {
        self.proxy.set_away(true);
        Ok(())
    }

    async fn reconnect(&self) -> Result<()> {
        self.proxy.set_away(false);
        Ok(())
    }

    async fn cut_next_snapshot(&self, cut: ConnectionCut) -> Result<()> {
        self.proxy.cut_next("CreateSnapshot_Task", cut);
        Ok(())
    }
}
