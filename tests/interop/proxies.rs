//! The examples in `deploy/proxy`, each run with the real program in front of otter: links, pages,
//! events, viewers of screens, encoded slashes and the address of the client survive the way
//! through the proxy.

use std::path::Path;
use std::process::Command;

use otter::config::Config;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::program::Program;
use super::repository;
use crate::harness::{Answer, Daemon, TIMEOUT, eventually, otter_command};

/// The settings of otter that `deploy/proxy/README.md` names.
const OTTER: &str = "[http]\nbase_path = \"/otter\"\ntrusted_proxies = [\"127.0.0.1\"]\n";

/// A path in the examples that the tests replace by their own directory.
const FILES: &str = "/etc/otter/";

/// A running proxy, and the daemon behind it.
struct Proxied {
    daemon: Daemon,
    _proxy: Program,
    client: reqwest::Client,
    url: String,
    token: String,
    _directory: tempfile::TempDir,
}

/// The command that runs a proxy. The parameters are the directory for the files of the proxy, the
/// text of its example with the paths of the test, and its port.
type Run = fn(&Path, &str, u16) -> Command;

impl Proxied {
    async fn start(example: &str, otter: &str, adapt: fn(String) -> String, run: Run) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let state = path("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::write(path("otter.toml"), otter).unwrap();
        let made = ["token", "create", "--name", "ci", "--role", "admin", "--state-dir"];
        let made = otter_command(&made).arg(&state).output().unwrap();
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let (config, state) = (path("otter.toml"), state.to_str().unwrap());
        let arguments = ["--simulate", "--config", config.to_str().unwrap(), "--state-dir", state];
        let daemon = Daemon::start(&arguments, &[]).await;
        eventually("the inventory", async || daemon.get("/readyz").await.status == 200).await;

        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (pem, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
        std::fs::write(path("proxy-and-key.pem"), format!("{pem}{key}")).unwrap();
        std::fs::write(path("proxy.pem"), pem).unwrap();
        std::fs::write(path("proxy.key"), key).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text =
            std::fs::read_to_string(repository().join("deploy/proxy").join(example)).unwrap();
        let text = text
            .replace(FILES, &format!("{}/", directory.path().display()))
            .replace("127.0.0.1:8080", daemon.address());
        let proxy = Program::start(run(directory.path(), &adapt(text), port));

        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificate = reqwest::Certificate::from_der(certified.cert.der()).unwrap();
        // The address of the client is not a trusted proxy, so the proxy is the last trusted hop.
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([certificate])
            .local_address(std::net::IpAddr::from([127, 0, 0, 2]))
            .timeout(TIMEOUT)
            .build()
            .unwrap();
        let url = format!("https://localhost:{port}");
        let proxied = Self { daemon, _proxy: proxy, client, url, token, _directory: directory };
        eventually("the proxy to serve otter", async || {
            let health = proxied.client.get(format!("{}/otter/healthz", proxied.url)).send().await;
            health.is_ok_and(|health| health.status() == 200)
        })
        .await;
        proxied
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::from_request(self.request(Method::GET, path)).await
    }

    /// Checks the rules that hold behind every proxy.
    async fn check(&self) {
        let refused =
            Answer::from_request(self.client.get(format!("{}/otter/v1/machines", self.url))).await;
        assert_eq!(refused.status, 401, "{}", refused.text);
        assert_eq!(refused.str("type"), "/otter/problems/unauthenticated");
        let page = self.get(refused.str("type")).await.expect(200);
        assert!(page.text.contains("href=\"/otter/docs\""), "{}", page.text);

        let power = |action: &str| {
            let path = "/otter/v1/machines/32/power?wait=14s";
            self.request(Method::POST, path).json(&json!({"action": action}))
        };
        let job = Answer::from_request(power("on")).await.expect(200);
        let location = job.header("location").unwrap().to_owned();
        assert_eq!(location, format!("/otter/v1/jobs/{}", job.str("id")));
        assert_eq!(job.json["links"]["self"], location.as_str());
        assert_eq!(job.json["links"]["machine"], "/otter/v1/machines/32");
        // A client follows the link, or appends the link to an address that has the path.
        for path in [location.clone(), format!("/otter{location}")] {
            assert_eq!(self.get(&path).await.expect(200).str("id"), job.str("id"));
        }

        for path in ["/otter/openapi.json", "/otter/openapi-3.0.json"] {
            let document = self.get(path).await.expect(200);
            assert_eq!(document.json["servers"][0]["url"], "/otter");
        }
        let docs = self.get("/otter/docs").await.expect(200);
        assert!(docs.text.contains("src=\"docs/start.js\""), "relative to the page");
        self.get("/otter/docs/start.js").await.expect(200);
        let page = self.get("/otter/").await.expect(200);
        assert!(page.text.contains("src=\"/otter/page/main.js\""), "{}", page.text);
        self.get("/otter/page/main.js").await.expect(200);

        self.events_arrive_at_once(power("off")).await;
        self.viewers_reach_otter().await;
        let audit = self.get("/otter/v1/audit?action=job.accepted").await.expect(200);
        assert_eq!(audit.items("address"), ["127.0.0.2"; 2], "{}", audit.text);
    }

    /// Checks that an event reaches the client while the stream is open, and that its links have
    /// the path.
    async fn events_arrive_at_once(&self, change: reqwest::RequestBuilder) {
        let stream = self.request(Method::GET, "/otter/v1/events?types=job.changed");
        let mut stream = stream.send().await.unwrap();
        assert_eq!(stream.status(), 200);
        let changed = Answer::from_request(change).await.expect(200);
        let mut text = String::new();
        while !text.contains(changed.str("id")) {
            let chunk = tokio::time::timeout(TIMEOUT, stream.chunk()).await.expect("an event");
            text.push_str(&String::from_utf8_lossy(&chunk.unwrap().expect("an open stream")));
        }
        assert!(text.contains("\"/otter/v1/jobs/"), "{text}");
    }

    /// Checks that a viewer of a screen speaks RFB with otter over a WebSocket.
    async fn viewers_reach_otter(&self) {
        let opening = self
            .request(Method::GET, "/otter/v1/machines/17/screen/rfb")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", "binary");
        let answer = opening.send().await.unwrap();
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "binary");
        let mut socket = answer.upgrade().await.unwrap();
        // One binary message with 12 bytes.
        let mut greeting = [0; 14];
        let read = tokio::time::timeout(TIMEOUT, socket.read_exact(&mut greeting)).await;
        read.expect("the greeting").unwrap();
        assert_eq!(&greeting, b"\x82\x0cRFB 003.008\n");
    }

