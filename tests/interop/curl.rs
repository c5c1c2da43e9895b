//! The exit codes of curl. With `?wait=` the code is 0 if and only if the job succeeded. `--retry`
//! does nothing twice.

use std::process::Command;
use std::time::Duration;

use futures_util::FutureExt;
use otter::simulator::{DownMode, HostdRestart, Pace};

use super::TIMEOUT;
use crate::harness::{Lab, LabOptions, eventually, run_with_timeout};

/// A call by curl, its exit code, and the jobs after it.
struct Case {
    what: &'static str,
    host: HostBehaviour,
    /// The arguments after `curl -s --fail-with-body`. `{job}` is an earlier job that powers
    /// machine 32 on.
    call: &'static str,
    exit: i32,
    /// The states of all jobs, newest first. [`UNFINISHED`] stands for a job that has not ended.
    jobs: &'static [&'static str],
}

/// The behaviour of the host.
#[derive(Clone, Copy, PartialEq)]
enum HostBehaviour {
    /// Its tasks succeed at once.
    Quick,
    /// Its licence allows no changes.
    ReadOnly,
    /// Its tasks never end.
    Slow,
    /// Its task ends after curl has got a 5xx.
    SlowAtFirst,
    /// It is unreachable for longer than otter accepts new jobs during an outage.
    Away,
    /// Like [`Self::Away`], until curl has got a 5xx.
    AwayAtFirst,
}

const UNFINISHED: &str = "goes on";
const DONE: i32 = 0;
/// curl's `CURLE_HTTP_RETURNED_ERROR`.
const REFUSED: i32 = 22;

