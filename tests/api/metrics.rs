//! `/metrics`: each number is moved by what it counts, and nothing of a caller's is in it.

use otter::simulator::{Comeback, Fault, Restart};
use serde_json::json;

use crate::harness::{Events, Lab, eventually};

/// What `/metrics` says at one time.
struct Told(String);

impl Told {
    async fn by(lab: &Lab) -> Self {
        let answer = lab.request(reqwest::Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        Self(answer.text().await.unwrap())
    }

    /// A count by its name and labels; 0 where it is not told yet.
    fn of(&self, name: &str) -> u64 {
        self.value(name).map_or(0, |value| value.parse().unwrap())
    }

    fn seconds(&self, name: &str) -> f64 {
        self.value(name).unwrap().parse().unwrap()
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    }
}

/// Waits until a count is so.
async fn until(lab: &Lab, name: &str, value: u64) {
    eventually(name, async || Told::by(lab).await.of(name) == value).await;
}

/// Waits until a time is longer than this.
async fn until_longer(lab: &Lab, name: &str, than: f64) {
    eventually(name, async || Told::by(lab).await.seconds(name) > than).await;
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let lab = Lab::start().await;
    let found = "otter_http_request_seconds_count{operation=\"GET /v1/machines/{machine}\",status=\"2xx\"}";
    let missed = "otter_http_request_seconds_count{operation=\"GET /v1/machines/{machine}\",status=\"4xx\"}";
    let unknown = "otter_http_request_seconds_count{operation=\"unknown\",status=\"4xx\"}";
    let before = Told::by(&lab).await;
    lab.get("/v1/machines/16").await.expect(200);
    lab.get("/v1/machines/17").await.expect(200);
    lab.get("/v1/machines/made-up-by-a-caller").await.problem(404, "not-found");
    lab.get("/made-up-by-a-caller").await.problem(404, "not-found");
    let after = Told::by(&lab).await;
    for (name, more) in [(found, 2), (missed, 1), (unknown, 1)] {
        assert_eq!(after.of(name) - before.of(name), more, "{name} in {}", after.0);
    }
    assert!(!after.0.contains("made-up"), "{}", after.0);
    lab.get("/metrics?x=1").await.problem(400, "unknown-parameter");
}

#[tokio::test]
async fn jobs_are_counted_by_kind_and_end() {
    let lab = Lab::stepped().await;
    let accepted = "otter_jobs_accepted_total{kind=\"machine.power_on\"}";
    let ended =
        |state: &str| format!("otter_job_seconds_count{{kind=\"machine.power_on\",state=\"{state}\"}}");
    assert_eq!(Told::by(&lab).await.of(accepted), 0);
    let job = lab.power("qubes-4.2-sdw-staging", "on").await;
    let task = lab.on_the_host(&job).await;
    let waiting = lab.power("qubes-4.2-sdw-staging", "off").await;
    let during = Told::by(&lab).await;
    assert_eq!(
        (during.of(accepted), during.of("otter_jobs_running"), during.of("otter_jobs_waiting")),
        (1, 1, 1)
    );
    lab.control().finish_task(&task);
    lab.ended(&job).await;
    assert_eq!(Told::by(&lab).await.of(&ended("succeeded")), 1);
    lab.control().finish_task(&lab.on_the_host(&waiting).await);
    lab.ended(&waiting).await;
    until(&lab, "otter_jobs_running", 0).await;

    lab.control().fail_next_task("PowerOnVM_Task", Fault::new("NoDiskSpace", "Full."));
    let failing = lab.power("qubes-4.3-nightly", "on").await;
    lab.control().finish_task(&lab.on_the_host(&failing).await);
    assert_eq!(lab.ended(&failing).await["state"], "failed");
    let after = Told::by(&lab).await;
    assert_eq!((after.of(&ended("failed")), after.of("otter_jobs_waiting")), (1, 0));
}

#[tokio::test]
async fn the_store_and_the_host_are_counted() {
    let lab = Lab::start().await;
    let power_on = "otter_soap_call_seconds_count{method=\"PowerOnVM_Task\",result=\"ok\"}";
    let login = "otter_soap_call_seconds_count{method=\"Login\",result=\"ok\"}";
    let before = Told::by(&lab).await;
    assert_eq!((before.of(login), before.of("otter_session_logins_total")), (1, 1));
    lab.powered("qubes-4.2-sdw-staging", "on").await;
    let after = Told::by(&lab).await;
    assert_eq!(after.of(power_on) - before.of(power_on), 1);
    for name in ["otter_store_transactions_total", "otter_store_statements_total"] {
        assert!(after.of(name) > before.of(name), "{name}");
    }
    lab.control().set_read_only_licence(true);
    let refused = lab.power("qubes-4.3-nightly", "on").await;
    assert_eq!(lab.ended(&refused).await["state"], "failed");
    let refused = "otter_soap_call_seconds_count{method=\"PowerOnVM_Task\",result=\"fault\"}";
    assert_eq!(Told::by(&lab).await.of(refused), 1);
}

#[tokio::test]
async fn the_inventory_is_counted() {
    let lab = Lab::start().await;
    let before = Told::by(&lab).await;
    assert_eq!((before.of("otter_inventory_machines"), before.of("otter_inventory_datastores")), (13, 3));
    lab.control().mutate(|world| world.remove_machine("22"));
    until(&lab, "otter_inventory_machines", 12).await;
    lab.control().mutate(|world| world.remove_datastore("61aa04c2-98d1f3e0-2b14-0050569c0002"));
    until(&lab, "otter_inventory_datastores", 2).await;
    let young = Told::by(&lab).await.seconds("otter_inventory_age_seconds");
    until_longer(&lab, "otter_inventory_age_seconds", young).await;
}

#[tokio::test]
async fn outages_and_logins_are_counted() {
    let lab = Lab::start().await;
    let before = Told::by(&lab).await;
    assert_eq!(before.of("otter_session_up"), 1);
    lab.control().restart_hostd(Restart { away: Some(Comeback::Unavailable), drop_running: false });
    until(&lab, "otter_session_up", 0).await;
    let outage = "otter_session_outage_seconds_total";
    until_longer(&lab, outage, before.seconds(outage)).await;
    lab.control().resume();
    until(&lab, "otter_session_up", 1).await;
    assert_eq!(Told::by(&lab).await.of("otter_session_logins_total"), 2);
}

#[tokio::test]
async fn open_waits_are_counted() {
    let lab = Lab::start().await;
    assert_eq!(Told::by(&lab).await.of("otter_waits_open"), 0);
    let waiting = lab.request(reqwest::Method::GET, "/v1/machines/16/wait?until=power_state:on&wait=1m");
    let waiting = tokio::spawn(waiting.send());
    until(&lab, "otter_waits_open", 1).await;
    lab.power("qubes-4.2-sdw-staging", "on").await;
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    until(&lab, "otter_waits_open", 0).await;
}

#[tokio::test]
async fn events_and_their_readers_are_counted() {
    let lab = Lab::start().await;
    let (open, gone) = ("otter_event_streams_open", "otter_event_stream_resets_total{reason=\"gone\"}");
    let before = Told::by(&lab).await;
    assert_eq!((before.of(open), before.of(gone)), (0, 0));
    let mut stream = Events::open(&lab, "").await;
    lab.annotate("16", "seen by its reader");
    stream.until(|told| told.is("machine.changed", "16")).await;
    let during = Told::by(&lab).await;
    assert!(during.of("otter_events_total") > before.of("otter_events_total"));
    assert_eq!(during.of(open), 1);
    drop(stream);
    until(&lab, open, 0).await;
    let mut foreign = Events::open(&lab, "?since=0123456789ab-7").await;
    assert_eq!(foreign.event().await.kind(), "reset");
    assert_eq!(Told::by(&lab).await.of(gone), 1);
}

#[tokio::test]
async fn no_secret_is_told() {
    let lab = Lab::start().await;
    let headers = [("Idempotency-Key", "hunter2"), ("Otter-Reference", "hunter3")];
    lab.post_with("/v1/machines/16/power?wait=30s", json!({"action": "on"}), &headers).await.expect(200);
    let told = Told::by(&lab).await.0;
    assert!(!told.contains("hunter") && !told.contains("root"), "{told}");
}
