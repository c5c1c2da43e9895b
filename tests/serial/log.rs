//! `GET …/serial` and `GET …/serial/{port}/log`: offsets, gaps, and the ways to read.

use otter::simulator::PortChange;
use reqwest::Method;
use serde_json::json;

use super::*;
use crate::harness::TIMEOUT;

#[tokio::test(flavor = "multi_thread")]
async fn reading_consumes_nothing_and_every_byte_keeps_its_offset() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"boot\xff\0\r\nlogin: ");
    until_read(&lab, b"login: ").await;
    for _ in 0..2 {
        let all = read(&lab, "").await;
        assert_eq!(all.bytes, b"boot\xff\0\r\nlogin: ");
        assert_eq!(
            (offset(&all, "otter-serial-first"), offset(&all, "otter-serial-next")),
            (0, 15)
        );
        assert_eq!(all.header("content-type"), Some("application/octet-stream"));
    }
    // The key of the port names it too.
    let part = lab.get(&path(RUNNING, "9001", "log?since=8")).await.expect(200);
    assert_eq!((&*part.bytes, offset(&part, "otter-serial-first")), (&b"login: "[..], 8));
    let last = read(&lab, "?since=-2").await;
    assert_eq!((&*last.bytes, offset(&last, "otter-serial-first")), (&b": "[..], 13));
    assert_eq!(read(&lab, "?since=-100").await.bytes, all_of(&lab).await);
    let end = read(&lab, "?since=15").await;
    assert_eq!((end.bytes.len(), offset(&end, "otter-serial-next")), (0, 15));
    let shown = state(&lab, RUNNING, PORT).await;
    assert_eq!((&shown["first_offset"], &shown["next_offset"]), (&json!(0), &json!(15)));
    assert_eq!((&shown["gaps"], &shown["access_reason"]), (&json!([]), &json!(null)));
}

