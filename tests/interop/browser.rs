//! A browser opens a page of another server, which tries to change machines of an otter without
//! tokens. Nothing changes, and the page can read nothing. A page whose origin is listed in the
//! configuration can use otter as any client can. Artifacts that are pages and scripts run nowhere.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::{get, post};
use http::{Method, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::succeeds_within;
use crate::harness::{Answer, Daemon, eventually, log_lines, otter_command};

/// The longest time for the browser.
pub const TIMEOUT: Duration = Duration::from_mins(2);

/// A hostile page. It reports the result of each attempt to its own server, and finishes loading
/// when the server has answered.
const HOSTILE: &str = r#"<!doctype html><title>hostile</title>
<form method="post" target="frame" action="http://{otter}/v1/machines/16/revert?from=form"></form>
<iframe name="frame"></iframe><img src="/end">
<script>
const results = [];
async function attempt(name, path, options) {
  try {
    const answer = await fetch("http://{otter}" + path, options);
    results.push(name + " " + answer.type + " " + answer.status + " [" + await answer.text() + "]");
  } catch (error) {
    results.push(name + " " + error.name);
  }
}
async function form() {
  const frame = document.querySelector("iframe");
  const loaded = new Promise(resolve => { frame.onload = resolve; });
  document.querySelector("form").submit();
  await loaded;
  let text;
  try { text = frame.contentDocument.body.textContent; } catch (error) { text = error.name; }
  results.push("form " + text);
}
function socket() {
  return new Promise(resolve => {
    const socket = new WebSocket("ws://{otter}/v1/machines/16");
    socket.onopen = () => { results.push("socket open"); resolve(); };
    socket.onerror = () => { results.push("socket error"); resolve(); };
  });
}
(async () => {
  await form();
  const revert = "/v1/machines/16/revert?from=";
  await attempt("empty", revert + "empty", {method: "POST", mode: "no-cors"});
  await attempt("text", revert + "text", {method: "POST", mode: "no-cors", body: "{}"});
  await attempt("urlencoded", revert + "urlencoded",
    {method: "POST", mode: "no-cors", body: new URLSearchParams({a: "b"})});
  await attempt("json", revert + "json",
    {method: "POST", headers: {"content-type": "application/json"}, body: "{}"});
  await attempt("delete", "/v1/machines/16/snapshots?all=true", {method: "DELETE"});
  await attempt("get", "/v1/machines", {});
  await attempt("opaque", "/v1/machines", {mode: "no-cors"});
  await socket();
  await fetch("/results", {method: "POST", body: results.join("\n")});
})();
</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_server_changes_and_reads_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let [log, profile] = ["log", "profile"].map(|name| directory.path().join(name));
    let daemon = start_with_access_log(&log).await;
    let before = daemon.get("/v1/machines/16").await.expect(200).json;
    let hostile = Site::serve(HOSTILE).await;

    let url = format!("{}/?{}", hostile.origin, daemon.address());
    let shown = succeeds_within(chromium(&url, &profile), TIMEOUT).await.stdout;
    let results = hostile.results();
    let results: Vec<&str> = results.lines().collect();
    let expected = [
        // The frame is of another origin, so the page cannot read it.
        "form TypeError",
        "empty opaque 0 []",
        "text opaque 0 []",
        "urlencoded opaque 0 []",
        "json TypeError",
        "delete TypeError",
        "get TypeError",
        "opaque opaque 0 []",
        "socket error",
    ];
    assert_eq!(results, expected, "{}", String::from_utf8_lossy(&shown));

    let lines = log_lines(&log, "access");
    let statuses = |method: &str, path: &str| -> Vec<&Value> {
        let of_page = lines.iter().filter(|line| line["method"] == method && line["path"] == path);
        of_page.map(|line| &line["status"]).collect()
    };
    let revert = "/v1/machines/16/revert";
    assert_eq!(
        statuses("POST", revert),
        vec![&json!(403); 4],
        "the form, and three without a question"
    );
    assert_eq!(statuses("OPTIONS", revert), [&json!(405)], "the browser asks before it sends JSON");
    assert_eq!(statuses("DELETE", "/v1/machines/16/snapshots"), Vec::<&Value>::new());
    assert_eq!(
        statuses("GET", "/v1/machines"),
        vec![&json!(200); 2],
        "read, and kept from the page"
    );
    assert!(statuses("GET", "/v1/machines/16").contains(&&json!(403)), "the WebSocket");
    assert_eq!(daemon.get("/v1/jobs").await.expect(200).json["items"], json!([]));
    assert_eq!(daemon.get("/v1/machines/16").await.expect(200).json, before);
}

