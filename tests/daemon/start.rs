//! Starts that must fail with an error text that gives advice, and ends that must succeed.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::{Daemon, otter_command, run_to_exit};

/// The exit code for a wrong configuration.
const EX_CONFIG: Option<i32> = Some(78);

#[tokio::test]
async fn simulate_needs_no_other_option_and_stops_with_success() {
    let daemon = Daemon::start(&["--simulate"], &[]).await;
    daemon.get("/healthz").await.expect(200);
    assert!(daemon.terminate().await.success());
}

/// `otter serve` prints which task failed, so that the user need not read the log.
#[tokio::test]
async fn a_task_that_panics_ends_the_daemon_with_a_failure() {
    let mut command = otter_command(&["serve", "--simulate", "--listen", "127.0.0.1:0"]);
    command.env("FAILPOINTS", "retention=panic");
    let (code, text) = run_to_exit(command).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("otter: the task retention panicked: failpoint retention panic"),
        "{text}"
    );
}

#[tokio::test]
async fn without_a_host_the_error_names_the_missing_settings() {
    let (code, text) = run_to_exit(otter_command(&["serve"])).await;
    assert_eq!(code, EX_CONFIG, "{text}");
    for expected in ["esx.url", "OTTER_ESX_URL", "esx.username", "OTTER_ESX_PASSWORD_FILE"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}

#[tokio::test]
async fn errors_in_configuration_files_name_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [(&str, &[u8], &str); 5] = [
        ("unknown.toml", b"[esx]\nurll = \"https://esx\"\n", "esx.urll"),
        ("type.toml", b"[http]\nmax_waits = \"many\"\n", "http.max_waits"),
        ("syntax.toml", b"[esx\n", "syntax.toml"),
        ("bytes.toml", b"\xff\xfe", "UTF-8"),
        ("verify.toml", b"[esx]\nverify = \"sha256:abc\"\n", "esx.verify"),
    ];
    for (name, content, expected) in cases {
        let file = directory.path().join(name);
        std::fs::write(&file, content).unwrap();
        let (code, text) = run_to_exit(otter_command(&[
            "serve",
            "--simulate",
            "--config",
            file.to_str().unwrap(),
        ]))
        .await;
        assert_eq!(code, EX_CONFIG, "{name}: {text}");
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let (code, text) =
        run_to_exit(otter_command(&["check-config", "--config", "/nonexistent/otter.toml"])).await;
    assert_eq!(code, EX_CONFIG);
    assert!(text.contains("/nonexistent/otter.toml") && text.contains("no such file"), "{text}");
}

#[tokio::test]
async fn an_address_beyond_loopback_requires_a_token() {
    let (code, text) =
        run_to_exit(otter_command(&["serve", "--simulate", "--listen", "0.0.0.0:0"])).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("otter token create") && text.contains("--state-dir"), "{text}");
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let serve = ["serve", "--simulate", "--listen", "0.0.0.0:0", "--state-dir", state];
    let (code, text) = run_to_exit(otter_command(&serve)).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("--state-dir {state}")), "{text}");
    // The message advises this command.
    let (_, made) = run_to_exit(otter_command(&[
        "token",
        "create",
        "--name",
        "ci",
        "--role",
        "operator",
        "--state-dir",
        state,
    ]))
    .await;
    let token = made.lines().find(|line| line.starts_with("otter_")).unwrap();
    let daemon = Daemon::start_at("0.0.0.0:0", &["--simulate", "--state-dir", state], &[]).await;
    let about = daemon.request(reqwest::Method::GET, "/v1/about").bearer_auth(token);
    let about = crate::harness::Answer::from_request(about).await.expect(200);
    assert!(about.text.contains("not encrypted"), "{}", about.text);
    assert!(daemon.terminate().await.success());
}

#[tokio::test]
async fn a_state_directory_serves_one_daemon_at_a_time() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().to_str().unwrap().to_owned();
    let daemon = Daemon::start(&["--simulate", "--state-dir", &path], &[]).await;
    let (code, text) = run_to_exit(otter_command(&[
        "serve",
        "--simulate",
        "--listen",
        "127.0.0.1:0",
        "--state-dir",
        &path,
    ]))
    .await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&path) && text.contains("another"), "{text}");
    assert!(daemon.terminate().await.success());
    let daemon = Daemon::start(&["--simulate", "--state-dir", &path], &[]).await;
    assert!(daemon.terminate().await.success());
}

#[tokio::test]
async fn state_that_cannot_be_used_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let start = async |state: &std::path::Path| {
        let state = state.to_str().unwrap();
        run_to_exit(otter_command(&[
            "serve",
            "--simulate",
            "--listen",
            "127.0.0.1:0",
            "--state-dir",
            state,
        ]))
        .await
    };
    let (code, text) = start(&directory.path().join("no/parent")).await;
    assert!(code == Some(1) && text.contains("no/parent"), "{text}");

    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (code, text) = start(&file).await;
    assert!(code == Some(1) && text.contains("file"), "{text}");

    let garbage = directory.path().join("garbage");
    std::fs::create_dir(&garbage).unwrap();
    std::fs::write(garbage.join("otter.db"), "this is no database".repeat(100)).unwrap();
    let (code, text) = start(&garbage).await;
    assert!(code == Some(1) && text.contains("otter.db"), "{text}");

    // Permissions do not restrict root, and containers often build as root.
    if !rustix::process::geteuid().is_root() {
        let read_only = directory.path().join("read-only");
        std::fs::create_dir(&read_only).unwrap();
        std::fs::set_permissions(&read_only, std::fs::Permissions::from_mode(0o500)).unwrap();
        let (code, text) = start(&read_only).await;
        assert!(code == Some(1) && text.contains("read-only"), "{text}");
    }
}

#[tokio::test]
async fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, text) = run_to_exit(otter_command(&["completions", shell])).await;
        assert!(code == Some(0) && text.contains("check-config"), "{shell}: {text}");
    }
    assert_eq!(run_to_exit(otter_command(&["completions", "tcl"])).await.0, Some(2));
}

#[tokio::test]
async fn the_admin_endpoint_of_the_simulator_listens_on_loopback_only() {
    let (code, text) = run_to_exit(otter_command(&[
        "simulate",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "0.0.0.0:0",
    ]))
    .await;
    assert!(code == Some(1) && text.contains("loopback"), "{text}");

    let mut command =
        otter_command(&["simulate", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let url = tokio::task::spawn_blocking(move || {
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok);
        lines
            .find_map(|line| line.trim().strip_prefix("admin").map(|url| url.trim().to_owned()))
            .unwrap()
    });
    let url = tokio::time::timeout(crate::harness::TIMEOUT, url).await.unwrap().unwrap();
    // Another test may have installed the provider before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let calls = reqwest::get(format!("{url}/calls")).await.unwrap();
    assert_eq!(calls.json::<Value>().await.unwrap()["sessions"], 0);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn the_document_is_printed_for_generators() {
    let (code, text) = run_to_exit(otter_command(&["openapi"])).await;
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, document["openapi"].as_str()), (Some(0), Some("3.1.0")));
}
