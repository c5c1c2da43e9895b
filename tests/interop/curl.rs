//! The exit codes of the real curl: with `?wait=` it is 0 if and only if the thing was done, and
//! `--retry` does nothing twice.

use std::process::Command;
use std::time::Duration;

use futures_util::FutureExt;
use otter::simulator::{DownMode, HostdRestart, Pace};

use super::PATIENCE;
use crate::harness::{Lab, Plan, eventually, output};

/// A call by curl, what it exits with, and what there is of jobs then.
struct Row {
    what: &'static str,
    scene: Scene,
    /// Goes after `curl -s --fail-with-body`. `{job}` is a job that was started before and powers machine 32 on.
    call: &'static str,
    exit: i32,
    /// The states of all jobs, newest first; [`GOES_ON`] of one that has not ended.
    jobs: &'static [&'static str],
}

/// What the host does.
#[derive(Clone, Copy, PartialEq)]
enum Scene {
    /// Its tasks succeed in no time.
    Quick,
    /// Its licence lets nothing be changed.
    ReadOnly,
    /// Its tasks never end.
    Slow,
    /// Its task ends once curl was answered with a 5xx.
    SlowAtFirst,
    /// It is gone, for longer than new jobs are taken on trust.
    Away,
    /// The same, until curl was answered with a 5xx.
    AwayAtFirst,
}

const GOES_ON: &str = "goes on";
const DONE: i32 = 0;
/// curl's `CURLE_HTTP_RETURNED_ERROR`.
const REFUSED: i32 = 22;