async fn all_of(lab: &Lab) -> Vec<u8> {
    read(lab, "").await.bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_outside_names_both_ends_and_an_unknown_port_names_the_known_ones() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"abc");
    until_read(&lab, b"abc").await;
    let outside = lab.get(&path(RUNNING, PORT, "log?since=4")).await;
    let outside = outside.problem(416, "offset-out-of-range");
    let detail = outside.json["detail"].as_str().unwrap();
    assert!(detail.contains(" 0 ") && detail.contains(" 3"), "{detail}");
    outside.points_at("since", "out-of-range");
    let unknown = lab.get(&path(RUNNING, "ttyS7", "log")).await.problem(404, "not-found");
    let detail = unknown.json["detail"].as_str().unwrap();
    assert!(detail.contains("ttyS0 (9000), ttyS1 (9001)"), "{detail}");
    for (query, parameter, code) in [
        ("?since=%2B1", "since", "not-an-offset"),
        ("?since=x", "since", "not-an-offset"),
        ("?format=html", "format", "not-one-of"),
        ("?format=text&follow=true", "follow", "not-with-this"),
        ("?wait=soon", "wait", "not-a-duration"),
    ] {
        let wrong = lab.get(&format!("{}{query}", path(RUNNING, PORT, "log"))).await;
        wrong.problem(400, "invalid-request").points_at(parameter, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_runs_nothing_of_what_a_guest_outputs() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"<script>alert(1)</script>\x1b[1mbold\x1b[0m\r\n");
    until_read(&lab, b"\r\n").await;
    for (query, content_type) in [("", "application/octet-stream"), ("?format=text", "text/plain")]
    {
        let answer = read(&lab, query).await;
        assert_eq!(answer.header("content-type"), Some(content_type));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(
            answer.header("content-disposition"),
            Some("attachment; filename=\"qubes-4.2-sdw-prod-ttyS1.log\"")
        );
        let policy = answer.header("content-security-policy");
        assert_eq!(policy, Some("sandbox; default-src 'none'"));
        let asked = [("accept-encoding", "gzip")];
        let url = format!("{}{query}", path(RUNNING, PORT, "log"));
        let plain = lab.get_with(&url, &asked).await.expect(200);
        assert_eq!(plain.header("content-encoding"), None);
    }
    assert_eq!(read(&lab, "?format=text").await.text, "<script>alert(1)</script>bold\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_ends_before_a_character_whose_rest_is_missing() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"gr\xc3");
    until_read(&lab, b"\xc3").await;
    let first = read(&lab, "?format=text").await;
    assert_eq!((&*first.text, offset(&first, "otter-serial-next")), ("gr", 2));
    output(&lab, b"\xbc\xc3\x9fe\r\n");
    until_read(&lab, b"\n").await;
    assert_eq!(read(&lab, "?format=text&since=2").await.text, "üße\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_can_wait_for_the_first_byte() {
    let lab = Lab::start().await;
    open(&lab).await;
    let url = format!("{}?wait=30s", path(RUNNING, PORT, "log"));
    let waiting = tokio::spawn(Answer::from_request(lab.request(Method::GET, &url)));
    let line = "otter_waits_open 1\n";
    eventually("the call to wait", async || lab.get("/metrics").await.text.contains(line)).await;
    output(&lab, b"x");
    assert_eq!(waiting.await.unwrap().expect(200).bytes, b"x");
    let nothing = read(&lab, "?since=1&wait=1s").await;
    assert_eq!((nothing.bytes.len(), offset(&nothing, "otter-serial-next")), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_can_follow_the_output() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"one");
    until_read(&lab, b"one").await;
    let url = path(RUNNING, PORT, "log?follow=true&since=1");
    let mut answer = lab.request(Method::GET, &url).send().await.unwrap();
    assert_eq!(answer.headers()["otter-serial-first"], "1");
    assert!(!answer.headers().contains_key("otter-serial-next"));
    let mut read = Vec::new();
    let mut next = async |end: &[u8]| {
        while !read.ends_with(end) {
            let piece = tokio::time::timeout(TIMEOUT, answer.chunk()).await.expect("a piece");
            read.extend(piece.unwrap().expect("more"));
        }
    };
    next(b"ne").await;
    output(&lab, b"two");
    next(b"two").await;
    // A lost connection is no hole in the numbers, so the body goes on.
    lab.control().change_serial_port(RUNNING, PORT, PortChange::Cut { reset: false });
    eventually("another connection", async || on_host(&lab).connections == 2).await;
    until_access(&lab, RUNNING, PORT, "open").await;
    output(&lab, b"three");
    next(b"three").await;
    let ended = lab.get(&path(RUNNING, PORT, "log?follow=true&wait=1s")).await.expect(200);
    assert_eq!(ended.bytes, b"onetwothree");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_a_gap_and_the_offsets_go_on() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"before");
    until_read(&lab, b"before").await;
    lab.control().change_serial_port(RUNNING, PORT, PortChange::Cut { reset: true });
    eventually("another connection", async || on_host(&lab).connections == 2).await;
    until_access(&lab, RUNNING, PORT, "open").await;
    output(&lab, b"after");
    until_read(&lab, b"beforeafter").await;
    let gaps = state(&lab, RUNNING, PORT).await["gaps"].clone();
    let [gap] = gaps.as_array().unwrap().as_slice() else { panic!("{gaps}") };
    assert_eq!((&gap["offset"], &gap["reason"]), (&json!(6), &json!("reconnect")));
    assert_eq!(gap["skipped"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offsets_go_on_over_power_off_and_on_and_a_revert() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"first");
    until_read(&lab, b"first").await;
    let power = format!("/v1/machines/{RUNNING}/power?wait=30s");
    lab.post(&power, json!({"action": "off"})).await.expect(200);
    eventually("the reason", async || {
        let shown = state(&lab, RUNNING, PORT).await;
        let reason = shown["access_reason"].as_str().unwrap_or_default().to_owned();
        shown["access"] == "closed" && reason.contains("is not on")
    })
    .await;
    lab.post(&power, json!({"action": "on"})).await.expect(200);
    open(&lab).await;
    let before = state(&lab, RUNNING, PORT).await["next_offset"].as_u64().unwrap();
    assert!(before >= 5);
    output(&lab, b"second");
    until_read(&lab, b"second").await;
    assert!(read(&lab, "").await.bytes.starts_with(b"first"));
    let revert = format!("/v1/machines/{RUNNING}/revert?wait=30s");
    lab.post(&revert, json!({})).await.expect(200);
    let after = state(&lab, RUNNING, PORT).await;
    assert!(after["next_offset"].as_u64().unwrap() >= before + 6, "{after}");
}
