//! The examples in `deploy/ci`: each way in which `otter.sh` can end, and the commands of the two
//! other examples as the CI runs them. Also `otter run` in a terminal.

use std::path::Path;
use std::process::{Command, Stdio};

use otter::clock::Clock;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::pages::isolate;
use super::{PYVMOMI_9, TIMEOUT, program_in, repository, script, start_simulated, succeeds};
use crate::harness::{Answer, Daemon, encode, eventually, otter_command, run_with_timeout};

const SELECT: &str = r#"{"name": "sdw-staging"}"#;

/// The directory in which the examples store what otter recorded.
const ARTIFACTS: &str = "otter-artifacts";

/// A daemon, and the working copy of a CI job.
struct CiJob {
    daemon: Daemon,
    files: TempDir,
}

impl CiJob {
    async fn start() -> Self {
        Self::with_daemon(start_simulated().await)
    }

    fn with_daemon(daemon: Daemon) -> Self {
        let files = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(files.path().join("deploy")).unwrap();
        std::os::unix::fs::symlink(repository().join("deploy/ci"), files.path().join("deploy/ci"))
            .unwrap();
        Self { daemon, files }
    }

    /// A shell command in the environment of the CI job.
    fn shell(&self, shell: &[&str], script: &str) -> Command {
        let mut command = Command::new(shell[0]);
        command
            .args(&shell[1..])
            .arg("-c")
            .arg(script)
            .current_dir(self.files.path())
            .stdin(Stdio::null());
        isolate(&mut command);
        command
            .env("OTTER_URL", format!("http://{}", self.daemon.address()))
            .env("OTTER_SELECT", SELECT);
        command
    }

    async fn open_leases(&self) -> Vec<Value> {
        let answer = self.daemon.get("/v1/leases?state=queued,preparing,active").await.expect(200);
        answer.json["items"].as_array().unwrap().clone()
    }

    async fn assert_all_released(&self) {
        self.daemon.get("/v1/machines/16/wait?until=free&wait=10s").await.expect(200);
        assert_eq!(self.open_leases().await, Vec::<Value>::new());
    }

    /// Waits until the recording of the only open lease has the picture that its machine shows.
    async fn wait_for_picture(&self) {
        let picture = "/v1/machines/16/screen.png";
        let is_shown = async || self.daemon.get(picture).await.status == 200;
        eventually("the machine to show something", is_shown).await;
        let now = Clock::system().now();
        eventually("the picture to be recorded", async || {
            let leases = self.open_leases().await;
            let synced_at =
                leases.first().and_then(|lease| lease["recording"]["synced_at"].as_str());
            synced_at.is_some_and(|at| at.parse::<jiff::Timestamp>().unwrap() > now)
        })
        .await;
    }

    fn assert_has_recording(&self) {
        let directory = self.file(ARTIFACTS);
        for name in ["screen.apng", "screen-last.png", "screen-last.txt"] {
            assert!(directory.join(name).is_file(), "{name}");
        }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }
}

/// Runs `otter.sh run` with this script, calls `meanwhile` with its process id, and returns the
/// exit code and the output.
async fn with_otter_sh(
    job: &CiJob,
    script: &str,
    variables: &[(&str, &str)],
    meanwhile: impl AsyncFnOnce(Pid),
) -> (Option<i32>, String) {
    with_shell(job, "exec deploy/ci/otter.sh", script, variables, meanwhile).await
}

