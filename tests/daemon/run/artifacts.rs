//! `otter run --record --artifacts DIR`: what happened is in the directory, also after a failure.

use crate::artifacts::recordings::frames;
use crate::harness::eventually;

use super::{MACHINE, RUN_UNTIL_GO_FILE, RunFixture};

#[tokio::test]
async fn a_failed_run_leaves_what_happened_in_its_directory() {
    let fixture = RunFixture::start().await;
    let directory = fixture.path("out/artifacts");
    let options = format!("--power on --record --artifacts {}", directory.to_str().unwrap());
    let script = format!("{RUN_UNTIL_GO_FILE}; exit 7");
    let mut run = fixture.run(&options, &script);
    run.expect_line("ready").await;
    let lease = fixture.open_lease().await;
    let id = lease["id"].as_str().unwrap();
    let secret = lease["record"].clone();
    assert_eq!(secret, serde_json::json!({"screen": true, "serial": ["*"]}));
    let picture = format!("/v1/machines/{MACHINE}/screen.png");
    let is_shown = async || fixture.daemon.get(&picture).await.status == 200;
    eventually("the machine to show something", is_shown).await;
    let now = otter::clock::Clock::system().now();
    eventually("the screen to be recorded", async || {
        let lease = fixture.open_lease().await;
        let synced_at = lease["recording"]["synced_at"].as_str();
        synced_at.is_some_and(|at| at.parse::<jiff::Timestamp>().unwrap() > now)
    })
    .await;
    fixture.create_go_file();
    let ended = run.wait().await;
    let page = format!("artifacts: {}/v1/artifacts?lease={id}", fixture.url());
    ended.assert_exit(7, &page);
    assert!(ended.stderr.contains("artifacts are in "), "{ended:?}");
    fixture.assert_all_released().await;

    let apng = std::fs::read(directory.join("screen.apng")).unwrap();
    assert!(!frames(&apng).is_empty());
    let picture = std::fs::read(directory.join("screen-last.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    std::fs::read_to_string(directory.join("screen-last.txt")).unwrap();
    let log = std::fs::read_to_string(directory.join("ttyS0.log")).unwrap();
    let cast = std::fs::read_to_string(directory.join("ttyS0.cast")).unwrap();
    let header: serde_json::Value = serde_json::from_str(cast.lines().next().unwrap()).unwrap();
    assert_eq!(header["version"], 2, "{log} {cast}");
    let hidden = std::fs::read_dir(&directory)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
    assert_eq!(hidden.count(), 0, "no part of a file is left");
}

#[tokio::test]
async fn a_run_without_anything_recorded_says_so_and_keeps_its_exit_code() {
    let fixture = RunFixture::start().await;
    let directory = fixture.path("none");
    let options = format!("--artifacts {}", directory.to_str().unwrap());
    fixture.run(&options, "exit 3").wait().await.assert_exit(3, "there are no artifacts");
    assert!(!directory.exists());
    // A directory that cannot be made is only a warning.
    std::fs::write(fixture.path("file"), "").unwrap();
    let store = r#"curl -sf -T "$GO.txt" -H "Otter-Lease: $OTTER_LEASE" \
        "$OTTER_URL/v1/leases/${OTTER_LEASE%%.*}/artifacts/result.txt" >/dev/null"#;
    std::fs::write(fixture.path("go.txt"), "passed").unwrap();
    let options = format!("--artifacts {}", fixture.path("file").to_str().unwrap());
    let ended = fixture.run(&options, store).wait().await;
    ended.assert_exit(0, fixture.path("file").to_str().unwrap());
    let options = format!("--artifacts {}", directory.to_str().unwrap());
    fixture.run(&options, store).wait().await.assert_exit(0, "1 artifacts are in ");
    let result = std::fs::read_to_string(directory.join("result.txt")).unwrap();
    assert_eq!(result, "passed");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_kept_lease_is_no_reason_to_wait_for_its_recording() {
    let fixture = RunFixture::start().await;
    let directory = fixture.path("kept");
    let options = format!(
        "--power on --record --keep-on-failure 4h --artifacts {}",
        directory.to_str().unwrap()
    );
    let ended = fixture.run(&options, "exit 7").wait().await;
    let lease = fixture.open_lease().await;
    ended.assert_exit(7, &format!("artifacts?lease={}", lease["id"].as_str().unwrap()));
    assert!(ended.stderr.contains("the machine is kept"), "{ended:?}");
}
