//! The checks before a start: `check-config` and `serve` report the same errors with the same texts
//! and exit codes, and the same warnings. `check-config` creates nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{Daemon, eventually, otter_command, run_to_exit};

/// A temporary directory for a configuration file and the files that it names.
struct ConfigDirectory(TempDir);

impl ConfigDirectory {
    fn new() -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        directory.write("password", "otter\n", 0o600);
        directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let file = self.path(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    /// A command with a configuration whose host is unreachable and whose section `[http]` is this
    /// text.
    fn command(&self, verb: &str, http: &str, arguments: &[&str]) -> Command {
        let config = format!(
            "[esx]\nurl = \"https://127.0.0.1:1\"\nusername = \"root\"\npassword_file = \
             {:?}\n[http]\n{http}\n",
            self.text("password")
        );
        let config = self.write("otter.toml", &config, 0o644);
        let mut command = otter_command(&[verb, "--config", config.to_str().unwrap()]);
        command.args(arguments);
        command
    }

    /// Asserts that `serve` and `check-config` fail with the same exit code and error text. Returns
    /// the text.
    async fn assert_both_refuse(&self, http: &str, arguments: &[&str]) -> String {
        let (served, serve_text) = run_to_exit(self.command("serve", http, arguments)).await;
        let (checked, text) = run_to_exit(self.command("check-config", http, arguments)).await;
        assert_eq!(checked, Some(1), "{text}");
        assert_eq!(served, checked, "{serve_text}");
        let refusal = text.split_once("otter: ").expect("a refusal").1;
        assert!(serve_text.contains(refusal), "{refusal}\nis not in\n{serve_text}");
        text
    }
}

#[tokio::test]
async fn check_config_refuses_what_serve_refuses() {
    let directory = ConfigDirectory::new();
    let state = directory.text("state");
    let with_state = ["--state-dir", state.as_str(), "--listen", "127.0.0.1:0"];

    let tls = "tls_certificate = \"/nowhere.pem\"\ntls_key = \"/nowhere.key\"";
    let text = directory.assert_both_refuse(tls, &with_state).await;
    assert!(text.contains("/nowhere.pem"), "{text}");

    // A state directory that cannot be created, and one that is a file.
    let missing = directory.text("missing/state");
    let text = directory
        .assert_both_refuse("", &["--state-dir", &missing, "--listen", "127.0.0.1:0"])
        .await;
    assert!(text.contains(&missing) && text.contains("check its spelling"), "{text}");
    let file = directory.text("password");
    let text =
        directory.assert_both_refuse("", &["--state-dir", &file, "--listen", "127.0.0.1:0"]).await;
    assert!(text.contains("is a file") && text.contains("--state-dir"), "{text}");

    // An address that other machines can reach, without a token, and an address that this machine
    // does not have.
    let text =
        directory.assert_both_refuse("", &["--state-dir", &state, "--listen", "0.0.0.0:0"]).await;
    assert!(text.contains("otter token create") && text.contains(&state), "{text}");
    let text =
        directory.assert_both_refuse("", &["--state-dir", &state, "--listen", "192.0.2.1:0"]).await;
    assert!(text.contains("192.0.2.1"), "{text}");
    let text = directory
        .assert_both_refuse("listen = \"unix:/nowhere/otter.sock\"", &["--state-dir", &state])
        .await;
    assert!(text.contains("the directory /nowhere does not exist"), "{text}");

    // Both commands report all problems at once.
    let text = directory
        .assert_both_refuse(tls, &["--state-dir", &missing, "--listen", "127.0.0.1:0"])
        .await;
    assert!(text.contains("/nowhere.pem") && text.contains(&missing), "{text}");
    assert!(!directory.path("state").exists(), "nothing was created");
}

#[tokio::test]
async fn check_config_refuses_a_state_directory_that_serve_cannot_use() {
    let directory = ConfigDirectory::new();
    let state = directory.text("state");
    let arguments = ["--state-dir", state.as_str(), "--listen", "127.0.0.1:0"];
    let daemon = Daemon::start(&["--simulate", "--state-dir", &state], &[]).await;
    eventually("the inventory to be loaded", async || daemon.get("/readyz").await.status == 200)
        .await;
    let asked = serde_json::json!({"select": {"machine": "18"}, "ttl": "30m"});
    daemon.post("/v1/leases", asked).await.expect(201);
    assert!(daemon.terminate().await.success());

    // The key of the lease secrets is missing, damaged, or not a file.
    let (key, kept) = (directory.path("state/secret.key"), directory.path("kept.key"));
    std::fs::rename(&key, &kept).unwrap();
    let text = directory.assert_both_refuse("", &arguments).await;
    assert!(
        text.contains("secret.key is missing") && text.contains("otter store new-key"),
        "{text}"
    );
    assert!(!key.exists());
    std::fs::write(&key, "").unwrap();
    let text = directory.assert_both_refuse("", &arguments).await;
    assert!(
        text.contains("secret.key does not contain a key") && text.contains("new-key"),
        "{text}"
    );
    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    let text = directory.assert_both_refuse("", &arguments).await;
    assert!(text.contains("secret.key cannot be read"), "{text}");
    std::fs::remove_dir(&key).unwrap();
    std::fs::rename(&kept, &key).unwrap();

    // A directory has the name of a file of otter.
    for name in ["lock", "otter.db"] {
        let (file, kept) = (directory.path("state").join(name), directory.path("kept"));
        std::fs::rename(&file, &kept).unwrap();
        std::fs::create_dir(&file).unwrap();
        let text = directory.assert_both_refuse("", &arguments).await;
        assert!(text.contains(&format!("{} is not a file", file.display())), "{text}");
        std::fs::remove_dir(&file).unwrap();
        std::fs::rename(&kept, &file).unwrap();
    }

    // Leftover files of a database and of an interrupted restore.
    let database = directory.path("state/otter.db");
    std::fs::rename(&database, directory.path("kept")).unwrap();
    for (name, message) in
        [("otter.db-wal", "without its database"), ("otter.db.restoring", "was interrupted")]
    {
        let file = directory.write(&format!("state/{name}"), "", 0o600);
        let text = directory.assert_both_refuse("", &arguments).await;
        assert!(text.contains(message), "{text}");
        std::fs::remove_file(file).unwrap();
    }
    std::fs::rename(directory.path("kept"), &database).unwrap();

    // Damaged pages that no other check reads.
    let whole = std::fs::read(&database).unwrap();
    let mut damaged = whole.clone();
    let last = damaged.len() - 4_096;
    damaged[last..].fill(0xa5);
    std::fs::write(&database, damaged).unwrap();
    let text = directory.assert_both_refuse("", &arguments).await;
    assert!(text.contains("otter.db is damaged"), "{text}");
    std::fs::write(&database, whole).unwrap();
    let (code, text) = run_to_exit(directory.command("check-config", "", &arguments)).await;
    assert_eq!(code, Some(0), "{text}");

    // A link to a directory that does not exist, for example on a disk that is not mounted.
    let link = directory.path("link");
    std::os::unix::fs::symlink(directory.path("unmounted"), &link).unwrap();
    let text = directory
        .assert_both_refuse(
            "",
            &["--state-dir", &directory.text("link"), "--listen", "127.0.0.1:0"],
        )
        .await;
    assert!(text.contains("link to") && text.contains(&directory.text("unmounted")), "{text}");

    // The path of a socket is too long for the operating system.
    let long = format!("listen = \"unix:{}/{}\"", directory.0.path().display(), "x".repeat(200));
    let text = directory.assert_both_refuse(&long, &["--state-dir", &state]).await;
    assert!(text.contains("too long for a socket"), "{text}");
}

#[tokio::test]
async fn a_start_warns_of_a_state_directory_or_database_that_is_new() {
    let directory = ConfigDirectory::new();
    let state = directory.text("state");
    let start = async || {
        let log = directory.path("log");
        let arguments = ["--simulate", "--state-dir", &state, "--log-format", "json"];
        let daemon = Daemon::start_with_log(&log, &arguments, &[]).await;
        assert!(daemon.terminate().await.success());
        let found =
            ["the state directory is new", "the state directory has no database"].map(|message| {
                let text = std::fs::read_to_string(&log).unwrap();
                let lines =
                    text.lines().filter(|line| line.contains(message) && line.contains("WARN"));
                lines.filter(|line| line.contains(&format!("\"directory\":\"{state}\""))).count()
            });
        (found[0], found[1])
    };
    assert_eq!(start().await, (1, 0));
    assert_eq!(start().await, (0, 0));
    for entry in std::fs::read_dir(&state).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(start().await, (0, 1));
}

#[tokio::test]
async fn check_config_creates_nothing_and_names_what_serve_would_create() {
    let directory = ConfigDirectory::new();
    let state = directory.text("state");
    let (code, text) =
        run_to_exit(directory.command("check-config", "", &["--state-dir", &state])).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with("The configuration is good.\n"), "{text}");
    assert!(
        text.contains(&format!("{state}, which does not exist yet: serve creates it")),
        "{text}"
    );
    assert!(!Path::new(&state).exists());

