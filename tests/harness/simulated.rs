//! `otter simulate` as a process of its own, with a hand on it by its admin endpoint.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::{PATIENCE, otter};

/// A simulated host that runs; gone when this is dropped.
pub struct Simulated {
    child: Child,
    pub url: String,
    /// `sha256:…`
    pub fingerprint: String,
    admin: String,
    client: reqwest::Client,
}

/// What its sessions hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub sessions: u64,
    pub views: u64,
    pub filters: u64,
}

impl Simulated {
    /// A host of this many machines.
    pub async fn start(machines: usize) -> Self {
        let machines = machines.to_string();
        let arguments = ["simulate", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--machines"];
        let mut command = otter(&[&arguments[..], &[&machines]].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let said = tokio::task::spawn_blocking(move || {
            let mut after = |words: &str| {
                lines
                    .find_map(|line| line.trim().strip_prefix(words).map(|rest| rest.trim().to_owned()))
                    .unwrap()
            };
            [after("A simulated ESX listens on"), after("fingerprint"), after("admin")]
        });
        let [url, fingerprint, admin] =
            tokio::time::timeout(PATIENCE, said).await.expect("the simulator to start").unwrap();
        Self { child, url, fingerprint, admin, client: super::client() }
    }

    /// Lets something happen to the host.
    pub async fn happen(&self, what: &str) {
        let order = self.client.post(format!("{}/{what}", self.admin)).json(&json!({}));
        assert_eq!(order.send().await.unwrap().status().as_u16(), 200, "{what}");
    }

    pub async fn held(&self) -> Held {
        let told: Value =
            self.client.get(format!("{}/sessions", self.admin)).send().await.unwrap().json().await.unwrap();
        let count = |what: &str| told[what].as_u64().unwrap();
        Held { sessions: count("sessions"), views: count("views"), filters: count("filters") }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        // Already gone where it ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
