//! Tests of the methods of machines, snapshots and tasks.

use super::*;

#[tokio::test]
async fn power_follows_the_rules_of_the_host() {
    let lab = Lab::stepped().await;
    let refused = |state: &str| (state.to_owned(), Some("InvalidPowerState".to_owned()));
    assert_eq!(lab.run_task("PowerOffVM_Task", "16", "").await, refused("error"));
    assert_eq!(lab.run_task("PowerOnVM_Task", "16", "").await.0, "success");
    assert_eq!(lab.run_task("PowerOnVM_Task", "16", "").await, refused("error"));
    assert_eq!(lab.run_task("SuspendVM_Task", "16", "").await.0, "success");
    assert_eq!(lab.power_state("16").await, "suspended");
    assert_eq!(lab.run_task("PowerOffVM_Task", "16", "").await, refused("error"));
    assert_eq!(lab.run_task("PowerOnVM_Task", "16", "").await.0, "success");

    let task = lab.start_task("ResetVM_Task", "16", "").await;
    let second = lab.call("PowerOffVM_Task", "VirtualMachine", "16", "").await;
    assert_eq!(second.fault().as_deref(), Some("TaskInProgress"));
    let detail =
        second.document.root().descend(&["Body", "Fault", "detail", "TaskInProgressFault", "task"]);
    assert_eq!(detail.unwrap().text(), task);
    let cancel = lab.call("CancelTask", "Task", &task, "").await;
    assert_eq!(cancel.fault().as_deref(), Some("NotSupported"));
    assert_eq!(lab.finish(&task).await.0, "success");

    lab.control().mutate(|world| world.rules.refuse_in_call = true);
    let reply = lab.call("PowerOnVM_Task", "VirtualMachine", "16", "").await;
    assert_eq!(reply.fault().as_deref(), Some("InvalidPowerState"));
    let template = lab.call("PowerOnVM_Task", "VirtualMachine", "43", "").await;
    assert_eq!(template.fault().as_deref(), Some("NotSupported"));
}

#[tokio::test]
async fn the_next_machine_with_a_moid_has_a_guest_of_its_own() {
    let lab = Lab::stepped().await;
    assert_eq!(lab.run_task("PowerOffVM_Task", "31", "").await.0, "success");
    while lab.control().step_guests() > 0 {}
    assert_eq!(lab.run_task("PowerOnVM_Task", "31", "").await.0, "success");
    lab.control().mutate(|world| {
        let removed = world.remove_machine("31").unwrap();
        world.add_machine(removed);
    });
    assert_eq!(lab.control().step_guests(), 0);
}

#[tokio::test]
async fn a_revert_leaves_the_power_that_the_snapshot_recorded() {
    let lab = Lab::stepped().await;
    let snapshot =
        |memory: bool| format!("<name>s</name><memory>{memory}</memory><quiesce>false</quiesce>");
    assert_eq!(lab.run_task("PowerOnVM_Task", "21", "").await.0, "success");
    let mut made = Vec::new();
    for memory in [false, true] {
        let task = lab.start_task("CreateSnapshot_Task", "21", &snapshot(memory)).await;
        assert_eq!(lab.finish(&task).await.0, "success");
        made.push(
            lab.fetch("Task", &task, "info")
                .await
                .returned()
                .child_text("result")
                .unwrap()
                .to_owned(),
        );
    }
    let revert = async |snapshot: &str, parameters: &str| {
        let reply =
            lab.call("RevertToSnapshot_Task", "VirtualMachineSnapshot", snapshot, parameters).await;
        let task = reply.returned().text().to_owned();
        assert!(task.contains("-vim.vm.Snapshot.revert-"));
        assert_eq!(lab.finish(&task).await.0, "success");
        lab.power_state("21").await
    };
    assert_eq!(revert(&made[0], "").await, "poweredOff");
    assert_eq!(revert(&made[1], "").await, "poweredOn");
    assert_ne!(revert(&made[1], "<suppressPowerOn>true</suppressPowerOn>").await, "poweredOn");
    // Without a snapshot a host does nothing.
    assert_eq!(lab.run_task("RevertToCurrentSnapshot_Task", "22", "").await.0, "success");
    assert_eq!(lab.run_task("RemoveAllSnapshots_Task", "21", "").await.0, "success");
    assert!(lab.fetch("VirtualMachine", "21", "snapshot").await.is_empty_answer());
    let gone = lab.call("RevertToSnapshot_Task", "VirtualMachineSnapshot", &made[0], "").await;
    assert_eq!(gone.fault().as_deref(), Some("ManagedObjectNotFound"));
}

