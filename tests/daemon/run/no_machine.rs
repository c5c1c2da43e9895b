//! Runs that get no machine, so that the command never runs.

use reqwest::Method;
use rustix::process::Signal;

use super::{NAME, RUN_UNTIL_GO_FILE, RUN_UNTIL_SIGNAL, RunFixture};
use crate::harness::{Answer, eventually, otter_command, run_to_exit};

const PRINT_NEVER: &str = "echo never";

#[tokio::test]
async fn no_machine_is_free() {
    let fixture = RunFixture::start().await;
    let mut holder = fixture.run("", RUN_UNTIL_SIGNAL);
    holder.expect_line("ready").await;
    let ended = fixture.run("", PRINT_NEVER).wait().await;
    ended.assert_exit(75, "No matching machine is free now. Wait for one with --queue-for 30m");
    let late = fixture.run("--queue-for 1s", PRINT_NEVER).wait().await;
    late.assert_exit(75, "waiting for a machine, next in the queue");
    assert!(late.stdout.is_empty() && !late.stderr.contains("releas"), "{late:?}");
    let message = "\notter: The lease failed: no machine became free in time.\n";
    assert!(late.stderr.ends_with(message), "{late:?}");
    holder.signal(Signal::TERM);
    holder.wait().await.assert_exit(143, "");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_waiting_run_gets_the_machine_when_the_other_ends() {
    let fixture = RunFixture::start().await;
    let mut holder = fixture.run("", RUN_UNTIL_GO_FILE);
    holder.expect_line("ready").await;
    let next = fixture.run("--queue-for 1m", "echo mine");
    eventually("the run to be queued", async || fixture.leases("queued").await.len() == 1).await;
    fixture.create_go_file();
    holder.wait().await.assert_exit(0, "");
    let ended = next.wait().await;
    ended.assert_exit(0, "waiting for a machine");
    assert_eq!(ended.stdout, ["mine"]);
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_signal_while_it_waits_leaves_the_queue() {
    let fixture = RunFixture::start().await;
    let mut holder = fixture.run("", RUN_UNTIL_GO_FILE);
    holder.expect_line("ready").await;
    let next = fixture.run("--queue-for 1m", PRINT_NEVER);
    eventually("the run to be queued", async || fixture.leases("queued").await.len() == 1).await;
    next.signal(Signal::INT);
    let left = next.wait().await;
    left.assert_exit(130, "otter: the place in the queue is given up\n");
    assert!(!left.stderr.contains("the machine"), "{left:?}");
    assert_eq!(fixture.leases("queued").await.len(), 0);
    fixture.create_go_file();
    holder.wait().await.assert_exit(0, "");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn an_invalid_request_is_refused_at_once() {
    let fixture = RunFixture::start().await;
    for (options, complaint) in [
        ("--snapshot no-such-snapshot", "not-found"),
        ("--ttl 100d", "invalid-request"),
        ("--until ip --power off", "invalid-request"),
        ("--ttl soon", "--ttl"),
        ("--token-file /nowhere", "/nowhere"),
    ] {
        let ended = fixture.run(options, PRINT_NEVER).wait().await;
        ended.assert_exit(64, complaint);
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
    let nowhere = fixture.run("--machine no-such-machine --queue-for 1h", PRINT_NEVER).wait().await;
    nowhere.assert_exit(76, "No machine goes by \"no-such-machine\"");
    let (code, text) = run_to_exit(otter_command(&["run", "--pool", "one", "--", "true"])).await;
    assert!(code == Some(64) && text.contains("OTTER_URL"), "{text}");
    let (code, text) = run_to_exit(otter_command(&["run", "--help"])).await;
    assert!(
        code == Some(0)
            && text.contains("   75  no machine is free")
            && text.contains("   76  no machine matches"),
        "{text}"
    );
    let (_, completions) = run_to_exit(otter_command(&["completions", "bash"])).await;
    assert!(completions.contains("--queue-for"), "the completion script has the option");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn the_machine_cannot_be_made_ready() {
    for (fault, is_of_machine) in [("FileLocked", true), ("InsufficientResourcesFault", false)] {
        let scenario =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/lab.toml"));
        let broken = tempfile::tempdir().unwrap();
        let file = broken.path().join("broken.toml");
        let faults = format!(
            "\n[[faults]]\nmethod = \"PowerOnVM_Task\"\ntimes = 0\nwhat = {{ fault = \"{fault}\" }}\n"
        );
        std::fs::write(&file, scenario.unwrap() + &faults).unwrap();
        let fixture = RunFixture::with_arguments(&["--scenario", file.to_str().unwrap()]).await;
        let ended = fixture.run("--power on", PRINT_NEVER).wait().await;
        ended.assert_exit(73, "otter: The preparation failed");
        let says_quarantined =
            ended.stderr.contains("the machine was taken back and is quarantined");
        assert_eq!(says_quarantined, is_of_machine, "{ended:?}");
        assert!(ended.stderr.contains(fault) && ended.stdout.is_empty(), "{ended:?}");
        eventually("the lease to end", async || {
            fixture.leases("queued,preparing,active,releasing").await.is_empty()
        })
        .await;
        let path = format!("/v1/machines/name:{NAME}");
        let machine = fixture.daemon.get(&path).await.expect(200).json;
        assert_eq!(machine["quarantine"]["automatic"] == true, is_of_machine, "{machine}");
        let clear = fixture.daemon.request(Method::DELETE, "/v1/machines/16/quarantine");
        Answer::from_request(clear).await.expect(200);
        fixture.assert_all_released().await;
    }
}

#[tokio::test]
async fn no_daemon_answers() {
    let fixture = RunFixture::start().await;
    for url in ["http://127.0.0.1:1", "unix:/nowhere/otter.sock"] {
        let run = fixture.run_at(url, "--retry-for 1s", &["echo", "never"], &[]);
        let ended = run.wait().await;
        ended.assert_exit(69, "otter: ");
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
    fixture
        .run_at("ftp://lab", "", &["echo", "never"], &[])
        .wait()
        .await
        .assert_exit(64, "unix:/path");
}

#[tokio::test]
async fn the_token_decides_whether_a_run_is_allowed() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let token = |name: &str, role: &str| {
        let mut make = otter_command(&[
            "token",
            "create",
            "--name",
            name,
            "--role",
            role,
            "--state-dir",
            state,
        ]);
        String::from_utf8(make.output().unwrap().stdout).unwrap()
    };
    let (runner, viewer, admin) =
        (token("ci", "runner"), token("eyes", "viewer"), token("root", "admin"));
    let files = tempfile::tempdir().unwrap();
    std::fs::write(
        files.path().join("otter.toml"),
        format!("[pools.one]\nmachines = [\"{NAME}\"]\n"),
    )
    .unwrap();
    let fixture = RunFixture {
        daemon: RunFixture::start_daemon("127.0.0.1:0", files.path(), &["--state-dir", state])
            .await,
        files,
    };
    let url = fixture.url();
    let with = |token: &str| fixture.run_at(&url, "", &["echo", "mine"], &[("OTTER_TOKEN", token)]);
    let none = fixture.run_at(&url, "", &["echo", "mine"], &[]).wait().await;
    none.assert_exit(77, "unauthenticated");
    with(&runner.replace(&runner[8..12], "0000")).wait().await.assert_exit(77, "unauthenticated");
    with(viewer.trim()).wait().await.assert_exit(77, "forbidden");
    with("two words\n\u{7f}").wait().await.assert_exit(64, "the token");
    let ended = with(runner.trim()).wait().await;
    ended.assert_exit(0, "");
    assert_eq!(ended.stdout, ["mine"]);
    let free = async || {
        let free = fixture.daemon.request(Method::GET, "/v1/machines/16/wait?until=free&wait=10s");
        Answer::from_request(free.bearer_auth(admin.trim())).await.expect(200);
    };
    free().await;
    let file = fixture.path("token");
    std::fs::write(&file, &runner).unwrap();
    let options = format!("--token-file {}", file.display());
    fixture
        .run_at(&url, &options, &["true"], &[("OTTER_TOKEN", "otter_wrong")])
        .wait()
        .await
        .assert_exit(0, "");
    free().await;
}

#[tokio::test]
async fn a_run_whose_token_is_revoked_while_it_waits_held_no_machine() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let token = |arguments: &[&str]| {
        let output = otter_command(&["token"])
            .args(arguments)
            .args(["--state-dir", state])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let first = token(&["create", "--name", "first", "--role", "runner"]);
    let second = token(&["create", "--name", "second", "--role", "runner"]);
    let admin = token(&["create", "--name", "root", "--role", "admin"]);
    let files = tempfile::tempdir().unwrap();
    std::fs::write(
        files.path().join("otter.toml"),
        format!("[pools.one]\nmachines = [\"{NAME}\"]\n"),
    )
    .unwrap();
    let fixture = RunFixture {
        daemon: RunFixture::start_daemon("127.0.0.1:0", files.path(), &["--state-dir", state])
            .await,
        files,
    };
    let run = |options: &str, token: &str, script: &str| {
        fixture.run_at(&fixture.url(), options, &["sh", "-c", script], &[("OTTER_TOKEN", token)])
    };
    let mut holder = run("", &first, RUN_UNTIL_GO_FILE);
    holder.expect_line("ready").await;
    let next = run("--queue-for 1m", &second, PRINT_NEVER);
    eventually("the run to be queued", async || {
        let queued =
            fixture.daemon.request(Method::GET, "/v1/leases?state=queued").bearer_auth(&admin);
        Answer::from_request(queued).await.expect(200).items("id").len() == 1
    })
    .await;
    token(&["revoke", "--name", "second"]);
    let ended = next.wait().await;
    ended.assert_exit(77, "the lease ends: it was still queued and held no machine");
    let wrong = ["A job that the call started continues", "given back", "when the lease expires"];
    assert!(!wrong.iter().any(|wrong| ended.stderr.contains(wrong)), "{ended:?}");
    fixture.create_go_file();
    holder.wait().await.assert_exit(0, "the machine is given back");
}

#[tokio::test]
async fn a_selection_that_no_machine_can_match_has_its_own_code() {
    let fixture = RunFixture::start().await;
    for (select, complaint) in [
        (&["--pool", "qubse"][..], "no pool \"qubse\""),
        (&["--name", "no such name", "--queue-for", "1h"], "no name of a machine contains"),
        (&["--mac", "02:00:00:00:00:01"], "no machine has this hardware address"),
        (&["--machine", NAME], "write \"name:"),
        (&["--machine", "name:golden-debian-12"], "golden-debian-12 is protected"),
        (&["--pool", "one", "--name", "ci-runner"], "none matches all"),
    ] {
        let url = fixture.url();
        let mut run = otter_command(&["run", "--url", &url]);
        run.args(select).args(["--", "sh", "-c", PRINT_NEVER]);
        let ended = super::RunProcess::start(run).wait().await;
        ended.assert_exit(76, complaint);
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_reference_to_several_machines_is_refused_with_their_ids() {
    let fixture = RunFixture::start().await;
    let pair = "They are 21 (qubes-scratch), 22 (qubes-scratch).";
    for options in ["", "--queue-for 1h"] {
        let options = format!("--machine name:qubes-scratch {options}");
        let ended = fixture.run(&options, PRINT_NEVER).wait().await;
        ended.assert_exit(64, "2 machines go by \"name:qubes-scratch\"; name one by its id.");
        assert!(ended.stderr.contains(pair) && ended.stdout.is_empty(), "{ended:?}");
    }
    fixture.run("--machine 21", "true").wait().await.assert_exit(0, "");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn an_address_without_a_scheme_and_an_empty_token_file_are_reported() {
    let fixture = RunFixture::start().await;
    let address = fixture.daemon.address().to_owned();
    for (url, complaint) in [
        (address.as_str(), format!("write http://{address}")),
        ("otter.lab:8080", "write http://otter.lab:8080".to_owned()),
        ("ftp://otter.lab", "write http://…".to_owned()),
        ("http://ci:hidden@otter.lab", "leave out what stands before the @".to_owned()),
    ] {
        let ended = fixture.run_at(url, "", &["sh", "-c", PRINT_NEVER], &[]).wait().await;
        ended.assert_exit(64, &complaint);
        assert!(!ended.stderr.contains("hidden"), "{ended:?}");
    }
    let file = fixture.path("token");
    for empty in ["", "\n", "\u{feff}\n"] {
        std::fs::write(&file, empty).unwrap();
        let options = format!("--token-file {}", file.display());
        fixture.run(&options, PRINT_NEVER).wait().await.assert_exit(64, "the token file is empty");
    }
    fixture.assert_all_released().await;
}
