//! The reload of the configuration (SIGHUP): it replaces pools, patterns, the log level and the
//! certificate, all or none, and says what changed and what needs a restart.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, eventually, log_lines};

/// A daemon with an embedded host, its configuration file and its log.
struct Reloadable {
    daemon: Daemon,
    directory: tempfile::TempDir,
}

impl Reloadable {
    async fn start(config: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("otter.toml");
        std::fs::write(&file, config).unwrap();
        let common = ["--simulate", "--log-format", "json", "--config", file.to_str().unwrap()];
        let log = directory.path().join("log");
        let daemon = Daemon::start_with_log(&log, &[&common[..], arguments].concat(), &[]).await;
        eventually("the inventory", async || daemon.get("/readyz").await.status == 200).await;
        Self { daemon, directory }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The messages of the log that begin with a text.
    fn messages(&self, beginning: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.log()).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let messages = lines.filter_map(|line| Some(line["message"].as_str()?.to_owned()));
        messages.filter(|message| message.starts_with(beginning)).collect()
    }

    /// Whether the log has requests that succeeded, which it has at the level `debug`.
    fn logs_requests(&self) -> bool {
        log_lines(&self.log(), "request").iter().any(|line| line["level"] == "DEBUG")
    }

    /// Writes the configuration, reloads it, and waits for the end of the reload.
    async fn reload(&self, config: &str) {
        std::fs::write(self.directory.path().join("otter.toml"), config).unwrap();
        self.reload_same().await;
    }

    async fn reload_same(&self) {
        let ends = || {
            self.messages("reloaded: the configuration").len()
                + self.messages("cannot reload the configuration: nothing was changed").len()
        };
        let before = ends();
        self.daemon.signal(Signal::HUP);
        eventually("the end of the reload", async || ends() > before).await;
    }

    async fn pools(&self) -> Vec<String> {
        let pools = self.daemon.get("/v1/pools").await.expect(200);
        pools.items("name").into_iter().map(str::to_owned).collect()
    }

    async fn is_protected(&self, machine: &str) -> bool {
        let path = format!("/v1/machines/{machine}");
        self.daemon.get(&path).await.expect(200).json["protected"].as_bool().unwrap()
    }

    async fn lease(&self, body: Value) -> Answer {
        self.daemon.post("/v1/leases", body).await
    }
}

#[tokio::test]
async fn a_reload_replaces_pools_and_patterns_and_names_what_changed() {
    let otter = Reloadable::start(
        "[machines]\nprotected = [\"17\"]\n[pools.old]\nmachines = [\"32\"]\nmax_ttl = \"1h\"\n",
        &[],
    )
    .await;
    assert_eq!(otter.pools().await, ["old"]);
    assert!(otter.is_protected("17").await && !otter.is_protected("18").await);
    let before = otter.daemon.get("/v1/machines").await.expect(200).str("version").to_owned();
    otter
        .reload(
            "[http]\nmax_wait = \"5m\"\n[machines]\nprotected = [\"18\"]\n[snapshots]\nprotected = \
             [\"kickstart\"]\n[pools.new]\nmachines = [\"32\"]\nmax_ttl = \"60m\"\n",
        )
        .await;
    let changed = otter.messages("SIGHUP changed: ");
    let [changed] = changed.as_slice() else { panic!("{changed:?}") };
    for key in ["machines.protected", "snapshots.protected", "pools.old.machines", "pools.new."] {
        assert!(changed.contains(key), "{key} in {changed}");
    }
    assert!(!changed.contains("max_wait"), "{changed}");
    let later = otter.messages("these settings changed too, but need a restart");
    assert!(matches!(later.as_slice(), [one] if one.ends_with(": http.max_wait")), "{later:?}");

    assert_eq!(otter.pools().await, ["new"]);
    assert!(otter.is_protected("18").await && !otter.is_protected("17").await);
    let pools = otter.daemon.get("/v1/machines/32").await.expect(200).json["pools"].clone();
    assert_eq!(pools, json!(["new"]));
    let list = otter.daemon.get("/v1/machines").await.expect(200).json["items"].take();
    let listed = list.as_array().unwrap().iter().find(|machine| machine["id"] == "32");
    assert_eq!(listed.unwrap()["pools"], pools, "the list that was read before is not kept");
    let refused = otter.daemon.post("/v1/machines/18/power", json!({"action": "on"})).await;
    refused.problem(409, "self-protection");
    let snapshot = "/v1/machines/16/snapshots/kickstart";
    assert_eq!(otter.daemon.get(snapshot).await.status, 409, "there are two of the name");
    let removal =
        otter.daemon.request(reqwest::Method::DELETE, "/v1/machines/21/snapshots/kickstart");
    Answer::from_request(removal).await.problem(403, "forbidden");
    // A reader of events reads all objects again.
    let path = format!("/v1/events?since={before}&wait=1s");
    let events = otter.daemon.request(reqwest::Method::GET, &path).send().await.unwrap();
    let events = events.text().await.unwrap();
    assert!(events.contains("event: reset"), "{events}");
    let audit = otter.daemon.get("/v1/audit?action=configuration.reloaded").await.expect(200);
    assert_eq!((audit.items("outcome"), audit.items("actor")), (vec!["done"], vec!["otter"]));
    assert!(audit.items("detail")[0].contains("needs a restart: http.max_wait"), "{}", audit.text);

    // A changed setting that needs a restart is logged again at each reload, until the file has the
    // old value.
    otter.reload_same().await;
    assert_eq!(otter.messages("SIGHUP changed: nothing").len(), 1);
    assert_eq!(otter.messages("these settings changed too").len(), 2);
}

