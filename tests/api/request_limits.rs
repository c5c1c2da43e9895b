//! Responses to slow, large, foreign and malformed requests, on raw connections.

use std::time::Duration;

use otter::app::Settings;
use otter::clock::Clock;

use crate::harness::{Lab, LabOptions, RawConnection, pause, send_raw};

const END: &str = "host: localhost\r\nconnection: close\r\n\r\n";

/// A request after which the connection stays open.
const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn a_uri_that_is_too_long_is_414() {
    let lab = Lab::start().await;
    // Above otter's limit, above hyper's limit, and above the size of the buffer.
    for length in [17_000, 70_000, 400_000] {
        let request = format!("GET /v1/machines/{} HTTP/1.1\r\n{END}", "x".repeat(length));
        send_raw(lab.address, request).await.problem(414, "uri-too-long");
    }
    send_raw(
        lab.address,
        format!("GET /v1/machines?name={} HTTP/1.1\r\n{END}", "x".repeat(15_000)),
    )
    .await
    .expect(200);
}

#[tokio::test]
async fn headers_too_many_or_too_long_are_431() {
    let lab = Lab::start().await;
    let many = |count: usize| "x: y\r\n".repeat(count);
    for headers in [
        many(120),
        many(1_000),
        format!("x: {}\r\n", "y".repeat(40_000)),
        format!("x: {}\r\n", "y".repeat(400_000)),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\n{headers}{END}");
        send_raw(lab.address, request).await.problem(431, "headers-too-large");
    }
    send_raw(lab.address, format!("GET /healthz HTTP/1.1\r\n{}{END}", many(90))).await.expect(200);
}

