//! How many transfers run and wait, and that they hold up no other call.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use otter::simulator::{Disruption, TransferEnd, TransferMishap};
use reqwest::Method;
use serde_json::json;

use super::{content, file, list, place, put};
use crate::harness::Lab;

/// The numbers of transfers that run, and that wait.
const RUNNING: usize = 4;
const WAITING: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn four_transfers_run_sixteen_wait_and_no_call_waits_for_them() {
    let lab = Lab::start().await;
    place(&lab, "iso/a.iso", &content(4_000_000));
    let mishap = TransferMishap { end: Some((1, TransferEnd::Stall)), bytes_per_second: None };
    lab.control().disrupt("GET /folder", 0, None, Disruption::Transfer(mishap));
    let path = file("iso/a.iso");
    let mut running = Vec::new();
    for _ in 0..RUNNING {
        let response = lab.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), 200);
        running.push(response);
    }
    // One more than may wait: only this one is answered.
    let mut waiting: FuturesUnordered<_> =
        (0..=WAITING).map(|_| lab.request(Method::GET, &path).send()).collect();
    let refused = waiting.next().await.unwrap().unwrap();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    put(&lab, "iso/b.iso", "b").await.problem(429, "queue-full");

    // Other calls, lists and jobs go on.
    lab.get(&list("iso")).await.expect(200);
    lab.post("/v1/machines/16/power?wait=12s", json!({"action": "on"})).await.expect(200);

    lab.control().clear_disruptions();
    drop(running);
    for _ in 0..WAITING {
        let response = waiting.next().await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.bytes().await.unwrap().len(), 4_000_000);
    }
    put(&lab, "iso/b.iso", "b").await.expect(200);
}
