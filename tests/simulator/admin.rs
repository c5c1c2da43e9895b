//! Tests of the admin endpoint, and of the same faults in a scenario.

use serde_json::{Value as Json, json};

use super::*;

/// A lab with an admin endpoint, and a client of it.
struct Admin {
    lab: Lab,
    url: String,
    client: reqwest::Client,
}

impl Admin {
    async fn start() -> Self {
        let mut lab = Lab::with(Scenario::lab().unwrap(), |options| {
            options.admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        })
        .await;
        lab.log_in().await;
        let url = format!("http://{}", lab.simulator.admin().unwrap());
        Self { lab, url, client: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    async fn post(&self, path: &str, body: Json) -> (u16, Json) {
        let answer = self.client.post(format!("{}{path}", self.url)).body(body.to_string());
        Self::read(answer.send().await.unwrap()).await
    }

    async fn get(&self, path: &str) -> (u16, Json) {
        Self::read(self.client.get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    async fn read(answer: reqwest::Response) -> (u16, Json) {
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    async fn power_on(&self) -> reqwest::Result<Reply> {
        self.lab.send("PowerOnVM_Task", "VirtualMachine", "16", "").await
    }
}

#[tokio::test]
async fn calls_are_counted_by_method_and_operation() {
    let admin = Admin::start().await;
    admin.power_on().await.unwrap();
    let (status, body) = admin.get("/calls").await;
    assert_eq!((status, &body["sessions"]), (200, &json!(1)));
    assert_eq!(body["methods"]["PowerOnVM_Task"], 1);
    assert_eq!(body["operations"]["op-PowerOnVM_Task"], json!({"PowerOnVM_Task": 1}));
    admin.power_on().await.unwrap();
    let (_, body) = admin.get("/calls").await;
    assert_eq!(body["operations"]["op-PowerOnVM_Task"], json!({"PowerOnVM_Task": 2}));
    assert_eq!(
        body["taken"]["op-PowerOnVM_Task"],
        json!({"PowerOnVM_Task": 1}),
        "the first task still runs"
    );
}

#[tokio::test]
async fn world_reports_machines_and_tasks() {
    let admin = Admin::start().await;
    admin.power_on().await.unwrap();
    admin.lab.control().finish_task(&admin.lab.control().running_tasks().pop().unwrap());
    let refused = admin.power_on().await.unwrap();
    assert_eq!(refused.status, 200, "the task fails, not the call");
    let (status, body) = admin.get("/world").await;
    let machine = &body["machines"]["16"];
    assert_eq!((status, &machine["power"]), (200, &json!("poweredOn")));
    assert_eq!(
        (&machine["current_snapshot"], &machine["snapshots"][2]["parent"]),
        (&json!("16-snapshot-3"), &json!("16-snapshot-2"))
    );
    let tasks = body["tasks"].as_object().unwrap();
    assert!(
        tasks.iter().any(|(id, state)| id.starts_with("haTask-16-") && state == "success"),
        "{tasks:?}"
    );
}

#[tokio::test]
async fn sessions_reports_what_sessions_own_until_they_end() {
    let admin = Admin::start().await;
    admin.lab.watch_machines(&["name"]).await;
    let (status, body) = admin.get("/sessions").await;
    assert_eq!(status, 200);
    assert_eq!(body, json!({"sessions": 1, "views": 1, "filters": 1, "pending_waits": 0}));
    admin.post("/expire-sessions", json!({})).await;
    let (_, body) = admin.get("/sessions").await;
    assert_eq!(body, json!({"sessions": 0, "views": 0, "filters": 0, "pending_waits": 0}));
}

#[tokio::test]
async fn faults_are_planned_and_forgotten() {
    let admin = Admin::start().await;
    let plan = json!([
        {"method": "PowerOnVM_Task", "what": {"fault": "InsufficientResourcesFault"}},
        {"method": "PowerOnVM_Task", "what": "close-before"},
        {"method": "PowerOnVM_Task", "times": 0, "what": {"answer": {"status": 502, "body": "<html>"}}},
    ]);
    assert_eq!(admin.post("/faults", plan).await, (200, json!({"planned": 3})));
    assert_eq!(
        admin.power_on().await.unwrap().fault().as_deref(),
        Some("InsufficientResourcesFault")
    );
    assert!(admin.power_on().await.is_err());
    assert_eq!(admin.power_on().await.unwrap().status, 502);
    let forgotten = admin.client.delete(format!("{}/faults", admin.url)).send().await.unwrap();
    assert_eq!(forgotten.status(), 200);
    assert!(admin.power_on().await.unwrap().fault().is_none());
}

#[tokio::test]
async fn host_changes_apply_at_once() {
    let admin = Admin::start().await;
    let control = admin.lab.control().clone();
    let apply = async |what: &str, body: Json| {
        assert_eq!(admin.post(what, body).await.0, 200, "{what}");
    };
    apply("/licence", json!({})).await;
    assert_eq!(admin.power_on().await.unwrap().fault().as_deref(), Some("RestrictedVersion"));
    apply("/licence", json!({"read_only": false})).await;
    apply("/account", json!({})).await;
    assert_eq!(admin.power_on().await.unwrap().fault().as_deref(), Some("NoPermission"));
    apply("/account", json!({"read_only": false})).await;
    apply("/fail-next-task", json!({"task": "PowerOnVM_Task", "fault": "NoDiskSpace"})).await;
    assert_eq!(
        admin.lab.run_task("PowerOnVM_Task", "16", "").await.1.as_deref(),
        Some("NoDiskSpace")
    );
    let full = json!({"task": "PowerOnVM_Task", "fault": "NoDiskSpace"});
    apply("/fail-tasks", full).await;
    for _ in 0..2 {
        let ended = admin.lab.run_task("PowerOnVM_Task", "16", "").await;
        assert_eq!(ended.1.as_deref(), Some("NoDiskSpace"));
    }
    apply("/fail-tasks", json!({"task": "PowerOnVM_Task"})).await;
    apply("/maintenance-mode", json!({})).await;
    assert!(control.look(|world| world.host.in_maintenance_mode));
    assert_eq!(admin.power_on().await.unwrap().fault().as_deref(), Some("InvalidState"));
    apply("/maintenance-mode", json!({"enabled": false})).await;
    admin.power_on().await.unwrap();
    apply("/vanish-tasks", json!({})).await;
    assert!(control.look(|world| world.tasks().all(|task| !task.known_to_hostd)));
    let ask = json!({"machine": "17", "ask": {"id": "7", "message_id": "m", "text": "Go on?", "pending": true,
        "choices": [{"key": "0", "label": "l", "summary": "Yes"}]}});
    apply("/question", ask).await;
    assert!(control.look(|world| world.machine("17").unwrap().question.is_some()));
    let ask = json!({"machine": "18", "ask": {"id": "7", "message_id": "m", "text": "Go on?",
        "repeats": true, "choices": [{"key": "0", "label": "l", "summary": "Yes"}]}});
    apply("/question", ask).await;
    let machine = control.look(|world| world.machine("18").unwrap().clone());
    assert!(machine.question_at_each_power_on.is_some() && machine.question.is_none());
    apply("/expire-sessions", json!({})).await;
    assert_eq!(control.sessions(), 0);
    apply("/refuse-logins", json!({})).await;
    assert_eq!(
        admin.lab.login("root", "otter").await.unwrap().fault().as_deref(),
        Some("InvalidLogin")
    );
    apply("/refuse-logins", json!({"refuse": false})).await;
    apply("/restart-hostd", json!({"away": "unavailable"})).await;
    assert_eq!(admin.lab.login("root", "otter").await.unwrap().status, 503);
    apply("/resume", json!({})).await;
    assert_eq!(admin.lab.login("root", "otter").await.unwrap().status, 200);
    apply("/reboot-host", json!({})).await;
    assert!(
        control
            .look(|world| world.machines().all(|machine| machine.power != world::PowerState::On))
    );
}

#[tokio::test]
async fn an_invalid_request_is_refused() {
    let admin = Admin::start().await;
    for (path, request, expected) in [
        ("/faults", json!({"method": "PowerOnVM_Task", "what": "explode"}), "explode"),
        ("/faults", json!([{"what": "expire-sessions"}, {"what": "close-before"}]), "method"),
        ("/explode", json!({}), "explode"),
        ("/licence", json!({"readonly": true}), "readonly"),
        ("/close-before", json!({}), "method"),
    ] {
        let (status, body) = admin.post(path, request).await;
        assert!(
            status == 400 && body["error"].as_str().unwrap().contains(expected),
            "{path}: {body}"
        );
    }
    assert_eq!(admin.lab.control().sessions(), 1, "a list with an invalid entry has no effect");
    assert_eq!(admin.get("/a/b").await.0, 404);
}

#[tokio::test]
async fn the_admin_endpoint_listens_on_loopback_only() {
    let options = SimulatorOptions {
        admin: Some(SocketAddr::from(([0, 0, 0, 0], 0))),
        ..SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system())
    };
    assert!(matches!(Simulator::start(options).await, Err(SimulatorError::AdminNotOnLoopback(_))));
}

#[tokio::test]
async fn a_scenario_takes_the_same_faults() {
    let text = format!(
        "{}\n[[faults]]\nwhat = {{ licence = {{ read_only = true }} }}\n[[faults]]\nmethod = \"PowerOnVM_Task\"\n\
         skip = 1\nwhat = \"expire-sessions\"\n",
        include_str!("../../config/lab.toml")
    );
    let mut lab = Lab::start(Scenario::from_toml(&text).unwrap()).await;
    lab.log_in().await;
    let call = async || lab.call("PowerOnVM_Task", "VirtualMachine", "16", "").await.fault();
    assert_eq!(call().await.as_deref(), Some("RestrictedVersion"));
    assert_eq!(
        call().await.as_deref(),
        Some("NotAuthenticated"),
        "the sessions expire just before the call"
    );

    let wrong = |entry: &str| {
        let text = format!("{}\n[[faults]]\n{entry}\n", include_str!("../../config/lab.toml"));
        Scenario::from_toml(&text).unwrap_err().to_string()
    };
    assert!(
        wrong("what = \"explode\"").contains("faults[0].what"),
        "{}",
        wrong("what = \"explode\"")
    );
    assert!(wrong("what = \"close-before\"").contains("faults[0]"));
}
