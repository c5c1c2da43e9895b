//! Tests of views, property filters, versions and waits for updates.

use super::*;

#[tokio::test]
async fn the_first_set_has_everything_and_the_next_only_changes() {
    let lab = Lab::stepped().await;
    lab.watch_machines(&[
        "name",
        "runtime.powerState",
        "config.hardware.device",
        "snapshot",
        "recentTask",
    ])
    .await;
    let first = lab.new_updates("").await;
    assert_eq!(first.objects().len(), 13);
    assert!(first.objects().iter().all(|(kind, _)| kind == "enter"));
    let golden = first.changes("41");
    assert!(golden.contains(&("name".into(), "assign".into(), Some("golden%2fqubes-4.2".into()))));
    // The configuration is unreadable and there are no snapshots: such properties are absent and
    // not in the missing set.
    let names: Vec<String> = first.changes("52").into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["name", "runtime.powerState", "recentTask"]);
    let version = first.version();
    assert!(lab.new_updates(&version).await.is_empty_answer());

    assert_eq!(lab.run_task("PowerOnVM_Task", "16", "").await.0, "success");
    let second = lab.new_updates(&version).await;
    assert_eq!(second.objects(), [("modify".to_owned(), "16".to_owned())]);
    // The devices are connected now. recentTask changed too, but hosts do not report that.
    let changed: Vec<String> = second.changes("16").into_iter().map(|(name, ..)| name).collect();
    assert_eq!(changed, ["runtime.powerState", "config.hardware.device"]);
}

#[tokio::test]
async fn a_wait_ends_with_the_first_change() {
    let lab = Lab::stepped().await;
    lab.watch_machines(&["name"]).await;
    let version = lab.new_updates("").await.version();
    let rename = async {
        lab.control().until(|control| control.pending_waits() == 1).await;
        lab.control().mutate(|world| world.machine_mut("16").unwrap().name = "renamed".to_owned());
    };
    let (reply, ()) = bounded(async { tokio::join!(lab.updates(&version, ""), rename) }).await;
    assert_eq!(reply.changes("16"), [("name".into(), "assign".into(), Some("renamed".into()))]);
}

#[tokio::test]
async fn a_pending_wait_reports_tasks_added_to_a_list_view() {
    let lab = Lab::stepped().await;
    let list = lab
        .call("CreateListView", "ViewManager", "ViewManager", "")
        .await
        .returned()
        .text()
        .to_owned();
    lab.watch("ListView", &list, "Task", &["info"], false).await;
    let task = lab.start_task("PowerOffVM_Task", "17", "").await;
    let add = async {
        lab.control().until(|control| control.pending_waits() == 1).await;
        let add = format!("<add type=\"Task\">{task}</add><add type=\"Task\">haTask-no</add>");
        lab.call("ModifyListView", "ListView", &list, &add).await
    };
    let (entered, unresolved) = bounded(async { tokio::join!(lab.updates("", ""), add) }).await;
    assert_eq!(unresolved.returned().text(), "haTask-no");
    assert_eq!(entered.objects(), [("enter".to_owned(), task.clone())]);
    assert!(task.starts_with("haTask-17-vim.VirtualMachine.powerOff-"));
    lab.control().step_tasks();
    let version = lab.new_updates(&entered.version()).await.version();
    lab.control().finish_task(&task);
    let ended = lab.new_updates(&version).await;
    let info = ended.object_sets()[0].descend(&["changeSet", "val"]).unwrap();
    assert_eq!((info.type_name(), info.child_text("state")), (Some("TaskInfo"), Some("success")));
    assert_eq!(info.child("reason").unwrap().type_name(), Some("TaskReasonUser"));
    // After ten minutes hostd forgets the task.
    lab.clock.advance(Duration::from_mins(10));
    assert_eq!(lab.new_updates(&ended.version()).await.objects(), [("leave".to_owned(), task)]);
}

