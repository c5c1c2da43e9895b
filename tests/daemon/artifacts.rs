//! Artifacts and recordings of a daemon that is killed, or whose disk is full. Files are whole or
//! not there, and a recording plays up to its last second.

use std::io::Write;
use std::path::Path;

use otter::clock::Clock;
use otter::simulator::{Pace, Scenario, ScreenStage, Simulator, SimulatorOptions};
use reqwest::Method;
use serde_json::{Value, json};

use super::crash::fail_points::kill_at;
use super::storage::LimitedDaemon;
use crate::artifacts::recordings::{Picture, frames, shows};
use crate::harness::{Answer, Daemon, eventually};
use crate::screens::decode;

/// A machine of the scenario that is off.
const MACHINE: &str = "16";

async fn host() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let pace = Pace::Auto { scale: 0.05 };
    Simulator::start(SimulatorOptions { pace, ..options }).await.unwrap()
}

/// A lease of the machine, which is powered on, with a recording of its screen.
struct Recorded {
    id: String,
    secret: String,
}

impl Recorded {
    async fn take(daemon: &Daemon) -> Self {
        let ask = json!({
            "select": {"machine": MACHINE}, "ttl": "10m", "prepare": {"power": "on"},
            "record": {"screen": true},
        });
        let lease = daemon.post("/v1/leases", ask).await.expect(201);
        let id = lease.str("id").to_owned();
        let secret = format!("{id}.{}", lease.str("secret"));
        daemon.get(&format!("/v1/leases/{id}/wait?wait=30s")).await.expect(200);
        Self { id, secret }
    }

    async fn lease(&self, daemon: &Daemon) -> Value {
        daemon.get(&format!("/v1/leases/{}", self.id)).await.expect(200).json
    }

    /// Waits until everything that otter has seen of the screen until now is recorded.
    async fn wait_until_recorded(&self, daemon: &Daemon) {
        let picture = format!("/v1/machines/{MACHINE}/screen.png");
        let is_shown = async || daemon.get(&picture).await.status == 200;
        eventually("the machine to show something", is_shown).await;
        let now = Clock::system().now();
        eventually("the screen to be recorded", async || {
            let lease = self.lease(daemon).await;
            let synced_at = lease["recording"]["synced_at"].as_str();
            synced_at.is_some_and(|at| at.parse::<jiff::Timestamp>().unwrap() > now)
        })
        .await;
    }

    /// Shows the login, and waits until it is recorded. Returns its picture.
    async fn record_login(&self, daemon: &Daemon, host: &Simulator) -> Picture {
        host.control().show_screen(MACHINE, ScreenStage::Login);
        let login = guest_picture(host);
        eventually("the login to be shown", async || {
            let picture = daemon.get(&format!("/v1/machines/{MACHINE}/screen.png")).await;
            picture.status == 200 && decode(&picture.bytes) == login
        })
        .await;
        self.wait_until_recorded(daemon).await;
        login
    }

    async fn end(&self, daemon: &Daemon) {
        let path = format!("/v1/leases/{}?wait=30s", self.id);
        let request = daemon.request(Method::DELETE, &path).header("otter-lease", &self.secret);
        Answer::from_request(request).await.expect(200);
    }

    async fn wait_until_rendered(&self, daemon: &Daemon) {
        let is_rendered = async || self.lease(daemon).await["recording"].is_null();
        eventually("the recording to be rendered", is_rendered).await;
    }

    async fn names(&self, daemon: &Daemon) -> Vec<String> {
        let list = daemon.get(&format!("/v1/artifacts?lease={}", self.id)).await.expect(200);
        let mut names: Vec<String> = list.items("name").into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }

    async fn frames(&self, daemon: &Daemon) -> Vec<(Picture, u64)> {
        let list = daemon.get(&format!("/v1/artifacts?lease={}", self.id)).await.expect(200);
        let items = list.json["items"].as_array().unwrap();
        let recording = items.iter().find(|artifact| artifact["name"] == "screen.apng");
        let recording = recording.unwrap_or_else(|| panic!("no recording: {}", list.text));
        let content = recording["links"]["content"].as_str().unwrap();
        frames(&daemon.get(content).await.expect(200).bytes)
    }
}