/// Like [`with_otter_sh`], with another command line for `otter.sh`.
async fn with_shell(
    job: &CiJob,
    called: &str,
    script: &str,
    variables: &[(&str, &str)],
    meanwhile: impl AsyncFnOnce(Pid),
) -> (Option<i32>, String) {
    // A shell cannot trap a signal that was ignored when it started. SIGINT is ignored in
    // background processes of scripts.
    let with_default_signals = ["env", "--default-signal=INT,TERM", "sh"];
    let mut shell = job.shell(&with_default_signals, &format!("{called} run sh -c \"$SCRIPT\""));
    shell
        .env("SCRIPT", script)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = shell.spawn().unwrap();
    let id = Pid::from_child(&child);
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    meanwhile(id).await;
    let output = tokio::time::timeout(TIMEOUT, ended).await.expect("the end of otter.sh").unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_exits_as_its_command_does() {
    let job = CiJob::start().await;
    let prepare =
        [("OTTER_PREPARE", r#"{"snapshot": "installed/updated/kickstart", "power": "on"}"#)];
    let script =
        "echo \"$OTTER_MACHINE_ID $OTTER_MACHINE_NAME [$OTTER_MACHINE_IP] ${#OTTER_LEASE}\"";
    let (code, text) = with_otter_sh(&job, script, &prepare, async |_| {}).await;
    assert_eq!((code, text.as_str()), (Some(0), "16 qubes-4.2-sdw-staging [] 101\n"));
    job.assert_all_released().await;
    let (code, text) = with_otter_sh(&job, "exit 7", &[], async |_| {}).await;
    assert_eq!((code, text.as_str()), (Some(7), ""));
    job.assert_all_released().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_releases_the_machine_on_a_signal() {
    let job = CiJob::start().await;
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let ready = job.file("ready");
        // The child process of the command ends with it.
        let script = format!("sleep 600 & echo >{}; wait", ready.display());
        let (code, text) = with_otter_sh(&job, &script, &[], async |id| {
            eventually("the command to run", async || ready.exists()).await;
            kill_process(id, signal).unwrap();
        })
        .await;
        assert_eq!((code, text.as_str()), (Some(status), ""));
        std::fs::remove_file(&ready).unwrap();
        job.assert_all_released().await;
    }
}

/// The command runs before the shell has stored the process id of the command. The test extends
/// this period to half a second.
#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_ends_a_command_that_has_just_begun() {
    let job = CiJob::start().await;
    let ready = job.file("ready");
    let slowly = r#"exec bash --posix -c '
        trap "[ -z \"\${renewer:-}\" ] || [ -n \"\$command\" ] || sleep 0.5" DEBUG
        set -T
        . "$0"' deploy/ci/otter.sh"#;
    let script = format!("echo >{}; sleep 600", ready.display());
    let (code, text) = with_shell(&job, slowly, &script, &[], async |id| {
        eventually("the command to run", async || ready.exists()).await;
        kill_process(id, Signal::TERM).unwrap();
    })
    .await;
    assert_eq!(code, Some(143), "{text}");
    job.assert_all_released().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_renews_and_notices_a_loss() {
    let job = CiJob::start().await;
    let (go, ttl) = (job.file("go"), [("OTTER_TTL", "2s")]);
    let script = format!("while [ ! -e {} ]; do sleep 0.1; done", go.display());
    let (code, text) = with_otter_sh(&job, &script, &ttl, async |_| {
        let renewed = async || {
            let times =
                |lease: &Value, field: &str| lease[field].as_str()?.parse::<jiff::Timestamp>().ok();
            let held = |lease: &Value| {
                Some(
                    times(lease, "expires_at")?
                        .duration_since(times(lease, "active_at")?)
                        .as_secs(),
                )
            };
            job.open_leases().await.first().and_then(held).is_some_and(|seconds| seconds > 4)
        };
        eventually("the lease to be renewed beyond its duration", renewed).await;
        std::fs::write(&go, "").unwrap();
    })
    .await;
    assert_eq!((code, text.as_str()), (Some(0), ""));
    job.assert_all_released().await;

    let ready = job.file("ready");
    let (code, text) =
        with_otter_sh(&job, &format!("echo >{}; sleep 600", ready.display()), &ttl, async |_| {
            eventually("the command to run", async || ready.exists()).await;
            let id = job.open_leases().await[0]["id"].as_str().unwrap().to_owned();
            Answer::from_request(job.daemon.request(Method::DELETE, &format!("/v1/leases/{id}")))
                .await
                .expect(200);
        })
        .await;
    assert_eq!(
        (code, text.as_str()),
        (Some(74), "otter.sh: the lease is lost, so the command is ended\n")
    );
    job.assert_all_released().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_ends_its_command_if_otter_stays_away() {
    let job = CiJob::start().await;
    let (ready, got_signal) = (job.file("ready"), job.file("got_signal"));
    let script = format!(
        "trap 'echo >{}; exit' TERM; echo >{}; while :; do sleep 0.1; done",
        got_signal.display(),
        ready.display()
    );
    let (code, text) = with_otter_sh(&job, &script, &[("OTTER_TTL", "3s")], async |_| {
        eventually("the command to run", async || ready.exists()).await;
        job.daemon.suspend().await;
        eventually("the command to get the signal", async || got_signal.exists()).await;
        job.daemon.signal(Signal::CONT);
    })
    .await;
    let message = "otter.sh: the lease was not renewed in time, so the command is ended\n";
    // The shell of the command may print that its child was terminated.
    assert!(code == Some(74) && text.starts_with(message), "{code:?} {text}");
    job.assert_all_released().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_reports_why_otter_does_not_answer() {
    let job = CiJob::start().await;
    let unreachable = [("OTTER_URL", "http://127.0.0.1:1")];
    let (code, text) = with_otter_sh(&job, "echo never", &unreachable, async |_| {}).await;
    let message = "otter.sh: otter does not answer at http://127.0.0.1:1 (curl exits with 7)\n";
    assert_eq!((code, text.as_str()), (Some(69), message));

    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for name in ["otter", "other"] {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(path(&format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(path(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    let text = format!(
        "[http]\ntls_certificate = {:?}\ntls_key = {:?}\n",
        path("otter.pem"),
        path("otter.key")
    );
    std::fs::write(path("otter.toml"), text).unwrap();
    let daemon = Daemon::start(&["--simulate", "--config", &path("otter.toml")], &[]).await;
    let right = format!("https://localhost:{}", daemon.address().rsplit(':').next().unwrap());
    let plain = right.replace("https", "http");
    let (own, other, missing) = (path("otter.pem"), path("other.pem"), path("missing.pem"));
    for (url, certificate, code, message) in [
        (
            &right,
            &other,
            69,
            "is not trusted (curl exits with 60): name the file of its authority in CURL_CA",
        ),
        (&right, &missing, 69, "the file in CURL_CA_BUNDLE cannot be read (curl exits with 77)"),
        (&plain, &own, 69, "is not otter, or serves only https (HTTP status 400)"),
        (&right, &own, 0, "mine\n"),
    ] {
        let variables = [("OTTER_URL", url.as_str()), ("CURL_CA_BUNDLE", certificate)];
        let (exit, text) = with_otter_sh(&job, "echo mine", &variables, async |_| {}).await;
        assert!(exit == Some(code) && text.contains(message), "{exit:?} {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_reports_why_there_is_no_machine() {
    let job = CiJob::start().await;
    for (variables, status, message) in [
        ([("OTTER_SELECT", r#"{"name": "no-such-machine"}"#)], 76, "no-free-machine: "),
        ([("OTTER_SELECT", r#"{"pool": "qubse"}"#)], 76, "no pool"),
        ([("OTTER_SELECT", "qubes")], 64, "not JSON"),
        ([("OTTER_PREPARE", r#"{"snapshot": "none"}"#)], 64, "not-found: "),
        ([("OTTER_TTL", "9999999")], 64, "invalid-request: "),
        ([("OTTER_TTL", "soon")], 64, "OTTER_TTL is \"soon\", which is not a time: write seconds"),
        ([("OTTER_TTL", "10m5")], 64, "OTTER_TTL is \"10m5\""),
        ([("OTTER_QUEUE_FOR", "10min")], 64, "OTTER_QUEUE_FOR is \"10min\""),
        ([("OTTER_URL", "")], 64, "OTTER_URL is not set: "),
        ([("OTTER_SELECT", "")], 64, "OTTER_SELECT is not set: "),
    ] {
        let (code, text) = with_otter_sh(&job, "echo never", &variables, async |_| {}).await;
        assert!(
            code == Some(status) && text.contains(message) && !text.contains("never"),
            "{code:?} {text}"
        );
    }
    job.assert_all_released().await;
}

/// The name of a machine on the host cannot set another variable.
#[tokio::test]
async fn the_shell_example_prints_each_value_in_one_line() {
    let scenario = tempfile::NamedTempFile::new().unwrap();
    let lab = std::fs::read_to_string(repository().join("config/lab.toml")).unwrap();
    let odd = r#"name = "odd\nPATH=/nowhere\u001b[31m""#;
    let plain = r#"name = "qubes-4.3-nightly""#;
    assert!(lab.contains(plain));
    std::fs::write(scenario.path(), lab.replace(plain, odd)).unwrap();
    let arguments = ["--simulate", "--scenario", scenario.path().to_str().unwrap()];
    let job = CiJob::with_daemon(Daemon::start(&arguments, &[]).await);
    let free =
        async || job.daemon.get("/v1/machines/18/wait?until=free&wait=10s").await.status == 200;
    eventually("the inventory to be loaded", free).await;
    let shell = |verb: &str| {
        let mut shell = job.shell(&["sh"], &format!("exec deploy/ci/otter.sh {verb}"));
        shell.env("OTTER_SELECT", r#"{"machine": "18"}"#).env("OTTER_KEY", "odd");
        run_with_timeout(shell, TIMEOUT)
    };
    let taken = shell("take").await;
    let printed = String::from_utf8(taken.stdout).unwrap();
    assert!(taken.status.success(), "{printed}");
    let names: Vec<&str> =
        printed.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let expected = ["OTTER_LEASE", "OTTER_MACHINE_ID", "OTTER_MACHINE_NAME", "OTTER_MACHINE_IP"];
    assert_eq!(names, expected, "{printed}");
    let name = "OTTER_MACHINE_NAME=odd\u{fffd}PATH=/nowhere\u{fffd}[31m\n";
    assert!(printed.contains(name), "{printed:?}");
    assert!(shell("give-back").await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_gives_back_only_what_was_taken() {
    let job = CiJob::start().await;
    let run = |verb: &str, key: &str| {
        let mut shell = job.shell(&["sh"], &format!("exec deploy/ci/otter.sh {verb}"));
        shell.env("OTTER_KEY", key);
        run_with_timeout(shell, TIMEOUT)
    };
    for verb in ["take", "give-back"] {
        let nameless = run(verb, "").await;
        let text = String::from_utf8(nameless.stderr).unwrap();
        assert_eq!(nameless.status.code(), Some(64), "{text}");
        assert!(text.starts_with("otter.sh: OTTER_KEY is not set: write "), "{text}");
    }
    let vain = run("give-back", "7/1/test/0").await;
    let text = String::from_utf8(vain.stderr).unwrap();
    assert_eq!(vain.status.code(), Some(64), "{text}");
    assert!(text.contains("nothing was taken with the key 7/1/test/0"), "{text}");
    let leases = job.daemon.get("/v1/leases").await.expect(200);
    assert!(leases.items("id").is_empty(), "no lease was created: {}", leases.text);
    // Another CI job of the matrix has another key, so it takes another machine.
    assert!(run("take", "7/1/test/0").await.status.success());
    assert_eq!(run("give-back", "7/1/test/1").await.status.code(), Some(64));
    assert_eq!(job.open_leases().await.len(), 1);
    assert!(run("give-back", "7/1/test/0").await.status.success());
    job.assert_all_released().await;
    assert!(run("give-back", "7/1/test/0").await.status.success(), "a repetition succeeds");
    assert_eq!(job.daemon.get("/v1/leases").await.expect(200).items("id").len(), 1);
}

/// A CI job with a daemon that has three tokens: two of runners and one of an admin.
struct Guarded {
    job: CiJob,
    tokens: [String; 3],
    _state: TempDir,
}

impl Guarded {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().to_str().unwrap();
        let token = |options: &str| {
            let mut create = otter_command(&["token", "create", "--state-dir", state]);
            let output = create.args(options.split(' ')).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let tokens = [
            token("--name ci --role runner --max-leases 1"),
            token("--name other --role runner"),
            token("--name root --role admin"),
        ];
        let daemon = Daemon::start(&["--simulate", "--state-dir", state], &[]).await;
        eventually("the inventory to be loaded", async || {
            daemon.get("/readyz").await.status == 200
        })
        .await;
        Self { job: CiJob::with_daemon(daemon), tokens, _state: directory }
    }

    async fn call(&self, method: Method, token: usize, path: &str, body: Option<Value>) -> Answer {
        let request = self.job.daemon.request(method, path).bearer_auth(&self.tokens[token]);
        Answer::from_request(body.iter().fold(request, reqwest::RequestBuilder::json)).await
    }

    /// The states of the leases of a holder, newest first.
    async fn states(&self, holder: &str) -> Vec<String> {
        let path = format!("/v1/leases?holder={}", encode(holder));
        let leases = self.call(Method::GET, 2, &path, None).await.expect(200);
        let states = leases.json["items"].as_array().unwrap().iter();
        states.map(|lease| lease["state"].as_str().unwrap().to_owned()).collect()
    }

    async fn otter_sh(&self, verb: &str, token: usize) -> (Option<i32>, String) {
        let mut shell = self.job.shell(&["sh"], &format!("exec deploy/ci/otter.sh {verb}"));
        shell.env("OTTER_KEY", "7/1").env("OTTER_TOKEN", &self.tokens[token]);
        let output = run_with_timeout(shell, TIMEOUT).await;
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_gives_back_its_own_lease_if_others_use_the_same_holder() {
    let guarded = Guarded::start().await;
    let holder = "otter.sh 7/1";
    let foreign = json!({"select": {"name": "4.3-nightly"}, "ttl": "10m", "holder": holder});
    let foreign = guarded.call(Method::POST, 1, "/v1/leases", Some(foreign)).await.expect(201).json;
    let id = foreign["id"].as_str().unwrap();
    let (code, text) = guarded.otter_sh("give-back", 0).await;
    assert_eq!(code, Some(64), "{text}");
    assert!(
        text.contains(&format!("the lease {id} was taken by other, and this token is ci")),
        "{text}"
    );
    assert_eq!(
        guarded.states(holder).await,
        ["active"],
        "nothing was taken, and nothing given back"
    );

    let (code, text) = guarded.otter_sh("take", 0).await;
    assert_eq!(code, Some(0), "{text}");
    let mut newer = json!({"select": {"name": "4.3-nightly"}, "ttl": "10m"});
    newer["holder"] = json!(holder);
    newer["queue_for"] = json!("10m");
    let newer = guarded.call(Method::POST, 1, "/v1/leases", Some(newer)).await.expect(202).json;
    // A newer ended lease of another token does not hide the lease of this token.
    let path = format!("/v1/leases/{}?reason=test", newer["id"].as_str().unwrap());
    guarded.call(Method::DELETE, 2, &path, None).await.expect(200);
    let (code, text) = guarded.otter_sh("give-back", 0).await;
    assert_eq!((code, text.as_str()), (Some(0), ""));
    let states = guarded.states(holder).await;
    assert!(states[2] == "active" && states[1].starts_with("releas"), "{states:?}");
    assert_eq!(
        guarded.otter_sh("give-back", 0).await,
        (Some(0), String::new()),
        "a repetition succeeds"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_waits_while_a_limit_of_its_token_is_reached() {
    let guarded = Guarded::start().await;
    let first =
        json!({"select": {"name": "4.3-nightly"}, "ttl": "10m", "release": {"power": "off"}});
    let first = guarded.call(Method::POST, 0, "/v1/leases", Some(first)).await.expect(201).json;
    let job = &guarded.job;
    let token = ("OTTER_TOKEN", guarded.tokens[0].as_str());
    let refused = async || {
        let metrics = job.daemon.request(Method::GET, "/metrics").bearer_auth(&guarded.tokens[2]);
        let metrics = metrics.send().await.unwrap().text().await.unwrap();
        metrics.lines().any(|line| line.contains("operation=\"POST /v1/leases\",status=\"4xx\""))
    };
    let (code, text) = with_otter_sh(job, "echo mine", &[token], async |_| {
        eventually("the request to be refused", refused).await;
        let path = format!("/v1/leases/{}?reason=test", first["id"].as_str().unwrap());
        guarded.call(Method::DELETE, 2, &path, None).await.expect(200);
    })
    .await;
    assert_eq!((code, text.as_str()), (Some(0), "mine\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_of_otter_run_is_in_the_foreground_of_its_terminal() {
    let job = CiJob::start().await;
    let url = format!("http://{}", job.daemon.address());
    let mut script = script(PYVMOMI_9, "terminal.py", &[env!("CARGO_BIN_EXE_otter"), &url]);
    isolate(&mut script);
    succeeds(script).await;
    job.assert_all_released().await;
}

/// Reads a YAML file as JSON.
async fn yaml(name: &str) -> Value {
    let python = Path::new(&program_in("OTTER_SCHEMATHESIS")).with_file_name("python");
    let mut read = Command::new(python);
    read.args([
        "-c",
        "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout, \
         default=str)",
    ]);
    read.arg(repository().join("deploy/ci").join(name));
    serde_json::from_slice(&succeeds(read).await.stdout).unwrap()
}

/// The variables that the CI sets for its job, except those that the test sets.
fn variables(of: &Value) -> Vec<(String, String)> {
    let all = of.as_object().unwrap().iter();
    let ours = ["OTTER_URL", "OTTER_SELECT", "OTTER_TOKEN"];
    all.filter(|(name, _)| !ours.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_for_github_actions_give_the_machine_back_in_every_case() {
    let workflow = yaml("github-actions.yml").await;
    let of = &workflow["jobs"]["test"];
    let steps = of["steps"].as_array().unwrap();
    let step = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap();
    assert_eq!(step("give the machine back")["if"], "always()");
    // The key contains the values that differ between runs, attempts, CI jobs and the CI jobs of a
    // matrix.
    let key = of["env"]["OTTER_KEY"].as_str().unwrap();
    for part in ["github.run_id", "github.run_attempt", "github.job", "strategy.job-index"] {
        assert!(key.contains(&format!("${{{{ {part} }}}}")), "{part} in {key}");
    }
    let job = CiJob::start().await;
    let run = |name: &str, environment: &Path| {
        let mut shell = job.shell(
            &["bash", "--noprofile", "--norc", "-eo", "pipefail"],
            step(name)["run"].as_str().unwrap(),
        );
        shell.envs(variables(&of["env"])).env("GITHUB_ENV", environment);
        let set = std::fs::read_to_string(environment).unwrap_or_default();
        shell.envs(set.lines().map(|line| line.split_once('=').unwrap()));
        shell
    };
    std::fs::write(job.file("test.sh"), "#!/bin/sh\necho \"$OTTER_MACHINE_NAME\"\n").unwrap();
    succeeds(job.shell(&["sh"], "chmod +x test.sh")).await;
    let environment = job.file("environment");
    let taken =
        String::from_utf8(succeeds(run("take a machine", &environment)).await.stdout).unwrap();
    let set = std::fs::read_to_string(&environment).unwrap();
    let secret = set.lines().find_map(|line| line.strip_prefix("OTTER_LEASE=")).unwrap();
    assert_eq!(taken, format!("::add-mask::{secret}\n"), "masked before anything is printed");
    let tested = succeeds(run("test", &environment)).await.stdout;
    assert_eq!(tested, b"qubes-4.2-sdw-staging\n");
    assert_eq!(job.open_leases().await.len(), 1);
    job.wait_for_picture().await;
    succeeds(run("give the machine back", &environment)).await;
    job.assert_all_released().await;
    // A repetition does nothing.
    succeeds(run("give the machine back", &environment)).await;

    // After a failure, the CI keeps what otter recorded.
    assert_eq!(step("fetch the recording")["if"], "failure()");
    let keep = step("keep the recording");
    assert_eq!((&keep["if"], &keep["with"]["path"]), (&json!("failure()"), &json!(ARTIFACTS)));
    let summary = job.file("summary");
    let mut fetch = run("fetch the recording", &environment);
    fetch.env("GITHUB_STEP_SUMMARY", &summary);
    succeeds(fetch).await;
    job.assert_has_recording();
    let summary = std::fs::read_to_string(summary).unwrap();
    let page = format!("artifacts: http://{}/v1/artifacts?lease=", job.daemon.address());
    assert!(summary.starts_with(&page), "{summary}");

    // The CI job is cancelled while it takes the machine, so that only the key is known.
    let other = |name: &str| {
        let mut shell = run(name, Path::new("/nonexistent/environment"));
        shell.env("OTTER_KEY", "another run");
        shell
    };
    let cut_off = run_with_timeout(other("take a machine"), TIMEOUT).await;
    assert!(!cut_off.status.success());
    assert_eq!(job.open_leases().await.len(), 1);
    succeeds(other("give the machine back")).await;
    job.assert_all_released().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_for_gitlab_gives_the_machine_back_in_every_case() {
    let pipeline = yaml("gitlab-ci.yml").await;
    let of = &pipeline["test on a lab machine"];
    let lines = |what: &str| {
        let all = of[what].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
        all.collect::<Vec<_>>().join("\n")
    };
    let job = CiJob::start().await;
    let run = |what: &str| {
        let mut shell = job.shell(&["bash", "-eo", "pipefail"], &lines(what));
        shell.envs(variables(&of["variables"]));
        shell
    };
    // after_script also runs after a failed test.
    std::fs::write(job.file("test.sh"), "#!/bin/sh\necho \"$OTTER_MACHINE_NAME\"; exit 7\n")
        .unwrap();
    succeeds(job.shell(&["sh"], "chmod +x test.sh")).await;
    let ended = run_with_timeout(run("script"), TIMEOUT).await;
    assert_eq!(
        (ended.status.code(), ended.stdout.as_slice()),
        (Some(7), &b"qubes-4.2-sdw-staging\n"[..])
    );
    assert_eq!(job.open_leases().await.len(), 1);
    job.wait_for_picture().await;
    let mut after = run("after_script");
    after.env("CI_JOB_STATUS", "failed");
    let log = String::from_utf8(succeeds(after).await.stdout).unwrap();
    job.assert_all_released().await;
    job.assert_has_recording();
    assert!(log.contains("/v1/artifacts?lease="), "{log}");
    assert_eq!(of["artifacts"], json!({"when": "on_failure", "paths": [ARTIFACTS]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_example_stores_what_otter_recorded() {
    let job = CiJob::start().await;
    let go = job.file("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.1; done; exit 7", go.display());
    let record = [
        ("OTTER_RECORD", r#"{"screen": true}"#),
        ("OTTER_PREPARE", r#"{"power": "on"}"#),
        ("OTTER_ARTIFACTS", ARTIFACTS),
    ];
    let (code, text) = with_otter_sh(&job, &script, &record, async |_| {
        job.wait_for_picture().await;
        std::fs::write(&go, "").unwrap();
    })
    .await;
    assert_eq!(code, Some(7), "{text}");
    assert!(text.contains("/v1/artifacts?lease="), "{text}");
    job.assert_has_recording();
    job.assert_all_released().await;
}
