//! The exit codes of `otter run` if the command ends, a signal comes, or `otter run` itself fails.

use rustix::process::{Pid, Signal, test_kill_process};

use super::{MACHINE, NAME, RUN_UNTIL_GO_FILE, RUN_UNTIL_SIGNAL, RunFixture};
use crate::harness::{eventually, otter_command};

#[tokio::test]
async fn the_command_succeeds_and_knows_its_machine() {
    let fixture = RunFixture::start().await;
    let script = r#"echo "$OTTER_MACHINE_ID $OTTER_MACHINE_NAME [$OTTER_MACHINE_IP] $OTTER_URL"; echo "$OTTER_LEASE""#;
    let options =
        "--snapshot installed/updated/kickstart --power on --holder nightly --reference job-7";
    let ended = fixture.run(options, script).wait().await;
    ended.assert_exit(0, &format!("{NAME} is being prepared"));
    assert!(ended.stderr.ends_with("otter: the machine is given back\n"), "{ended:?}");
    assert_eq!(ended.stdout[0], format!("{MACHINE} {NAME} [] {}", fixture.url()));
    let lease =
        fixture.daemon.get("/v1/leases?reference=job-7").await.expect(200).json["items"][0].clone();
    let (id, secret) = ended.stdout[1].split_once('.').unwrap();
    assert!(lease["id"] == id && secret.len() == 64 && lease["holder"] == "nightly", "{lease}");
    assert!(!ended.stderr.contains(secret));
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn the_command_gets_an_address_inside_the_network_of_its_option() {
    let lab =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/lab.toml")).unwrap();
    let scenario = lab
        .replace("[\"fe80::250:56ff:fe3f:32\"]", "[\"fe80::250:56ff:fe3f:32\", \"192.168.50.32\"]")
        .replace("tools_after_ms = 2_000\naddress_after_ms = 3_000", "address_after_ms = 2_100");
    assert!(scenario.contains("192.168.50.32") && scenario.contains("2_100"), "{scenario}");
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("two-networks.toml");
    std::fs::write(&file, scenario).unwrap();
    let fixture = RunFixture::with_arguments(&["--scenario", file.to_str().unwrap()]).await;
    let script = r#"echo "$OTTER_MACHINE_IP""#;
    let options = "--machine 32 --power on --until ip --cidr 192.168.0.0/16";
    let ended = fixture.run(options, script).wait().await;
    ended.assert_exit(0, "ci-runner-2 (32 at 192.168.50.32) is held");
    assert_eq!(ended.stdout, ["192.168.50.32"]);
    for wrong in ["--cidr 10.0.0.0/8", "--until ip --cidr ten"] {
        fixture.run(wrong, script).wait().await.assert_exit(64, "--cidr");
    }
    let other = fixture.run("--until tools --cidr 10.0.0.0/8", script).wait().await;
    other.assert_exit(64, "prepare.cidr");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn the_command_fails() {
    let fixture = RunFixture::start().await;
    let ended = fixture.run("--quiet", "exit 7").wait().await;
    ended.assert_exit(7, "");
    assert_eq!(ended.stderr, "", "quiet");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_command_that_a_signal_kills_exits_with_128_plus_its_number() {
    let fixture = RunFixture::start().await;
    fixture.run("", "kill -KILL $$").wait().await.assert_exit(137, "");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_missing_command_and_one_that_cannot_be_executed_have_own_codes() {
    let fixture = RunFixture::start().await;
    let url = fixture.url();
    fixture
        .run_at(&url, "", &["no-such-command"], &[])
        .wait()
        .await
        .assert_exit(127, "no-such-command: ");
    fixture.assert_all_released().await;
    let plain = fixture.path("plain");
    std::fs::write(&plain, "").unwrap();
    fixture
        .run_at(&url, "", &[plain.to_str().unwrap()], &[])
        .wait()
        .await
        .assert_exit(126, "plain: ");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn signals_are_forwarded_to_the_command() {
    let fixture = RunFixture::start().await;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut run = fixture.run("", RUN_UNTIL_SIGNAL);
        run.expect_line("ready").await;
        run.signal(signal);
        run.wait().await.assert_exit(code, "the machine is given back");
        fixture.assert_all_released().await;
    }
    // If the command handles the signal, `otter run` ends with the command's own exit code.
    let mut run = fixture.run("", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done");
    run.expect_line("ready").await;
    run.signal(Signal::TERM);
    run.wait().await.assert_exit(3, "");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_command_that_ignores_signals_is_killed_with_its_children() {
    let fixture = RunFixture::start().await;
    let ignores_signals = "trap '' TERM INT; (while :; do sleep 0.02; done) & echo $! >\"$GO\"; \
        echo ready; while :; do sleep 0.02; done";
    let gone = async || {
        let id = std::fs::read_to_string(fixture.path("go")).unwrap().trim().parse().unwrap();
        eventually("the child process to be gone", async || {
            test_kill_process(Pid::from_raw(id).unwrap()).is_err()
        })
        .await;
    };
    let mut run = fixture.run("--kill-after 1s", ignores_signals);
    run.expect_line("ready").await;
    run.signal(Signal::TERM);
    run.wait().await.assert_exit(137, "the command did not end in time: it is killed");
    gone().await;
    fixture.assert_all_released().await;

    // A second signal kills at once.
    let mut run = fixture.run("--kill-after 1h", ignores_signals);
    run.expect_line("ready").await;
    run.signal(Signal::INT);
    run.signal(Signal::TERM);
    run.wait().await.assert_exit(137, "a second signal: the command is killed");
    gone().await;
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_panic_gives_the_machine_back() {
    let fixture = RunFixture::start().await;
    let panics = [("FAILPOINTS", "run-command=panic")];
    let run = fixture.run_at(&fixture.url(), "", &["sh", "-c", RUN_UNTIL_SIGNAL], &panics);
    run.wait().await.assert_exit(70, "failpoint run-command panic");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn after_a_kill_9_the_machine_is_released_when_the_lease_expires() {
    let fixture = RunFixture::start().await;
    let mut run = fixture.run("--ttl 1s", RUN_UNTIL_GO_FILE);
    run.expect_line("ready").await;
    run.signal(Signal::KILL);
    fixture.create_go_file();
    assert_eq!(run.wait().await.code, None);
    fixture.assert_all_released().await;
}

/// A CI signals only the shell of a cancelled step.
#[tokio::test]
async fn a_signal_for_the_shell_reaches_a_run_that_replaced_it() {
    let fixture = RunFixture::start().await;
    let mut shell = std::process::Command::new("bash");
    shell.args(["--noprofile", "--norc", "-eo", "pipefail", "-c"]);
    // The second command keeps bash from replacing itself by the last command.
    shell.arg(
        "true; exec \"$0\" run --url \"$OTTER_URL\" --pool one --kill-after 5s -- sh -c \
         'echo ready; exec sleep 600'; true",
    );
    shell.arg(otter_command(&[]).get_program()).env("OTTER_URL", fixture.url());
    let mut run = super::RunProcess::start(shell);
    run.expect_line("ready").await;
    run.signal(Signal::INT);
    run.wait().await.assert_exit(130, "the machine is given back");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_second_signal_while_the_machine_is_given_back_ends_at_once() {
    let fixture = RunFixture::start().await;
    let mut run = fixture.run("--ttl 3s --retry-for 10m", "echo $$; exec sleep 600");
    let command = run.line().await.parse().unwrap();
    fixture.daemon.suspend().await;
    run.signal(Signal::TERM);
    let command = Pid::from_raw(command).unwrap();
    eventually("the command to be gone", async || test_kill_process(command).is_err()).await;
    run.signal(Signal::TERM);
    run.wait().await.assert_exit(143, "otter run ends at once");
    // The daemon now reads the release request, or the lease expires.
    fixture.daemon.signal(Signal::CONT);
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn given_back_is_printed_once_the_machine_is_free() {
    let fixture = RunFixture::start().await;
    // The simulated host takes some time for the power-off and the revert.
    let options = "--power on --release-snapshot installed/updated/kickstart";
    let ended = fixture.run(options, "true").wait().await;
    let machine = fixture.daemon.get(&format!("/v1/machines/{MACHINE}")).await.expect(200);
    assert_eq!(machine.json["not_free_because"], serde_json::json!([]), "{}", machine.text);
    assert_eq!(machine.json["lease"], serde_json::Value::Null);
    ended.assert_exit(0, "the machine is given back");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn the_command_inherits_the_token_unless_no_token_is_given() {
    let fixture = RunFixture::start().await;
    let url = fixture.url();
    let command = ["sh", "-c", "echo \"[$OTTER_TOKEN]\""];
    let token = format!("otter_{}", "ab".repeat(32));
    for (options, expected) in [("", format!("[{token}]")), ("--no-token", "[]".to_owned())] {
        let ended =
            fixture.run_at(&url, options, &command, &[("OTTER_TOKEN", &token)]).wait().await;
        ended.assert_exit(0, "");
        assert_eq!(ended.stdout, [expected]);
    }
    fixture.assert_all_released().await;
}
