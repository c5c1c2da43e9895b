//! Unix sockets and their permissions, and the sockets that systemd passes.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Daemon, TIMEOUT, eventually, otter_command, run_to_exit};

/// A function that sends an HTTP request over a Unix socket and returns the answer. It returns
/// `None` if the connection fails.
fn http_get_over(socket: &Path) -> impl AsyncFn(&str) -> Option<String> {
    let socket = socket.to_owned();
    async move |path: &str| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::UnixStream::connect(&socket).await.ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }
}

async fn answers_over(socket: &Path) {
    let client = http_get_over(socket);
    eventually("the socket to answer", async || {
        client("/healthz").await.is_some_and(|text| text.contains("200 OK"))
    })
    .await;
}

/// `otter` with these arguments, started by a shell that first runs `script`.
fn under_shell(script: &str, arguments: &[&str]) -> Command {
    let otter = otter_command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{script}; exec \"$@\""), "sh"]);
    shell.arg(otter.get_program()).args(otter.get_args()).stdin(Stdio::null());
    for (name, value) in otter.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// `otter` with these arguments and this socket of systemd, which is named `otter.socket`.
fn activated(socket: impl Into<OwnedFd>, arguments: &[&str]) -> Command {
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$ \
                  LISTEN_FDNAMES=otter.socket";
    let mut command = under_shell(script, arguments);
    command.stdin(Stdio::from(socket.into()));
    command
}

/// Starts a daemon on a Unix socket, and returns the mode and the group of the socket while it
/// serves. The daemon must remove the socket when it stops.
async fn mode_and_group(umask: &str, config: &str) -> (u32, u32) {
    let directory = tempfile::tempdir().unwrap();
    let (socket, file) = (directory.path().join("otter.sock"), directory.path().join("otter.toml"));
    std::fs::write(&file, format!("[http]\nlisten = \"unix:{}\"\n{config}", socket.display()))
        .unwrap();
    let arguments = ["serve", "--simulate", "--config", file.to_str().unwrap()];
    let mut command = under_shell(&format!("umask {umask}"), &arguments);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    answers_over(&socket).await;
    let found = std::fs::metadata(&socket).unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert!(tokio::time::timeout(TIMEOUT, ended).await.unwrap().unwrap().success());
    assert!(!socket.exists());
    (found.permissions().mode() & 0o7777, found.gid())
}

#[tokio::test]
async fn only_the_account_of_otter_may_connect_unless_the_configuration_says_otherwise() {
    let own = rustix::process::getegid().as_raw();
    for umask in ["000", "077"] {
        assert_eq!(mode_and_group(umask, "").await.0, 0o600, "umask {umask}");
        let config = format!("socket_mode = \"0660\"\nsocket_group = \"{own}\"\n");
        assert_eq!(mode_and_group(umask, &config).await, (0o660, own), "umask {umask}");
    }
}

#[tokio::test]
async fn a_group_that_does_not_exist_prevents_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, file) = (directory.path().join("otter.sock"), directory.path().join("otter.toml"));
    let listen = format!("unix:{}", socket.display());
    std::fs::write(&file, "[http]\nsocket_group = \"no-such-group\"\n").unwrap();
    let arguments =
        ["serve", "--simulate", "--config", file.to_str().unwrap(), "--listen", &listen];
    let (code, text) = run_to_exit(otter_command(&arguments)).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no group no-such-group (http.socket_group)"), "{text}");
    assert!(!socket.exists());
}

#[tokio::test]
async fn otter_serves_on_the_sockets_of_systemd_and_leaves_their_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("otter.sock");
    let (unix, tcp) =
        (UnixListener::bind(&path).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = tcp.local_addr().unwrap();
    // If otter listened on the configured address too, it would not start.
    let used = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = used.local_addr().unwrap().to_string();
    let script = "exec 3<&0 4<&2 </dev/null 2>/dev/null; export LISTEN_FDS=2 LISTEN_PID=$$ \
                  LISTEN_FDNAMES=local:network";
    let mut command = under_shell(script, &["serve", "--simulate", "--listen", &listen]);
    command.stdin(Stdio::from(OwnedFd::from(unix))).stderr(Stdio::from(OwnedFd::from(tcp)));
    let daemon = Daemon::try_start(command).await.unwrap();
    assert_eq!(daemon.address(), address.to_string());
    daemon.get("/healthz").await.expect(200);
    answers_over(&path).await;
    assert!(daemon.terminate().await.success());
    assert!(path.exists(), "the next start gets the same socket");
}

#[tokio::test]
async fn sockets_for_another_process_are_not_used() {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = passed.local_addr().unwrap();
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=1";
    let mut command = under_shell(script, &["serve", "--simulate", "--listen", "127.0.0.1:0"]);
    command.stdin(Stdio::from(OwnedFd::from(passed)));
    let daemon = Daemon::try_start(command).await.unwrap();
    assert_ne!(daemon.address(), address.to_string());
    daemon.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn a_socket_of_systemd_must_listen_for_streams() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let idle = std::os::unix::net::UnixStream::pair().unwrap().0;
    for socket in [OwnedFd::from(udp), OwnedFd::from(idle)] {
        let (code, text) = run_to_exit(activated(socket, &["serve", "--simulate"])).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("the socket otter.socket that systemd passes"), "{text}");
        assert!(text.contains("ListenStream="), "{text}");
    }
}

/// The rules for addresses hold for the sockets of systemd too.
#[tokio::test]
async fn a_socket_of_systemd_that_other_machines_reach_requires_a_token() {
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let (code, text) = run_to_exit(activated(socket, &["serve", "--simulate"])).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("otter token create"), "{text}");
}

#[tokio::test]
async fn settings_of_a_socket_that_otter_does_not_make_are_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("otter.toml");
    std::fs::write(&file, "[http]\nsocket_mode = \"0666\"\n").unwrap();
    let arguments = ["serve", "--simulate", "--config", file.to_str().unwrap()];
    for (by_systemd, why) in
        [(true, "set SocketMode= and SocketGroup="), (false, "http.listen is no Unix socket")]
    {
        let log = directory.path().join("log");
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = if by_systemd {
            activated(socket, &arguments)
        } else {
            otter_command(&[&arguments[..], &["--listen", "127.0.0.1:0"]].concat())
        };
        command.stderr(std::fs::File::create(&log).unwrap());
        drop(Daemon::try_start(command).await.unwrap());
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.contains("http.socket_mode") && text.contains(why), "{text}");
    }
}
