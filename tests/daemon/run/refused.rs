//! The ways in which there is no machine for the command: it never runs.

use reqwest::Method;
use rustix::process::Signal;

use super::{Bench, NAME, RUNS, UNTIL_GO};
use crate::harness::{Answer, eventually, otter, said};

const NEVER: &str = "echo never";

#[tokio::test]
async fn no_machine_is_free() {
    let bench = Bench::start().await;
    let mut holder = bench.run("", RUNS);
    holder.says("ready").await;
    let ended = bench.run("", NEVER).ended().await;
    ended.exits(75, "No machine that fits is free now. Wait for one with --queue-for 30m");
    let late = bench.run("--queue-for 1s", NEVER).ended().await;
    late.exits(75, "waits for a machine, the next in line");
    assert!(late.said.is_empty() && !late.complaints.contains("back"), "{late:?}");
    let why = "\notter: The lease failed: no machine became free in time.\n";
    assert!(late.complaints.ends_with(why), "{late:?}");
    holder.signal(Signal::TERM);
    holder.ended().await.exits(143, "");
    bench.is_as_before().await;
}

#[tokio::test]
async fn who_waits_gets_the_machine_when_the_other_ends() {
    let bench = Bench::start().await;
    let mut holder = bench.run("", UNTIL_GO);
    holder.says("ready").await;
    let next = bench.run("--queue-for 1m", "echo mine");
    eventually("it to wait", async || bench.leases("queued").await.len() == 1).await;
    bench.go();
    holder.ended().await.exits(0, "");
    let ended = next.ended().await;
    ended.exits(0, "waits for a machine");
    assert_eq!(ended.said, ["mine"]);
    bench.is_as_before().await;
}