/// Machine 32 is off at the start, machine 31 on.
#[rustfmt::skip]
const TABLE: &[Case] = &[
    Case { what: "the job succeeds", host: HostBehaviour::Quick, exit: DONE,
        jobs: &["succeeded"],
        call: r#"/v1/machines/32/power?wait=30s --json {"action":"on"}"# },
    Case { what: "the machine is on already", host: HostBehaviour::Quick, exit: DONE,
        jobs: &["succeeded"],
        call: r#"/v1/machines/31/power?wait=30s --json {"action":"on"}"# },
    Case { what: "the host refuses the call", host: HostBehaviour::ReadOnly, exit: REFUSED,
        jobs: &["failed"],
        call: r#"/v1/machines/32/power?wait=30s --json {"action":"on"}"# },
    Case { what: "the machine is in the wrong state", host: HostBehaviour::Quick, exit: REFUSED,
        jobs: &["failed"],
        call: r#"/v1/machines/32/power?wait=30s --json {"action":"reset"}"# },
    Case { what: "the machine does not exist", host: HostBehaviour::Quick, exit: REFUSED,
        jobs: &[],
        call: r#"/v1/machines/none/power?wait=30s --json {"action":"on"}"# },
    Case { what: "the wait is over, with a key", host: HostBehaviour::Slow, exit: REFUSED,
        jobs: &[UNFINISHED],
        call: r#"/v1/machines/32/power?wait=0s -H Idempotency-Key:k --json {"action":"on"}"# },
    Case { what: "the wait is over, without a key", host: HostBehaviour::Slow, exit: REFUSED,
        jobs: &[UNFINISHED],
        call: r#"/v1/machines/32/power?wait=0s --json {"action":"on"}"# },
    Case { what: "the call does not wait", host: HostBehaviour::Slow, exit: DONE,
        jobs: &[UNFINISHED],
        call: r#"/v1/machines/32/power --json {"action":"on"}"# },
    Case { what: "wait for a job that succeeds", host: HostBehaviour::Quick, exit: DONE,
        jobs: &["succeeded"],
        call: "/v1/jobs/{job}/wait?wait=30s" },
    Case { what: "wait for a job that fails", host: HostBehaviour::ReadOnly, exit: REFUSED,
        jobs: &["failed"],
        call: "/v1/jobs/{job}/wait?wait=30s" },
    Case { what: "wait for a job that does not end", host: HostBehaviour::Slow, exit: REFUSED,
        jobs: &[UNFINISHED],
        call: "/v1/jobs/{job}/wait?wait=0s" },
    Case { what: "repeated wait for a job", host: HostBehaviour::SlowAtFirst, exit: DONE,
        jobs: &["succeeded"],
        call: "/v1/jobs/{job}/wait?wait=1s --retry 2 --retry-delay 1" },
    Case { what: "repeated with a key", host: HostBehaviour::SlowAtFirst, exit: DONE,
        jobs: &["succeeded"],
        call: concat!("/v1/machines/32/power?wait=1s --retry 2 --retry-delay 1",
            r#" -H Idempotency-Key:k --json {"action":"on"}"#) },
    Case { what: "repeated with a key, without success", host: HostBehaviour::Slow, exit: REFUSED,
        jobs: &[UNFINISHED],
        call: concat!("/v1/machines/32/power?wait=0s --retry 2 --retry-delay 1",
            r#" -H Idempotency-Key:k --json {"action":"on"}"#) },
    Case { what: "not repeated without a key", host: HostBehaviour::Slow, exit: REFUSED,
        jobs: &[UNFINISHED],
        call: r#"/v1/machines/32/power?wait=1s --retry 2 --retry-delay 1 --json {"action":"on"}"# },
    Case { what: "the host is away for too long", host: HostBehaviour::Away, exit: REFUSED,
        jobs: &[],
        call: r#"/v1/machines/32/power?wait=30s --retry 1 --json {"action":"on"}"# },
    Case { what: "the host comes back", host: HostBehaviour::AwayAtFirst, exit: DONE,
        jobs: &["succeeded"],
        call: r#"/v1/machines/32/power?wait=30s --retry 2 --json {"action":"on"}"# },
];

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_of_curl_is_zero_only_if_the_call_succeeded() {
    let cases = TABLE.iter().map(async |case| {
        // Assertions inside the lab are reported with their case too.
        let outcome = std::panic::AssertUnwindSafe(case.run()).catch_unwind().await;
        let wrong = outcome.unwrap_or_else(|_| Some("panicked, as printed above".to_owned()))?;
        Some(format!("{}: {wrong}", case.what))
    });
    let wrong: Vec<String> =
        futures_util::future::join_all(cases).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Case {
    /// Runs the case. Returns the deviation, or `None` if there is none.
    async fn run(&self) -> Option<String> {
        let lab = self.host.lab().await;
        let job = if self.call.contains("{job}") {
            lab.start_power("ci-runner-2", "on").await["id"].as_str().unwrap().to_owned()
        } else {
            String::new()
        };
        let mut curl = Command::new("curl");
        curl.args(["-q", "--noproxy", "*", "-s", "--fail-with-body"]);
        for word in self.call.replace("{job}", &job).split(' ') {
            curl.arg(if word.starts_with('/') { lab.url(word) } else { word.to_owned() });
        }
        let (output, ()) = tokio::join!(
            run_with_timeout(curl, TIMEOUT),
            self.host.continue_after_first_answer(&lab)
        );
        let jobs = lab.get("/v1/jobs").await.expect(200);
        let states = jobs.json["items"].as_array().unwrap().iter().map(|job| {
            if job["finished_at"].is_null() { UNFINISHED } else { job["state"].as_str().unwrap() }
        });
        let seen = (output.status.code(), states.collect::<Vec<_>>());
        let calls = lab.control().calls("PowerOnVM_Task");
        let output_text = String::from_utf8_lossy(&output.stdout).into_owned();
        lab.stop().await;
        let right = seen == (Some(self.exit), self.jobs.to_vec()) && calls <= 1;
        (!right)
            .then(|| format!("{seen:?}, and {calls} calls of the host. It printed {output_text}"))
    }
}

impl HostBehaviour {
    async fn lab(self) -> Lab {
        let pace = if matches!(self, Self::Slow | Self::SlowAtFirst) {
            Pace::Stepped
        } else {
            LabOptions::default().pace
        };
        let settings =
            |settings: &mut otter::app::Settings| settings.jobs.outage_grace = Duration::ZERO;
        let lab = Lab::with_options(LabOptions { pace, settings, ..LabOptions::default() }).await;
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

    /// If the behaviour requires it, makes the host continue after curl has got a 5xx.
    async fn continue_after_first_answer(self, lab: &Lab) {
        match self {
            Self::Quick | Self::ReadOnly | Self::Slow | Self::Away => {}
            Self::SlowAtFirst => {
                wait_for_first_5xx(lab).await;
                lab.control().finish_task(&lab.wait_for_machine_task("32").await);
            }
            Self::AwayAtFirst => {
                wait_for_first_5xx(lab).await;
                lab.control().resume();
            }
        }
    }
}

/// Waits until curl has got a 5xx, after which it retries.
async fn wait_for_first_5xx(lab: &Lab) {
    eventually("curl to get a 5xx", async || {
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