#[tokio::test]
async fn versions_follow_the_rules_of_hosts() {
    let lab = Lab::stepped().await;
    lab.watch_machines(&["name"]).await;
    let page = "<maxWaitSeconds>0</maxWaitSeconds><maxObjectUpdates>8</maxObjectUpdates>";
    let first = lab.updates("", page).await;
    assert_eq!(first.returned().child_text("truncated"), Some("true"));
    assert_eq!(first.objects().len(), 8);
    let rest = lab.updates(&first.version(), page).await;
    assert_eq!((rest.objects().len(), rest.returned().child_text("truncated")), (5, None));
    let invalid = Some("InvalidCollectorVersion".to_owned());
    assert_eq!(lab.updates(&first.version(), page).await.fault(), invalid);
    assert_eq!(lab.new_updates("77").await.fault(), invalid);

    // A client whose answer was lost asks again with the last complete version.
    let complete = rest.version();
    for name in ["one", "two"] {
        lab.control().mutate(|world| world.machine_mut("16").unwrap().name = name.to_owned());
        let again = lab.new_updates(&complete).await;
        assert_eq!(again.changes("16")[0].2.as_deref(), Some(name));
    }
    lab.control().mutate(|world| world.machine_mut("16").unwrap().name = "three".to_owned());
    let newest = lab.new_updates(&lab.new_updates(&complete).await.version()).await;
    assert!(newest.is_empty_answer());
    lab.control().mutate(|world| world.machine_mut("17").unwrap().name = "four".to_owned());
    let newer = lab.new_updates(&lab.new_updates(&complete).await.version()).await;
    assert!(newer.is_empty_answer());
}

#[tokio::test]
async fn machines_come_go_and_lose_their_configuration() {
    let lab = Lab::stepped().await;
    lab.watch_machines(&["config.annotation", "snapshot"]).await;
    let first = lab.new_updates("").await;
    lab.control().mutate(|world| {
        let datastore = world.datastores().next().unwrap().clone();
        world.add_machine(world::Machine::bare("99", "new", &datastore));
        world.remove_machine("22");
        let machine = world.machine_mut("21").unwrap();
        machine.connection_state = "inaccessible".to_owned();
        machine.snapshots.clear();
    });
    let second = lab.new_updates(&first.version()).await;
    let expected = [("leave", "22"), ("modify", "21"), ("enter", "99")];
    let expected: Vec<_> = expected.map(|(kind, id)| (kind.to_owned(), id.to_owned())).to_vec();
    assert_eq!(second.objects(), expected);
    let unset = [("config.annotation", "indirectRemove"), ("snapshot", "assign")];
    assert_eq!(
        second.changes("21"),
        unset.map(|(name, op)| (name.to_owned(), op.to_owned(), None))
    );
}

#[tokio::test]
async fn a_reused_moid_leaves_and_enters() {
    let lab = Lab::stepped().await;
    lab.watch_machines(&["config.instanceUuid"]).await;
    let first = lab.new_updates("").await;
    lab.control().mutate(|world| {
        let mut machine = world.remove_machine("16").unwrap();
        machine.instance_uuid = "5029c440-85ee-c2a1-e9dd-b63e39364603".to_owned();
        world.add_machine(machine);
    });
    let kinds: Vec<String> = lab
        .new_updates(&first.version())
        .await
        .objects()
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, ["leave", "enter"]);
}

#[tokio::test]
async fn partial_updates_name_the_changed_paths() {
    let lab = Lab::stepped().await;
    let list = "<obj type=\"VirtualMachine\">16</obj>";
    let list = lab
        .call("CreateListView", "ViewManager", "ViewManager", list)
        .await
        .returned()
        .text()
        .to_owned();
    lab.watch("ListView", &list, "VirtualMachine", &["runtime"], true).await;
    let version = lab.new_updates("").await.version();
    lab.control().mutate(|world| {
        let machine = world.machine_mut("16").unwrap();
        machine.power = world::PowerState::Other("hibernated".to_owned());
        machine.suspended_at = None;
    });
    let updates = lab.new_updates(&version).await;
    let change =
        ("runtime.powerState".to_owned(), "assign".to_owned(), Some("hibernated".to_owned()));
    assert_eq!(updates.changes("16"), [change]);
}

