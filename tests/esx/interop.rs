//! The backend with govmomi's simulator, as an ESX and as a vCenter.

use super::support::{RunningBackend, options};
use crate::harness::{Host, HostKind, LabOptions};
use otter::clock::Clock;
use otter::domain::call::{CallKind, HostCall};
use otter::domain::ids::TaskId;
use otter::domain::power::PowerState;
use otter::domain::verify::Verify;
use otter::esx::presented_fingerprint;
use otter::hypervisor::{Accepted, CallError, HostErrorKind, Hypervisor, TaskStatus};

#[tokio::test]
async fn machines_of_an_esx_can_be_read_and_powered() {
    scenario(HostKind::GovmomiEsx).await;
}

#[tokio::test]
async fn machines_of_a_vcenter_can_be_read_and_powered() {
    scenario(HostKind::GovmomiVcenter).await;
}

#[tokio::test]
async fn the_certificate_can_be_pinned() {
    let host = Host::start(HostKind::GovmomiEsx, &LabOptions::default(), &Clock::system()).await;
    let mut options = options(&host.url());
    options.verify = Verify::Fingerprint(presented_fingerprint(&options).await.unwrap());
    let running = RunningBackend::start(&options);
    running.observer.wait_connected(1).await;
    running.stop().await;
}

async fn scenario(kind: HostKind) {
    let host = Host::start(kind, &LabOptions::default(), &Clock::system()).await;
    let running = RunningBackend::start(&options(&host.url()));
    running.observer.wait_connected(1).await;
    let machine = {
        let recording = running.observer.recording();
        assert_eq!(recording.machines.len(), kind.machines().count, "{recording:?}");
        assert!(!recording.datastores.is_empty());
        let machine =
            recording.machines.values().find(|machine| machine.name == kind.machines().running);
        machine.unwrap().clone()
    };
    assert_eq!(machine.power_state, Some(PowerState::On), "{machine:?}");
    assert!(machine.path.as_deref().unwrap().contains(".vmx"));
    assert!(machine.memory_bytes.unwrap() > 0 && !machine.network_cards.is_empty(), "{machine:?}");
    // The machines of the vCenter are on a distributed switch.
    let network = match kind {
        HostKind::GovmomiVcenter => "DC0_DVPG0",
        _ => "VM Network",
    };
    assert_eq!(machine.network_cards[0].network.as_deref(), Some(network), "{machine:?}");
    for (call, state) in
        [(HostCall::PowerOff, PowerState::Off), (HostCall::PowerOn, PowerState::On)]
    {
        let accepted = running.esx.call(&machine.id, &call, running.job()).await.unwrap();
        let Accepted::Task(task) = accepted else { panic!() };
        assert!(matches!(wait_task_end(&running, &task).await, TaskStatus::Succeeded { .. }));
        running.esx.barrier().await.unwrap();
        assert_eq!(running.observer.recording().machines[&machine.id].power_state, Some(state));
    }
    assert_eq!(running.observer.recording().restarts, std::slice::from_ref(&machine.id));
    let Accepted::Task(task) =
        running.esx.call(&machine.id, &HostCall::PowerOn, running.job()).await.unwrap()
    else {
        panic!()
    };
    let TaskStatus::Failed(error) = wait_task_end(&running, &task).await else { panic!() };
    assert_eq!(error.kind, HostErrorKind::InvalidPowerState);
    let evidence = running.esx.read_evidence(&machine.id).await.unwrap();
    assert_eq!(evidence.identity.instance_uuid, machine.instance_uuid);
    assert_eq!(evidence.power_state, Some(PowerState::On));
    assert!(evidence.host_boot_time.is_some());
    assert!(evidence.recent_tasks.iter().all(|task| task.call != Some(CallKind::Reset)));
    let paths =
        ["runtime.powerState".to_owned(), "snapshot".to_owned(), "config.version".to_owned()];
    let values = running.esx.properties(&machine.id, &paths).await.unwrap();
    assert_eq!(
        (&values["runtime.powerState"], &values["snapshot"]),
        (&"poweredOn".into(), &serde_json::Value::Null)
    );
    let error =
        running.esx.properties(&machine.id, &["config.nonsense".to_owned()]).await.unwrap_err();
    assert_eq!(error.kind, HostErrorKind::InvalidProperty, "{error:?}");
    running.esx.confirm_guest(&machine.id).await.unwrap();
    let gone = otter::domain::ids::MachineId::from_backend("vm-99999");
    assert_eq!(running.esx.read_evidence(&gone).await.unwrap_err().kind, HostErrorKind::NotFound);
    let refused = running.esx.call(&gone, &HostCall::PowerOn, running.job()).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused(error) if error.kind == HostErrorKind::NotFound));
    let vanished = wait_task_end(&running, &TaskId::from_backend("task-99999")).await;
    assert!(matches!(vanished, TaskStatus::Vanished));
    assert_eq!(running.observer.recording().statuses.last().unwrap().logins, 1);
    running.stop().await;
}

async fn wait_task_end(running: &RunningBackend, task: &TaskId) -> TaskStatus {
    let mut status = running.esx.follow(task).await;
    let end = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. }));
    tokio::time::timeout(std::time::Duration::from_secs(20), end).await.unwrap().unwrap().clone()
}
