//! Codes of input to a machine whose screen is on. Each code has a lab of its own.

use futures_util::future::join_all;
use otter::simulator::{ConsoleEnd, DownMode, HostdRestart, ScreenStage};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Pair, Verdict};
use crate::conformance::without_capabilities;
use crate::harness::{Answer, Lab, LabOptions, eventually};

/// A machine that is on.
const RUNNING: &str = "17";
/// A machine that is off.
const OFF: &str = "16";

pub async fn of_input(pairs: Vec<Pair>) -> Vec<Verdict> {
    join_all(pairs.iter().map(async |pair| pair.judge(Box::pin(provoke(&pair.code)).await))).await
}

#[expect(clippy::too_many_lines, reason = "one arm for each code")]
async fn provoke(code: &str) -> Answer {
    let text = json!({"events": [{"text": "a"}]});
    let never = json!({"events": [{"until": {"still": "1m", "wait": "1s"}}]});
    match code {
        "idempotency-mismatch" => {
            let lab = Lab::start().await;
            with_key(&lab, text).await.expect(200);
            with_key(&lab, json!({"events": [{"text": "b"}]})).await
        }
        "payload-too-large" => {
            let body = json!({"events": [{"text": "a".repeat(4 << 20)}]});
            Lab::start().await.post(&path(RUNNING), body).await
        }
        "invalid-power-state" => Lab::start().await.post(&path(OFF), text).await,
        "wait-timeout" => Lab::start().await.post(&path(RUNNING), never).await,
        "too-many-waits" => {
            Lab::with_settings(|settings| settings.http.max_waits = 0)
                .await
                .post(&path(RUNNING), text)
                .await
        }
        "too-many-consoles" => {
            let lab = Lab::with_settings(|settings| settings.screens.max_open = 0).await;
            lab.post(&path(RUNNING), text).await
        }
        "console-unavailable" => {
            let lab = Lab::start().await;
            lab.control().mutate(|world| {
                world.machine_mut(RUNNING).unwrap().max_mks_connections = 0;
            });
            lab.post(&path(RUNNING), text).await
        }
        "not-supported" => {
            let options =
                LabOptions { wrap_backend: without_capabilities, ..LabOptions::default() };
            Lab::with_options(options).await.post(&path(RUNNING), text).await
        }
        "host-unreachable" => {
            let lab = Lab::start().await;
            let away = HostdRestart { down: Some(DownMode::Unavailable), drop_running: false };
            lab.control().restart_hostd(away);
            until_host_is(&lab, code).await;
            lab.post(&path(RUNNING), text).await
        }
        "host-login-refused" => {
            let lab = Lab::start().await;
            lab.control().refuse_logins(true);
            lab.control().expire_sessions();
            until_host_is(&lab, code).await;
            lab.post(&path(RUNNING), text).await
        }
        "queue-full" => {
            let lab = Lab::start().await;
            let slow = json!({"events": [{"pause": "1m"}]});
            let calls: Vec<_> = (0..9).map(|_| begin(&lab, &slow)).collect();
            waiting(&lab, calls.len()).await;
            let answer = lab.post(&path(RUNNING), text).await;
            calls.iter().for_each(JoinHandle::abort);
            answer
        }
        "machine-gone" => {
            let lab = Lab::start().await;
            let pause = json!({"events": [{"pause": "1m"}]});
            let first = begin(&lab, &pause);
            waiting(&lab, 1).await;
            let second = begin(&lab, &text);
            waiting(&lab, 2).await;
            lab.control().mutate(|world| world.remove_machine(RUNNING));
            lab.wait_until_gone(RUNNING).await;
            first.abort();
            second.await.unwrap()
        }
        "shutting-down" => {
            let lab = Lab::start().await;
            let call = begin(&lab, &json!({"events": [{"pause": "1m"}]}));
            waiting(&lab, 1).await;
            lab.stop().await;
            call.await.unwrap()
        }
        "storage-unavailable" => {
            let state = tempfile::tempdir().unwrap();
            let lab = Lab::with_state_dir(state.path()).await;
            lab.wait_until_ready().await;
            let file = format!("sqlite://{}", state.path().join("otter.db").display());
            let database = sqlx::SqlitePool::connect(&file).await.unwrap();
            // The key is still found, and cannot be stored.
            let rename = "ALTER TABLE input_keys RENAME COLUMN created_at TO gone";
            sqlx::query(rename).execute(&database).await.unwrap();
            with_key(&lab, text).await
        }
        "input-interrupted" => {
            let lab = Lab::start().await;
            lab.control().show_screen(RUNNING, ScreenStage::Terminal);
            let body = json!({"events": [{"text": "a".repeat(60)}], "interval": "100ms"});
            let call = begin(&lab, &body);
            eventually("the first characters", async || lab.control().shows(RUNNING, "aaa")).await;
            lab.control().end_consoles(RUNNING, ConsoleEnd::Cut);
            call.await.unwrap()
        }
        other => panic!("no way to provoke {other}"),
    }
}

fn path(machine: &str) -> String {
    format!("/v1/machines/{machine}/screen/input")
}

async fn with_key(lab: &Lab, body: Value) -> Answer {
    lab.post_with(&path(RUNNING), body, &[("idempotency-key", "k")]).await
}

fn begin(lab: &Lab, body: &Value) -> JoinHandle<Answer> {
    tokio::spawn(Answer::from_request(lab.request(Method::POST, &path(RUNNING)).json(body)))
}

/// Waits until this number of calls waits.
async fn waiting(lab: &Lab, calls: usize) {
    super::until_waiting(lab, calls).await;
}

async fn until_host_is(lab: &Lab, code: &str) {
    eventually(code, async || lab.get("/readyz?host=true").await.json["code"] == code).await;
}