#[tokio::test]
async fn a_signal_while_it_waits_leaves_the_queue() {
    let bench = Bench::start().await;
    let mut holder = bench.run("", UNTIL_GO);
    holder.says("ready").await;
    let next = bench.run("--queue-for 1m", NEVER);
    eventually("it to wait", async || bench.leases("queued").await.len() == 1).await;
    next.signal(Signal::INT);
    let left = next.ended().await;
    left.exits(130, "\notter: the place in the queue is given up\n");
    assert!(!left.complaints.contains("the machine"), "{left:?}");
    assert_eq!(bench.leases("queued").await.len(), 0);
    bench.go();
    holder.ended().await.exits(0, "");
    bench.is_as_before().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_once() {
    let bench = Bench::start().await;
    for (options, complaint) in [
        ("--snapshot no-such-snapshot", "not-found"),
        ("--ttl 100d", "invalid-request"),
        ("--until ip --power off", "invalid-request"),
        ("--ttl soon", "--ttl"),
        ("--token-file /nowhere", "/nowhere"),
    ] {
        let ended = bench.run(options, NEVER).ended().await;
        ended.exits(64, complaint);
        assert!(ended.said.is_empty(), "{ended:?}");
    }
    let nowhere = bench.run("--machine no-such-machine --queue-for 1h", NEVER).ended().await;
    nowhere.exits(76, "No machine goes by \"no-such-machine\"");
    let (code, text) = said(otter(&["run", "--pool", "one", "--", "true"])).await;
    assert!(code == Some(64) && text.contains("OTTER_URL"), "{text}");
    let (code, text) = said(otter(&["run", "--help"])).await;
    assert!(
        code == Some(0)
            && text.contains("   75  no machine is free")
            && text.contains("   76  no machine matches"),
        "{text}"
    );
    let (_, completions) = said(otter(&["completions", "bash"])).await;
    assert!(completions.contains("--queue-for"), "the shell knows it");
    bench.is_as_before().await;
}

#[tokio::test]
async fn the_machine_cannot_be_made_ready() {
    let scenario =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/lab.toml")).unwrap();
    let broken = tempfile::tempdir().unwrap();
    let file = broken.path().join("broken.toml");
    let fault = "\n[[faults]]\nmethod = \"PowerOnVM_Task\"\ntimes = 0\nwhat = { fault = \"InsufficientResourcesFault\" }\n";
    std::fs::write(&file, scenario + fault).unwrap();
    let bench = Bench::with(&["--scenario", file.to_str().unwrap()]).await;
    let ended = bench.run("--power on", NEVER).ended().await;
    ended.exits(73, "otter: The preparation failed");
    assert!(ended.complaints.contains("the machine was taken back and is set aside"), "{ended:?}");
    assert!(ended.said.is_empty(), "{ended:?}");
    eventually("the lease to end", async || {
        bench.leases("queued,preparing,active,releasing").await.is_empty()
    })
    .await;
    let machine = bench.daemon.get(&format!("/v1/machines/name:{NAME}")).await.expect(200).json;
    assert_eq!(machine["quarantine"]["automatic"], true, "{machine}");
    let clear = bench.daemon.request(Method::DELETE, "/v1/machines/16/quarantine");
    Answer::of(clear).await.expect(200);
    bench.is_as_before().await;
}

#[tokio::test]
async fn nobody_is_there() {
    let bench = Bench::start().await;
    for url in ["http://127.0.0.1:1", "unix:/nowhere/otter.sock"] {
        let run = bench.run_at(url, "--retry-for 1s", &["echo", "never"], &[]);
        let ended = run.ended().await;
        ended.exits(69, "otter: ");
        assert!(ended.said.is_empty(), "{ended:?}");
    }
    bench.run_at("ftp://lab", "", &["echo", "never"], &[]).ended().await.exits(64, "unix:/path");
}

#[tokio::test]
async fn a_token_decides_who_may() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let token = |name: &str, role: &str| {
        let mut make =
            otter(&["token", "create", "--name", name, "--role", role, "--state-dir", state]);
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
    let bench = Bench {
        daemon: Bench::daemon("127.0.0.1:0", files.path(), &["--state-dir", state]).await,
        files,
    };
    let url = bench.url();
    let with = |token: &str| bench.run_at(&url, "", &["echo", "mine"], &[("OTTER_TOKEN", token)]);
    let none = bench.run_at(&url, "", &["echo", "mine"], &[]).ended().await;
    none.exits(77, "unauthenticated");
    with(&runner.replace(&runner[8..12], "0000")).ended().await.exits(77, "unauthenticated");
    with(viewer.trim()).ended().await.exits(77, "forbidden");
    with("two words\n\u{7f}").ended().await.exits(64, "the token");
    let ended = with(runner.trim()).ended().await;
    ended.exits(0, "");
    assert_eq!(ended.said, ["mine"]);
    let free = async || {
        let free = bench.daemon.request(Method::GET, "/v1/machines/16/wait?until=free&wait=10s");
        Answer::of(free.bearer_auth(admin.trim())).await.expect(200);
    };
    free().await;
    let file = bench.file("token");
    std::fs::write(&file, &runner).unwrap();
    let options = format!("--token-file {}", file.display());
    bench
        .run_at(&url, &options, &["true"], &[("OTTER_TOKEN", "otter_wrong")])
        .ended()
        .await
        .exits(0, "");
    free().await;
}

#[tokio::test]
async fn a_token_that_is_revoked_while_its_run_waits_held_no_machine() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let token = |arguments: &[&str]| {
        let output =
            otter(&["token"]).args(arguments).args(["--state-dir", state]).output().unwrap();
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
    let bench = Bench {
        daemon: Bench::daemon("127.0.0.1:0", files.path(), &["--state-dir", state]).await,
        files,
    };
    let run = |options: &str, token: &str, script: &str| {
        bench.run_at(&bench.url(), options, &["sh", "-c", script], &[("OTTER_TOKEN", token)])
    };
    let mut holder = run("", &first, UNTIL_GO);
    holder.says("ready").await;
    let next = run("--queue-for 1m", &second, NEVER);
    eventually("it to wait", async || {
        let queued =
            bench.daemon.request(Method::GET, "/v1/leases?state=queued").bearer_auth(&admin);
        Answer::of(queued).await.expect(200).items("id").len() == 1
    })
    .await;
    token(&["revoke", "--name", "second"]);
    let ended = next.ended().await;
    ended.exits(77, "the lease ends: it was still waiting, and held no machine");
    let wrong = ["What it started goes on", "given back", "comes back"];
    assert!(!wrong.iter().any(|wrong| ended.complaints.contains(wrong)), "{ended:?}");
    bench.go();
    holder.ended().await.exits(0, "the machine is given back");
}

#[tokio::test]
async fn what_no_machine_can_match_has_a_code_of_its_own() {
    let bench = Bench::start().await;
    for (select, complaint) in [
        (&["--pool", "qubse"][..], "no pool \"qubse\""),
        (&["--name", "no such name", "--queue-for", "1h"], "no name of a machine contains"),
        (&["--mac", "02:00:00:00:00:01"], "no machine has this hardware address"),
        (&["--machine", NAME], "write \"name:"),
        (&["--machine", "name:golden-debian-12"], "golden-debian-12 is protected"),
        (&["--pool", "one", "--name", "ci-runner"], "none matches all"),
    ] {
        let url = bench.url();
        let mut run = otter(&["run", "--url", &url]);
        run.args(select).args(["--", "sh", "-c", NEVER]);
        let ended = super::Run::start(run).ended().await;
        ended.exits(76, complaint);
        assert!(ended.said.is_empty(), "{ended:?}");
    }
    bench.is_as_before().await;
}

#[tokio::test]
async fn an_address_without_a_scheme_and_an_empty_token_file_are_told() {
    let bench = Bench::start().await;
    let address = bench.daemon.address().to_owned();
    for (url, complaint) in [
        (address.as_str(), format!("write http://{address}")),
        ("otter.lab:8080", "write http://otter.lab:8080".to_owned()),
        ("ftp://otter.lab", "write http://…".to_owned()),
        ("http://ci:hidden@otter.lab", "leave out what stands before the @".to_owned()),
    ] {
        let ended = bench.run_at(url, "", &["sh", "-c", NEVER], &[]).ended().await;
        ended.exits(64, &complaint);
        assert!(!ended.complaints.contains("hidden"), "{ended:?}");
    }
    let file = bench.file("token");
    for empty in ["", "\n", "\u{feff}\n"] {
        std::fs::write(&file, empty).unwrap();
        let options = format!("--token-file {}", file.display());
        bench.run(&options, NEVER).ended().await.exits(64, "the token file is empty");
    }
    bench.is_as_before().await;
}