fn guest_picture(host: &Simulator) -> Picture {
    let screen = host.control().screen(MACHINE).unwrap();
    let pixels = screen.pixels.chunks_exact(4).map(|bgr| [bgr[0], bgr[1], bgr[2]]).collect();
    (screen.width.into(), screen.height.into(), pixels)
}

fn entries_of(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_recording_plays_up_to_its_last_second_and_goes_on() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let lease = Recorded::take(&daemon).await;
    let login = lease.record_login(&daemon, &host).await;
    host.control().show_screen(MACHINE, ScreenStage::Blank);
    lease.wait_until_recorded(&daemon).await;
    daemon.kill();
    // The kill cut an entry.
    let file = state.join("recordings").join(&lease.id).join("screen.rec");
    let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    file.write_all(&[90, 0, 0, 0, 1, 2, 3, 4, 3, 0]).unwrap();

    let daemon = Daemon::start_for_host(&host, &state).await;
    lease.record_login(&daemon, &host).await;
    lease.end(&daemon).await;
    lease.wait_until_rendered(&daemon).await;
    let frames = lease.frames(&daemon).await;
    let logins: Vec<bool> = frames.iter().map(|(frame, _)| shows(frame, &login)).collect();
    let first = logins.iter().position(|is_login| *is_login).expect("the login before the kill");
    let other = logins[first..].iter().position(|is_login| !is_login);
    let other = first + other.expect("the blank screen before the kill");
    assert!(logins[other..].contains(&true), "the login after the kill: {logins:?}");
    let history = lease.lease(&daemon).await["history"].to_string();
    assert_eq!(history.matches("recording: screen").count(), 1, "{history}");
    assert_eq!(entries_of(&state.join("recordings")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_the_last_second_leaves_a_recording_that_plays() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let lease = Recorded::take(&daemon).await;
    let login = lease.record_login(&daemon, &host).await;
    // The lease ends, and the daemon dies at once.
    let path = format!("/v1/leases/{}", lease.id);
    let request = daemon.request(Method::DELETE, &path).header("otter-lease", &lease.secret);
    Answer::from_request(request).await.expect(200);
    daemon.kill();
    let daemon = Daemon::start_for_host(&host, &state).await;
    lease.wait_until_rendered(&daemon).await;
    let frames = lease.frames(&daemon).await;
    assert!(frames.iter().any(|(frame, _)| shows(frame, &login)), "{} frames", frames.len());
}

/// Starts a daemon with a host of its own that dies at a fail point.
async fn start(state: &Path, fail_point: Option<&str>) -> Daemon {
    let arguments = ["--simulate", "--state-dir", state.to_str().unwrap()];
    let kill = fail_point.map(|name| kill_at(name, 1));
    let variables: Vec<(&str, &str)> =
        kill.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let daemon = Daemon::start(&arguments, &variables).await;
    let ready = async || daemon.get("/readyz").await.status == 200;
    eventually("the inventory to be loaded", ready).await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_leaves_a_whole_artifact_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("artifacts");
    let daemon = start(directory.path(), Some("artifact-file")).await;
    let ask = json!({"select": {"machine": MACHINE}, "ttl": "10m"});
    let lease = daemon.post("/v1/leases", ask).await.expect(201);
    let secret = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let path = format!("/v1/leases/{}/artifacts/result.txt", lease.str("id"));
    let put = |daemon: &Daemon| {
        daemon.request(Method::PUT, &path).header("otter-lease", &secret).body("passed")
    };
    // The file is complete, and its row is not stored.
    assert!(put(&daemon).send().await.is_err());
    daemon.wait_for_exit().await;
    assert_eq!(entries_of(&folder).len(), 1);

    let daemon = start(directory.path(), Some("artifact-row")).await;
    let list = async |daemon: &Daemon| daemon.get("/v1/artifacts").await.expect(200);
    assert!(list(&daemon).await.items("id").is_empty());
    assert_eq!(entries_of(&folder), [""; 0]);
    let stored = Answer::from_request(put(&daemon)).await.expect(201);
    // The row is deleted, and the file is not.
    let artifact = format!("/v1/artifacts/{}", stored.str("id"));
    assert!(daemon.request(Method::DELETE, &artifact).send().await.is_err());
    daemon.wait_for_exit().await;
    assert_eq!(entries_of(&folder), [stored.str("id")]);

    let daemon = start(directory.path(), None).await;
    assert!(list(&daemon).await.items("id").is_empty());
    assert_eq!(entries_of(&folder), [""; 0]);
    Answer::from_request(put(&daemon)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_rendered_once_however_often_otter_dies() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = start(directory.path(), Some("recording-stored")).await;
    let lease = Recorded::take(&daemon).await;
    lease.wait_until_recorded(&daemon).await;
    let path = format!("/v1/leases/{}", lease.id);
    let request = daemon.request(Method::DELETE, &path).header("otter-lease", &lease.secret);
    request.send().await.unwrap();
    // The artifacts are stored, and the files of the recording are still there.
    daemon.wait_for_exit().await;
    assert_eq!(entries_of(&directory.path().join("recordings")), [lease.id.as_str()]);
    let daemon = start(directory.path(), None).await;
    lease.wait_until_rendered(&daemon).await;
    assert_eq!(entries_of(&directory.path().join("recordings")), [""; 0]);
    let names = lease.names(&daemon).await;
    assert_eq!(names.iter().filter(|name| *name == "screen.apng").count(), 1, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_a_recording_and_leaves_its_lease_alone() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let otter = LimitedDaemon::start(&host, &directory.path().join("state")).await;
    let daemon = &otter.daemon;
    let lease = Recorded::take(daemon).await;
    let login = lease.record_login(daemon, &host).await;
    otter.set_disk_full(true);
    host.control().show_screen(MACHINE, ScreenStage::Desktop);
    eventually("the recording to end", async || {
        lease.lease(daemon).await["recording"]["state"] == "ended"
    })
    .await;
    let shown = lease.lease(daemon).await;
    let reason = shown["recording"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("screen: the disk refused a write"), "{reason}");
    assert_eq!(shown["state"], "active", "{shown}");

    otter.set_disk_full(false);
    eventually("otter to be ready", async || daemon.get("/readyz").await.status == 200).await;
    let off = format!("/v1/machines/{MACHINE}/power?wait=30s");
    let off = daemon.request(Method::POST, &off).header("otter-lease", &lease.secret);
    let off = Answer::from_request(off.json(&json!({"action": "off"}))).await.expect(200);
    assert_eq!(off.str("state"), "succeeded");
    lease.end(daemon).await;
    lease.wait_until_rendered(daemon).await;
    let frames = lease.frames(daemon).await;
    assert!(frames.iter().any(|(frame, _)| shows(frame, &login)));
    assert!(otter.daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_state_directory_artifacts_are_temporary_and_the_start_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let temporary = directory.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let variables = [("TMPDIR", temporary.to_str().unwrap())];
    let arguments = ["--simulate", "--log-format", "json"];
    let daemon = Daemon::start_with_log(&log, &arguments, &variables).await;
    let ready = async || daemon.get("/readyz").await.status == 200;
    eventually("the inventory to be loaded", ready).await;
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("artifacts and recordings are temporary files"), "{text}");
    assert_eq!(entries_of(&temporary), [""; 0]);
    let ask = json!({"select": {"machine": MACHINE}, "ttl": "10m"});
    let lease = daemon.post("/v1/leases", ask).await.expect(201);
    let secret = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let path = format!("/v1/leases/{}/artifacts/result.txt", lease.str("id"));
    let put = daemon.request(Method::PUT, &path).header("otter-lease", secret).body("passed");
    Answer::from_request(put).await.expect(201);
    assert_eq!(entries_of(&temporary).len(), 1);
    assert!(daemon.terminate().await.success());
    assert_eq!(entries_of(&temporary), [""; 0]);
}