    // In an existing directory no database is created.
    std::fs::create_dir(&state).unwrap();
    let (code, text) =
        run_to_exit(directory.command("check-config", "", &["--state-dir", &state])).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains(&format!("{state}, which has no database yet: serve creates one")),
        "{text}"
    );
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);

    // If a token exists, the address may be one that other machines can reach.
    let made = otter_command(&[
        "token",
        "create",
        "--name",
        "ci",
        "--role",
        "runner",
        "--state-dir",
        &state,
    ])
    .output()
    .unwrap();
    assert!(made.status.success(), "{made:?}");
    let open = ["--state-dir", state.as_str(), "--listen", "0.0.0.0:0"];
    let (code, text) = run_to_exit(directory.command("check-config", "", &open)).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("otter: warning: tokens reach 0.0.0.0:0 in the clear"), "{text}");
    assert!(
        otter_command(&["token", "revoke", "--name", "ci", "--state-dir", &state])
            .status()
            .unwrap()
            .success()
    );
    let (code, text) = run_to_exit(directory.command("check-config", "", &open)).await;
    assert_eq!(code, Some(1), "{text}");
}

#[tokio::test]
async fn both_commands_warn_of_world_readable_files_with_secrets() {
    let directory = ConfigDirectory::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    directory.write("otter.pem", &made.cert.pem(), 0o644);
    directory.write("otter.key", &made.signing_key.serialize_pem(), 0o644);
    directory.write("password", "otter\n", 0o644);
    let http = format!(
        "tls_certificate = {:?}\ntls_key = {:?}",
        directory.text("otter.pem"),
        directory.text("otter.key")
    );
    let state = directory.text("state");
    let arguments = ["--state-dir", state.as_str(), "--listen", "127.0.0.1:0"];
    let (code, checked) = run_to_exit(directory.command("check-config", &http, &arguments)).await;
    assert_eq!(code, Some(0), "{checked}");
    let mut serve = directory.command("serve", &http, &arguments);
    let log = directory.path("log");
    serve.stderr(std::fs::File::create(&log).unwrap());
    let daemon = Daemon::try_start(serve).await.expect("a daemon that serves");
    assert!(daemon.terminate().await.success());
    let logged = std::fs::read_to_string(log).unwrap();
    for text in [&checked, &logged] {
        assert!(
            text.contains(&format!(
                "the password file, {}, can be read by",
                directory.text("password")
            )),
            "{text}"
        );
        assert!(text.contains(&format!("chmod o= {}", directory.text("otter.key"))), "{text}");
    }
    directory.write("password", "otter\n", 0o640);
    directory.write("otter.key", &made.signing_key.serialize_pem(), 0o600);
    let (_, checked) = run_to_exit(directory.command("check-config", &http, &arguments)).await;
    assert!(!checked.contains("warning"), "{checked}");
}

