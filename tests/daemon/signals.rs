//! The effects of signals: SIGTERM drains, a second signal ends the daemon at once, SIGHUP reads
//! the password again. What the log says of an outage. `reload.rs` tests the rest of a reload.

use otter::clock::Clock;
use otter::simulator::{DownMode, HostdRestart, Pace, Scenario, Simulator, SimulatorOptions};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Answer, Daemon, TIMEOUT, eventually, log_lines};

async fn host() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    Simulator::start(SimulatorOptions { pace: Pace::Stepped, ..options }).await.unwrap()
}

/// A request whose head the server has read, and whose body is not sent yet.
struct RequestWithoutBody {
    stream: TcpStream,
    body: String,
}

impl RequestWithoutBody {
    async fn post(daemon: &Daemon, path: &str, body: &Value) -> Self {
        let body = body.to_string();
        let mut stream = TcpStream::connect(daemon.address()).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: \
             100-continue\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut asked = [0; 25];
        tokio::time::timeout(TIMEOUT, stream.read_exact(&mut asked)).await.unwrap().unwrap();
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
        Self { stream, body }
    }

    /// Sends the body and returns the whole answer.
    async fn finish(mut self) -> String {
        self.stream.write_all(self.body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(TIMEOUT, self.stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer
    }
}

/// Waits until the host has received this number of power-on calls.
async fn wait_for_power_on_calls(host: &Simulator, times: u64) {
    let called = host.control().until_called("PowerOnVM_Task", times);
    tokio::time::timeout(TIMEOUT, called).await.expect("the power-on calls");
}

/// Waits until the daemon accepts no new connections.
async fn wait_until_connections_are_refused(daemon: &Daemon) {
    eventually("new connections to be refused", async || {
        TcpStream::connect(daemon.address()).await.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let power = |action: &str| json!({"action": action});
    let job = daemon.post("/v1/machines/16/power", power("on")).await.expect(202).json;
    let id = job["id"].as_str().unwrap().to_owned();
    // Each call waits for a job that does not end, or for a machine that does not change.
    let outcome = daemon.request(Method::GET, &format!("/v1/jobs/{id}/wait?wait=5m"));
    let job_shown = daemon.request(Method::GET, &format!("/v1/jobs/{id}?wait=5m"));
    let machine = daemon.request(Method::GET, "/v1/machines/18/wait?until=power_state:on&wait=5m");
    let keyless = daemon.request(Method::POST, "/v1/machines/21/power?wait=5m").json(&power("on"));
    let keyed = daemon
        .request(Method::POST, "/v1/machines/22/power?wait=5m")
        .header("Idempotency-Key", "one")
        .json(&power("on"));
    let waiting = [outcome, job_shown, machine, keyless, keyed]
        .map(|call| tokio::spawn(Answer::from_request(call)));
    eventually("all calls to wait", async || {
        let metrics =
            daemon.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        metrics.contains("otter_waits_open 5\n")
    })
    .await;
    // A job that has not called the host when the signal comes calls it after the next start.
    wait_for_power_on_calls(&host, 3).await;
    let late = RequestWithoutBody::post(&daemon, "/v1/machines/18/power", &power("on")).await;

    daemon.signal(Signal::TERM);
    let [outcome, job_shown, machine, keyless, keyed] = waiting;
    outcome.await.unwrap().problem(503, "shutting-down");
    let shown = job_shown.await.unwrap().expect(200).json;
    assert!(shown["id"] == id.as_str() && shown["state"] == "running", "{shown}");
    machine.await.unwrap().problem(503, "shutting-down");
    let keyless = keyless.await.unwrap().problem(409, "job-still-running").json;
    assert!(keyless["job"].is_string());
    keyed.await.unwrap().problem(503, "shutting-down");
    wait_until_connections_are_refused(&daemon).await;
    let late = late.finish().await;
    assert!(late.starts_with("HTTP/1.1 503 ") && late.contains("\"shutting-down\""), "{late}");
    assert!(daemon.wait_for_exit().await.success());
    assert_eq!(host.control().sessions(), 0, "the daemon logged out");
    assert_eq!(host.control().calls("PowerOnVM_Task"), 3);
    assert_eq!(
        host.control().running_tasks().len(),
        4,
        "the tasks on the host continue, with one task of the scenario"
    );

    // The jobs continue after the next start.
    let daemon = Daemon::start_for_host(&host, &state).await;
    for task in host.control().running_tasks() {
        host.control().finish_task(&task);
    }
    for id in [id.as_str(), keyless["job"].as_str().unwrap()] {
        daemon.get(&format!("/v1/jobs/{id}/wait?wait=10s")).await.expect(200);
    }
    assert_eq!(host.control().calls("PowerOnVM_Task"), 3, "no call was repeated");
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let mut daemon = Daemon::start_for_host(&host, &directory.path().join("state")).await;
    // A request without its body delays the end until the timeout of the body.
    let held =
        RequestWithoutBody::post(&daemon, "/v1/machines/18/power", &json!({"action": "on"})).await;
    daemon.signal(Signal::TERM);
    wait_until_connections_are_refused(&daemon).await;
    assert!(daemon.is_running());
    daemon.signal(Signal::INT);
    // The timeout of the test is shorter than the 30 s for a body and than the grace period.
    daemon.wait_for_exit().await;
    drop(held);
}

/// Starts a daemon that reads the password from this file.
async fn with_password_file(host: &Simulator, file: &std::path::Path) -> Daemon {
    let (url, pin) = (host.url(), format!("sha256:{}", host.fingerprint()));
    let variables = [
        ("OTTER_ESX_URL", url.as_str()),
        ("OTTER_ESX_USERNAME", "root"),
        ("OTTER_ESX_PASSWORD_FILE", file.to_str().unwrap()),
        ("OTTER_ESX_VERIFY", pin.as_str()),
    ];
    let state = file.with_extension("state");
    Daemon::start(&["--state-dir", state.to_str().unwrap()], &variables).await
}

async fn wait_for_host_status(daemon: &Daemon, status: u16) -> Answer {
    let path = "/readyz?host=true";
    eventually("the status of the host", async || daemon.get(path).await.status == status).await;
    daemon.get(path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_password_again_and_retries_a_refused_login() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let file = directory.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let daemon = with_password_file(&host, &file).await;
    let refused = |answer: &Answer| answer.json["code"] == "host-login-refused";
    eventually("the refusal", async || refused(&daemon.get("/readyz?host=true").await)).await;
    assert_eq!(host.control().calls("Login"), 1);

    // If the file cannot be read, the old password stays in use.
    std::fs::remove_file(&file).unwrap();
    daemon.signal(Signal::HUP);
    std::fs::write(&file, "otter\n").unwrap();
    daemon.signal(Signal::HUP);
    wait_for_host_status(&daemon, 200).await;
    let logins = host.control().calls("Login");
    assert!(
        logins == 2 || logins == 3,
        "{logins}: one refused login, and one for each reload that read a password"
    );

    // A reload does not end the session. The next login uses the new password.
    daemon.signal(Signal::HUP);
    host.control().expire_sessions();
    eventually("a new login", async || host.control().calls("Login") > logins).await;
    wait_for_host_status(&daemon, 200).await;
    assert!(daemon.terminate().await.success());
    assert_eq!(host.control().sessions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_retries_the_login_of_an_unlocked_account() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let file = directory.path().join("password");
    std::fs::write(&file, "otter\n").unwrap();
    host.control().refuse_logins(true);
    let daemon = with_password_file(&host, &file).await;
    eventually("the refusal", async || host.control().calls("Login") == 1).await;
    let refused =
        async || daemon.get("/readyz?host=true").await.json["code"] == "host-login-refused";
    eventually("the refusal to be reported", refused).await;
    host.control().refuse_logins(false);
    daemon.signal(Signal::HUP);
    wait_for_host_status(&daemon, 200).await;
    assert_eq!(host.control().calls("Login"), 2);
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_one_line_for_the_start_of_an_outage() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let log = directory.path().join("log");
    let (url, state) = (host.url(), directory.path().join("state"));
    let pin = format!("sha256:{}", host.fingerprint());
    let variables = [
        ("OTTER_ESX_URL", url.as_str()),
        ("OTTER_ESX_USERNAME", "root"),
        ("OTTER_ESX_PASSWORD", "otter"),
        ("OTTER_ESX_VERIFY", pin.as_str()),
    ];
    let arguments = ["--state-dir", state.to_str().unwrap(), "--log-format", "json"];
    let daemon = Daemon::start_with_log(&log, &arguments, &variables).await;
    wait_for_host_status(&daemon, 200).await;
    let down = HostdRestart { down: Some(DownMode::Refuse), drop_running: false };
    host.control().restart_hostd(down);
    let failed =
        "otter_soap_call_seconds_count{method=\"RetrievePropertiesEx\",result=\"not_sent\"} ";
    eventually("four failed connects", async || {
        let metrics = daemon.request(Method::GET, "/metrics").send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let count = metrics.lines().find_map(|line| line.strip_prefix(failed)?.parse().ok());
        count.is_some_and(|count: u64| count >= 4)
    })
    .await;
    host.control().resume();
    wait_for_host_status(&daemon, 200).await;
    assert!(daemon.terminate().await.success());
    assert_eq!(log_lines(&log, "the host is not connected").len(), 1);
    let again = log_lines(&log, "the outage has another reason now");
    let reasons: Vec<&str> = again.iter().map(|line| line["reason"].as_str().unwrap()).collect();
    assert!(reasons.windows(2).all(|pair| pair[0] != pair[1]), "{reasons:?}");
    assert_eq!(log_lines(&log, "the host is connected").len(), 2);
}

/// With `Type=notify` systemd waits for the message that ends a reload.
#[tokio::test]
async fn the_service_manager_is_notified_of_the_start_of_reloads_and_of_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let next_message = async || {
        let mut message = vec![0; 4096];
        let read = tokio::time::timeout(TIMEOUT, socket.recv(&mut message))
            .await
            .expect("a message")
            .unwrap();
        String::from_utf8(message[..read].to_vec()).unwrap()
    };
    let daemon = Daemon::start(&["--simulate"], &[("NOTIFY_SOCKET", path.to_str().unwrap())]).await;
    assert_eq!(next_message().await.trim(), "READY=1");
    daemon.signal(Signal::HUP);
    let reloading = next_message().await;
    let lines: Vec<&str> = reloading.lines().collect();
    let [first, second] = lines.as_slice() else { panic!("{reloading:?}") };
    assert_eq!(*first, "RELOADING=1");
    let at = second.strip_prefix("MONOTONIC_USEC=").expect("the time of the reload");
    assert!(at.parse::<u64>().unwrap() > 0, "{at}");
    assert_eq!(next_message().await.trim(), "READY=1");
    daemon.signal(Signal::TERM);
    assert_eq!(next_message().await.trim(), "STOPPING=1");
    assert!(daemon.wait_for_exit().await.success());
}
