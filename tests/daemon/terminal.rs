//! The commands escape control characters in names from every source before they print them.

use otter::clock::Clock;
use otter::domain::access::{Role, Token};
use otter::domain::ids::TokenId;
use otter::storage::{Storage, StoredToken};
use otter::store::Store;
use tokio_util::sync::CancellationToken;

use crate::harness::{Daemon, HostProcess, eventually, otter_command, run_to_exit};

/// XML cannot carry ESC, but it can carry C1 control characters, which have the same effect, and
/// direction marks.
const NAME: &str = "evil\u{9b}2J\u{202e}-machine";
const SHOWN: &str = "evil\\u{9b}2J\\u{202e}-machine";

/// Asserts that a text holds no control characters that a terminal interprets.
#[track_caller]
fn assert_is_plain(text: &str) {
    assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{7f}', '\r', '\u{202e}']), "{text:?}");
}

#[tokio::test]
async fn a_hostile_name_of_a_machine_is_escaped_by_run_doctor_and_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let lab = std::fs::read_to_string("config/lab.toml").unwrap();
    let renamed = lab.replace("\"qubes-4.2-sdw-staging\"", "\"evil\\u009b2J\\u202e-machine\"");
    assert_ne!(lab, renamed);
    std::fs::write(path("lab.toml"), renamed).unwrap();
    std::fs::write(path("otter.toml"), "").unwrap();
    let host =
        HostProcess::start(&["--scenario", path("lab.toml").to_str().unwrap(), "--pace", "0.1"])
            .await;
    let mut serve = host.serve(&path("otter.toml"), &path("state"));
    // The last of two equal options wins.
    serve.args(["--log-level", "info"]);
    let arguments: Vec<_> = serve.get_args().map(std::ffi::OsStr::to_owned).collect();
    let human = arguments
        .iter()
        .map(|argument| if argument == "json" { "human".into() } else { argument.clone() });
    let mut human_serve = otter_command(&[]);
    human_serve.args(human).envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    human_serve.stderr(std::fs::File::create(path("log")).unwrap());
    let daemon = Daemon::try_start(human_serve).await.expect("a daemon that says where it listens");
    eventually("the inventory to be loaded", async || daemon.get("/readyz").await.status == 200)
        .await;

    let url = format!("http://{}", daemon.address());
    let run = otter_command(&["run", "--url", &url, "--name", "evil", "--", "true"]);
    let (code, text) = run_to_exit(run).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(SHOWN), "{text}");
    assert_is_plain(&text);

    let found = daemon.get("/v1/machines/find?name=evil").await.expect(200);
    assert_eq!(found.str("name"), NAME, "the API does not escape names");
    let log = || std::fs::read_to_string(path("log")).unwrap();
    eventually("the release to be in the log", async || log().contains(SHOWN)).await;
    let log = log();
    assert_is_plain(&log);

    let mut doctor = otter_command(&["doctor"]);
    doctor.env("OTTER_ESX_URL", &host.url).env("OTTER_ESX_VERIFY", &host.verify);
    doctor.env("OTTER_ESX_USERNAME", "ro\u{1b}[2Jot").env("OTTER_ESX_PASSWORD", "otter");
    let (code, text) = run_to_exit(doctor).await;
    assert_eq!(code, Some(1), "{text}");
    assert_is_plain(&text);
}

#[tokio::test]
async fn hostile_names_of_tokens_and_of_keys_are_escaped() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let created = ["token", "create", "--name", "ci", "--role", "runner", "--state-dir"];
    let created =
        otter_command(&[&created[..], &[state.to_str().unwrap()]].concat()).output().unwrap();
    assert!(created.status.success());
    let store = Store::open_shared(&state).await.unwrap();
    let writer = store.clone();
    tokio::spawn(async move { writer.run(CancellationToken::new()).await });
    let clock = Clock::system();
    let digest = Token::new(&clock.random().unwrap()).digest();
    let name = "evil\u{1b}[2J\n-token";
    let stored =
        StoredToken::new(TokenId::new(clock.uuid()), name, Role::Viewer, digest, clock.now());
    assert!(store.insert_token(&stored).await.unwrap());
    let (_, listed) =
        run_to_exit(otter_command(&["token", "list", "--state-dir", state.to_str().unwrap()]))
            .await;
    assert!(listed.contains("evil\\u{1b}[2J\\n-token"), "{listed}");
    assert_is_plain(&listed);

    let config = directory.path().join("otter.toml");
    std::fs::write(&config, "[esx]\n\"evil\\u001b[2J-key\" = 1\n").unwrap();
    for command in ["check-config", "serve"] {
        let (code, text) =
            run_to_exit(otter_command(&[command, "--config", config.to_str().unwrap()])).await;
        assert_eq!(code, Some(78), "{text}");
        assert!(text.contains("evil\\u{1b}[2J-key"), "{text}");
        assert_is_plain(&text);
    }
}