#[tokio::test]
async fn unknown_variables_are_reported_and_foreign_ones_ignored() {
    let directory = ConfigDirectory::new();
    let state = directory.text("state");
    let check = |variables: &[(&str, &str)]| {
        let mut command = directory.command("check-config", "", &["--state-dir", &state]);
        command.envs(variables.iter().copied());
        run_to_exit(command)
    };
    let kubernetes = [
        ("OTTER_ESX_SERVICE_HOST", "10.96.0.7"),
        ("OTTER_ESX_SERVICE_PORT", "443"),
        ("OTTER_ESX_SERVICE_PORT_HTTPS", "443"),
        ("OTTER_ESX_PORT", "tcp://10.96.0.7:443"),
        ("OTTER_ESX_PORT_443_TCP", "tcp://10.96.0.7:443"),
        ("OTTER_ESX_PORT_443_TCP_ADDR", "10.96.0.7"),
        ("OTTER_SERVICE_HOST", "10.96.0.8"),
        ("OTTER_PORT", "tcp://10.96.0.8:8080"),
        ("OTTER_PORT_8080_TCP_PROTO", "tcp"),
    ];
    let run_variables = [
        ("OTTER_URL", "http://127.0.0.1:8080"),
        ("OTTER_TOKEN", "otter_x"),
        ("OTTER_MACHINE_IP", ""),
    ];
    let (code, text) = check(&[&kubernetes[..], &run_variables[..]].concat()).await;
    assert!(code == Some(0) && !text.contains("OTTER_"), "{text}");
    let (code, text) = check(&[("OTTER_STATEDIR", "/srv/otter"), ("OTTER_LOG", "debug")]).await;
    assert_eq!(code, Some(0), "{text}");
    for expected in [
        "warning: OTTER_STATEDIR is ignored",
        "OTTER_STATE_DIR",
        "OTTER_LOG is ignored",
        "--log-level",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let (code, text) = check(&[("OTTER_A\u{1b}[31m", "1")]).await;
    assert!(code == Some(0) && text.contains("OTTER_A") && !text.contains('\u{1b}'), "{text}");
    let (code, text) = check(&[("OTTER_ESX_USER", "root")]).await;
    assert!(code == Some(78) && text.contains("OTTER_ESX_USERNAME"), "{text}");
    // Without the warning the user would not notice that the list is of another directory.
    std::fs::create_dir(&state).unwrap();
    let mut list = otter_command(&["token", "list", "--state-dir", &state]);
    list.env("OTTER_STATEDIR", "/srv/otter");
    let (_, text) = run_to_exit(list).await;
    assert!(text.contains("OTTER_STATEDIR is ignored"), "{text}");
}

/// Both commands warn of files that other users can access, and of tokens with reserved names.
#[tokio::test]
async fn check_config_warns_of_the_state_as_serve_does() {
    let directory = ConfigDirectory::new();
    let state = directory.text("state");
    std::fs::create_dir(&state).unwrap();
    let create = ["token", "create", "ci", "--role", "runner", "--state-dir", &state];
    assert_eq!(run_to_exit(otter_command(&create)).await.0, Some(0));
    let file = format!("sqlite://{}", directory.path("state/otter.db").display());
    let database = sqlx::SqlitePool::connect(&file).await.unwrap();
    sqlx::query("UPDATE tokens SET name = 'otter'").execute(&database).await.unwrap();
    database.close().await;
    let loosen = |name: &str, mode| {
        std::fs::set_permissions(directory.path(name), std::fs::Permissions::from_mode(mode))
            .unwrap();
    };
    let arguments = ["--listen", "127.0.0.1:0", "--state-dir", &state];
    let clean = run_to_exit(directory.command("check-config", "", &arguments)).await.1;
    assert!(!clean.contains("other users") && clean.contains("the token otter"), "{clean}");
    loosen("state", 0o755);
    loosen("state/otter.db", 0o640);
    let (code, text) = run_to_exit(directory.command("check-config", "", &arguments)).await;
    assert_eq!(code, Some(0), "{text}");
    for expected in [
        format!("other users can access {state} (mode 0755)"),
        format!("other users can access {state}/otter.db (mode 0640)"),
    ] {
        assert!(text.contains(&expected), "{expected}\nis not in\n{text}");
    }
    let mode = std::fs::metadata(&state).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o755, "check-config changes nothing");
}