/// A page that uses otter with a token and reads the answers.
const CLIENT: &str = r#"<!doctype html><title>client</title><img src="/end">
<script>
const results = [];
async function attempt(name, method, path, body) {
  try {
    const headers = {"authorization": "Bearer {given}", "content-type": "application/json"};
    headers["idempotency-key"] = "k";
    const answer = await fetch("http://{otter}" + path, {method, body, headers});
    const json = await answer.json();
    const replayed = answer.headers.get("idempotent-replayed");
    const outcome = json.state ?? json.code ?? json.power_state;
    const version = answer.headers.has("otter-version");
    results.push([name, answer.status, outcome, String(replayed), version].join(" "));
  } catch (error) {
    results.push(name + " " + error.name);
  }
}
(async () => {
  const power = "/v1/machines/16/power?wait=30s";
  await attempt("change", "POST", power, '{"action": "on"}');
  await attempt("again", "POST", power, '{"action": "on"}');
  await attempt("read", "GET", "/v1/machines/16");
  await attempt("refused", "DELETE", "/v1/machines/none/quarantine");
  await fetch("/results", {method: "POST", body: results.join("\n")});
})();
</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_page_works_with_otter_and_others_do_not() {
    let (listed, other) = (Site::serve(CLIENT).await, Site::serve(CLIENT).await);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let text = format!("[http]\nallowed_origins = [{:?}]\n[log]\naccess = true\n", listed.origin);
    std::fs::write(path("otter.toml"), text).unwrap();
    std::fs::create_dir(path("state")).unwrap();
    let mut create = otter_command(&["token", "create", "--name", "page", "--role", "operator"]);
    let token = create.args(["--state-dir", &path("state")]).output().unwrap();
    assert!(token.status.success(), "{token:?}");
    let token = String::from_utf8(token.stdout).unwrap();
    let log = directory.path().join("log");
    let arguments = ["--simulate", "--config", &path("otter.toml"), "--state-dir", &path("state")];
    let daemon = Daemon::start_with_log(&log, &arguments, &[]).await;
    eventually("the inventory to load", async || daemon.get("/readyz").await.status == 200).await;
    let statuses = |method: &str| -> Vec<u64> {
        let lines = log_lines(&log, "access");
        let of_page = lines.iter().filter(|line| line["method"] == method);
        of_page.map(|line| line["status"].as_u64().unwrap()).collect()
    };
    let visit = async |site: &Site, profile: &str| {
        let url = format!("{}/?{},{}", site.origin, daemon.address(), token.trim());
        succeeds_within(chromium(&url, &directory.path().join(profile)), TIMEOUT).await;
    };

    visit(&other, "other").await;
    assert_eq!(
        other.results(),
        "change TypeError\nagain TypeError\nread TypeError\nrefused TypeError"
    );
    assert_eq!(
        (statuses("POST"), statuses("DELETE")),
        (vec![], vec![]),
        "the browser sends none of it"
    );
    let asked = statuses("OPTIONS");
    assert!(!asked.is_empty() && asked.iter().all(|status| *status == 401), "{asked:?}");

    visit(&listed, "listed").await;
    let expected = [
        "change 200 succeeded null true",
        "again 200 succeeded true true",
        "read 200 on null true",
        "refused 404 not-found null false",
    ];
    assert_eq!(listed.results().lines().collect::<Vec<_>>(), expected);
    assert!(statuses("OPTIONS")[asked.len()..].iter().all(|status| *status == 204));
}

/// An artifact that is a page. If it runs, it tells its opener.
const PAGE: &str = r#"<!doctype html><title>artifact</title>
<script>(opener || parent).postMessage(origin + " ran", "*");</script>"#;

/// An artifact that is a picture with a script.
const PICTURE: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">
<script>(window.opener || parent).postMessage(origin + " ran", "*");</script></svg>"#;

/// A page that opens artifacts in each way in which a page can. At last it opens one of its own
/// server, which runs.
const OPENER: &str = r#"<!doctype html><title>opener</title><img src="/end">
<script>
const results = [];
const [frame, embed, object, top_, script] =
  "{given}".split(",").map(path => "http://{otter}" + path);
