//! Terminals: the WebSocket of a serial port, its one writer, and console tokens.

use otter::simulator::PortChange;
use serde_json::json;

use super::stream_client::StreamClient;
use super::*;

fn stream(query: &str) -> String {
    format!("{}{query}", path(RUNNING, PORT, "stream"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_reads_and_writes_and_others_only_read() {
    let lab = Lab::start().await;
    let mut reader = StreamClient::open(&lab, &stream(""), &[]).await.unwrap();
    let mut writer = StreamClient::open(&lab, &stream("?mode=drive"), &[]).await.unwrap();
    assert_eq!((writer.protocol.as_deref(), writer.offset), (Some("binary"), 0));
    until_access(&lab, RUNNING, PORT, "open").await;
    reader.send("this is ignored").await;
    writer.send("\r").await;
    for terminal in [&mut reader, &mut writer] {
        assert_eq!(terminal.until(LOGIN).await, format!("\r\n{LOGIN}"));
    }
    assert_eq!(on_host(&lab).received, 1);
    assert_eq!(state(&lab, RUNNING, PORT).await["writer"]["caller"], "anonymous");
    // A later one can begin with what came before.
    let mut late = StreamClient::open(&lab, &stream("?since=-7"), &[]).await.unwrap();
    assert_eq!(late.offset, 7);
    assert_eq!(late.until(": ").await, "login: ");
    writer.send_text("a text message").await;
    let closed = writer.closed().await;
    assert_eq!(closed.code, Some(1002), "{}", closed.reason);
    let audit = lab.get("/v1/audit").await.expect(200).text;
    assert!(audit.contains("serial.writer_started"), "{audit}");
    eventually("the end of the writer in the audit", async || {
        lab.get("/v1/audit?action=serial.writer_ended")
            .await
            .expect(200)
            .text
            .contains("port: ttyS1; protocol; 1 bytes")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_writes_and_another_can_take_over() {
    let lab = Lab::start().await;
    let mut first = StreamClient::open(&lab, &stream("?mode=drive"), &[]).await.unwrap();
    let refused = StreamClient::open(&lab, &stream("?mode=drive"), &[]).await.unwrap_err();
    refused.expect(409, "serial-busy");
    let force = stream("?mode=drive&force=true");
    let mut second = StreamClient::open(&lab, &force, &[]).await.unwrap();
    let closed = first.closed().await;
    assert_eq!(closed.code, Some(4409), "{}", closed.reason);
    until_access(&lab, RUNNING, PORT, "open").await;
    second.send("\r").await;
    second.until(LOGIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_goes_on_over_a_lost_connection_and_learns_of_it() {
    let lab = Lab::start().await;
    let mut terminal = StreamClient::open(&lab, &stream("?mode=drive"), &[]).await.unwrap();
    until_access(&lab, RUNNING, PORT, "open").await;
    output(&lab, b"one");
    terminal.until("one").await;
    lab.control().change_serial_port(RUNNING, PORT, PortChange::Cut { reset: true });
    eventually("another connection", async || on_host(&lab).connections == 2).await;
    until_access(&lab, RUNNING, PORT, "open").await;
    output(&lab, b"two");
    assert_eq!(terminal.until("two").await, "two");
    assert_eq!((terminal.offset, &*terminal.gaps), (6, &["reconnect".to_owned()][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_falls_behind_jumps_and_its_offsets_stay_right() {
    const TOTAL: u64 = 24 << 20;
    let lab = Lab::start().await;
    let mut slow = StreamClient::open(&lab, &stream(""), &[]).await.unwrap();
    until_access(&lab, RUNNING, PORT, "open").await;
    let flood = PortChange::Flood { bytes_per_second: 256 << 20, total: Some(TOTAL) };
    lab.control().change_serial_port(RUNNING, PORT, flood);
    eventually("the whole flood", async || {
        state(&lab, RUNNING, PORT).await["next_offset"].as_u64() >= Some(TOTAL)
    })
    .await;
    while slow.offset < TOTAL {
        slow.read().await.unwrap();
    }
    assert!(slow.gaps.iter().all(|reason| reason == "overflow"), "{:?}", slow.gaps);
    let shown = state(&lab, RUNNING, PORT).await;
    // Without a state directory, otter keeps the newest 1 MiB.
    assert_eq!(shown["first_offset"].as_u64(), Some(TOTAL - (1 << 20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_token_opens_the_port_that_it_was_made_for() {
    let lab = Lab::start().await;
    let tokens = format!("/v1/machines/{RUNNING}/console-tokens");
    let body = json!({"kind": "serial", "port": PORT, "mode": "drive"});
    let token = async || lab.post(&tokens, body.clone()).await.expect(201).json;
    let made = token().await;
    let url = made["url"].as_str().unwrap();
    assert_eq!(url, path(RUNNING, "9001", "stream?mode=drive"));
    let page = made["page"].as_str().unwrap();
    assert!(page.starts_with("/#console=serial&machine=17&port=9001&mode=drive&token="), "{page}");
    let offered = |made: &serde_json::Value| {
        format!("binary, otter.token.{}", made["token"].as_str().unwrap())
    };
    let protocols = offered(&made);
    let headers = [("sec-websocket-protocol", &*protocols)];
    let mut terminal = StreamClient::open(&lab, url, &headers).await.unwrap();
    assert_eq!(terminal.protocol.as_deref(), Some("binary"));
    until_access(&lab, RUNNING, PORT, "open").await;
    terminal.send("\r").await;
    terminal.until(LOGIN).await;
    drop(terminal);
    for other in [
        path(RUNNING, "ttyS0", "stream"),
        format!("/v1/machines/{RUNNING}/screen/rfb"),
        stream("?mode=view"),
    ] {
        let protocols = offered(&token().await);
        let headers = [("sec-websocket-protocol", &*protocols)];
        let refused = StreamClient::open(&lab, &other, &headers).await.unwrap_err();
        refused.expect(403, "forbidden");
    }
    for (body, place, code) in [
        (json!({"kind": "serial", "mode": "view"}), "/port", "missing"),
        (json!({"kind": "screen", "port": "ttyS0", "mode": "view"}), "/port", "not-applicable"),
        (json!({"kind": "file", "mode": "view"}), "/kind", "not-one-of"),
    ] {
        lab.post(&tokens, body).await.problem(400, "invalid-request").points_at(place, code);
    }
    let unknown = json!({"kind": "serial", "port": "ttyS7", "mode": "view"});
    lab.post(&tokens, unknown).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_closes_terminals_with_its_code() {
    let lab = Lab::start().await;
    let mut terminal = StreamClient::open(&lab, &stream(""), &[]).await.unwrap();
    lab.stop().await;
    assert_eq!(terminal.closed().await.code, Some(4503));
}
