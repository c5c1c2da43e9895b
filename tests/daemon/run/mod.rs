//! `otter run` with a daemon: each way in which it can end. After each of them the machine is free
//! and no lease is open.

mod artifacts;
mod connections;
mod exits;
mod faulty_proxy;
mod kept;
mod losses;
mod no_machine;
mod retry_after;
mod terminal;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{Daemon, TIMEOUT, eventually, otter_command};

/// The only machine of the pool `one`. It is off and free at the start.
const MACHINE: &str = "16";
const NAME: &str = "qubes-4.2-sdw-staging";

/// A script that prints `ready` and runs until a signal ends it.
const RUN_UNTIL_SIGNAL: &str = "echo ready; exec sleep 600";
/// A script that prints `ready` and succeeds when the file of [`RunFixture::create_go_file`]
/// exists.
const RUN_UNTIL_GO_FILE: &str = "echo ready; while [ ! -e \"$GO\" ]; do sleep 0.02; done";

/// A daemon with a simulated host, and a directory for files.
struct RunFixture {
    daemon: Daemon,
    files: TempDir,
}

impl RunFixture {
    async fn start() -> Self {
        Self::with_arguments(&[]).await
    }

    /// Starts the daemon with these arguments.
    async fn with_arguments(arguments: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let config = files.path().join("otter.toml");
        std::fs::write(&config, format!("[pools.one]\nmachines = [\"{NAME}\"]\n")).unwrap();
        let daemon = Self::start_daemon("127.0.0.1:0", files.path(), arguments).await;
        Self { daemon, files }
    }

    async fn start_daemon(listen: &str, files: &Path, arguments: &[&str]) -> Daemon {
        let config = files.join("otter.toml");
        let fixed = ["--simulate", "--config", config.to_str().unwrap()];
        let daemon = Daemon::start_at(listen, &[&fixed, arguments].concat(), &[]).await;
        let ready = async || matches!(daemon.request(reqwest::Method::GET, "/readyz").send().await, Ok(it) if it.status() == 200);
        eventually("the inventory to be loaded", ready).await;
        daemon
    }

    fn url(&self) -> String {
        format!("http://{}", self.daemon.address())
    }

    /// The path of a file in the directory of the fixture.
    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Creates the file that [`RUN_UNTIL_GO_FILE`] waits for.
    fn create_go_file(&self) {
        std::fs::write(self.path("go"), "").unwrap();
    }

    /// Starts `otter run` for the pool `one` with a shell script.
    fn run(&self, options: &str, script: &str) -> RunProcess {
        self.run_at(&self.url(), options, &["sh", "-c", script], &[])
    }

    /// Starts `otter run` with this address of otter, these options, command and variables.
    fn run_at(
        &self,
        url: &str,
        options: &str,
        command: &[&str],
        variables: &[(&str, &str)],
    ) -> RunProcess {
        let mut run = otter_command(&["run", "--url", url]);
        run.args(options.split_whitespace());
        if !["--pool", "--machine", "--name"].iter().any(|select| options.contains(select)) {
            run.args(["--pool", "one"]);
        }
        run.arg("--").args(command).env("GO", self.path("go")).envs(variables.iter().copied());
        RunProcess::start(run)
    }

    /// The leases in these states.
    async fn leases(&self, states: &str) -> Vec<Value> {
        let answer = self.daemon.get(&format!("/v1/leases?state={states}")).await.expect(200);
        answer.json["items"].as_array().unwrap().clone()
    }

    /// The only lease that is queued, preparing or active.
    async fn open_lease(&self) -> Value {
        let mut leases = self.leases("queued,preparing,active").await;
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases.remove(0)
    }

    /// Waits until the machine is free, and asserts that no lease is open.
    async fn assert_all_released(&self) {
        self.daemon
            .get(&format!("/v1/machines/{MACHINE}/wait?until=free&wait=10s"))
            .await
            .expect(200);
        assert_eq!(self.leases("queued,preparing,active,releasing").await, Vec::<Value>::new());
    }
}

/// A running `otter run`.
struct RunProcess {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: JoinHandle<String>,
}

/// The exit code and the output of an `otter run`.
#[derive(Debug)]
struct RunResult {
    code: Option<i32>,
    stdout: Vec<String>,
    stderr: String,
}

impl RunProcess {
    fn start(mut command: std::process::Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = child.stderr.take().unwrap();
        let stderr = tokio::spawn(async move {
            let mut text = String::new();
            stderr.read_to_string(&mut text).await.unwrap();
            text
        });
        Self { child, stdout, stderr }
    }

    /// The next line of the standard output, which is the command's.
    async fn line(&mut self) -> String {
        let line = timeout(TIMEOUT, self.stdout.next_line()).await.expect("a line").unwrap();
        line.expect("a line before the end of the output")
    }

    /// Asserts that the next line is this one.
    async fn expect_line(&mut self, line: &str) {
        assert_eq!(self.line().await, line);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("a running process");
        kill_process(Pid::from_raw(id.cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits until the process ends.
    async fn wait(mut self) -> RunResult {
        let status =
            timeout(TIMEOUT, self.child.wait()).await.expect("the end of the process").unwrap();
        let mut stdout = Vec::new();
        while let Some(line) =
            timeout(TIMEOUT, self.stdout.next_line()).await.expect("an end").unwrap()
        {
            stdout.push(line);
        }
        let stderr = timeout(TIMEOUT, self.stderr).await.expect("an end").unwrap();
        RunResult { code: status.code(), stdout, stderr }
    }
}

impl RunResult {
    /// Asserts the exit code and that the standard error contains the message and no secret.
    #[track_caller]
    fn assert_exit(&self, code: i32, message: &str) {
        assert!(self.code == Some(code) && self.stderr.contains(message), "{self:?}");
        // Tokens and lease secrets contain 64 hexadecimal digits in a row. No other output does.
        let digits =
            |part: &str| part.len() >= 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let secret = |word: &str| word.split(['.', '_']).any(digits);
        assert!(!self.stderr.split_whitespace().any(secret), "a secret: {self:?}");
    }
}