#[tokio::test]
async fn malformed_http_is_400() {
    let lab = Lab::start().await;
    for garbage in [
        "nonsense\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
    ] {
        let answer = send_raw(lab.address, garbage).await;
        assert_eq!(answer.status, 400, "{garbage:?}: {}", answer.text);
    }
    for malformed in [
        "OPTIONS * HTTP/1.1\r\n",
        "CONNECT localhost:80 HTTP/1.1\r\n",
        "BREW /docs HTTP/1.1\r\n",
        "GET http://localhost/none HTTP/1.1\r\n",
    ] {
        let answer = send_raw(lab.address, format!("{malformed}{END}")).await;
        assert!((400..500).contains(&answer.status), "{malformed}: {}", answer.status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    lab.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn a_foreign_host_is_forbidden() {
    let lab = Lab::start().await;
    for host in [
        "evil.example",
        "evil.example:8080",
        "10.0.0.1",
        "localhost.evil.example",
        "[fe80::1]",
        "127.0.0.1.nip.io",
    ] {
        for path in ["/v1/machines", "/healthz", "/docs", "/none"] {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            send_raw(lab.address, request).await.problem(403, "forbidden");
        }
    }
    for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST", "127.1.2.3"] {
        let request = format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        send_raw(lab.address, request).await.expect(200);
    }
    let absolute = "GET http://evil.example/v1/machines HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    send_raw(lab.address, absolute).await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_request_has_one_host() {
    let lab = Lab::start().await;
    let ask = async |line: &str, headers: &str| {
        send_raw(lab.address, format!("{line}\r\n{headers}connection: close\r\n\r\n")).await
    };
    for (headers, code) in [
        ("", "missing"),
        ("host: localhost\r\nhost: localhost\r\n", "repeated"),
        ("host: localhost\r\nhost: evil.example\r\n", "repeated"),
        ("host: [::1]evil.com\r\n", "malformed"),
        ("host: [::1]:80evil.com\r\n", "malformed"),
        ("host: user@localhost\r\n", "malformed"),
        ("host: localhost:port\r\n", "malformed"),
        ("host: local/host\r\n", "malformed"),
        ("host: \r\n", "malformed"),
    ] {
        for path in ["/v1/machines", "/healthz", "/docs", "/none"] {
            let refused = ask(&format!("GET {path} HTTP/1.1"), headers).await;
            refused.problem(400, "invalid-request").points_at("host", code);
        }
    }
    let with_user = "GET http://user@localhost/healthz HTTP/1.1";
    ask(with_user, "host: localhost\r\n").await.problem(400, "invalid-request");
    // A load balancer sends this health check.
    for path in ["/healthz", "/readyz", "/readyz?host=true"] {
        ask(&format!("GET {path} HTTP/1.0"), "").await.expect(200);
        ask(&format!("GET {path} HTTP/1.0"), "host: evil.example\r\n")
            .await
            .problem(403, "forbidden");
    }
    ask("GET /v1/machines HTTP/1.0", "").await.problem(400, "invalid-request");
}

#[tokio::test]
async fn slow_headers_end_the_connection_and_others_are_served() {
    let lab =
        Lab::with_settings(|settings| settings.http.header_timeout = Duration::from_millis(200))
            .await;
    let mut slow = RawConnection::open(lab.address).await;
    slow.send(b"GET /healthz HTTP/1.1\r\nhost: local").await;
    let mut other = RawConnection::open(lab.address).await;
    let served = async |other: &mut RawConnection| {
        other.send(HEALTH).await;
        other.next_answer().await.expect(200);
    };
    served(&mut other).await;
    let rest = slow.until_closed().await;
    assert!(
        rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"),
        "{:?}",
        String::from_utf8_lossy(&rest)
    );
    // The limit of a head does not end an idle connection: it was idle for at least that time.
    served(&mut other).await;
    // A connection that carried a request has the limit too.
    other.send(b"GET /healthz HTTP/1.1\r\n").await;
    let rest = other.until_closed().await;
    assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn an_idle_connection_closes_at_the_announced_time() {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let settings = |settings: &mut Settings| {
        settings.http.idle_timeout = Duration::from_secs(75);
    };
    let options = LabOptions { settings, clock: clock.clone(), ..LabOptions::default() };
    let lab = Lab::with_options(options).await;
    let mut used = RawConnection::open(lab.address).await;
    for _ in 0..3 {
        used.send(HEALTH).await;
        let answer = used.next_answer().await.expect(200);
        assert_eq!(answer.header("keep-alive"), Some("timeout=75"));
        assert_eq!(answer.header("connection"), Some("keep-alive"));
        clock.advance(Duration::from_secs(75));
    }
    let unused = RawConnection::open(lab.address).await;
    for mut idle in [used, unused] {
        let advancing = async {
            loop {
                clock.advance(Duration::from_secs(30));
                pause().await;
            }
        };
        tokio::select! {
            rest = idle.until_closed() => assert!(rest.is_empty(), "{rest:?}"),
            () = advancing => unreachable!(),
        }
    }
}

#[tokio::test]
async fn only_a_connection_that_stays_open_announces_its_time() {
    let lab = Lab::start().await;
    for (version, header) in
        [("1.1", "connection: close\r\n"), ("1.1", "connection: x, Close\r\n"), ("1.0", "")]
    {
        let request = format!("GET /healthz HTTP/{version}\r\nhost: localhost\r\n{header}\r\n");
        let answer = send_raw(lab.address, request).await.expect(200);
        assert_eq!(answer.header("keep-alive"), None, "{version} {header}");
    }
    lab.get("/nowhere").await.problem(404, "not-found");
    assert!(lab.get("/nowhere").await.header("keep-alive").is_some(), "problems announce it too");
}

#[tokio::test]
async fn a_slow_body_is_408_and_others_are_served() {
    let lab =
        Lab::with_settings(|settings| settings.http.body_timeout = Duration::from_millis(200))
            .await;
    let mut slow = RawConnection::open(lab.address).await;
    let head = "POST /v1/machines/31/power HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"act";
    slow.send(head.as_bytes()).await;
    lab.get("/healthz").await.expect(200);
    slow.answer().await.problem(408, "request-timeout");
    assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
}

#[tokio::test]
async fn many_unfinished_requests_do_not_block_others() {
    let lab =
        Lab::with_settings(|settings| settings.http.header_timeout = Duration::from_mins(1)).await;
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut wire = RawConnection::open(lab.address).await;
        wire.send(b"GET /v1/mach").await;
        open.push(wire);
    }
    lab.get("/v1/machines").await.expect(200);
}

#[tokio::test]
async fn a_truncated_body_has_no_effect() {
    let lab = Lab::start().await;
    let mut wire = RawConnection::open(lab.address).await;
    let head = "POST /v1/machines/31/power HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"action\":\"off\"}";
    wire.send(head.as_bytes()).await;
    drop(wire);
    lab.get("/healthz").await.expect(200);
    assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
}
