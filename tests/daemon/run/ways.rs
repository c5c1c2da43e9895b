//! The ways to the daemon: TLS, with a certificate that is pinned or one of an authority, and a Unix socket.

use super::{Bench, Run};
use crate::harness::{Daemon, otter};

/// It queues: a run that has ended gave its machine back, and that is free again only a moment later.
fn run(arguments: &[&str]) -> Run {
    let mut command = otter(&["run", "--name", "sdw-staging", "--queue-for", "10s", "--retry-for", "10s"]);
    command.args(arguments).args(["--", "echo", "mine"]);
    Run::start(command)
}

#[tokio::test]
async fn the_certificate_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("otter.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("otter.key"), made.signing_key.serialize_pem()).unwrap();
    let text =
        format!("[http]\ntls_certificate = {:?}\ntls_key = {:?}\n", path("otter.pem"), path("otter.key"));
    std::fs::write(path("otter.toml"), text).unwrap();
    let daemon = Daemon::start(&["--simulate", "--config", &path("otter.toml")], &[]).await;
    let url = format!("https://localhost:{}", daemon.address().rsplit(':').next().unwrap());
    let right = otter::esx::fingerprint(made.cert.der()).to_string();
    let ended = run(&["--url", &url, "--fingerprint", &right]).ended().await;
    ended.exits(0, "the machine is given back");
    assert_eq!(ended.said, ["mine"]);
    let wrong = run(&["--url", &url, "--fingerprint", &"ab".repeat(32)]).ended().await;
    wrong.exits(69, &right);
    run(&["--url", &url, "--cacert", &path("otter.pem")]).ended().await.exits(0, "");
    run(&["--url", &url, "--cacert", "/nowhere.pem"]).ended().await.exits(64, "/nowhere.pem");
    assert!(daemon.terminate().await.success());
}

#[tokio::test]
async fn a_unix_socket_is_a_way_too() {
    let bench = Bench::start().await;
    let socket = format!("unix:{}", bench.file("otter.sock").display());
    let mut serve = otter(&["serve", "--simulate", "--listen", &socket]);
    let mut serving = tokio::process::Command::from({
        serve.stdout(std::process::Stdio::null());
        serve
    })
    .kill_on_drop(true)
    .spawn()
    .unwrap();
    // It is tried until it is there.
    let mut command = otter(&["run", "--url", &socket, "--name", "sdw-staging", "--", "sh", "-c"]);
    command.arg("echo $OTTER_URL");
    let ended = Run::start(command).ended().await;
    ended.exits(0, "the machine is given back");
    assert_eq!(ended.said, [socket]);
    serving.kill().await.unwrap();
}
