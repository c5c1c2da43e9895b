//! `otter vnc`: a VNC viewer on its port sees and drives the machine.

use std::process::Stdio;

use otter::domain::keyboard::Keysym;
use otter::rfb::{ServerEvent, ServerStream, client_messages};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::harness::{Lab, TIMEOUT, eventually, otter_command};

const MACHINE: &str = "16";
/// A machine that another caller leases.
const LEASED: &str = "18";

const SHIFT: u32 = 0xffe1;

/// A running `otter vnc`, which is killed when it is dropped.
struct Vnc {
    child: Child,
    address: String,
}

impl Vnc {
    async fn start(lab: &Lab, options: &[&str]) -> Self {
        let url = lab.url("");
        let arguments = ["vnc", MACHINE, "--listen", "127.0.0.1:0", "--url", &url];
        let mut command = Command::from(otter_command(&[&arguments, options].concat()));
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(TIMEOUT, lines.next_line()).await.unwrap().unwrap();
        let address = line.unwrap().rsplit(' ').next().unwrap().to_owned();
        Self { child, address }
    }

    async fn connect(&self) -> VncViewer {
        let socket = TcpStream::connect(&self.address).await.unwrap();
        VncViewer { socket, stream: ServerStream::new() }
    }
}

/// A VNC viewer.
struct VncViewer {
    socket: TcpStream,
    stream: ServerStream,
}

impl VncViewer {
    /// The next event. `None` at the end of the connection.
    async fn next(&mut self) -> Option<ServerEvent> {
        let next = async {
            loop {
                if let Some(event) = self.stream.next_event().unwrap() {
                    return Some(event);
                }
                let own = self.stream.to_send();
                self.socket.write_all(&own).await.ok()?;
                let mut bytes = vec![0; 16 << 10];
                let length =
                    self.socket.read(&mut bytes).await.ok().filter(|length| *length > 0)?;
                self.stream.feed(&bytes[..length]);
            }
        };
        tokio::time::timeout(TIMEOUT, next).await.expect("an event or the end")
    }

    /// Ends the handshake and reads the whole screen once.
    async fn see(&mut self) {
        let Some(ServerEvent::Ready { size, name }) = self.next().await else {
            panic!("no handshake")
        };
        assert_eq!(name, "qubes-4.2-sdw-staging");
        // What the handshake still has to send.
        let own = self.stream.to_send();
        self.socket.write_all(&own).await.unwrap();
        let request = client_messages::update_request(false, size.whole());
        self.socket.write_all(&request).await.unwrap();
        let mut pixels = 0;
        loop {
            match self.next().await.expect("an update") {
                ServerEvent::Rectangle { pixels: painted, .. } => pixels += painted.len() / 4,
                ServerEvent::UpdateEnd => break,
                _ => {}
            }
        }
        assert!(pixels > 0);
    }
}

async fn lab() -> Lab {
    let lab = Lab::start().await;
    let path = format!("/v1/machines/{MACHINE}/power?wait=30s");
    lab.post(&path, json!({"action": "on"})).await.expect(200);
    lab
}

fn held_keys(lab: &Lab) -> usize {
    lab.control().screen(MACHINE).unwrap().held_keys.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vnc_viewer_sees_and_types_and_another_may_follow() {
    let lab = lab().await;
    let vnc = Vnc::start(&lab, &[]).await;
    for _ in 0..2 {
        let mut viewer = vnc.connect().await;
        viewer.see().await;
        let press = client_messages::key(Keysym(SHIFT), true);
        viewer.socket.write_all(&press).await.unwrap();
        eventually("the key of the viewer", async || held_keys(&lab) == 1).await;
        drop(viewer);
        eventually("the key to be released", async || held_keys(&lab) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_only_looks_types_nothing() {
    let lab = lab().await;
    let vnc = Vnc::start(&lab, &["--view"]).await;
    let mut viewer = vnc.connect().await;
    let press = client_messages::key(Keysym(SHIFT), true);
    viewer.see().await;
    viewer.socket.write_all(&press).await.unwrap();
    let screen = lab.get(&format!("/v1/machines/{MACHINE}/screen")).await.expect(200).json;
    assert_eq!(screen["viewers"][0]["mode"], "view");
    assert!(screen["driver"].is_null());
    assert_eq!(held_keys(&lab), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_fails_with_the_reason_of_otter() {
    let lab = lab().await;
    let url = lab.url("");
    let lease = json!({"select": {"machine": LEASED}, "ttl": "10m"});
    lab.post("/v1/leases", lease).await.expect(201);
    // Before a viewer connects.
    for (machine, code) in [("none", "not-found"), (LEASED, "machine-leased")] {
        let arguments = ["vnc", machine, "--listen", "127.0.0.1:0", "--url", &url];
        let mut command = Command::from(otter_command(&arguments));
        command.kill_on_drop(true);
        let output = tokio::time::timeout(TIMEOUT, command.output()).await.unwrap().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(code), "{error}");
    }
    // A driver that was taken over does not come back by itself.
    let mut vnc = Vnc::start(&lab, &[]).await;
    let mut viewer = vnc.connect().await;
    viewer.see().await;
    let path = super::viewer_client::viewer_path(MACHINE, "?mode=drive&force=true");
    let other = super::viewer_client::ViewerClient::open(&lab, &path, &[]).await.unwrap();
    let status = tokio::time::timeout(TIMEOUT, vnc.child.wait()).await.unwrap().unwrap();
    assert!(!status.success());
    drop(other);
}
