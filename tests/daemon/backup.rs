//! `otter store`: a backup under load, a restore that does not continue old work on the host, and
//! the permissions of the files in the state directory.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use otter::clock::Clock;
use otter::simulator::{Pace, Scenario, Simulator, SimulatorOptions};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Answer, Daemon, TIMEOUT, eventually, otter_command, run_to_exit};

/// Three machines of the lab that are off: one with jobs, one with a lease, and one with many short
/// leases.
const BUSY: &str = "16";
const LEASED: &str = "18";
const OFTEN_LEASED: &str = "32";

async fn host() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    Simulator::start(SimulatorOptions { pace: Pace::Stepped, ..options }).await.unwrap()
}

fn store(verb: &str, file: Option<&Path>, state: &Path) -> Command {
    let mut command = otter_command(&["store", verb]);
    command.args(file).arg("--state-dir").arg(state);
    command
}

async fn succeeds(command: Command) -> String {
    let (code, text) = run_to_exit(command).await;
    assert_eq!(code, Some(0), "{text}");
    text
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// Creates and releases leases until it is stopped, so that the store is written all the time.
async fn make_short_leases(daemon: Arc<Daemon>, stop: CancellationToken) -> usize {
    let mut rounds = 0;
    while !stop.is_cancelled() {
        let asked = json!({"select": {"machine": OFTEN_LEASED}, "ttl": "30m", "queue_for": "1m"});
        let lease = daemon.post("/v1/leases", asked).await.json;
        let (id, secret) = (lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap());
        let path = format!("/v1/leases/{id}?wait=10s");
        let back =
            daemon.request(Method::DELETE, &path).header("otter-lease", format!("{id}.{secret}"));
        Answer::from_request(back).await.expect(200);
        rounds += 1;
    }
    rounds
}

/// The unfinished jobs and leases when the backup is written.
struct UnfinishedWork {
    running: String,
    queued: String,
    active: Value,
    waiting: String,
}

impl UnfinishedWork {
    async fn begin(host: &Simulator, daemon: &Daemon) -> Self {
        let id = |answer: &Answer| answer.str("id").to_owned();
        let active = json!({"select": {"machine": LEASED}, "ttl": "30m"});
        let active = daemon.post("/v1/leases", active).await.expect(201).json;
        let waiting = json!({"select": {"machine": LEASED}, "ttl": "30m", "queue_for": "10m"});
        let waiting = id(&daemon.post("/v1/leases", waiting).await.expect(202));
        let power = format!("/v1/machines/{BUSY}/power");
        let running = id(&daemon.post(&power, json!({"action": "on"})).await.expect(202));
        let queued = id(&daemon.post(&power, json!({"action": "off"})).await.expect(202));
        tokio::time::timeout(TIMEOUT, host.control().until_called("PowerOnVM_Task", 1))
            .await
            .unwrap();
        eventually("the task to be on disk", async || {
            !daemon.get(&format!("/v1/jobs/{running}")).await.json["host_task"].is_null()
        })
        .await;
        Self { running, queued, active, waiting }
    }
}

/// The calls that change the host or follow a task, with their counts.
fn changing_calls(host: &Simulator) -> Vec<(String, u64)> {
    let calls = host.control().all_calls().into_iter();
    calls.filter(|(method, _)| method.ends_with("_Task") || method.contains("ListView")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_restored_and_calls_no_host_for_old_work() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let (state, archive) = (directory.path().join("state"), directory.path().join("otter.tar"));
    let daemon = Arc::new(Daemon::start_for_host(&host, &state).await);
    let work = UnfinishedWork::begin(&host, &daemon).await;
    let stop = CancellationToken::new();
    let load = tokio::spawn(make_short_leases(Arc::clone(&daemon), stop.clone()));
    eventually("short leases to be granted", async || {
        daemon.metric("otter_store_transactions_total").await > 20
    })
    .await;
    succeeds(store("backup", Some(&archive), &state)).await;
    succeeds(store("check", None, &state)).await;
    let (code, text) = run_to_exit(store("compact", None, &state)).await;
    assert!(code == Some(1) && text.contains("uses the state directory"), "{text}");
    stop.cancel();
    assert!(load.await.unwrap() > 0);
    assert_eq!(mode(&archive), 0o600);
    let (code, text) = run_to_exit(store("backup", Some(&archive), &state)).await;
    assert!(code == Some(1) && text.contains("exists already"), "{text}");
    let (code, text) = run_to_exit(store("restore", Some(&archive), &state)).await;
    assert!(code == Some(1) && text.contains("uses the state directory"), "{text}");
    Arc::into_inner(daemon).expect("the load has ended").kill();

    let restored = directory.path().join("restored");
    let text = succeeds(store("restore", Some(&archive), &restored)).await;
    assert!(text.contains("is the store as it was at"), "{text}");
    let (code, text) = run_to_exit(store("restore", Some(&archive), &restored)).await;
    assert!(code == Some(1) && text.contains("is not empty"), "{text}");
    succeeds(store("check", None, &restored)).await;
    let before = changing_calls(&host);
    let daemon = Daemon::start_for_host(&host, &restored).await;
    eventually("the session to be up", async || {
        daemon.get("/readyz?host=true").await.status == 200
    })
    .await;
    let job = async |id: &str| daemon.get(&format!("/v1/jobs/{id}")).await.expect(200).json;
    assert_eq!(job(&work.running).await["state"], "unknown");
    assert_eq!(job(&work.queued).await["state"], "cancelled");
    for lease in [work.active["id"].as_str().unwrap(), &work.waiting] {
        let lease = daemon.get(&format!("/v1/leases/{lease}")).await.expect(200).json;
        assert_eq!(
            (&lease["state"], &lease["end"]["reason"]),
            (&json!("revoked"), &json!("revoked"))
        );
    }
    let machine = daemon.get(&format!("/v1/machines/{LEASED}")).await.expect(200).json;
    assert_eq!(
        (&machine["quarantine"]["reason"], &machine["lease"]),
        (&json!("restored"), &Value::Null)
    );
    let listed = daemon.get("/v1/jobs?state=queued,running").await.expect(200).json;
    assert_eq!(listed["items"], json!([]));

    // The audit trail has an entry for each end.
    let ended = async |of: &str, action: &str| {
        let facts = daemon.get(&format!("/v1/audit?{of}&action={action}")).await.expect(200).json;
        let [fact] = facts["items"].as_array().unwrap().as_slice() else {
            panic!("one row: {facts}")
        };
        (
            fact["outcome"].as_str().unwrap().to_owned(),
            fact["actor"].clone(),
            fact["detail"].clone(),
        )
    };
    let restored_from = json!("the state was restored from a backup");
    for lease in [work.active["id"].as_str().unwrap(), &work.waiting] {
        let expected = ("revoked".to_owned(), json!("otter"), restored_from.clone());
        assert_eq!(ended(&format!("lease={lease}"), "lease.ended").await, expected);
    }
    let quarantined = ended(&format!("machine={LEASED}"), "machine.quarantined").await;
    assert_eq!(quarantined, ("done".to_owned(), json!("otter"), restored_from));
    for (job, outcome) in [(&work.running, "unknown"), (&work.queued, "cancelled")] {
        assert_eq!(ended(&format!("job={job}"), "job.ended").await.0, outcome);
    }

    // A new lease gets a higher fence than every earlier one. The host gets no other call.
    let clear = daemon.request(Method::DELETE, &format!("/v1/machines/{LEASED}/quarantine"));
    Answer::from_request(clear).await.expect(200);
    let again = json!({"select": {"machine": LEASED}, "ttl": "30m"});
    let again = daemon.post("/v1/leases", again).await.expect(201).json;
    let fence = work.active["fence"].as_u64().unwrap();
    assert!(again["fence"].as_u64() > Some(fence + 1_000_000), "{again}");
    let views = |calls: Vec<(String, u64)>| {
        calls.into_iter().filter(|(method, _)| method.ends_with("_Task"))
    };
    assert!(views(changing_calls(&host)).eq(views(before)), "{:?}", changing_calls(&host));
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fence_is_granted_twice_even_if_an_archive_is_restored_twice() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let path = |name: &str| directory.path().join(name);
    let archive = path("otter.tar");
    let grant = async |state: &Path| {
        let daemon = Daemon::start_for_host(&host, state).await;
        let asked = json!({"select": {"machine": LEASED}, "ttl": "30m"});
        let lease = daemon.post("/v1/leases", asked).await.expect(201).json;
        assert!(daemon.terminate().await.success());
        lease["fence"].as_u64().unwrap()
    };
    // The machine is not in the archive, because its first lease is later than the backup.
    let daemon = Daemon::start_for_host(&host, &path("state")).await;
    succeeds(store("backup", Some(&archive), &path("state"))).await;
    assert!(daemon.terminate().await.success());
    let mut fences = vec![grant(&path("state")).await];
    for restored in ["restored-1", "restored-2"] {
        succeeds(store("restore", Some(&archive), &path(restored))).await;
        fences.push(grant(&path(restored)).await);
    }
    assert!(fences.is_sorted_by(|earlier, later| earlier < later), "{fences:?}");
}

/// Every file under the state directory that other users can access.
fn accessible_to_others(state: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    files.chain([state.to_owned()]).filter(|path| mode(path) & 0o077 != 0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_private_with_any_umask() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    // The first token is created before the first start of the daemon, with the umask 0.
    std::fs::create_dir(&state).unwrap();
    let mut create = Command::new("sh");
    create.args(["-c", "umask 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_otter")]);
    create
        .args(["token", "create", "--name", "ci", "--role", "operator", "--state-dir"])
        .arg(&state);
    create.env_remove("OTTER_STATE_DIR");
    let (code, text) = run_to_exit(create).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(accessible_to_others(&state), Vec::<PathBuf>::new());
    std::fs::remove_dir_all(&state).unwrap();

    let daemon = Daemon::start_for_host(&host, &state).await;
    assert_eq!(accessible_to_others(&state), Vec::<PathBuf>::new());
    assert!(daemon.terminate().await.success());
    for path in [state.clone(), state.join("otter.db"), state.join("secret.key")] {
        let loose = if path == state { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(loose)).unwrap();
    }
    let log = directory.path().join("log");
    let mut serve =
        otter_command(&["serve", "--simulate", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    serve.arg("--state-dir").arg(&state).stderr(std::fs::File::create(&log).unwrap());
    let daemon = Daemon::try_start(serve).await.expect("a daemon");
    assert_eq!(accessible_to_others(&state), Vec::<PathBuf>::new());
    assert!(daemon.terminate().await.success());
    let log = std::fs::read_to_string(&log).unwrap();
    let warned: Vec<_> =
        log.lines().filter(|line| line.contains("otter removed their permissions")).collect();
    assert_eq!(warned.len(), 3, "{log}");
    for name in ["state\"", "otter.db\"", "secret.key\""] {
        assert!(
            warned.iter().any(|line| line.contains(name) && line.contains("WARN")),
            "{name}: {log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_is_refused_while_the_key_of_the_lease_secrets_is_missing() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let (state, key) = (directory.path().join("state"), directory.path().join("state/secret.key"));
    let daemon = Daemon::start_for_host(&host, &state).await;
    let asked = json!({"select": {"machine": LEASED}, "ttl": "30m"});
    let lease = daemon.post("/v1/leases", asked).await.expect(201).json;
    assert!(daemon.terminate().await.success());
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();

    let mut serve =
        otter_command(&["serve", "--simulate", "--listen", "127.0.0.1:0", "--state-dir"]);
    serve.arg(&state);
    let (code, text) = run_to_exit(serve).await;
    assert!(code == Some(1) && text.contains("otter store new-key"), "{text}");
    assert!(!key.exists());
    let (code, text) = run_to_exit(store("check", None, &state)).await;
    assert!(code == Some(1) && text.contains("secret.key is missing"), "{text}");
    assert!(
        text.contains("otter store new-key") && text.contains("The database is whole"),
        "{text}"
    );
    assert!(!text.contains("damaged"), "{text}");

    let renewed = async |daemon: &Daemon| {
        let (id, secret) = (lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap());
        let renew = daemon.request(Method::POST, &format!("/v1/leases/{id}/renew"));
        Answer::from_request(renew.header("otter-lease", format!("{id}.{secret}")).json(&json!({})))
            .await
    };
    let text = succeeds(store("new-key", None, &state)).await;
    assert!(text.contains("whose secrets are void: 1."), "{text}");
    let daemon = Daemon::start_for_host(&host, &state).await;
    renewed(&daemon).await.problem(423, "machine-leased");
    assert!(daemon.terminate().await.success());
    std::fs::write(&key, kept).unwrap();
    let daemon = Daemon::start_for_host(&host, &state).await;
    renewed(&daemon).await.expect(200);
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_cannot_be_written_names_the_archive() {
    let (state, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let create = ["token", "create", "--name", "ci", "--role", "runner", "--state-dir"];
    let mut create = otter_command(&create);
    create.arg(state.path());
    assert_eq!(run_to_exit(create).await.0, Some(0));
    let archive = elsewhere.path().join("otter.tar");
    // A limit for the size of files simulates a full disk. It is smaller than the database.
    let mut limited = Command::new("sh");
    limited.args([
        "-c",
        "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_otter"),
    ]);
    limited.args(["store", "backup"]).arg(&archive).arg("--state-dir").arg(state.path());
    limited.env_remove("OTTER_STATE_DIR");
    let missing = elsewhere.path().join("missing/otter.tar");
    for (command, archive) in
        [(limited, &archive), (store("backup", Some(&missing), state.path()), &missing)]
    {
        let (code, text) = run_to_exit(command).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(
            text.contains(&format!("the archive {} cannot be written", archive.display())),
            "{text}"
        );
        assert!(!text.contains(&state.path().display().to_string()), "{text}");
    }
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_archive_is_not_passed_through_a_standard_stream() {
    let state = tempfile::tempdir().unwrap();
    for verb in ["backup", "restore"] {
        let mut command = store(verb, Some(Path::new("-")), state.path());
        command.current_dir(state.path());
        let (code, text) = run_to_exit(command).await;
        assert!(code == Some(2) && text.contains("name the file"), "{text}");
    }
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn no_store_command_creates_a_database() {
    let directory = tempfile::tempdir().unwrap();
    let (empty, missing) = (directory.path().join("empty"), directory.path().join("missing"));
    std::fs::create_dir(&empty).unwrap();
    let archive = directory.path().join("otter.tar");
    for state in [&empty, &missing] {
        for command in [
            store("backup", Some(&archive), state),
            store("check", None, state),
            store("compact", None, state),
            store("new-key", None, state),
        ] {
            let (code, text) = run_to_exit(command).await;
            assert!(code == Some(1) && text.contains("there is no otter database in"), "{text}");
        }
    }
    let (code, text) = run_to_exit(store("restore", Some(&archive), &empty)).await;
    assert!(code == Some(1) && text.contains("cannot be restored"), "{text}");
    assert!(!missing.exists() && !archive.exists());
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);
}
