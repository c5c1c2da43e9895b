//! The ways in which the command, a signal or `otter run` itself makes an end.

use rustix::process::{Pid, Signal, test_kill_process};

use super::{Bench, MACHINE, NAME, RUNS, UNTIL_GO};
use crate::harness::eventually;

#[tokio::test]
async fn the_command_succeeds_and_knows_its_machine() {
    let bench = Bench::start().await;
    let script = r#"echo "$OTTER_MACHINE_ID $OTTER_MACHINE_NAME [$OTTER_MACHINE_IP] $OTTER_URL"; echo "$OTTER_LEASE""#;
    let options =
        "--snapshot installed/updated/kickstart --power on --holder nightly --reference job-7";
    let ended = bench.run(options, script).ended().await;
    ended.exits(0, &format!("{NAME} is made ready"));
    assert!(ended.complaints.ends_with("otter: the machine is given back\n"), "{ended:?}");
    assert_eq!(ended.said[0], format!("{MACHINE} {NAME} [] {}", bench.url()));
    let lease =
        bench.daemon.get("/v1/leases?reference=job-7").await.expect(200).json["items"][0].clone();
    let (id, secret) = ended.said[1].split_once('.').unwrap();
    assert!(lease["id"] == id && secret.len() == 64 && lease["holder"] == "nightly", "{lease}");
    assert!(!ended.complaints.contains(secret));
    bench.is_as_before().await;
}

#[tokio::test]
async fn the_command_fails() {
    let bench = Bench::start().await;
    let ended = bench.run("--quiet", "exit 7").ended().await;
    ended.exits(7, "");
    assert_eq!(ended.complaints, "", "quiet");
    bench.is_as_before().await;
}

#[tokio::test]
async fn the_command_dies_of_a_signal() {
    let bench = Bench::start().await;
    bench.run("", "kill -KILL $$").ended().await.exits(137, "");
    bench.is_as_before().await;
}

#[tokio::test]
async fn there_is_no_such_command_or_it_cannot_be_run() {
    let bench = Bench::start().await;
    let url = bench.url();
    bench.run_at(&url, "", &["no-such-command"], &[]).ended().await.exits(127, "no-such-command: ");
    bench.is_as_before().await;
    let plain = bench.file("plain");
    std::fs::write(&plain, "").unwrap();
    bench.run_at(&url, "", &[plain.to_str().unwrap()], &[]).ended().await.exits(126, "plain: ");
    bench.is_as_before().await;
}

#[tokio::test]
async fn signals_go_on_to_the_command() {
    let bench = Bench::start().await;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut run = bench.run("", RUNS);
        run.says("ready").await;
        run.signal(signal);
        run.ended().await.exits(code, "the machine is given back");
        bench.is_as_before().await;
    }
    // What the command makes of it counts.
    let mut run = bench.run("", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done");
    run.says("ready").await;
    run.signal(Signal::TERM);
    run.ended().await.exits(3, "");
    bench.is_as_before().await;
}

#[tokio::test]
async fn a_command_that_does_not_listen_is_killed_with_all_that_it_started() {
    let bench = Bench::start().await;
    let deaf = "trap '' TERM INT; (while :; do sleep 0.02; done) & echo $! >\"$GO\"; echo ready; while :; do sleep 0.02; done";
    let gone = async || {
        let id = std::fs::read_to_string(bench.file("go")).unwrap().trim().parse().unwrap();
        eventually("what it started to be gone", async || {
            test_kill_process(Pid::from_raw(id).unwrap()).is_err()
        })
        .await;
    };
    let mut run = bench.run("--kill-after 1s", deaf);
    run.says("ready").await;
    run.signal(Signal::TERM);
    run.ended().await.exits(137, "the command did not end in time: it is killed");
    gone().await;
    bench.is_as_before().await;

    // A second signal does not wait for that.
    let mut run = bench.run("--kill-after 1h", deaf);
    run.says("ready").await;
    run.signal(Signal::INT);
    run.signal(Signal::TERM);
    run.ended().await.exits(137, "a second signal: the command is killed");
    gone().await;
    bench.is_as_before().await;
}

#[tokio::test]
async fn a_panic_gives_the_machine_back() {
    let bench = Bench::start().await;
    let panics = [("FAILPOINTS", "run-command=panic")];
    let run = bench.run_at(&bench.url(), "", &["sh", "-c", RUNS], &panics);
    run.ended().await.exits(70, "failpoint run-command panic");
    bench.is_as_before().await;
}

#[tokio::test]
async fn a_kill_9_costs_no_more_than_the_time() {
    let bench = Bench::start().await;
    let mut run = bench.run("--ttl 1s", UNTIL_GO);
    run.says("ready").await;
    run.signal(Signal::KILL);
    bench.go();
    assert_eq!(run.ended().await.code, None);
    bench.is_as_before().await;
}

#[tokio::test]
async fn a_second_signal_while_the_machine_is_given_back_ends_at_once() {
    let bench = Bench::start().await;
    let mut run = bench.run("--ttl 3s --retry-for 10m", "echo $$; exec sleep 600");
    let command = run.line().await.parse().unwrap();
    bench.daemon.hold().await;
    run.signal(Signal::TERM);
    let command = Pid::from_raw(command).unwrap();
    eventually("the command to be gone", async || test_kill_process(command).is_err()).await;
    run.signal(Signal::TERM);
    run.ended().await.exits(143, "this ends at once");
    // What it asked for is read now, or the time is over.
    bench.daemon.signal(Signal::CONT);
    bench.is_as_before().await;
}

#[tokio::test]
async fn given_back_is_said_once_the_machine_is_free() {
    let bench = Bench::start().await;
    // The simulated host takes some time to power off and revert the machine.
    let options = "--power on --release-snapshot installed/updated/kickstart";
    let ended = bench.run(options, "true").ended().await;
    let machine = bench.daemon.get(&format!("/v1/machines/{MACHINE}")).await.expect(200);
    assert_eq!(machine.json["not_free_because"], serde_json::json!([]), "{}", machine.text);
    assert_eq!(machine.json["lease"], serde_json::Value::Null);
    ended.exits(0, "the machine is given back");
    bench.is_as_before().await;
}

#[tokio::test]
async fn the_command_inherits_the_token_unless_it_is_kept_from_it() {
    let bench = Bench::start().await;
    let url = bench.url();
    let command = ["sh", "-c", "echo \"[$OTTER_TOKEN]\""];
    let token = format!("otter_{}", "ab".repeat(32));
    for (options, heard) in [("", format!("[{token}]")), ("--no-token", "[]".to_owned())] {
        let ended = bench.run_at(&url, options, &command, &[("OTTER_TOKEN", &token)]).ended().await;
        ended.exits(0, "");
        assert_eq!(ended.said, [heard]);
    }
    bench.is_as_before().await;
}