#[tokio::test]
async fn a_wait_is_cancelled_and_invalid_requests_are_refused() {
    let lab = Lab::stepped().await;
    let filter = lab.watch_machines(&["name"]).await;
    let version = lab.new_updates("").await.version();
    let cancel = async {
        lab.control().until(|control| control.pending_waits() == 1).await;
        lab.call("CancelWaitForUpdates", "PropertyCollector", "ha-property-collector", "").await
    };
    let (reply, _) = bounded(async { tokio::join!(lab.updates(&version, ""), cancel) }).await;
    assert_eq!(reply.fault().as_deref(), Some("RequestCanceled"));
    assert!(
        lab.call("DestroyPropertyFilter", "PropertyFilter", &filter, "").await.is_empty_answer()
    );
    let again = lab.call("DestroyPropertyFilter", "PropertyFilter", &filter, "").await;
    assert_eq!(again.fault().as_deref(), Some("ManagedObjectNotFound"));
    let negative = lab.updates(&version, "<maxWaitSeconds>-1</maxWaitSeconds>").await;
    assert_eq!(negative.fault().as_deref(), Some("InvalidArgument"));
    let wrong = format!(
        "<specSet>{}</specSet><options/>",
        spec("ContainerView", "x", "VirtualMachine", &["nmae"])
    );
    let wrong = lab
        .call("RetrievePropertiesEx", "PropertyCollector", "ha-property-collector", &wrong)
        .await;
    assert_eq!(wrong.fault().as_deref(), Some("InvalidProperty"));
}

#[tokio::test]
async fn a_path_names_an_item_of_an_array_by_the_kind_of_key_that_its_items_have() {
    let lab = Lab::stepped().await;
    let read = async |path: &str| {
        let parameters = format!(
            "<specSet><propSet><type>VirtualMachine</type><pathSet>{path}</pathSet></propSet>\
             <objectSet><obj type=\"VirtualMachine\">16</obj></objectSet></specSet><options/>"
        );
        lab.call("RetrievePropertiesEx", "PropertyCollector", "ha-property-collector", &parameters)
            .await
    };
    for (path, expected) in [
        ("config.hardware.device[4000].key", "4000"),
        ("config.extraConfig[\"svga.present\"].value", "TRUE"),
        ("snapshot.rootSnapshotList[0].childSnapshotList[0].id", "2"),
    ] {
        let reply = read(path).await;
        let property = reply.returned().descend(&["objects", "propSet"]).unwrap();
        let found = (property.child_text("name"), property.child_text("val"));
        assert_eq!(found, (Some(path), Some(expected)));
    }
    let whole = read("config.extraConfig[\"svga.present\"]").await;
    let value = whole.returned().descend(&["objects", "propSet", "val"]).unwrap();
    assert_eq!((value.type_name(), value.child_text("value")), (Some("OptionValue"), Some("TRUE")));
    for absent in ["config.hardware.device[9999]", "config.extraConfig[\"guestinfo.a\"]"] {
        let reply = read(absent).await;
        assert!(reply.returned().descend(&["objects", "propSet"]).is_none(), "{absent}");
    }
    for wrong in [
        "config.hardware[4000]",
        "config.hardware.device[4000",
        "config.hardware.device[\"4000\"]",
        "config.extraConfig[svga.present]",
        "snapshot.rootSnapshotList[\"base\"]",
    ] {
        assert_eq!(read(wrong).await.fault().as_deref(), Some("InvalidProperty"), "{wrong}");
    }
}

#[tokio::test]
async fn a_spec_of_all_properties_ignores_its_paths() {
    let lab = Lab::stepped().await;
    let spec = "<propSet><type>Folder</type><all>true</all><pathSet>nonsense</pathSet>\
                <pathSet>name</pathSet></propSet>\
                <objectSet><obj type=\"Folder\">ha-folder-vm</obj></objectSet>";
    let reply = lab
        .call(
            "RetrievePropertiesEx",
            "PropertyCollector",
            "ha-property-collector",
            &format!("<specSet>{spec}</specSet><options/>"),
        )
        .await;
    let object = reply.returned().child("objects").unwrap();
    let names: Vec<&str> =
        object.children_named("propSet").filter_map(|set| set.child_text("name")).collect();
    assert!(names.contains(&"childEntity") && names.contains(&"name"), "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == "name").count(), 1);
}