/// Machine 32 is off at the start, machine 31 on.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { what: "it is done", scene: Scene::Quick, exit: DONE, jobs: &["succeeded"],
        call: r#"/v1/machines/32/power?wait=30s --json {"action":"on"}"# },
    Row { what: "it is so already", scene: Scene::Quick, exit: DONE, jobs: &["succeeded"],
        call: r#"/v1/machines/31/power?wait=30s --json {"action":"on"}"# },
    Row { what: "it fails on the host", scene: Scene::ReadOnly, exit: REFUSED, jobs: &["failed"],
        call: r#"/v1/machines/32/power?wait=30s --json {"action":"on"}"# },
    Row { what: "it cannot be when its turn comes", scene: Scene::Quick, exit: REFUSED, jobs: &["failed"],
        call: r#"/v1/machines/32/power?wait=30s --json {"action":"reset"}"# },
    Row { what: "no such machine", scene: Scene::Quick, exit: REFUSED, jobs: &[],
        call: r#"/v1/machines/none/power?wait=30s --json {"action":"on"}"# },
    Row { what: "the time is up, with a key", scene: Scene::Slow, exit: REFUSED, jobs: &[GOES_ON],
        call: r#"/v1/machines/32/power?wait=0s -H Idempotency-Key:k --json {"action":"on"}"# },
    Row { what: "the time is up, without a key", scene: Scene::Slow, exit: REFUSED, jobs: &[GOES_ON],
        call: r#"/v1/machines/32/power?wait=0s --json {"action":"on"}"# },
    Row { what: "nobody waits: accepted", scene: Scene::Slow, exit: DONE, jobs: &[GOES_ON],
        call: r#"/v1/machines/32/power --json {"action":"on"}"# },
    Row { what: "the wait of a job that succeeds", scene: Scene::Quick, exit: DONE, jobs: &["succeeded"],
        call: "/v1/jobs/{job}/wait?wait=30s" },
    Row { what: "the wait of a job that fails", scene: Scene::ReadOnly, exit: REFUSED, jobs: &["failed"],
        call: "/v1/jobs/{job}/wait?wait=30s" },
    Row { what: "the wait of a job that goes on", scene: Scene::Slow, exit: REFUSED, jobs: &[GOES_ON],
        call: "/v1/jobs/{job}/wait?wait=0s" },
    Row { what: "the wait of a job, repeated", scene: Scene::SlowAtFirst, exit: DONE, jobs: &["succeeded"],
        call: "/v1/jobs/{job}/wait?wait=1s --retry 2 --retry-delay 1" },
    Row { what: "repeated with a key", scene: Scene::SlowAtFirst, exit: DONE, jobs: &["succeeded"],
        call: r#"/v1/machines/32/power?wait=1s --retry 2 --retry-delay 1 -H Idempotency-Key:k --json {"action":"on"}"# },
    Row { what: "repeated with a key in vain", scene: Scene::Slow, exit: REFUSED, jobs: &[GOES_ON],
        call: r#"/v1/machines/32/power?wait=0s --retry 2 --retry-delay 1 -H Idempotency-Key:k --json {"action":"on"}"# },
    Row { what: "not repeated without a key", scene: Scene::Slow, exit: REFUSED, jobs: &[GOES_ON],
        call: r#"/v1/machines/32/power?wait=1s --retry 2 --retry-delay 1 --json {"action":"on"}"# },
    Row { what: "the host is away too long", scene: Scene::Away, exit: REFUSED, jobs: &[],
        call: r#"/v1/machines/32/power?wait=30s --retry 1 --json {"action":"on"}"# },
    Row { what: "the host comes back", scene: Scene::AwayAtFirst, exit: DONE, jobs: &["succeeded"],
        call: r#"/v1/machines/32/power?wait=30s --retry 2 --json {"action":"on"}"# },
];

#[tokio::test(flavor = "multi_thread")]
async fn its_exit_code_tells_the_truth() {
    let rows = TABLE.iter().map(async |row| {
        // A lab's own assertions, too, are to be told with the row that they are of.
        let walked = std::panic::AssertUnwindSafe(row.walk()).catch_unwind().await;
        let wrong = walked.unwrap_or_else(|_| Some("panicked, as said above".to_owned()))?;
        Some(format!("{}: {wrong}", row.what))
    });
    let wrong: Vec<String> =
        futures_util::future::join_all(rows).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Row {
    /// What is wrong with it, if anything is.
    async fn walk(&self) -> Option<String> {
        let lab = self.scene.lab().await;
        let job = if self.call.contains("{job}") {
            lab.power("ci-runner-2", "on").await["id"].as_str().unwrap().to_owned()
        } else {
            String::new()
        };
        let mut curl = Command::new("curl");
        curl.args(["-q", "--noproxy", "*", "-s", "--fail-with-body"]);
        for word in self.call.replace("{job}", &job).split(' ') {
            curl.arg(if word.starts_with('/') { lab.url(word) } else { word.to_owned() });
        }
        let (output, ()) = tokio::join!(output(curl, PATIENCE), self.scene.goes_on(&lab));
        let jobs = lab.get("/v1/jobs").await.expect(200);
        let states = jobs.json["items"].as_array().unwrap().iter().map(|job| {
            if job["finished_at"].is_null() { GOES_ON } else { job["state"].as_str().unwrap() }
        });
        let seen = (output.status.code(), states.collect::<Vec<_>>());
        let calls = lab.control().calls("PowerOnVM_Task");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        lab.stop().await;
        let right = seen == (Some(self.exit), self.jobs.to_vec()) && calls <= 1;
        (!right).then(|| format!("{seen:?}, and {calls} calls of the host. It said {said}"))
    }
}

impl Scene {
    async fn lab(self) -> Lab {
        let pace = if matches!(self, Self::Slow | Self::SlowAtFirst) {
            Pace::Stepped
        } else {
            Plan::default().pace
        };
        let settings =
            |settings: &mut otter::app::Settings| settings.jobs.outage_grace = Duration::ZERO;
        let lab = Lab::with(Plan { pace, settings, ..Plan::default() }).await;
        match self {
            Self::Quick | Self::Slow | Self::SlowAtFirst => {}
            Self::ReadOnly => lab.control().set_read_only_licence(true),
            Self::Away | Self::AwayAtFirst => {
                let down = Some(DownMode::Unavailable);
                lab.control().restart_hostd(HostdRestart { down, ..HostdRestart::default() });
                let gone = async || lab.get("/readyz?host=true").await.status == 503;
                eventually("the host to be away", gone).await;
            }
        }
        lab
    }

    /// What happens while curl is at it.
    async fn goes_on(self, lab: &Lab) {
        match self {
            Self::Quick | Self::ReadOnly | Self::Slow | Self::Away => {}
            Self::SlowAtFirst => {
                told_to_repeat(lab).await;
                lab.control().finish_task(&lab.task_of("32").await);
            }
            Self::AwayAtFirst => {
                told_to_repeat(lab).await;
                lab.control().resume();
            }
        }
    }
}

/// Waits until curl was answered with a 5xx, which it repeats.
async fn told_to_repeat(lab: &Lab) {
    eventually("curl to be told to repeat", async || {
        let metrics = lab
            .request(reqwest::Method::GET, "/metrics")
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        ["POST /v1/machines/{machine}/power", "GET /v1/jobs/{job}/wait"].iter().any(|operation| {
            metrics.contains(&format!(
                "otter_http_request_seconds_count{{operation=\"{operation}\",status=\"5xx\"}}"
            ))
        })
    })
    .await;
}