#[tokio::test]
async fn serve_prints_the_state_directory() {
    let directory = ConfigDirectory::new();
    let state = directory.text("state");
    for (arguments, expected) in [
        (&["--simulate"][..], "Its state is kept in memory"),
        (&["--simulate", "--state-dir", &state][..], &*format!("Its state is kept in {state}.")),
    ] {
        let mut serve = otter_command(&["serve", "--listen", "127.0.0.1:0"]);
        serve.args(arguments).stderr(std::fs::File::create(directory.path("log")).unwrap());
        let start_message = directory.path("start_message");
        let mut child =
            serve.stdout(std::fs::File::create(&start_message).unwrap()).spawn().unwrap();
        let has_start_message =
            async || std::fs::read_to_string(&start_message).unwrap().contains("In a browser");
        crate::harness::eventually("the start message", has_start_message).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let text = std::fs::read_to_string(&start_message).unwrap();
        assert!(text.contains(expected), "{text}");
        let logged = std::fs::read_to_string(directory.path("log")).unwrap();
        assert!(logged.contains("the state is kept"), "{logged}");
    }
    // The default directory is printed too, and config/otter.toml names it.
    let (_, text) = run_to_exit(directory.command("check-config", "", &[])).await;
    assert!(text.contains("/var/lib/otter"), "{text}");
    assert!(include_str!("../../config/otter.toml").contains("# dir = \"/var/lib/otter\""));
}