function add(name, fields) {
  const element = Object.assign(document.createElement(name), fields);
  return new Promise(resolve => {
    element.onload = () => resolve(name + " loaded");
    element.onerror = () => resolve(name + " refused");
    document.body.append(element);
  });
}
const own = new Promise(resolve => {
  onmessage = message => {
    results.push(message.data);
    if (message.origin === origin) resolve();
  };
});
addEventListener("DOMContentLoaded", async () => {
  add("iframe", {src: frame});
  add("embed", {src: embed});
  add("object", {data: object});
  if (!open(top_)) results.push("no window");
  results.push(await add("script", {src: script}));
  results.push("variable " + globalThis.ran);
  add("iframe", {src: "/own"});
  await own;
  await fetch("/results", {method: "POST", body: results.join("\n")});
});
</script>"#;

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_that_a_browser_opens_run_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let [log, profile] = ["log", "profile"].map(|name| directory.path().join(name));
    let daemon = start_with_access_log(&log).await;
    let ask = json!({"select": {"machine": "16"}, "ttl": "10m"});
    let lease = daemon.post("/v1/leases", ask).await.expect(201);
    let secret = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let mut contents = Vec::new();
    for (name, content_type, bytes) in [
        ("frame.html", "text/html", PAGE),
        ("embed.svg", "image/svg+xml", PICTURE),
        ("object.html", "text/html", PAGE),
        ("window.html", "text/html", PAGE),
        ("script.txt", "text/plain", "globalThis.ran = true;"),
    ] {
        let path = format!("/v1/leases/{}/artifacts/{name}", lease.str("id"));
        let put = daemon.request(Method::PUT, &path).header("otter-lease", &secret);
        let stored = Answer::from_request(put.header("content-type", content_type).body(bytes));
        let content =
            stored.await.expect(201).json["links"]["content"].as_str().unwrap().to_owned();
        contents.push(content);
    }

    let files = Router::new().route("/own", get(|| std::future::ready(Html(PAGE))));
    let site = Site::serve_with(OPENER, files).await;
    let own = site.origin.clone();
    let url = format!("{own}/?{},{}", daemon.address(), contents.join(","));
    succeeds_within(chromium(&url, &profile), TIMEOUT).await;
    assert_eq!(site.results(), format!("script refused\nvariable undefined\n{own} ran"));
    let lines = log_lines(&log, "access");
    for content in contents {
        let is_read = |line: &Value| line["path"] == *content && line["status"] == 200;
        assert!(lines.iter().any(is_read), "the browser has read {content}");
    }
}

/// Starts a daemon with the lab, which logs all requests.
async fn start_with_access_log(log: &Path) -> Daemon {
    let config = log.with_file_name("otter.toml");
    std::fs::write(&config, "[log]\naccess = true\n").unwrap();
    let arguments = ["--simulate", "--config", config.to_str().unwrap()];
    let daemon = Daemon::start_with_log(log, &arguments, &[]).await;
    eventually("the inventory to load", async || daemon.get("/readyz").await.status == 200).await;
    daemon
}

/// The server of the page.
pub struct Site {
    pub origin: String,
    results: watch::Receiver<Option<String>>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Site {
    /// Serves the page. The query of its address holds the address of otter, and what else the page
    /// needs.
    pub async fn serve(page: &'static str) -> Self {
        Self::serve_with(page, Router::new()).await
    }

    /// Serves the page and its files.
    pub async fn serve_with(page: &'static str, files: Router) -> Self {
        let page = async move |uri: Uri| {
            let query = uri.query().unwrap_or_default();
            let (otter, given) = query.split_once(',').unwrap_or((query, ""));
            Html(page.replace("{otter}", otter).replace("{given}", given))
        };
        let (report, results) = watch::channel(None);
        let mut reported = results.clone();
        // The page finishes loading when this answer arrives, so the answer waits for the results
        // of the page.
        let end = async move || {
            let reported = tokio::time::timeout(TIMEOUT, reported.wait_for(Option::is_some)).await;
            if reported.is_ok() { StatusCode::OK } else { StatusCode::GATEWAY_TIMEOUT }
        };
        let report = async move |text: String| {
            report.send_replace(Some(text));
        };
        let routes =
            files.route("/", get(page)).route("/end", get(end)).route("/results", post(report));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { origin, results, server }
    }

    /// The results that the page reported.
    pub fn results(self) -> String {
        self.server.abort();
        self.results.borrow().clone().expect("a complete page")
    }
}

/// A command that opens the page in a headless browser and prints the page when it is loaded.
pub fn chromium(url: &str, profile: &Path) -> Command {
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-popup-blocking",
        "--no-proxy-server",
        "--timeout=60000",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg(url);
    command.env("HOME", profile).stdin(Stdio::null());
    command
}