    /// Checks that a name with an encoded slash reaches otter unchanged.
    async fn encoded_slashes_reach_otter(&self) {
        let missing = self.get("/otter/v1/machines/name:no%2Fsuch").await;
        assert_eq!(missing.status, 404, "{}", missing.text);
        assert!(missing.str("detail").contains("no/such"), "{}", missing.text);
    }
}

fn as_it_is(text: String) -> String {
    text
}

fn nginx(directory: &Path, text: &str, port: u16) -> Command {
    let file = directory.join("nginx.conf");
    let text = text.replace("listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl")).replacen(
        "http {",
        "http {\n    access_log off;",
        1,
    );
    std::fs::write(&file, text).unwrap();
    let mut nginx = Command::new("nginx");
    let pid = directory.join("nginx.pid");
    let global =
        format!("pid {}; daemon off; master_process off; error_log stderr warn;", pid.display());
    nginx.arg("-p").arg(directory).args(["-e", "stderr", "-g", &global]).arg("-c").arg(file);
    nginx
}

fn caddy(directory: &Path, text: &str, port: u16) -> Command {
    let file = directory.join("Caddyfile");
    // Caddy must not use the ports of its admin endpoint and of its redirects (80), because other
    // tests use them.
    let global = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n";
    let text = text.replacen("\nlab.example {", &format!("\nhttps://localhost:{port} {{"), 1);
    std::fs::write(&file, format!("{global}{text}")).unwrap();
    let mut caddy = Command::new("caddy");
    caddy.env("XDG_DATA_HOME", directory).env("XDG_CONFIG_HOME", directory);
    caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    caddy
}

fn apache(directory: &Path, text: &str, port: u16) -> Command {
    let file = directory.join("apache.conf");
    let modules = ["mpm_event", "authz_core", "ssl", "headers", "proxy", "proxy_http"];
    let modules: String = modules
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
    let root = directory.display();
    let server = format!(
        "ServerRoot {root}\nPidFile {root}/apache.pid\nDefaultRuntimeDir {root}\nErrorLog \
         /dev/stderr\nServerName localhost\nListen 127.0.0.1:{port}\n"
    );
    let text = text.replace("*:443", &format!("127.0.0.1:{port}"));
    std::fs::write(&file, format!("{modules}{server}{text}")).unwrap();
    let mut apache = Command::new("apache2");
    apache.args(["-X", "-f"]).arg(file);
    apache
}