#[tokio::test]
async fn localhost_is_accepted_and_other_names_are_refused_with_advice() {
    let daemon = Daemon::start_at("localhost:0", &["--simulate"], &[]).await;
    assert!(daemon.address().starts_with("127.0.0.1:"), "{}", daemon.address());
    assert!(daemon.terminate().await.success());
    let (code, text) =
        run_to_exit(otter_command(&["serve", "--simulate", "--listen", "otter.lab:9105"])).await;
    assert_eq!(code, Some(78), "{text}");
    assert!(
        text.contains("the only accepted name is localhost") && text.contains("127.0.0.1:8080"),
        "{text}"
    );
}

#[tokio::test]
async fn a_spelled_out_unit_is_refused_with_the_right_spelling() {
    let directory = ConfigDirectory::new();
    let (code, text) =
        run_to_exit(directory.command("check-config", "max_wait = \"5min\"", &[])).await;
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("http.max_wait") && text.contains("write 5m"), "{text}");
}

#[tokio::test]
async fn a_key_with_a_passphrase_is_refused_with_advice() {
    let directory = ConfigDirectory::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    directory.write("otter.pem", &made.cert.pem(), 0o644);
    let http = format!(
        "tls_certificate = {:?}\ntls_key = {:?}",
        directory.text("otter.pem"),
        directory.text("otter.key")
    );
    let state = directory.text("state");
    for key in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: \
         AES-128-CBC,00\n\nAAAA\n\
         -----END RSA PRIVATE KEY-----\n",
    ] {
        directory.write("otter.key", key, 0o600);
        let arguments = ["--state-dir", state.as_str(), "--listen", "127.0.0.1:0"];
        let text = directory.assert_both_refuse(&http, &arguments).await;
        assert!(text.contains("passphrase") && text.contains("openssl pkey -in"), "{text}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_in_a_password_file_is_ignored() {
    let directory = ConfigDirectory::new();
    directory.write("password", "\u{feff}\n", 0o600);
    let (code, text) = run_to_exit(directory.command("check-config", "", &[])).await;
    assert!(code == Some(78) && text.contains("the file is empty"), "{text}");
    let host = otter::simulator::Simulator::start(otter::simulator::SimulatorOptions::new(
        otter::simulator::Scenario::lab().unwrap(),
        otter::clock::Clock::system(),
    ))
    .await
    .unwrap();
    let file = directory.write("password", "\u{feff}otter\r\n", 0o600);
    let variables = [
        ("OTTER_ESX_URL", &*host.url()),
        ("OTTER_ESX_USERNAME", "root"),
        ("OTTER_ESX_PASSWORD_FILE", file.to_str().unwrap()),
        ("OTTER_ESX_VERIFY", &*format!("sha256:{}", host.fingerprint())),
    ];
    let daemon = Daemon::start(&["--state-dir", &directory.text("state")], &variables).await;
    let ready = async || daemon.get("/readyz?host=true").await.status == 200;
    crate::harness::eventually("the host to accept the password", ready).await;
    assert!(daemon.terminate().await.success());
    host.stop().await;
}

/// `script` from Debian's `bsdutils` runs a command in a terminal.
#[tokio::test]
async fn no_color_keeps_escape_sequences_out_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("otter.toml");
    std::fs::write(&file, "[http]\nlisten = \"192.0.2.1:0\"\n").unwrap();
    let line =
        format!("{} serve --simulate --config {}", env!("CARGO_BIN_EXE_otter"), file.display());
    let on_a_terminal = async |no_color: &str| {
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("NO_COLOR", no_color);
        run_to_exit(script).await.1
    };
    let coloured = on_a_terminal("").await;
    assert!(coloured.contains("INFO") && coloured.contains('\u{1b}'), "{coloured:?}");
    let plain = on_a_terminal("1").await;
    assert!(plain.contains("INFO") && !plain.contains('\u{1b}'), "{plain:?}");
}

