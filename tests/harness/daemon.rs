//! The otter binary in a process of its own, so that tests can signal and kill it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Answer, TIMEOUT, eventually};

/// A running `otter serve`. Dropping it kills the process.
pub struct Daemon {
    child: Child,
    address: String,
    client: reqwest::Client,
}

impl Daemon {
    /// Starts `otter serve` on a free port with these arguments and environment variables, and
    /// waits until it listens.
    pub async fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_at("127.0.0.1:0", arguments, variables).await
    }

    /// Starts `otter serve` like [`Daemon::start`], but on this address.
    pub async fn start_at(listen: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = otter_command(&["serve", "--listen", listen]);
        command.args(arguments).envs(variables.iter().copied());
        Self::try_start(command).await.expect("a daemon that says where it listens")
    }

    /// Starts `otter serve` like [`Daemon::start`], and writes the log as JSON into this file.
    pub async fn start_with_log(
        log: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = otter_command(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(arguments).envs(variables.iter().copied());
        command.stderr(std::fs::File::create(log).unwrap());
        Self::try_start(command).await.expect("a daemon that says where it listens")
    }

    /// Runs a command that starts the daemon. `None` if the command ends before it prints the
    /// address.
    pub async fn try_start(mut command: Command) -> Option<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let first_line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            line
        });
        let line =
            tokio::time::timeout(TIMEOUT, first_line).await.expect("the daemon to start").unwrap();
        let address = line.split_whitespace().find_map(|word| {
            word.strip_prefix("http://").or_else(|| word.strip_prefix("https://"))
        });
        let Some(address) = address else {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        };
        let address = address.trim_end_matches('.').to_owned();
        Some(Self { child, address, client: super::client() })
    }

    /// Starts the daemon with this simulated host and this state directory, and waits until the
    /// inventory is loaded.
    pub async fn start_for_host(host: &otter::simulator::Simulator, state: &Path) -> Self {
        Self::start_with_config(host, state, "").await
    }

    /// Starts the daemon like [`Daemon::start_for_host`], with extra lines in the configuration
    /// file.
    pub async fn start_with_config(
        host: &otter::simulator::Simulator,
        state: &Path,
        extra: &str,
    ) -> Self {
        let daemon = Self::start_without_waiting(host, state, extra).await;
        eventually("the inventory to be loaded", async || {
            daemon.get("/readyz").await.status == 200
        })
        .await;
        daemon
    }

    /// Starts the daemon like [`Daemon::start_with_config`], without waiting for the inventory.
    pub async fn start_without_waiting(
        host: &otter::simulator::Simulator,
        state: &Path,
        extra: &str,
    ) -> Self {
        Self::start_with_variables(host, state, extra, &[]).await
    }

    /// Starts the daemon like [`Daemon::start_without_waiting`], with more environment variables.
    pub async fn start_with_variables(
        host: &otter::simulator::Simulator,
        state: &Path,
        extra: &str,
        more: &[(&str, &str)],
    ) -> Self {
        let config = state.with_extension("toml");
        std::fs::write(&config, format!("[esx]\nsettle = \"1s\"\nread_timeout = \"2s\"\n{extra}"))
            .unwrap();
        let verify = format!("sha256:{}", host.fingerprint());
        let (config, state) = (config.to_str().unwrap(), state.to_str().unwrap());
        let url = host.url();
        let variables = [
            ("OTTER_ESX_URL", url.as_str()),
            ("OTTER_ESX_USERNAME", "root"),
            ("OTTER_ESX_PASSWORD", "otter"),
            ("OTTER_ESX_VERIFY", verify.as_str()),
        ];
        let variables = [&variables[..], more].concat();
        Self::start(&["--config", config, "--state-dir", state], &variables).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::from_request(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::from_request(self.request(Method::POST, path).json(&body)).await
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    /// Kills the daemon with `SIGKILL` and returns its status.
    pub fn kill(mut self) -> ExitStatus {
        self.child.kill().unwrap();
        self.child.wait().unwrap()
    }

    /// The address and port that the daemon listens on.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The resident memory of the daemon in bytes.
    pub fn resident_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))
            .unwrap();
        kilobytes.trim().parse::<u64>().unwrap() * 1024
    }

    /// The number of open files and sockets of the daemon.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// The value of a metric without labels, such as `otter_waits_open`.
    pub async fn metric(&self, name: &str) -> u64 {
        let metrics =
            self.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let figure = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        figure.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the daemon with SIGSTOP, and waits until all its threads have stopped. It continues at
    /// SIGCONT.
    pub async fn suspend(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.pid().as_raw_pid());
        let stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            // A thread without a status has ended.
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
            stat.map_or(true, |stat| {
                stat.rsplit_once(')').is_some_and(|(_, after)| after.starts_with(" T"))
            })
        };
        eventually("the daemon to be stopped", async || {
            std::fs::read_dir(&threads).unwrap().all(stopped)
        })
        .await;
    }

    /// The process id of the daemon.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends `SIGTERM`, waits for the end, and returns the exit status.
    pub async fn terminate(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_exit().await
    }

    /// Waits until the daemon ends, and returns the exit status.
    pub async fn wait_for_exit(mut self) -> ExitStatus {
        let mut status = None;
        eventually("the daemon to stop", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The test may have ended the process already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that runs the otter binary with these arguments, without the `OTTER_` variables and
/// the proxies of the test process.
pub fn otter_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_otter"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("OTTER_") || text.to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(&name);
        }
    }
    command
}

/// The lines of a JSON log that have this message.
pub fn log_lines(log: &Path, message: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

/// Runs a command until it ends. Returns its exit code, and its standard output and error.
pub async fn run_to_exit(command: Command) -> (Option<i32>, String) {
    let output = run_with_timeout(command, TIMEOUT).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Runs a command until it ends. Panics if it takes longer than `limit`.
pub async fn run_with_timeout(mut command: Command, limit: Duration) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let process = Pid::from_child(&child);
    let mut run = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let Ok(output) = tokio::time::timeout(limit, &mut run).await else {
        kill_process(process, Signal::KILL).unwrap();
        panic!("{command:?} did not end within {limit:?}: {:?}", run.await.unwrap());
    };
    output.unwrap()
}
