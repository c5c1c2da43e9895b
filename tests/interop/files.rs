//! Files of datastores with programs that otter's authors did not write: curl uploads, goes on with
//! a download and reads ranges, requests of Python streams, and govmomi's simulator is the host.

use std::process::{Command, Stdio};

use otter::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::pages::isolate;
use super::{PYVMOMI_9, TIMEOUT, script, succeeds};
use crate::harness::{Answer, Daemon, Host, HostKind, LabOptions, eventually, run_with_timeout};

/// More than otter keeps in memory of one transfer.
const SIZE: usize = 9_000_001;

/// curl's `CURLE_HTTP_RETURNED_ERROR`.
const REFUSED: i32 = 22;

#[tokio::test(flavor = "multi_thread")]
async fn curl_uploads_goes_on_with_a_download_and_reads_ranges() {
    let lab = FilesLab::on_simulator().await;
    let (url, bytes) = (lab.url("isos", "file?path=curl.iso"), bytes(1));
    let source = lab.write("curl.iso", &bytes);
    let put = curl(&["-T", &source, &url]).await;
    let job: Value = serde_json::from_slice(&put).unwrap();
    assert_eq!((&job["kind"], &job["state"]), (&json!("file.upload"), &json!("succeeded")));
    assert_eq!(job["result"]["bytes"], SIZE);
    assert_eq!(job["result"]["sha256"], sha256(&bytes));

    assert!(curl(&[&url]).await == bytes, "the file that was uploaded");
    assert_eq!(curl(&["--range", "5-9", &url]).await, bytes[5..10]);
    assert_eq!(curl(&["--range", "-3", &url]).await, bytes[SIZE - 3..]);
    let head = String::from_utf8(curl(&["-I", &url]).await).unwrap().to_lowercase();
    assert!(head.contains(&format!("content-length: {SIZE}\r\n")), "{head}");
    // A download that broke off goes on.
    let part = lab.write("part.iso", &bytes[..SIZE / 3]);
    curl(&["-C", "-", "-o", &part, &url]).await;
    assert!(std::fs::read(&part).unwrap() == bytes, "both parts are the whole file");

    // The same file again changes nothing, and another one replaces it only if it shall.
    let hash = format!("Otter-Content-SHA256: {}", sha256(&bytes));
    let again: Value =
        serde_json::from_slice(&curl(&["-H", &hash, "-T", &source, &url]).await).unwrap();
    assert_eq!(again["result"]["changed"], false, "{again}");
    let other = lab.write("other.iso", b"other");
    assert_eq!(refused(&["-T", &other, &url]).await, "file-exists");
    curl(&["-T", &other, &format!("{url}&replace=true")]).await;
    assert_eq!(curl(&[&url]).await, b"other");
    // curl cannot know the length of a pipe.
    let piped = lab.url("isos", "file?path=piped.iso");
    assert_eq!(refused(&["-T", "-", &piped]).await, "length-required");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_python_streams_in_both_directions() {
    let lab = FilesLab::on_simulator().await;
    let file = lab.write("requests.iso", &bytes(2));
    succeeds(script(PYVMOMI_9, "stream_files.py", &[&lab.datastore("isos"), &file])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_govmomis_simulator_are_transferred_and_listed() {
    let host = Host::start(HostKind::GovmomiEsx, &LabOptions::default(), &Clock::system()).await;
    let url = host.url();
    let variables = [
        ("OTTER_ESX_URL", url.as_str()),
        ("OTTER_ESX_USERNAME", "root"),
        ("OTTER_ESX_PASSWORD", "otter"),
        ("OTTER_ESX_VERIFY", "false"),
    ];
    let datastore = "LocalDS_0";
    let lab = FilesLab::start(datastore, &[], &variables).await;
    let bytes = bytes(3);
    let made = lab.daemon.request(Method::POST, &path(datastore, "folders?wait=1m"));
    let made = Answer::from_request(made.json(&json!({ "path": "by otter" }))).await.expect(200);
    assert_eq!(made.str("state"), "succeeded");

    let at = |name: &str| path(datastore, &format!("file?path=by%20otter/{name}"));
    for name in ["a%20%26%20b.iso", "c.log"] {
        let put = lab.daemon.request(Method::PUT, &at(name)).body(bytes.clone());
        let job = Answer::from_request(put).await.expect(200);
        assert_eq!(job.json["result"]["sha256"], sha256(&bytes), "{}", job.json);
    }
    let refused = lab.daemon.request(Method::PUT, &at("c.log")).body("other");
    Answer::from_request(refused).await.problem(409, "file-exists");

    let listed = lab.daemon.get(&path(datastore, "files?path=by%20otter")).await.expect(200);
    let mut names = listed.items("name");
    names.sort_unstable();
    assert_eq!(names, ["a & b.iso", "c.log"], "no part file is left");
    let mut items = listed.json["items"].as_array().unwrap().iter();
    assert!(items.all(|item| item["bytes"] == SIZE), "{}", listed.json);

    let read = lab.daemon.request(Method::GET, &at("c.log")).send().await.unwrap();
    assert!(read.bytes().await.unwrap() == bytes, "the file that was uploaded");
    let part = lab.daemon.request(Method::GET, &at("c.log")).header("range", "bytes=10-19");
    let part = part.send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.bytes().await.unwrap(), bytes[10..20]);

    let gone = lab.daemon.request(Method::DELETE, &format!("{}&wait=1m", at("c.log")));
    assert_eq!(Answer::from_request(gone).await.expect(200).str("state"), "succeeded");
    let read = lab.daemon.get(&at("c.log")).await;
    read.problem(404, "not-found");
    host.stop().await;
}

/// A daemon that may write to a datastore, and a directory for files of this computer.
struct FilesLab {
    daemon: Daemon,
    directory: TempDir,
}

impl FilesLab {
    async fn on_simulator() -> Self {
        Self::start("isos", &["--simulate"], &[]).await
    }

    async fn start(datastore: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("otter.toml");
        std::fs::write(&config, format!("[files]\nroots = [\"[{datastore}]\"]\n")).unwrap();
        let state = directory.path().join("state");
        let fixed = ["--config", config.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
        let daemon = Daemon::start(&[arguments, &fixed[..]].concat(), variables).await;
        let ready = async || daemon.get("/readyz").await.status == 200;
        eventually("the inventory to be loaded", ready).await;
        Self { daemon, directory }
    }

    /// Writes a file of this computer, and returns its path.
    fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn datastore(&self, name: &str) -> String {
        format!("http://{}/v1/datastores/name:{name}", self.daemon.address())
    }

    fn url(&self, datastore: &str, below: &str) -> String {
        format!("{}/{below}", self.datastore(datastore))
    }
}

/// A path of the API below a datastore.
fn path(datastore: &str, below: &str) -> String {
    format!("/v1/datastores/name:{datastore}/{below}")
}

/// Bytes that do not repeat, so that a part in the wrong place is noticed.
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    })
    .take(SIZE)
    .collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// What curl prints.
async fn curl(arguments: &[&str]) -> Vec<u8> {
    succeeds(curl_command(arguments)).await.stdout
}

/// The code of the problem with which otter refuses a call.
async fn refused(arguments: &[&str]) -> String {
    let output = run_with_timeout(curl_command(arguments), TIMEOUT).await;
    assert_eq!(output.status.code(), Some(REFUSED), "{arguments:?}: {output:?}");
    let problem: Value = serde_json::from_slice(&output.stdout).unwrap();
    problem["code"].as_str().unwrap().to_owned()
}

fn curl_command(arguments: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail-with-body"]).args(arguments).stdin(Stdio::null());
    isolate(&mut curl);
    curl
}
