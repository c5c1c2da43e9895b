//! Jobs on files of a daemon that is killed at each step: a file is whole or not there, nothing is
//! left of it, each job has one end, and no call is sent more often than allowed.

use std::path::Path;

use otter::clock::Clock;
use otter::simulator::world::FileContent;
use otter::simulator::{FilesChange, Pace, Scenario, Simulator, SimulatorOptions};
use reqwest::Method;
use serde_json::{Value, json};

use super::crash::fail_points::{OF_FILES, kill_at};
use crate::harness::{Answer, Daemon, eventually};

/// The body of the uploads.
const BODY: &[u8] = b"an image of some length";
const TARGET: &str = "[isos] iso/qubes.iso";

async fn host() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let pace = Pace::Auto { scale: 0.05 };
    Simulator::start(SimulatorOptions { pace, ..options }).await.unwrap()
}

/// Starts a daemon for the host, which dies at a fail point.
async fn start(host: &Simulator, state: &Path, fail_point: Option<&str>) -> Daemon {
    let kill = fail_point.map(|name| kill_at(name, 1));
    let variables: Vec<(&str, &str)> =
        kill.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let roots = "[files]\nroots = [\"[isos] iso\"]\n";
    let daemon = Daemon::start_with_variables(host, state, roots, &variables).await;
    let ready = async || daemon.get("/readyz").await.status == 200;
    eventually("the inventory to be loaded", ready).await;
    daemon
}

/// A call that starts a job on a file.
struct FileJob {
    method: Method,
    path: &'static str,
    body: Option<Value>,
    /// The kind of the job.
    kind: &'static str,
    /// The host's method that the job calls at most four times.
    call: &'static str,
}

fn calls() -> [FileJob; 3] {
    [
        FileJob {
            method: Method::PUT,
            path: "/v1/datastores/name:isos/file?path=iso%2Fqubes.iso",
            body: None,
            kind: "file.upload",
            call: "MoveDatastoreFile_Task",
        },
        FileJob {
            method: Method::DELETE,
            path: "/v1/datastores/name:isos/file?path=iso%2Fqubes.iso&wait=30s",
            body: None,
            kind: "file.delete",
            call: "DeleteDatastoreFile_Task",
        },
        FileJob {
            method: Method::POST,
            path: "/v1/datastores/name:isos/folders?wait=30s",
            body: Some(json!({"path": "iso/new"})),
            kind: "file.create_folder",
            call: "MakeDirectory",
        },
    ]
}

/// Puts the host into the state in which the call of the job has something to do.
fn prepare(host: &Simulator, job: &FileJob) {
    let control = host.control();
    for path in [TARGET, "[isos] iso/new"] {
        control.change_files(FilesChange::Remove { path: path.to_owned() });
    }
    control.change_files(FilesChange::MakeFolder { path: "[isos] iso".to_owned() });
    if job.kind == "file.delete" {
        let content = FileContent::of(BODY);
        control.change_files(FilesChange::Put { path: TARGET.to_owned(), content });
    }
}

async fn send(daemon: &Daemon, job: &FileJob) -> Option<reqwest::Response> {
    let request = daemon.request(job.method.clone(), job.path);
    let request = match &job.body {
        Some(body) => request.json(body),
        None if job.method == Method::PUT => request.body(BODY),
        None => request,
    };
    request.send().await.ok()
}

/// Checks what a job has left on the host.
async fn check_host(host: &Simulator, job: &FileJob, state: &str, point: &str) {
    let control = host.control();
    let target = control.file_bytes(TARGET);
    // A part file is removed at the latest at the next session.
    eventually(&format!("no part file after {point}"), async || {
        control.look(|world| !world.written_files().any(|(path, _)| path.contains("otter-part")))
    })
    .await;
    match (job.kind, state) {
        ("file.upload", "succeeded") => assert_eq!(target.as_deref(), Some(BODY), "{point}"),
        ("file.upload", _) | ("file.delete", "succeeded") => assert_eq!(target, None, "{point}"),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_each_step_of_a_job_on_a_file_leaves_it_done_or_not_done() {
    let host = host().await;
    let mut reached: Vec<&str> = Vec::new();
    for point in OF_FILES {
        for job in calls() {
            let state = tempfile::tempdir().unwrap();
            prepare(&host, &job);
            let daemon = start(&host, state.path(), Some(point)).await;
            let answered = send(&daemon, &job).await;
            if answered.is_none() {
                reached.push(point);
                daemon.wait_for_exit().await;
            } else {
                daemon.kill();
            }
            let daemon = start(&host, state.path(), None).await;
            let jobs = format!("/v1/jobs?kind={}", job.kind);
            let mut ended = Value::Null;
            eventually("the job to end", async || {
                let listed = daemon.get(&jobs).await.expect(200).json;
                let items = listed["items"].as_array().unwrap();
                assert_eq!(items.len(), 1, "{point} {listed}");
                ended = items[0].clone();
                !ended["finished_at"].is_null()
            })
            .await;
            let (id, end) = (ended["id"].as_str().unwrap(), ended["state"].as_str().unwrap());
            assert!(matches!(end, "succeeded" | "failed"), "{point} {}: {ended}", job.kind);
            if job.kind != "file.upload" {
                assert_eq!(end, "succeeded", "{point} {}: {ended}", job.kind);
            }
            let calls = host.control().calls_of_operation(id);
            let sent = calls.iter().filter(|call| *call == job.call).count();
            assert!(sent <= 4, "{point} {}: {calls:?}", job.kind);
            check_host(&host, &job, end, point).await;
            // Nothing keeps the path busy.
            prepare(&host, &job);
            let again = send(&daemon, &job).await.expect("the daemon answers");
            assert!(again.status().is_success(), "{point} {}: {}", job.kind, again.status());
        }
    }
    for point in OF_FILES {
        assert!(reached.contains(&point), "{point} was not reached");
    }
    // Without a kill, the answer of an upload has the job.
    let state = tempfile::tempdir().unwrap();
    let [upload, ..] = calls();
    prepare(&host, &upload);
    let daemon = start(&host, state.path(), None).await;
    let put = daemon.request(Method::PUT, upload.path).body(BODY);
    Answer::from_request(put).await.expect(200);
}
