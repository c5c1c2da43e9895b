//! Warnings about patterns in the configuration that match no machine: in the log of the daemon,
//! and from `check-config --host`.

use std::path::Path;
use std::process::Command;

use otter::clock::Clock;
use otter::simulator::{Scenario, Simulator, SimulatorOptions};

use crate::harness::{Daemon, eventually, otter_command, run_to_exit};

const CONFIG: &str = "[machines]\nprotected = [\"golden-debain-*\", \
    \"golden-*\"]\n[pools.qubes]\nmachines = [\"16\", \"404\"]\n";

async fn lab() -> Simulator {
    Simulator::start(SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system()))
        .await
        .unwrap()
}

/// A command with this configuration file and this host.
fn command(verb: &str, arguments: &[&str], config: &Path, url: &str, fingerprint: &str) -> Command {
    let mut command = otter_command(&[verb, "--config", config.to_str().unwrap()]);
    command.args(arguments).env("OTTER_ESX_URL", url);
    command.env("OTTER_ESX_VERIFY", format!("sha256:{fingerprint}"));
    command.env("OTTER_ESX_USERNAME", "root").env("OTTER_ESX_PASSWORD", "otter");
    command
}

#[tokio::test]
async fn the_log_warns_of_patterns_that_match_no_machine_whenever_that_changes() {
    let host = lab().await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("otter.toml"), CONFIG).unwrap();
    let state = path("state");
    let arguments =
        ["--listen", "127.0.0.1:0", "--log-format", "json", "--state-dir", state.to_str().unwrap()];
    let mut serve =
        command("serve", &arguments, &path("otter.toml"), &host.url(), &host.fingerprint());
    serve.stderr(std::fs::File::create(path("log")).unwrap());
    let _daemon = Daemon::try_start(serve).await.expect("a daemon that says where it listens");
    let log_count = |pattern: &str, level: &str| {
        let log = std::fs::read_to_string(path("log")).unwrap();
        let matches = |line: &&str| {
            line.contains(&format!("\"pattern\":\"{pattern}\""))
                && line.contains(&format!("\"{level}\""))
        };
        log.lines().filter(matches).count()
    };
    eventually("the warnings", async || {
        log_count("golden-debain-*", "WARN") == 1 && log_count("404", "WARN") == 1
    })
    .await;
    host.control()
        .mutate(|world| "golden-debain-1".clone_into(&mut world.machine_mut("16").unwrap().name));
    eventually("the change to be logged", async || log_count("golden-debain-*", "INFO") == 1).await;
    host.control().mutate(|world| world.remove_machine("16"));
    eventually("the removal to be logged", async || {
        log_count("golden-debain-*", "WARN") == 2 && log_count("16", "WARN") == 1
    })
    .await;
    assert_eq!((log_count("golden-*", "WARN"), log_count("404", "WARN")), (0, 1));
}

#[tokio::test]
async fn check_config_warns_of_patterns_that_match_no_machine_of_the_host() {
    let host = lab().await;
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("otter.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let check = |url: &str| command("check-config", &["--host"], &config, url, &host.fingerprint());
    let (code, text) = run_to_exit(check(&host.url())).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.matches("Warning: ").count(), 2, "{text}");
    for warning in ["machines.protected: \"golden-debain-*\"", "pools.qubes.machines: \"404\""] {
        assert!(text.contains(warning), "{text}");
    }
    assert!(text.ends_with("The configuration is good.\n"), "{text}");
    eventually("the logout", async || host.control().sessions() == 0).await;
    // No process listens on the discard port. The configuration is not reported as good if the host
    // or the password is wrong.
    let (code, text) = run_to_exit(check("https://127.0.0.1:9")).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the host cannot be reached") && !text.contains("is good"), "{text}");
    let mut wrong = check(&host.url());
    wrong.env("OTTER_ESX_PASSWORD", "wrong");
    let (code, text) = run_to_exit(wrong).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the host refuses the account") && !text.contains("is good"), "{text}");
}

#[tokio::test]
async fn a_simulation_does_not_warn_about_its_default_protection() {
    for arguments in [&["--simulate"][..], &["--simulate", "--machines", "3"]] {
        let daemon = Daemon::start(arguments, &[]).await;
        eventually("the inventory to be loaded", async || {
            daemon.get("/readyz").await.status == 200
        })
        .await;
        let about = daemon.get("/v1/about").await.expect(200).json;
        assert!(!about["warnings"].to_string().contains("matches no machine"), "{about}");
    }
}
