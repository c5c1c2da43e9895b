//! The commands for screens as processes: `otter type`, `otter screen` and `otter doctor --console`.

use otter::clock::Clock;
use otter::simulator::{Pace, Scenario, Simulator, SimulatorOptions};

use super::{RUNNING, decode, terminal, typed_in_terminal};
use crate::harness::{Daemon, eventually, otter_command, run_to_exit};

/// The name of [`RUNNING`].
const NAME: &str = "qubes-4.2-sdw-prod";

/// `otter type` and `otter screen`, as processes.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_type_and_show() {
    let lab = terminal().await;
    let otter = async |arguments: &[&str]| {
        let mut command = otter_command(arguments);
        command.env("OTTER_URL", lab.url(""));
        run_to_exit(command).await
    };
    let shows_typed = async |text: &str| {
        let is_shown = async || typed_in_terminal(lab.control(), RUNNING) == text;
        eventually("the text in the terminal", is_shown).await;
    };
    let machine = format!("name:{NAME}");
    let (code, text) = otter(&["type", &machine, "Hello", "--interval", "5ms"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "5 characters were typed.\n"));
    shows_typed("Hello").await;
    let (code, text) = otter(&["type", RUNNING, "--keys", "ctrl-u", "x"]).await;
    assert_eq!(code, Some(0), "{text}");
    shows_typed("x").await;
    let (code, text) = otter(&["type", RUNNING, "--keys", "entr"]).await;
    assert!(code == Some(1) && text.contains("enter"), "{text}");
    let file = tempfile::tempdir().unwrap();
    let png = file.path().join("screen.png");
    let (code, text) = otter(&["screen", RUNNING, "-o", png.to_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{text}");
    let picture = decode(&std::fs::read(&png).unwrap());
    assert_eq!((picture.0, picture.1), (1_280, 1_024));
    let (code, text) = otter(&["screen", RUNNING]).await;
    assert!(code == Some(0) && text.contains("1280×1024"), "{text}");
    let (code, text) = otter(&["screen", "16"]).await;
    assert!(code == Some(0) && text.contains("is off"), "{text}");
    let (code, text) = otter(&["screen", RUNNING, "--text", "--wait-text", "Terminal"]).await;
    assert!(code == Some(0) && text.contains("Terminal"), "{text}");
    // A text that does not appear has an exit code of its own, and the last picture is there.
    let last = file.path().join("last.png");
    let last = last.to_str().unwrap();
    let wait = ["screen", RUNNING, "--wait-text", "Kernel panic", "--timeout", "1s", "-o", last];
    let (code, text) = otter(&wait).await;
    assert!(code == Some(75) && text.contains("Terminal"), "{text}");
    let picture = decode(&std::fs::read(last).unwrap());
    assert_eq!((picture.0, picture.1), (1_280, 1_024));
}

/// Runs `otter doctor --console` for a host.
async fn doctor(host: &Simulator, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = otter_command(&["doctor", "--console"]);
    command.args(arguments);
    command.env("OTTER_ESX_URL", host.url());
    command.env("OTTER_ESX_VERIFY", format!("sha256:{}", host.fingerprint()));
    command.env("OTTER_ESX_USERNAME", "root").env("OTTER_ESX_PASSWORD", "otter");
    run_to_exit(command).await
}

/// `otter doctor --console`: each step, and a machine that has no screen.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_checks_the_way_to_a_screen() {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let host = Simulator::start(options).await.unwrap();
    let doctor = async |arguments: &[&str]| doctor(&host, arguments).await;
    let (code, text) = doctor(&[&format!("name:{NAME}")]).await;
    assert_eq!(code, Some(0), "{text}");
    for check in ["ok     machine", "ok     ticket", "ok     frame", "ok     picture"] {
        assert!(text.contains(check), "{check} in {text}");
    }
    assert!(text.contains("800×600") || text.contains("1280×1024"), "{text}");
    assert!(text.contains("warn   restart"), "it restarts nothing by itself: {text}");
    assert_eq!(host.control().open_consoles(RUNNING), 0, "each console is closed");
    assert_eq!(host.control().sessions(), 0, "doctor logs out");
    let (code, text) = doctor(&["16"]).await;
    assert!(code == Some(1) && text.contains("is not on"), "{text}");
    let (code, text) = doctor(&["none"]).await;
    assert!(code == Some(1) && text.contains("No machine"), "{text}");
    let (code, text) = doctor(&[RUNNING, "--restart"]).await;
    assert!(code == Some(1) && text.contains("pass --url"), "{text}");
    assert!(!text.contains("ok     address"), "it is said before the checks: {text}");
    host.stop().await;
}

/// With `--restart`, otter resets and reverts the machine, and doctor opens its console after each.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_opens_a_console_after_a_reset_and_a_revert() {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let host = Simulator::start(SimulatorOptions { pace: Pace::Auto { scale: 0.05 }, ..options })
        .await
        .unwrap();
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_for_host(&host, &state.path().join("state")).await;
    let url = format!("http://{}", daemon.address());
    let (code, text) = doctor(&host, &[RUNNING, "--restart", "--url", &url]).await;
    assert_eq!(code, Some(0), "{text}");
    for check in ["ok     reset", "ok     revert"] {
        assert!(text.contains(check), "{check} in {text}");
    }
    let jobs = daemon.get(&format!("/v1/jobs?machine={RUNNING}")).await.expect(200);
    assert_eq!(jobs.items("kind"), ["snapshot.revert", "machine.reset"]);
    drop(daemon);
    host.stop().await;
}