#[tokio::test]
async fn a_snapshot_tree_may_be_deeper_than_the_stack() {
    let lab = Lab::stepped().await;
    let depth = 5_000;
    lab.control().mutate(|world| {
        let at = world.now().wall;
        let machine = world.machine_mut("22").unwrap();
        for number in 0..depth {
            let parent = machine.current_snapshot.clone();
            let name = format!("s/{number}");
            machine.current_snapshot =
                Some(machine.add_snapshot(parent.as_deref(), &name, world::PowerState::Off, at));
        }
    });
    let reply = lab.fetch("VirtualMachine", "22", "snapshot").await;
    let mut at = reply.returned().child("rootSnapshotList");
    let mut seen = 0;
    while let Some(node) = at {
        assert_eq!(node.child_text("name"), Some(format!("s%2f{seen}").as_str()));
        seen += 1;
        at = node.child("childSnapshotList");
    }
    assert_eq!(seen, depth);
    let reply = lab.fetch("VirtualMachine", "16", "snapshot").await;
    let root = reply.returned().child("rootSnapshotList").unwrap();
    assert_eq!(root.children().filter(|child| child.name() == "childSnapshotList").count(), 2);
}

#[tokio::test]
async fn a_question_holds_the_power_on_until_it_is_answered() {
    let lab = Lab::stepped().await;
    let question = lab.fetch("VirtualMachine", "51", "runtime").await;
    let question = question.returned().child("question").unwrap();
    assert!(question.child_text("text").unwrap().starts_with("msg.uuid.altered: "));
    let task = lab.control().until_task().await;
    lab.control().finish_task(&task);
    assert_eq!(lab.power_state("51").await, "poweredOff");
    let answer = async |question: &str, key: &str| {
        let parameters =
            format!("<questionId>{question}</questionId><answerChoice>{key}</answerChoice>");
        lab.call("AnswerVM", "VirtualMachine", "51", &parameters).await
    };
    assert_eq!(answer("19", "2").await.fault().as_deref(), Some("InvalidArgument"));
    assert!(answer("19", "4").await.is_empty_answer());
    assert_eq!(answer("19", "4").await.fault().as_deref(), Some("InvalidArgument"));
    assert_eq!(lab.finish(&task).await.0, "success");
    assert_eq!(lab.power_state("51").await, "poweredOn");
}

#[tokio::test]
async fn a_question_that_repeats_comes_at_each_power_on() {
    let lab = Lab::stepped().await;
    let ask = lab.control().look(|world| world.machine("51").unwrap().question.clone().unwrap());
    lab.control().apply(otter::simulator::HostChange::Question {
        machine: "16".to_owned(),
        question: Box::new(ask),
        pending: false,
        repeats: true,
    });
    let parameters = "<questionId>19</questionId><answerChoice>4</answerChoice>";
    for _ in 0..2 {
        let task = lab.start_task("PowerOnVM_Task", "16", "").await;
        lab.control().finish_task(&task);
        assert_eq!(lab.power_state("16").await, "poweredOff", "it waits for the answer");
        assert!(lab.call("AnswerVM", "VirtualMachine", "16", parameters).await.is_empty_answer());
        assert_eq!(lab.finish(&task).await.0, "success");
        assert_eq!(lab.run_task("PowerOffVM_Task", "16", "").await.0, "success");
    }
}

#[tokio::test]
async fn a_waiting_power_on_is_cancelled_or_ended_by_its_answer() {
    for cancel in [true, false] {
        let lab = Lab::stepped().await;
        let task = lab.control().until_task().await;
        let reply = if cancel {
            lab.call("CancelTask", "Task", &task, "").await
        } else {
            let parameters = "<questionId>19</questionId><answerChoice>0</answerChoice>";
            lab.call("AnswerVM", "VirtualMachine", "51", parameters).await
        };
        assert!(reply.is_empty_answer());
        let fault = if cancel { "RequestCanceled" } else { "GenericVmConfigFault" };
        assert_eq!(lab.finish(&task).await, ("error".to_owned(), Some(fault.to_owned())));
        let reply = lab.fetch("VirtualMachine", "51", "runtime").await;
        assert!(reply.returned().child("question").is_none());
        assert_eq!(lab.power_state("51").await, "poweredOff");
    }
}

