//! Connections to the daemon: TLS with a pinned certificate or an authority, and a Unix socket.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{RunFixture, RunProcess};
use crate::harness::{ConnectProxy, Daemon, otter_command};

/// Starts `otter run`. The run may be queued, because the machine of an earlier run may not be free
/// yet.
fn run(arguments: &[&str]) -> RunProcess {
    let mut command = otter_command(&["run", "--name", "sdw-staging", "--queue-for", "10s"]);
    command.args(arguments).args(["--", "echo", "mine"]);
    RunProcess::start(command)
}

#[tokio::test]
async fn the_certificate_is_verified() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("otter.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("otter.key"), made.signing_key.serialize_pem()).unwrap();
    let text = format!(
        "[http]\ntls_certificate = {:?}\ntls_key = {:?}\n",
        path("otter.pem"),
        path("otter.key")
    );
    std::fs::write(path("otter.toml"), text).unwrap();
    let daemon = Daemon::start(&["--simulate", "--config", &path("otter.toml")], &[]).await;
    let url = format!("https://localhost:{}", daemon.address().rsplit(':').next().unwrap());
    let right = otter::esx::fingerprint(made.cert.der()).to_string();
    let ended = run(&["--url", &url, "--fingerprint", &right]).wait().await;
    ended.assert_exit(0, "the machine is given back");
    assert_eq!(ended.stdout, ["mine"]);
    let wrong = run(&["--url", &url, "--fingerprint", &"ab".repeat(32)]).wait().await;
    wrong.assert_exit(69, &right);
    run(&["--url", &url, "--cacert", &path("otter.pem")]).wait().await.assert_exit(0, "");
    run(&["--url", &url, "--cacert", "/nowhere.pem"]).wait().await.assert_exit(64, "/nowhere.pem");
    assert!(daemon.terminate().await.success());
}