#[tokio::test]
async fn leases_of_a_pool_that_a_reload_changes_go_on() {
    let pool = |machines: &str| format!("[pools.ci]\nmachines = [{machines}]\n");
    let otter = Reloadable::start(&pool("\"18\""), &[]).await;
    let body = json!({"select": {"pool": "ci"}, "ttl": "30m", "queue_for": "30m"});
    let held = otter.lease(body.clone()).await;
    let path = |lease: &Answer, rest: &str| format!("/v1/leases/{}{rest}", lease.str("id"));
    otter.daemon.get(&path(&held, "/wait?wait=14s")).await.expect(200);
    let queued = otter.lease(body).await;
    assert_eq!(queued.str("state"), "queued");
    // A machine that a reload adds goes to the lease that waits.
    otter.reload(&pool("\"18\", \"22\"")).await;
    let granted = otter.daemon.get(&path(&queued, "/wait?wait=14s")).await.expect(200);
    assert_eq!((granted.str("state"), granted.str("machine")), ("active", "22"));
    // A lease outlives its pool.
    otter.reload("").await;
    assert!(otter.pools().await.is_empty());
    let renewal = otter.daemon.request(reqwest::Method::POST, &path(&held, "/renew"));
    let secret = format!("{}.{}", held.str("id"), held.str("secret"));
    let renewal = renewal.header("otter-lease", &secret).json(&json!({"ttl": "40m"}));
    Answer::from_request(renewal).await.expect(200);
    let end = otter.daemon.request(reqwest::Method::DELETE, &path(&held, "?wait=14s"));
    let ended = Answer::from_request(end.header("otter-lease", &secret)).await.expect(200);
    assert_eq!(ended.str("state"), "released");
}

#[tokio::test]
async fn nothing_changes_if_anything_is_wrong_and_the_log_has_each_problem() {
    let start = "[pools.old]\nmachines = [\"32\"]\n";
    let otter = Reloadable::start(start, &[]).await;
    let good = "[machines]\nprotected = [\"18\"]\n[log]\nlevel = \"debug\"\n";
    let unchanged = async || {
        assert_eq!(otter.pools().await, ["old"]);
        assert!(!otter.is_protected("18").await);
        assert!(!otter.logs_requests(), "the level is still info");
    };
    otter.reload(&format!("{good}[pools.new]\nmachinse = []\n[http]\nmax_wait = \"soon\"\n")).await;
    let problems = otter.messages("cannot reload the configuration: ");
    for problem in ["6: pools.new.machinse: there is no such key", "8: http.max_wait:"] {
        let lines = problems.iter().filter(|line| line.contains(problem)).count();
        assert_eq!(lines, 1, "{problem} in {problems:?}");
    }
    assert!(problems.iter().any(|line| line.contains("because of 2 problem(s)")), "{problems:?}");
    unchanged().await;
    // A certificate that cannot be read is a problem, even if otter serves no TLS now.
    let tls = "[http]\ntls_certificate = \"/nowhere.pem\"\ntls_key = \"/nowhere.key\"\n";
    otter.reload(&format!("{good}{tls}")).await;
    let problems = otter.messages("cannot reload the configuration: the certificate /nowhere.pem");
    assert_eq!(problems.len(), 1);
    unchanged().await;
    let audit = otter.daemon.get("/v1/audit?action=configuration.reloaded").await.expect(200);
    assert_eq!(audit.items("outcome"), ["failed", "failed"]);

    otter.reload(good).await;
    assert!(otter.pools().await.is_empty() && otter.is_protected("18").await);
    otter.daemon.get("/healthz").await.expect(200);
    assert!(otter.logs_requests());
}

#[tokio::test]
async fn a_setting_that_a_flag_overrides_does_not_change() {
    let otter = Reloadable::start("[log]\nlevel = \"warn\"\n", &["--log-level", "info"]).await;
    otter.reload("[log]\nlevel = \"debug\"\n[http]\nlisten = \"127.0.0.1:1\"\n").await;
    assert_eq!(otter.messages("SIGHUP changed: nothing").len(), 1);
    assert!(otter.messages("these settings changed too").is_empty());
    otter.daemon.get("/healthz").await.expect(200);
    assert!(!otter.logs_requests());
}