#[tokio::test]
async fn tools_and_addresses_appear_late_and_addresses_linger() {
    let lab = Lab::stepped().await;
    let guest = async |property: &'static str| {
        let reply = lab.fetch("VirtualMachine", "32", "guest").await;
        reply.returned().child_text(property).map(str::to_owned)
    };
    let shutdown = lab.call("ShutdownGuest", "VirtualMachine", "32", "").await;
    assert_eq!(shutdown.fault().as_deref(), Some("InvalidPowerState"));
    assert_eq!(lab.run_task("PowerOnVM_Task", "32", "").await.0, "success");
    let shutdown = lab.call("ShutdownGuest", "VirtualMachine", "32", "").await;
    assert_eq!(shutdown.fault().as_deref(), Some("ToolsUnavailable"));
    assert_eq!(guest("ipAddress").await, None);
    lab.control().step_guests();
    assert_eq!(guest("ipAddress").await.as_deref(), Some("10.0.0.32"));
    assert!(lab.call("ShutdownGuest", "VirtualMachine", "32", "").await.is_empty_answer());
    assert_eq!(lab.power_state("32").await, "poweredOn");
    lab.control().step_guests();
    assert_eq!(lab.power_state("32").await, "poweredOff");
    assert_eq!(guest("toolsRunningStatus").await.as_deref(), Some("guestToolsNotRunning"));
    assert_eq!(guest("ipAddress").await.as_deref(), Some("10.0.0.32"));
    lab.control().step_guests();
    assert_eq!(guest("ipAddress").await, None);
}

#[tokio::test]
async fn a_shutdown_is_kept_whether_a_reboot_was_asked_before_or_after_it() {
    for methods in [["RebootGuest", "ShutdownGuest"], ["ShutdownGuest", "RebootGuest"]] {
        let lab = Lab::stepped().await;
        for method in methods {
            assert!(lab.call(method, "VirtualMachine", "31", "").await.is_empty_answer());
        }
        lab.control().step_guests();
        assert_eq!(lab.power_state("31").await, "poweredOff", "{methods:?}");
        // The next run of the guest does not see the earlier requests.
        assert_eq!(lab.run_task("PowerOnVM_Task", "31", "").await.0, "success");
        while lab.control().step_guests() > 0 {}
        assert!(lab.call("RebootGuest", "VirtualMachine", "31", "").await.is_empty_answer());
        lab.control().step_guests();
        assert_eq!(lab.power_state("31").await, "poweredOn");
        assert!(lab.control().look(|world| !world.machine("31").unwrap().guest.tools_running));
    }
}

#[tokio::test]
async fn requests_must_match_their_declarations() {
    let lab = Lab::stepped().await;
    let wrong_order = "<memory>true</memory><name>s</name><quiesce>false</quiesce>";
    let reply = lab.call("CreateSnapshot_Task", "VirtualMachine", "16", wrong_order).await;
    assert_eq!((reply.status, reply.fault().as_deref()), (500, Some("")));
    let reply = lab.call("CreateSnapshot_Task", "VirtualMachine", "16", "<name>s</name>").await;
    assert_eq!(reply.fault().as_deref(), Some(""));
    let reply = lab.call("PowerOnVM_Task", "VirtualMachine", "16", "<nonsense/>").await;
    assert_eq!(reply.fault().as_deref(), Some(""));
    let reply = lab.call("PowerOnVM_Task", "Task", "16", "").await;
    assert_eq!(reply.fault().as_deref(), Some("MethodNotFound"));
    let reply = lab.call("MakeCoffee", "VirtualMachine", "16", "").await;
    assert_eq!(reply.fault().as_deref(), Some("MethodNotFound"));
    let reply = lab.call("CloneVM_Task", "VirtualMachine", "16", "").await;
    assert_eq!(reply.fault().as_deref(), Some(""));
    let key = "<sessionID>x</sessionID><userName>root</userName>";
    let reply = lab.call("SessionIsActive", "SessionManager", "ha-sessionmgr", key).await;
    assert_eq!(reply.fault().as_deref(), Some("NotImplemented"));
    let reply = lab.call("UnregisterVM", "VirtualMachine", "16", "").await;
    assert_eq!(reply.fault().as_deref(), Some("NotSupported"));
    let reply = lab.call("PowerOnVM_Task", "VirtualMachine", "404", "").await;
    assert_eq!(reply.fault().as_deref(), Some("ManagedObjectNotFound"));
    let reply = lab.post("no xml".to_owned()).await.unwrap();
    assert_eq!((reply.status, reply.fault().as_deref()), (500, Some("")));
    let licence = async |read_only| {
        lab.control().set_read_only_licence(read_only);
        lab.call("PowerOnVM_Task", "VirtualMachine", "16", "").await.fault()
    };
    assert_eq!(licence(true).await.as_deref(), Some("RestrictedVersion"));
    assert_eq!(licence(false).await, None);
}
