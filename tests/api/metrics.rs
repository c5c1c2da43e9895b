//! `/metrics`: each metric changes with its events, and no metric has data of callers.

use std::time::Duration;

use otter::simulator::{DownMode, Fault, HostdRestart};
use serde_json::{Value, json};

use crate::harness::{Answer, EventStream, Lab, eventually};

/// The content of `/metrics` at one time.
struct Metrics(String);

impl Metrics {
    async fn read(lab: &Lab) -> Self {
        let answer = lab.request(reqwest::Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        Self(answer.text().await.unwrap())
    }

    /// A count by its name and labels. 0 if the metric does not exist yet.
    fn count(&self, name: &str) -> u64 {
        self.value(name).map_or(0, |value| value.parse().unwrap())
    }

    fn seconds(&self, name: &str) -> f64 {
        self.value(name).unwrap().parse().unwrap()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    }
}

/// Waits until a count has this value.
async fn until(lab: &Lab, name: &str, value: u64) {
    eventually(name, async || Metrics::read(lab).await.count(name) == value).await;
}

/// Waits until the value of a metric in seconds exceeds `than`.
async fn until_longer(lab: &Lab, name: &str, than: f64) {
    eventually(name, async || Metrics::read(lab).await.seconds(name) > than).await;
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let lab = Lab::start().await;
    let found =
        "otter_http_request_seconds_count{operation=\"GET /v1/machines/{machine}\",status=\"2xx\"}";
    let missed =
        "otter_http_request_seconds_count{operation=\"GET /v1/machines/{machine}\",status=\"4xx\"}";
    let unknown = "otter_http_request_seconds_count{operation=\"unknown\",status=\"4xx\"}";
    let before = Metrics::read(&lab).await;
    lab.get("/v1/machines/16").await.expect(200);
    lab.get("/v1/machines/17").await.expect(200);
    lab.get("/v1/machines/made-up-by-a-caller").await.problem(404, "not-found");
    lab.get("/made-up-by-a-caller").await.problem(404, "not-found");
    let after = Metrics::read(&lab).await;
    for (name, more) in [(found, 2), (missed, 1), (unknown, 1)] {
        assert_eq!(after.count(name) - before.count(name), more, "{name} in {}", after.0);
    }
    assert!(!after.0.contains("made-up"), "{}", after.0);
    lab.get("/metrics?x=1").await.problem(400, "unknown-parameter");
}

#[tokio::test]
async fn jobs_are_counted_by_kind_and_end() {
    let lab = Lab::stepped().await;
    let accepted = "otter_jobs_accepted_total{kind=\"machine.power_on\"}";
    let ended = |state: &str| {
        format!("otter_job_seconds_count{{kind=\"machine.power_on\",state=\"{state}\"}}")
    };
    assert_eq!(Metrics::read(&lab).await.count(accepted), 0);
    let job = lab.start_power("qubes-4.2-sdw-staging", "on").await;
    let task = lab.wait_for_job_task(&job).await;
    let waiting = lab.start_power("qubes-4.2-sdw-staging", "off").await;
    let during = Metrics::read(&lab).await;
    assert_eq!(
        (
            during.count(accepted),
            during.count("otter_jobs_running"),
            during.count("otter_jobs_waiting")
        ),
        (1, 1, 1)
    );
    lab.control().finish_task(&task);
    lab.wait_for_end(&job).await;
    assert_eq!(Metrics::read(&lab).await.count(&ended("succeeded")), 1);
    lab.control().finish_task(&lab.wait_for_job_task(&waiting).await);
    lab.wait_for_end(&waiting).await;
    until(&lab, "otter_jobs_running", 0).await;

    lab.control().fail_next_task("PowerOnVM_Task", Fault::new("NoDiskSpace", "Full."));
    let failing = lab.start_power("qubes-4.3-nightly", "on").await;
    lab.control().finish_task(&lab.wait_for_job_task(&failing).await);
    assert_eq!(lab.wait_for_end(&failing).await["state"], "failed");
    let after = Metrics::read(&lab).await;
    assert_eq!((after.count(&ended("failed")), after.count("otter_jobs_waiting")), (1, 0));
}

#[tokio::test]
async fn the_store_and_the_host_are_counted() {
    let lab = Lab::start().await;
    let power_on = "otter_soap_call_seconds_count{method=\"PowerOnVM_Task\",result=\"ok\"}";
    let login = "otter_soap_call_seconds_count{method=\"Login\",result=\"ok\"}";
    let before = Metrics::read(&lab).await;
    assert_eq!((before.count(login), before.count("otter_session_logins_total")), (1, 1));
    lab.power_and_wait("qubes-4.2-sdw-staging", "on").await;
    let after = Metrics::read(&lab).await;
    assert_eq!(after.count(power_on) - before.count(power_on), 1);
    for name in ["otter_store_transactions_total", "otter_store_statements_total"] {
        assert!(after.count(name) > before.count(name), "{name}");
    }
    lab.control().set_read_only_licence(true);
    let refused = lab.start_power("qubes-4.3-nightly", "on").await;
    assert_eq!(lab.wait_for_end(&refused).await["state"], "failed");
    let refused = "otter_soap_call_seconds_count{method=\"PowerOnVM_Task\",result=\"fault\"}";
    assert_eq!(Metrics::read(&lab).await.count(refused), 1);
}

#[tokio::test]
async fn the_inventory_is_counted() {
    let lab = Lab::start().await;
    let before = Metrics::read(&lab).await;
    assert_eq!(
        (before.count("otter_inventory_machines"), before.count("otter_inventory_datastores")),
        (13, 3)
    );
    lab.control().mutate(|world| world.remove_machine("22"));
    until(&lab, "otter_inventory_machines", 12).await;
    lab.control().mutate(|world| world.remove_datastore("61aa04c2-98d1f3e0-2b14-0050569c0002"));
    until(&lab, "otter_inventory_datastores", 2).await;
    let young = Metrics::read(&lab).await.seconds("otter_inventory_age_seconds");
    until_longer(&lab, "otter_inventory_age_seconds", young).await;
}

#[tokio::test]
async fn outages_and_logins_are_counted() {
    let lab = Lab::start().await;
    let before = Metrics::read(&lab).await;
    assert_eq!(before.count("otter_session_up"), 1);
    lab.control()
        .restart_hostd(HostdRestart { down: Some(DownMode::Unavailable), drop_running: false });
    until(&lab, "otter_session_up", 0).await;
    let outage = "otter_session_outage_seconds_total";
    until_longer(&lab, outage, before.seconds(outage)).await;
    lab.control().resume();
    until(&lab, "otter_session_up", 1).await;
    assert_eq!(Metrics::read(&lab).await.count("otter_session_logins_total"), 2);
}

#[tokio::test]
async fn open_waits_are_counted() {
    let lab = Lab::start().await;
    assert_eq!(Metrics::read(&lab).await.count("otter_waits_open"), 0);
    let waiting =
        lab.request(reqwest::Method::GET, "/v1/machines/16/wait?until=power_state:on&wait=1m");
    let waiting = tokio::spawn(waiting.send());
    until(&lab, "otter_waits_open", 1).await;
    lab.start_power("qubes-4.2-sdw-staging", "on").await;
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    until(&lab, "otter_waits_open", 0).await;
}

#[tokio::test]
async fn events_and_streams_are_counted() {
    let lab = Lab::start().await;
    let (open, gone) =
        ("otter_event_streams_open", "otter_event_stream_resets_total{reason=\"gone\"}");
    let before = Metrics::read(&lab).await;
    assert_eq!((before.count(open), before.count(gone)), (0, 0));
    let mut stream = EventStream::open(&lab, "").await;
    lab.annotate("16", "seen by its reader");
    stream.until(|event| event.is_about("machine.changed", "16")).await;
    let during = Metrics::read(&lab).await;
    assert!(during.count("otter_events_total") > before.count("otter_events_total"));
    assert_eq!(during.count(open), 1);
    drop(stream);
    until(&lab, open, 0).await;
    let mut foreign = EventStream::open(&lab, "?since=0123456789ab-7").await;
    assert_eq!(foreign.event().await.kind(), "reset");
    assert_eq!(Metrics::read(&lab).await.count(gone), 1);
}

/// Requests a lease, which can be granted or queued.
async fn lease(lab: &Lab, body: Value) -> Value {
    let answer = lab.post("/v1/leases", body).await;
    assert!(answer.status == 201 || answer.status == 202, "{}", answer.text);
    answer.json
}

async fn give_back(lab: &Lab, lease: &Value) -> Value {
    let (id, secret) = (lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap());
    let request = lab.request(reqwest::Method::DELETE, &format!("/v1/leases/{id}?wait=20s"));
    Answer::from_request(request.header("otter-lease", format!("{id}.{secret}")))
        .await
        .expect(200)
        .json
}

fn open(state: &str) -> String {
    format!("otter_leases_open{{state=\"{state}\"}}")
}

fn ended(reason: &str) -> String {
    format!("otter_leases_ended_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn leases_are_counted_by_state_and_end_and_timed() {
    const WAITS: &str = "otter_lease_wait_seconds_count";
    const HELD: &str = "otter_lease_held_seconds_count";
    let lab = Lab::start().await;
    let counts = async |names: &[&str]| {
        let metrics = Metrics::read(&lab).await;
        names.iter().map(|name| metrics.count(name)).collect::<Vec<_>>()
    };
    let states = [open("queued"), open("preparing"), open("active"), open("releasing")];
    let states: Vec<&str> = states.iter().map(String::as_str).collect();
    assert_eq!(counts(&states).await, [0, 0, 0, 0]);
    let lease_request = json!({"select": {"machine": "16"}, "ttl": "30m"});
    let first = lease(&lab, lease_request.clone()).await;
    assert_eq!(
        (counts(&states).await, counts(&[WAITS, HELD]).await),
        (vec![0, 0, 1, 0], vec![1, 0])
    );

    let waits = json!({"select": {"machine": "16"}, "ttl": "30m", "queue_for": "10m"});
    let deleted = lease(&lab, waits).await;
    assert_eq!(counts(&states).await, [1, 0, 1, 0]);
    give_back(&lab, &deleted).await;
    lease(&lab, json!({"select": {"machine": "16"}, "ttl": "30m", "queue_for": "1s"})).await;
    until(&lab, &ended("queue-timeout"), 1).await;
    assert_eq!(
        counts(&[&ended("released"), HELD, WAITS]).await,
        [1, 0, 1],
        "none of them was active"
    );

    give_back(&lab, &first).await;
    assert_eq!(counts(&[&ended("released"), HELD]).await, [2, 1]);
    let short = lease(&lab, json!({"select": {"machine": "16"}, "ttl": "1s"})).await;
    until(&lab, &ended("expired"), 1).await;
    assert_eq!(counts(&[HELD, WAITS]).await, [2, 2]);
    let held = Metrics::read(&lab).await.seconds("otter_lease_held_seconds_sum");
    assert!(held >= 1.0, "{short} was held for a second, of {held}");
    let revoked = lease(&lab, lease_request.clone()).await;
    let revoke = format!("/v1/leases/{}?wait=20s", revoked["id"].as_str().unwrap());
    Answer::from_request(lab.request(reqwest::Method::DELETE, &revoke)).await.expect(200);
    assert_eq!(counts(&[&ended("revoked"), HELD]).await, [1, 3]);
    lease(&lab, lease_request).await;
    lab.control().mutate(|world| world.remove_machine("16"));
    until(&lab, &ended("machine-gone"), 1).await;
    assert_eq!(
        (counts(&states).await, counts(&[HELD, WAITS]).await),
        (vec![0, 0, 0, 0], vec![4, 4])
    );
}

#[tokio::test]
async fn abandoned_leases_are_counted() {
    let lab =
        Lab::with_settings(|settings| settings.leases.abandon_after = Duration::from_millis(100))
            .await;
    for queue_for in ["1s", "10m"] {
        lease(&lab, json!({"select": {"machine": "16"}, "ttl": "30m", "queue_for": queue_for}))
            .await;
    }
    until(&lab, &ended("abandoned"), 1).await;
    until(&lab, &open("queued"), 0).await;
}

#[tokio::test]
async fn failed_preparations_and_releases_and_quarantines_are_counted() {
    const ASIDE: &str = "otter_machines_quarantined";
    const PREPARE: &str = "otter_lease_prepare_failures_total";
    const RELEASE: &str = "otter_lease_release_failures_total";
    let lab = Lab::stepped().await;
    let before = Metrics::read(&lab).await;
    assert_eq!([ASIDE, PREPARE, RELEASE].map(|name| before.count(name)), [0, 0, 0]);
    let lease_request =
        json!({"select": {"machine": "16"}, "ttl": "30m", "prepare": {"power": "on"}});
    lab.control().fail_next_task("PowerOnVM_Task", Fault::new("FileLocked", "Locked."));
    lease(&lab, lease_request.clone()).await;
    assert_eq!(Metrics::read(&lab).await.count(&open("preparing")), 1);
    lab.control().finish_task(&lab.wait_for_machine_task("16").await);
    until(&lab, &ended("prepare-failed"), 1).await;
    let after = Metrics::read(&lab).await;
    assert_eq!([ASIDE, PREPARE, RELEASE].map(|name| after.count(name)), [1, 1, 0]);

    let clear = lab.request(reqwest::Method::DELETE, "/v1/machines/16/quarantine");
    Answer::from_request(clear).await.expect(200);
    assert_eq!(Metrics::read(&lab).await.count(ASIDE), 0);
    let active = lease(&lab, lease_request).await;
    lab.control().finish_task(&lab.wait_for_machine_task("16").await);
    until(&lab, &open("active"), 1).await;
    lab.control().fail_next_task("PowerOffVM_Task", Fault::new("GenericVmConfigFault", "Stuck."));
    let released = tokio::spawn({
        let (id, secret) = (active["id"].as_str().unwrap(), active["secret"].as_str().unwrap());
        let request = lab.request(reqwest::Method::DELETE, &format!("/v1/leases/{id}?wait=20s"));
        Answer::from_request(request.header("otter-lease", format!("{id}.{secret}")))
    });
    until(&lab, &open("releasing"), 1).await;
    lab.control().finish_task(&lab.wait_for_machine_task("16").await);
    released.await.unwrap().expect(200);
    let after = Metrics::read(&lab).await;
    assert_eq!([ASIDE, PREPARE, RELEASE].map(|name| after.count(name)), [1, 1, 1]);
    assert_eq!([open("releasing"), ended("released")].map(|name| after.count(&name)), [0, 1]);
}

#[tokio::test]
async fn metrics_have_no_secrets() {
    let lab = Lab::start().await;
    let headers = [("Idempotency-Key", "hunter2"), ("Otter-Reference", "hunter3")];
    lab.post_with("/v1/machines/16/power?wait=30s", json!({"action": "on"}), &headers)
        .await
        .expect(200);
    let body = json!({"select": {"machine": "18"}, "ttl": "1h", "holder": "hunter4"});
    let lease = lab.post_with("/v1/leases", body, &headers).await.expect(201).json;
    let text = Metrics::read(&lab).await.0;
    assert!(!text.contains("hunter") && !text.contains("root"), "{text}");
    for kept in ["id", "secret"] {
        assert!(!text.contains(lease[kept].as_str().unwrap()), "{text}");
    }
}
