//! The reader of a lane's events: hangs up now and then and resumes, within a life without a gap,
//! across lives with a `reset` and nothing else.

use std::collections::BTreeSet;

use serde_json::Value;

use super::load::Caller;

/// After so many events it hangs up.
const ENOUGH: usize = 40;

pub struct Reader {
    caller: Caller,
    /// Where it was last.
    pub last: Option<String>,
    /// Jobs whose end it was told in this life.
    pub ended: BTreeSet<String>,
    open: Option<reqwest::Response>,
    /// Nothing was told in this life yet: what it resumes is another's.
    fresh: bool,
}

impl Reader {
    /// Connects, and resumes where another reader was last.
    pub async fn open(caller: Caller, last: Option<String>) -> Self {
        let open = caller.events(last.as_deref()).await;
        Self { caller, last, ended: BTreeSet::new(), open, fresh: true }
    }

    /// Reads until the daemon is gone.
    pub async fn run(mut self) -> Self {
        while let Some(response) = self.open.take() {
            if !self.read(response).await && self.last.is_none() {
                break;
            }
            self.open = self.caller.events(self.last.as_deref()).await;
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
                    self.moved_to(id);
                }
                let Some(event) = field("data: ") else { continue };
                let event: Value = serde_json::from_str(event).unwrap();
                if count == 0 && resumed && (event["type"] == "reset") != self.fresh {
                    let life = if self.fresh { "another life" } else { "this life" };
                    self.wrong(format!("resuming a stream of {life} began with {}", event["type"]));
                }
                count += 1;
                self.fresh = false;
                if event["type"] == "job.changed" {
                    self.told(&event["object"]);
                }
            }
            if count > ENOUGH {
                break;
            }
        }
        count > 0
    }

    fn told(&mut self, job: &Value) {
        let Some(id) = job["id"].as_str() else { return };
        if !job["finished_at"].is_null() {
            self.caller.ledger.shown(self.caller.ledger.ask(), job);
            self.ended.insert(id.to_owned());
        } else if self.ended.contains(id) {
            self.wrong(format!("the stream took the end of the job {id} back"));
        }
    }

    fn moved_to(&mut self, id: &str) {
        let parts = |text: &str| {
            let (epoch, number) = text.split_once('-').unwrap();
            (epoch.to_owned(), number.parse::<u64>().unwrap())
        };
        if let Some(last) = &self.last {
            let ((epoch, number), (other, before)) = (parts(id), parts(last));
            if epoch == other && number < before {
                self.wrong(format!("the stream went back from {last} to {id}"));
            }
        }
        self.last = Some(id.to_owned());
    }

    fn wrong(&self, what: String) {
        self.caller.ledger.wrong(what);
    }
}
