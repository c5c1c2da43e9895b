//! `otter run --keep-on-failure` and `otter release`.

use rustix::process::Signal;

use super::{MACHINE, RUN_UNTIL_SIGNAL, RunFixture, RunProcess, RunResult};
use crate::harness::otter_command;

impl RunFixture {
    /// Runs `otter release` with these arguments and this `OTTER_LEASE`.
    async fn release(&self, arguments: &[&str], held: Option<&str>) -> RunResult {
        let mut command = otter_command(&["release", "--url", &self.url()]);
        command.args(arguments);
        if let Some(held) = held {
            command.env("OTTER_LEASE", held);
        }
        RunProcess::start(command).wait().await
    }
}

#[tokio::test]
async fn the_machine_of_a_failed_command_is_kept_until_it_is_released() {
    let fixture = RunFixture::start().await;
    let script = r#"echo "$OTTER_LEASE"; exit 7"#;
    let ended = fixture.run("--quiet --keep-on-failure 4h", script).wait().await;
    let lease = fixture.open_lease().await;
    let id = lease["id"].as_str().unwrap();
    ended.assert_exit(7, &format!("otter release {id}"));
    let until = lease["expires_at"].as_str().unwrap();
    assert!(ended.stderr.contains(until), "{ended:?}, not {until}");
    assert_eq!((&lease["state"], lease["kept_at"].is_string()), (&"active".into(), true));
    // The secret ends the lease, even without an operator's token.
    let released = fixture.release(&[], Some(&ended.stdout[0])).await;
    released.assert_exit(0, "the machine is given back");
    fixture.assert_all_released().await;
    let again = fixture.daemon.get(&format!("/v1/leases/{id}")).await.expect(200);
    assert_eq!(again.str("state"), "released");

    // An operator needs only the id.
    fixture.run("--keep-on-failure 4h", "exit 1").wait().await.assert_exit(1, "is kept until");
    let lease = fixture.open_lease().await;
    fixture.release(&[lease["id"].as_str().unwrap()], None).await.assert_exit(0, "given back");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn only_a_command_that_fails_by_itself_keeps_its_machine() {
    let fixture = RunFixture::start().await;
    for (options, script, code) in [("--keep-on-failure 4h", "exit 0", 0), ("", "exit 7", 7)] {
        fixture.run(options, script).wait().await.assert_exit(code, "given back");
        fixture.assert_all_released().await;
    }
    let mut run = fixture.run("--keep-on-failure 4h", RUN_UNTIL_SIGNAL);
    run.expect_line("ready").await;
    run.signal(Signal::TERM);
    run.wait().await.assert_exit(143, "the machine is given back");
    fixture.assert_all_released().await;
    let url = fixture.url();
    let missing = fixture.run_at(&url, "--keep-on-failure 4h", &["no-such-command"], &[]);
    missing.wait().await.assert_exit(127, "no-such-command: ");
    fixture.assert_all_released().await;
    let free = fixture.daemon.get(&format!("/v1/machines/{MACHINE}")).await.expect(200);
    assert_eq!(free.json["free"], true);
}

#[tokio::test]
async fn wrong_leases_are_refused() {
    let fixture = RunFixture::start().await;
    let none = "01936f5e-8c00-7000-8000-000000000002";
    fixture.release(&[none], None).await.assert_exit(64, &format!("there is no lease {none}"));
    fixture.release(&[], None).await.assert_exit(64, "the lease is missing");
    fixture.release(&["not/a/lease"], None).await.assert_exit(64, "not the id of a lease");
    fixture.release(&["--lease", none], None).await.assert_exit(64, "--lease");
}