fn haproxy(directory: &Path, text: &str, port: u16) -> Command {
    let file = directory.join("haproxy.cfg");
    std::fs::write(&file, text.replace("bind :443", &format!("bind 127.0.0.1:{port}"))).unwrap();
    let mut haproxy = Command::new("haproxy");
    haproxy.args(["-db", "-q", "-f"]).arg(file);
    haproxy
}

#[tokio::test(flavor = "multi_thread")]
async fn otter_works_behind_nginx() {
    let proxied = Proxied::start("nginx.conf", OTTER, as_it_is, nginx).await;
    proxied.check().await;
    proxied.encoded_slashes_reach_otter().await;
}

/// The proxy removes the path, and otter takes it from `X-Forwarded-Prefix`.
#[tokio::test(flavor = "multi_thread")]
async fn otter_works_behind_nginx_that_removes_the_path() {
    let removes =
        |text: String| text.replacen("proxy_pass http://otter;", "proxy_pass http://otter/;", 1);
    let otter = "[http]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let proxied = Proxied::start("nginx.conf", otter, removes, nginx).await;
    proxied.check().await;
    // Other callers reach otter without the path.
    let direct = proxied.daemon.request(Method::GET, "/v1/jobs").bearer_auth(&proxied.token);
    let jobs = Answer::from_request(direct).await.expect(200);
    let link = jobs.json["items"][0]["links"]["self"].as_str().unwrap().to_owned();
    assert!(link.starts_with("/v1/jobs/"), "{link}");
}

#[tokio::test(flavor = "multi_thread")]
async fn otter_works_behind_caddy() {
    let proxied = Proxied::start("Caddyfile", OTTER, as_it_is, caddy).await;
    proxied.check().await;
    proxied.encoded_slashes_reach_otter().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn otter_works_behind_apache() {
    let proxied = Proxied::start("apache.conf", OTTER, as_it_is, apache).await;
    proxied.check().await;
    proxied.encoded_slashes_reach_otter().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn otter_works_behind_haproxy() {
    let proxied = Proxied::start("haproxy.cfg", OTTER, as_it_is, haproxy).await;
    proxied.check().await;
    proxied.encoded_slashes_reach_otter().await;
}

/// The table in GUIDE.md has one row for each example, with lines of that example.
#[test]
fn the_lines_of_the_guide_are_those_of_the_examples() {
    let guide = std::fs::read_to_string(repository().join("GUIDE.md")).unwrap();
    let (_, section) = guide.split_once("\n## Behind a proxy\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    for file in ["nginx.conf", "Caddyfile", "apache.conf", "haproxy.cfg"] {
        let link = format!("(deploy/proxy/{file})");
        let row = section.lines().find(|line| line.starts_with("| ") && line.contains(&link));
        let row = row.unwrap_or_else(|| panic!("no row for {file}"));
        let lines: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        assert!(!lines.is_empty(), "{row}");
        let text = std::fs::read_to_string(repository().join("deploy/proxy").join(file)).unwrap();
        for line in lines {
            assert!(text.contains(line), "{file} lacks {line}");
        }
        assert!(text.contains("X-Forwarded-Prefix"), "{file}");
    }
    // 11 m in the examples is longer than the longest wait.
    let longest = Config::default().http.max_wait;
    assert!(longest < std::time::Duration::from_mins(11), "{longest:?}");
}

/// Without a token, every caller of a proxy on this machine would be an admin.
#[tokio::test(flavor = "multi_thread")]
async fn otter_without_tokens_refuses_what_comes_through_a_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("otter.toml");
    std::fs::write(&file, OTTER).unwrap();
    let daemon = Daemon::start(&["--simulate", "--config", file.to_str().unwrap()], &[]).await;
    let through = daemon.request(Method::GET, "/otter/v1/machines");
    let refused = Answer::from_request(through.header("x-forwarded-prefix", "/otter")).await;
    assert_eq!((refused.status, refused.str("code")), (403, "forbidden"), "{}", refused.text);
    let Value::String(detail) = &refused.json["detail"] else { panic!("{}", refused.text) };
    assert!(detail.contains("otter token create"), "{detail}");
}