/// Starts a daemon with a self-signed certificate for `localhost`, which is in `otter.pem`.
async fn start_with_tls(directory: &Path, is_ca: IsCa) -> Daemon {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = is_ca;
    std::fs::write(path("otter.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(path("otter.key"), key.serialize_pem()).unwrap();
    let text = format!(
        "[http]\ntls_certificate = {:?}\ntls_key = {:?}\n",
        path("otter.pem"),
        path("otter.key")
    );
    std::fs::write(path("otter.toml"), text).unwrap();
    Daemon::start(&["--simulate", "--config", &path("otter.toml")], &[]).await
}

fn port(daemon: &Daemon) -> &str {
    daemon.address().rsplit(':').next().unwrap()
}

/// Asserts that `otter run` fails without retries, with these texts in its messages.
async fn assert_fails_at_once(arguments: &[&str], messages: &[&str]) {
    let ended = run(arguments).wait().await;
    for part in messages {
        ended.assert_exit(69, part);
    }
    assert!(ended.stdout.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn otter_is_reached_through_a_proxy_by_the_rules_of_curl() {
    let directory = tempfile::tempdir().unwrap();
    let daemon = start_with_tls(directory.path(), IsCa::NoCa).await;
    let certificate = directory.path().join("otter.pem");
    let proxy = ConnectProxy::start().await;
    let run_with = async |url: &str, options: &[&str], variables: &[(&str, &str)]| {
        let mut command = otter_command(&["run", "--name", "sdw-staging", "--queue-for", "10s"]);
        command.args(["--retry-for", "1s", "--url", url, "--cacert"]).arg(&certificate);
        command.args(options).args(["--", "echo", "mine"]).envs(variables.iter().copied());
        RunProcess::start(command).wait().await
    };
    let by_address = format!("https://localhost:{}", port(&daemon));
    let url = proxy.url();
    let tunnels = || proxy.take_targets();
    run_with(&by_address, &["--proxy", &url], &[]).await.assert_exit(0, "");
    assert!(!tunnels().is_empty(), "the flag names the proxy");
    run_with(&by_address, &[], &[("HTTPS_PROXY", &url)]).await.assert_exit(0, "");
    assert!(!tunnels().is_empty(), "the variable names the proxy");
    let without = [("all_proxy", url.as_str()), ("NO_PROXY", "otter.lab localhost")];
    run_with(&by_address, &[], &without).await.assert_exit(0, "");
    run_with(&by_address, &["--proxy", ""], &without[..1]).await.assert_exit(0, "");
    run_with(&by_address, &[], &[("HTTP_PROXY", &url)]).await.assert_exit(0, "");
    assert!(tunnels().is_empty(), "no proxy is used");

    let socks = run_with(&by_address, &[], &[("https_proxy", "socks5://me:hunter2@proxy")]).await;
    socks.assert_exit(64, "https_proxy: ");
    assert!(!format!("{socks:?}").contains("hunter2"), "{socks:?}");
    proxy.require_authorization("Basic bGFiOnNlY3JldA==");
    let wrong = run_with(&by_address, &["--proxy", &url], &[]).await;
    wrong.assert_exit(69, "the proxy requires an account");
    let right = format!("http://lab:secret@{}", proxy.address());
    run_with(&by_address, &["--proxy", &right], &[]).await.assert_exit(0, "");
    proxy.refuse(Some("403 Forbidden"));
    let refused = run_with(&by_address, &["--proxy", &right], &[]).await;
    refused.assert_exit(69, "the proxy does not connect to otter");
    assert!(daemon.terminate().await.success());
}

#[tokio::test]
async fn a_wrong_scheme_is_reported_with_the_right_one() {
    let directory = tempfile::tempdir().unwrap();
    let secured = start_with_tls(directory.path(), IsCa::NoCa).await;
    let right = format!("https://localhost:{}", port(&secured));
    let wrong = right.replace("https", "http");
    assert_fails_at_once(&["--url", &wrong], &[&format!("this port serves TLS: write {right}")])
        .await;

    let fixture = RunFixture::start().await;
    let right = fixture.url();
    let wrong = right.replace("http", "https");
    let plain = format!("this port does not speak TLS: write {right}");
    assert_fails_at_once(&["--url", &wrong], &[&plain]).await;
}

/// Other TLS servers answer plain HTTP with a TLS alert or with an HTML page.
#[tokio::test]
async fn a_tls_port_of_another_server_is_recognised() {
    for answer in [
        &b"\x15\x03\x01\x00\x02\x02\x46"[..],
        b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/html\r\ncontent-length: 58\r\n\r\n\
          <p>The plain HTTP request was sent to HTTPS port</p>\r\n\r\n\r\n",
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut request = [0; 4_096];
                if matches!(client.read(&mut request).await, Ok(1..)) {
                    client.write_all(answer).await.unwrap();
                }
            }
        });
        assert_fails_at_once(
            &["--url", &url],
            &[&format!("write {}", url.replace("http", "https"))],
        )
        .await;
        server.abort();
    }
}

#[tokio::test]
async fn a_refused_certificate_is_reported_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("otter.pem");
    let certificate = certificate.to_str().unwrap();
    let other = tempfile::NamedTempFile::new().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "another authority");
    std::fs::write(other.path(), params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem())
        .unwrap();
    let daemon = start_with_tls(directory.path(), IsCa::NoCa).await;
    let named = format!("https://localhost:{}", port(&daemon));
    let numbered = format!("https://127.0.0.1:{}", port(&daemon));
    let unknown =
        ["no trusted authority has signed it", "--cacert", "--fingerprint SHA256", "openssl"];
    assert_fails_at_once(&["--url", &named, "--cacert", other.path().to_str().unwrap()], &unknown)
        .await;
    let misnamed = ["127.0.0.1", "localhost", "--fingerprint SHA256"];
    assert_fails_at_once(&["--url", &numbered, "--cacert", certificate], &misnamed).await;
    drop(daemon);

    // A certificate that `openssl req -x509` makes is trusted if the file of `--cacert` contains
    // it.
    let daemon = start_with_tls(directory.path(), IsCa::Ca(BasicConstraints::Unconstrained)).await;
    let url = format!("https://localhost:{}", port(&daemon));
    run(&["--url", &url, "--cacert", certificate]).wait().await.assert_exit(0, "");
    let self_signed = ["it is self-signed: no trusted authority has signed it", "--cacert"];
    assert_fails_at_once(
        &["--url", &url, "--cacert", other.path().to_str().unwrap()],
        &self_signed,
    )
    .await;
}

#[tokio::test]
async fn a_run_connects_through_a_unix_socket() {
    let fixture = RunFixture::start().await;
    let socket = format!("unix:{}", fixture.path("otter.sock").display());
    let mut serve = otter_command(&["serve", "--simulate", "--listen", &socket]);
    let mut serving = tokio::process::Command::from({
        serve.stdout(std::process::Stdio::null());
        serve
    })
    .kill_on_drop(true)
    .spawn()
    .unwrap();
    // `otter run` retries until the socket exists.
    let mut command =
        otter_command(&["run", "--url", &socket, "--name", "sdw-staging", "--", "sh", "-c"]);
    command.arg("echo $OTTER_URL");
    let ended = RunProcess::start(command).wait().await;
    ended.assert_exit(0, "the machine is given back");
    assert_eq!(ended.stdout, [socket]);
    serving.kill().await.unwrap();
}