#[tokio::test]
async fn a_wrong_ca_file_is_a_wrong_setting_of_each_command() {
    let directory = ConfigDirectory::new();
    directory.write("empty.pem", "no certificate\n", 0o644);
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    directory.write("damaged.pem", damaged, 0o644);
    directory.write("cut.pem", "-----BEGIN CERTIFICATE-----\n!\n", 0o644);
    let state = directory.text("state");
    let table = [
        (directory.text("missing.pem"), "cannot be read"),
        (directory.0.path().to_str().unwrap().to_owned(), "cannot be read"),
        (directory.text("empty.pem"), "holds no certificate in PEM"),
        (directory.text("damaged.pem"), "is not usable: it is damaged"),
    ];
    for (file, problem) in table {
        for verb in ["doctor", "check-config", "serve"] {
            let arguments = ["--state-dir", state.as_str(), "--listen", "127.0.0.1:0"];
            let mut command = directory.command(verb, "", &arguments);
            command.env("OTTER_ESX_VERIFY", format!("ca:{file}"));
            let (code, text) = run_to_exit(command).await;
            assert_eq!(code, Some(78), "{verb}: {text}");
            for part in ["esx.verify: ", &file, problem] {
                assert!(text.contains(part), "{verb}: {part} in {text}");
            }
        }
    }
    // If the configuration has another problem too, both problems are reported.
    let missing = directory.text("missing/state");
    let arguments = ["--state-dir", missing.as_str(), "--listen", "127.0.0.1:0"];
    let mut command = directory.command("check-config", "", &arguments);
    command.env("OTTER_ESX_VERIFY", format!("ca:{}", directory.text("cut.pem")));
    let (code, text) = run_to_exit(command).await;
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("esx.verify: ") && text.contains(&missing), "{text}");
}
