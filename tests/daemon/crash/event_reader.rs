//! The event reader of a worker. It closes its connection from time to time and resumes. Within one
//! run of the daemon it must resume without a gap. After a new start of the daemon the stream must
//! begin with a `reset`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::load_client::LoadClient;

/// The number of events after which the reader closes the connection.
const EVENTS_PER_CONNECTION: usize = 40;

pub struct EventReader {
    client: LoadClient,
    /// The id of the last event.
    pub last: Option<String>,
    /// The jobs whose end was reported in this run of the daemon.
    pub ended: BTreeSet<String>,
    open: Option<reqwest::Response>,
    /// Whether no event has come in this run of the daemon, so that `last` is from an earlier run.
    is_new_run: bool,
}

impl EventReader {
    /// Connects, and resumes after the last event of another reader.
    pub async fn open(client: LoadClient, last: Option<String>) -> Self {
        let open = client.events(last.as_deref()).await;
        Self { client, last, ended: BTreeSet::new(), open, is_new_run: true }
    }

    /// Reads until the daemon is gone.
    pub async fn run(mut self) -> Self {
        while let Some(response) = self.open.take() {
            if !self.read(response).await && self.last.is_none() {
                break;
            }
            self.open = self.client.events(self.last.as_deref()).await;
        }
        self
    }

    /// Reads one answer. Returns false if it had no event.
    async fn read(&mut self, mut response: reqwest::Response) -> bool {
        let (resumed, mut count, mut buffer) = (self.last.is_some(), 0, Vec::new());
        while let Ok(Some(piece)) = response.chunk().await {
            buffer.extend_from_slice(&piece);
            while let Some(end) = buffer.windows(2).position(|bytes| bytes == b"\n\n") {
                let block = String::from_utf8(buffer.drain(..end + 2).collect()).unwrap();
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                if let Some(id) = field("id: ") {
                    self.advance_to(id);
                }
                let Some(event) = field("data: ") else { continue };
                let event: Value = serde_json::from_str(event).unwrap();
                if count == 0 && resumed && (event["type"] == "reset") != self.is_new_run {
                    let run = if self.is_new_run { "an earlier run" } else { "this run" };
                    self.add_violation(format!(
                        "resuming a stream of {run} began with {}",
                        event["type"]
                    ));
                }
                count += 1;
                self.is_new_run = false;
                if event["type"] == "job.changed" {
                    self.handle_job(&event["object"]);
                }
            }
            if count > EVENTS_PER_CONNECTION {
                break;
            }
        }
        count > 0
    }

    fn handle_job(&mut self, job: &Value) {
        let Some(id) = job["id"].as_str() else { return };
        if !job["finished_at"].is_null() {
            self.client.call_log.check_job(self.client.call_log.note_request(), job);
            self.ended.insert(id.to_owned());
        } else if self.ended.contains(id) {
            self.add_violation(format!(
                "the stream reported the job {id} as unfinished after its \
                end"
            ));
        }
    }

    fn advance_to(&mut self, id: &str) {
        let parts = |text: &str| {
            let (epoch, number) = text.split_once('-').unwrap();
            (epoch.to_owned(), number.parse::<u64>().unwrap())
        };
        if let Some(last) = &self.last {
            let ((epoch, number), (other, before)) = (parts(id), parts(last));
            if epoch == other && number < before {
                self.add_violation(format!("the stream went back from {last} to {id}"));
            }
        }
        self.last = Some(id.to_owned());
    }

    fn add_violation(&self, what: String) {
        self.client.call_log.add_violation(what);
    }
}
