//! `otter simulate` in a process of its own: a host that outlives the daemons that a test kills.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{TIMEOUT, otter_command};

/// A simulated host in its own process. Dropping it ends the process.
pub struct HostProcess {
    child: Child,
    pub url: String,
    /// The value of `esx.verify` that pins the certificate.
    pub verify: String,
    admin: String,
    client: reqwest::Client,
}

/// The numbers of objects on the host that a client creates and may leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostObjects {
    pub sessions: u64,
    pub views: u64,
    pub filters: u64,
}

impl HostProcess {
    /// Starts the simulator on free ports with these arguments.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut command =
            otter_command(&["simulate", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let mut child =
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let lines = tokio::task::spawn_blocking(move || {
            BufReader::new(stdout).lines().take(4).map(Result::unwrap).collect::<Vec<_>>()
        });
        let lines = tokio::time::timeout(TIMEOUT, lines).await.expect("the host to start").unwrap();
        let word = |line: &str| {
            let line = lines.iter().find(|candidate| candidate.contains(line));
            line.and_then(|line| line.split_whitespace().last())
                .expect("a host that prints its address")
                .to_owned()
        };
        let url = word("listens on").trim_end_matches("/sdk").to_owned();
        Self {
            child,
            url,
            verify: word("fingerprint"),
            admin: word("admin"),
            client: super::client(),
        }
    }

    /// The command `otter serve` for this host on a free port, with this configuration file and
    /// this state directory.
    pub fn serve(&self, config: &Path, state: &Path) -> Command {
        let mut command =
            otter_command(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        command
            .args([
                "--config".as_ref(),
                config.as_os_str(),
                "--state-dir".as_ref(),
                state.as_os_str(),
            ])
            .env("OTTER_ESX_URL", &self.url)
            .env("OTTER_ESX_VERIFY", &self.verify)
            .env("OTTER_ESX_USERNAME", "root")
            .env("OTTER_ESX_PASSWORD", "otter");
        command
    }

    /// The recorded calls of the host.
    pub async fn calls(&self) -> Value {
        self.get_admin("/calls").await
    }

    /// The objects of all sessions.
    pub async fn objects(&self) -> HostObjects {
        let counts = self.get_admin("/sessions").await;
        let count = |what: &str| counts[what].as_u64().unwrap();
        HostObjects {
            sessions: count("sessions"),
            views: count("views"),
            filters: count("filters"),
        }
    }

    /// The true state of machines and tasks.
    pub async fn world(&self) -> Value {
        self.get_admin("/world").await
    }

    /// Sends a command to the admin endpoint, such as a fault to inject.
    pub async fn post_admin(&self, path: &str, body: &Value) {
        let answer =
            self.client.post(format!("{}{path}", self.admin)).json(body).send().await.unwrap();
        assert_eq!(
            answer.status().as_u16(),
            200,
            "{path} {body}: {}",
            answer.text().await.unwrap()
        );
    }

    /// Removes all injected faults.
    pub async fn clear_faults(&self) {
        let answer = self.client.delete(format!("{}/faults", self.admin)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
    }

    async fn get_admin(&self, path: &str) -> Value {
        let answer = self
            .client
            .get(format!("{}{path}", self.admin))
            .send()
            .await
            .expect("an answer of the host");
        answer.json().await.expect("an answer of the host in JSON")
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
