//! Tests of the event manager: the events of logins, machines and tasks, and how clients read them.

use super::*;

/// The first events of the lab: a machine is powered on and asks a question.
const INITIAL_EVENTS: [&str; 3] = ["TaskEvent", "VmStartingEvent", "VmMessageEvent"];

impl Lab {
    async fn collect(&self, filter: &str) -> String {
        let filter = format!("<filter>{filter}</filter>");
        let reply =
            self.call("CreateCollectorForEvents", "EventManager", "ha-eventmgr", &filter).await;
        reply.returned().text().to_owned()
    }

    /// The types of the events that a method returns.
    async fn read(&self, method: &str, collector: &str, limit: u32) -> Vec<String> {
        let limit = format!("<maxCount>{limit}</maxCount>");
        types(&self.call(method, "EventHistoryCollector", collector, &limit).await)
    }

    async fn query(&self, filter: &str) -> Vec<String> {
        let filter = format!("<filter>{filter}</filter>");
        types(&self.call("QueryEvents", "EventManager", "ha-eventmgr", &filter).await)
    }
}

fn types(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.fault(), None);
    let events = reply.body().children();
    events.map(|event| event.type_name().unwrap().to_owned()).collect()
}

/// The types of the events in a `latestPage`, newest first.
fn page(reply: &Reply) -> Vec<String> {
    reply.returned().children().map(|event| event.type_name().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn machines_tasks_and_sessions_record_events() {
    let lab = Lab::stepped().await;
    lab.login("root", "wrong").await.unwrap();
    assert_eq!(lab.run_task("PowerOnVM_Task", "16", "").await.0, "success");
    assert_eq!(lab.run_task("PowerOnVM_Task", "16", "").await.0, "error");
    assert_eq!(lab.run_task("PowerOffVM_Task", "16", "").await.0, "success");
    let reply = lab.call("QueryEvents", "EventManager", "ha-eventmgr", "<filter></filter>").await;
    let event_types = types(&reply);
    assert_eq!(event_types[..3], INITIAL_EVENTS);
    assert_eq!(
        event_types[3..],
        [
            "UserLoginSessionEvent",
            "BadUsernameSessionEvent",
            "TaskEvent",
            "VmStartingEvent",
            "VmPoweredOnEvent",
            "TaskEvent",
            "TaskEvent",
            "VmStoppingEvent",
            "VmPoweredOffEvent"
        ]
    );
    let events: Vec<_> = reply.body().children().skip(3).collect();
    let text = |at: usize, path: &[&str]| events[at].descend(path).unwrap().text().to_owned();
    assert_eq!(text(2, &["info", "descriptionId"]), "VirtualMachine.powerOn");
    assert_eq!(text(2, &["chainId"]), text(4, &["chainId"]));
    assert_eq!(text(4, &["userName"]), "root");
    assert_eq!(text(4, &["vm", "vm"]), "16");
    assert!(text(4, &["fullFormattedMessage"]).ends_with("is powered on"));
    assert_eq!(lab.query("<category>error</category>").await, ["BadUsernameSessionEvent"]);
}

#[tokio::test]
async fn a_filter_selects_by_entity_type_chain_and_user() {
    let lab = Lab::stepped().await;
    lab.run_task("PowerOnVM_Task", "16", "").await;
    lab.run_task("PowerOnVM_Task", "32", "").await;
    let by_entity = |kind: &str, id: &str, recursion: &str| {
        format!(
            "<entity><entity type=\"{kind}\">{id}</entity><recursion>{recursion}</recursion></entity>"
        )
    };
    let machine = ["TaskEvent", "VmStartingEvent", "VmPoweredOnEvent"];
    assert_eq!(lab.query(&by_entity("VirtualMachine", "16", "self")).await, machine);
    assert_eq!(lab.query(&by_entity("VirtualMachine", "16", "children")).await, [""; 0]);
    assert_eq!(lab.query(&by_entity("Folder", "ha-folder-vm", "all")).await.len(), 9);
    assert_eq!(lab.query(&by_entity("Folder", "ha-folder-root", "all")).await.len(), 10);
    assert_eq!(
        lab.query(&by_entity("Folder", "ha-folder-root", "self")).await,
        ["UserLoginSessionEvent"]
    );
    assert_eq!(lab.query("<type>VmEvent</type>").await.len(), 6);
    assert_eq!(lab.query("<eventTypeId>vim.event.VmPoweredOnEvent</eventTypeId>").await.len(), 2);
    assert_eq!(
        lab.query("<userName><systemUser>false</systemUser><userList>eve</userList></userName>")
            .await
            .len(),
        0
    );
    assert_eq!(lab.query("<maxCount>2</maxCount>").await.len(), 2);
    let invalid = lab.call(
        "QueryEvents",
        "EventManager",
        "ha-eventmgr",
        "<filter><entity><entity type=\"VirtualMachine\">16</entity><recursion>some</recursion></entity></filter>",
    );
    assert_eq!(invalid.await.fault().as_deref(), Some("InvalidArgument"));
}

#[tokio::test]
async fn a_collector_is_read_both_ways_from_its_position() {
    let lab = Lab::stepped().await;
    lab.run_task("PowerOnVM_Task", "16", "").await;
    let collector = lab.collect("").await;
    assert_eq!(lab.read("ReadNextEvents", &collector, 3).await, INITIAL_EVENTS);
    assert_eq!(
        lab.read("ReadNextEvents", &collector, 2).await,
        ["UserLoginSessionEvent", "TaskEvent"]
    );
    assert_eq!(
        lab.read("ReadNextEvents", &collector, 9).await,
        ["VmStartingEvent", "VmPoweredOnEvent"]
    );
    assert_eq!(lab.read("ReadNextEvents", &collector, 9).await, [""; 0]);
    assert_eq!(lab.read("ReadPreviousEvents", &collector, 1).await, ["VmPoweredOnEvent"]);
    let on = |method| lab.call(method, "EventHistoryCollector", &collector, "");
    assert!(on("RewindCollector").await.is_empty_answer());
    assert_eq!(lab.read("ReadPreviousEvents", &collector, 9).await, [""; 0]);
    assert!(on("ResetCollector").await.is_empty_answer());
    assert_eq!(lab.read("ReadPreviousEvents", &collector, 9).await.len(), 7);
    for wrong in ["0", "1001", "-1", "x"] {
        let limit = format!("<maxCount>{wrong}</maxCount>");
        let reply = lab.call("ReadNextEvents", "EventHistoryCollector", &collector, &limit).await;
        assert_eq!(reply.fault().as_deref(), Some("InvalidArgument"), "{wrong}");
    }
    assert!(on("DestroyCollector").await.is_empty_answer());
    assert_eq!(on("RewindCollector").await.fault().as_deref(), Some("ManagedObjectNotFound"));
}

#[tokio::test]
async fn the_latest_page_is_pushed_and_bounded() {
    let lab = Lab::stepped().await;
    let collector = lab.collect("<type>VmEvent</type>").await;
    let size = "<maxCount>3</maxCount>";
    assert!(
        lab.call("SetCollectorPageSize", "EventHistoryCollector", &collector, size)
            .await
            .is_empty_answer()
    );
    let parameters = format!(
        "<spec><propSet><type>EventHistoryCollector</type><pathSet>latestPage</pathSet></propSet><objectSet>\
         <obj type=\"EventHistoryCollector\">{collector}</obj></objectSet></spec><partialUpdates>false</partialUpdates>"
    );
    lab.call("CreateFilter", "PropertyCollector", "ha-property-collector", &parameters).await;
    let version = lab.new_updates("").await.version();
    assert!(lab.new_updates(&version).await.is_empty_answer());
    lab.run_task("PowerOnVM_Task", "16", "").await;
    lab.run_task("PowerOffVM_Task", "16", "").await;
    let reply = lab.new_updates(&version).await;
    assert_eq!(reply.objects(), [("modify".to_owned(), collector.clone())]);
    let latest = page(&lab.fetch("EventHistoryCollector", &collector, "latestPage").await);
    assert_eq!(latest, ["VmPoweredOffEvent", "VmStoppingEvent", "VmPoweredOnEvent"]);
    let filter = lab.fetch("EventHistoryCollector", &collector, "filter").await;
    assert_eq!(filter.returned().type_name(), Some("EventFilterSpec"));
    let newest = lab.fetch("EventManager", "ha-eventmgr", "latestEvent").await;
    assert_eq!(newest.returned().type_name(), Some("VmPoweredOffEvent"));
}

#[tokio::test]
async fn the_history_is_bounded_and_ends_with_hostd() {
    let mut lab = Lab::stepped().await;
    lab.control().mutate(|world| {
        for _ in 0..1_500 {
            world.record_machine_event("16", "root", world::MachineEvent::Starting);
        }
        assert_eq!(world.history().events().count(), 1_000);
        assert_eq!(world.history().events().next().unwrap().key, 505);
    });
    for _ in 0..32 {
        lab.collect("").await;
    }
    let full = lab
        .call("CreateCollectorForEvents", "EventManager", "ha-eventmgr", "<filter></filter>")
        .await;
    assert_eq!(full.fault().as_deref(), Some("InvalidState"));
    lab.control().restart_hostd(HostdRestart::default());
    lab.cookie = None;
    lab.log_in().await;
    assert_eq!(lab.query("").await, ["UserLoginSessionEvent"]);
}

#[tokio::test]
async fn guests_questions_and_logouts_record_events() {
    let mut lab = Lab::stepped().await;
    let first = lab.cookie.take();
    lab.log_in().await;
    let second = std::mem::replace(&mut lab.cookie, first);
    lab.run_task("PowerOnVM_Task", "32", "").await;
    while lab.control().step_guests() > 0 {}
    assert!(lab.call("ShutdownGuest", "VirtualMachine", "32", "").await.is_empty_answer());
    lab.control().step_guests();
    lab.control().mutate(|world| {
        let question = world.machines().find_map(|machine| machine.question.clone()).unwrap();
        world.ask("16", question);
    });
    assert_eq!(lab.query("<type>VmMessageEvent</type>").await, ["VmMessageEvent"; 2]);
    let event_types = lab.query("<type>VmEvent</type>").await;
    assert!(event_types.contains(&"VmGuestShutdownEvent".to_owned()), "{event_types:?}");
    assert!(event_types.contains(&"VmPoweredOffEvent".to_owned()), "{event_types:?}");
    lab.cookie = second;
    assert!(lab.call("Logout", "SessionManager", "ha-sessionmgr", "").await.is_empty_answer());
    lab.cookie = None;
    lab.log_in().await;
    assert_eq!(lab.query("<type>UserLogoutSessionEvent</type>").await, ["UserLogoutSessionEvent"]);
}
