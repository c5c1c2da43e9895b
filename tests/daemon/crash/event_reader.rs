//! The reader of a worker's events: hangs up now and then and resumes, within a life without a gap,
//! across lives with a `reset` and nothing else.

use std::collections::BTreeSet;

use serde_json::Value;

use super::load_client::LoadClient;

/// After so many events it hangs up.
const EVENTS_PER_CONNECTION: usize = 40;

pub struct EventReader {
    client: LoadClient,
    /// Where it was last.
    pub last: Option<String>,
    /// Jobs whose end it was told in this life.
    pub ended: BTreeSet<String>,
    open: Option<reqwest::Response>,
    /// Nothing was told in this life yet: what it resumes is another's.
    is_new_run: bool,
}

impl EventReader {
    /// Connects, and resumes where another reader was last.
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

    /// Reads one answer. False where it told nothing.
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
                    let life = if self.is_new_run { "another life" } else { "this life" };
                    self.add_violation(format!(
                        "resuming a stream of {life} began with {}",
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
            self.add_violation(format!("the stream took the end of the job {id} back"));
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
