//! Tests with programs that otter's authors did not write. otter's simulator is tested with pyvmomi
//! and govmomi, and compared with govmomi's simulator. otter is tested with curl, with the commands
//! of the README and the GUIDE, with the CI examples, with reverse proxies, with generated clients,
//! with schemathesis, a browser, VNC viewers, real screens and serial ports, and with very many
//! clients.

mod browser;
mod ci;
mod clients;
mod crowd;
mod curl;
mod files;
mod guide;
mod novnc;
mod page;
mod pages;
mod program;
mod proxies;
mod readme;
mod recordings;
mod rfb_servers;
mod schemathesis;
mod serial_ports;
mod service;
mod vncdotool;
mod web_modules;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use otter::clock::Clock;
use otter::simulator::{Pace, Scenario, Simulator, SimulatorOptions};

use crate::harness::{
    Daemon, Host, HostKind, LabOptions, eventually, record_answer, run_with_timeout,
};

/// The environment variables that name a Python with pyvmomi 9 or 8.
const PYVMOMI_9: &str = "OTTER_PYTHON";
const PYVMOMI_8: &str = "OTTER_PYTHON_8";

/// The longest time for a script.
const TIMEOUT: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_pyvmomi_9_finds_no_deviation() {
    session_of(PYVMOMI_9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_pyvmomi_8_finds_no_deviation() {
    session_of(PYVMOMI_8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_govc_find_no_deviation() {
    let simulator = lab().await;
    let mut client = Command::new(program_in("OTTER_GOVMOMI_CLIENT"));
    client.args(["-url", &format!("{}/sdk", simulator.url())]).stdin(Stdio::null());
    let output = succeeds(client).await.stdout;
    let done = String::from_utf8(output).unwrap();
    assert_eq!(done.lines().filter(|line| line.starts_with("ok ")).count(), 20, "{done}");
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_differ_in_shape_from_those_of_govmomi_only_as_accepted() {
    let (plan, clock) = (LabOptions::default(), Clock::system());
    let ours = Host::start(HostKind::Simulator, &plan, &clock).await;
    let theirs = Host::start(HostKind::GovmomiEsx, &plan, &clock).await;
    let (ours_url, theirs_url) = (ours.url(), theirs.url());
    let compare = |accepted: &Path| {
        let accepted = accepted.to_str().unwrap();
        script(PYVMOMI_9, "shapes/compare.py", &[&ours_url, &theirs_url, "root", "otter", accepted])
    };
    let accepted = repository().join("tests/interop/shapes/accepted.txt");
    succeeds(compare(&accepted)).await;

    // The script reports new differences, and accepted differences that no longer exist.
    let text = std::fs::read_to_string(&accepted).unwrap();
    let changed =
        text.replace("field TaskInfo.progress, only ours", "field TaskInfo.porgress, only ours");
    let other = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(other.path(), changed).unwrap();
    let output = run_with_timeout(compare(other.path()), TIMEOUT).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("NEW    field TaskInfo.progress, only ours"), "{text}");
    assert!(text.contains("STALE  field TaskInfo.porgress, only ours"), "{text}");
    ours.stop().await;
    theirs.stop().await;
}

/// `tests/run` lets the script read the answers of all tests. This test checks that the script
/// refuses wrong answers and accepts right ones.
#[tokio::test]
async fn the_reader_of_answers_refuses_what_pyvmomi_does_not_know() {
    let answers = tempfile::tempdir().unwrap();
    let write = |name: &str, returned: &str| {
        let envelope = format!(
            "<e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><e:Body><FetchResponse \
             xmlns=\"urn:vim25\">{returned}</FetchResponse></e:Body></e:Envelope>"
        );
        std::fs::write(answers.path().join(format!("Fetch-{name}.xml")), envelope).unwrap();
    };
    let state =
        |word: &str| format!("<returnval xsi:type=\"VirtualMachinePowerState\">{word}</returnval>");
    let about = |inside: &str| format!("<returnval xsi:type=\"AboutInfo\">{inside}</returnval>");
    write("good", &state("poweredOn"));
    write("unset", "");
    write("word", &state("asleep"));
    write("type", "<returnval xsi:type=\"NoSuchType\"></returnval>");
    write("field", &about("<nmae>x</nmae>"));
    write("untyped", "<returnval>x</returnval>");
    for pyvmomi in [PYVMOMI_8, PYVMOMI_9] {
        let directory = answers.path().to_str().unwrap();
        let output =
            run_with_timeout(script(pyvmomi, "pyvmomi/read_answers.py", &[directory]), TIMEOUT)
                .await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            !output.status.success() && text.contains("6 answers, 4 of them refused"),
            "{text}"
        );
        assert!(!text.contains("good.xml") && !text.contains("unset.xml"), "{text}");
    }
}

#[tokio::test]
async fn the_schema_is_what_its_script_makes() {
    let made = succeeds(script(PYVMOMI_9, "pyvmomi/schema.py", &[])).await.stdout;
    let committed = std::fs::read(repository().join("src/simulator/schema.txt")).unwrap();
    assert!(
        made == committed,
        "src/simulator/schema.txt is not current: its first lines say how it is made"
    );
}

async fn session_of(pyvmomi: &str) {
    let simulator = lab().await;
    succeeds(script(pyvmomi, "pyvmomi/session.py", &[&simulator.url(), "root", "otter"])).await;
    simulator.stop().await;
}

/// Starts otter's simulator with `config/lab.toml` at twenty times its usual pace.
async fn lab() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let options = SimulatorOptions {
        pace: Pace::Auto { scale: 0.05 },
        on_answer: Some(record_answer),
        ..options
    };
    Simulator::start(options).await.unwrap()
}

/// A command that runs a script of this folder with the Python that this variable names.
/// `tests/run` sets the variable.
fn script(pyvmomi: &str, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program_in(pyvmomi));
    // -B prevents bytecode files in the source tree.
    command.arg("-B").arg(repository().join("tests/interop").join(name)).args(arguments);
    command.env("PYTHONIOENCODING", "utf-8").stdin(Stdio::null());
    command
}

/// A command that runs Python.
fn python() -> Command {
    Command::new(program_in(PYVMOMI_9))
}

/// Starts `otter serve --simulate` and waits until the inventory is loaded.
async fn start_simulated() -> Daemon {
    let daemon = Daemon::start(&["--simulate"], &[]).await;
    eventually("the inventory to be loaded", async || daemon.get("/readyz").await.status == 200)
        .await;
    daemon
}

/// A port of this computer that no program uses.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn succeeds(command: Command) -> Output {
    succeeds_within(command, TIMEOUT).await
}

async fn succeeds_within(command: Command, limit: Duration) -> Output {
    let output = run_with_timeout(command, limit).await;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// The program that an environment variable names.
fn program_in(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} does not name a program. Run tests/run, which sets all of them up")
    })
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
