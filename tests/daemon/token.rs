//! `otter token`, and TLS with certificates that are reloaded.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, TIMEOUT, eventually, log_lines, otter_command, run_to_exit};

fn token(state: &str, arguments: &[&str]) -> std::process::Command {
    otter_command(&[&["token"], arguments, &["--state-dir", state]].concat())
}

#[tokio::test]
async fn tokens_are_created_listed_and_revoked_and_shown_once() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    // Only `create` creates a database.
    for verb in [&["list"][..], &["revoke", "--name", "ci"]] {
        let (code, text) = run_to_exit(token(state, verb)).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("there is no otter database in"), "{text}");
    }
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0);
    let output = token(state, &["create", "--name", "ci", "--role", "runner"]).output().unwrap();
    assert!(output.status.success());
    let made = String::from_utf8(output.stdout).unwrap();
    assert!(made.starts_with("otter_") && made.lines().count() == 1, "{made}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("ci") && text.contains("runner") && !text.contains(made.trim()),
        "{text}"
    );

    let (code, text) =
        run_to_exit(token(state, &["create", "--name", "ci", "--role", "viewer"])).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("otter token revoke --name ci"), "{text}");
    let (_, listed) = run_to_exit(token(state, &["list"])).await;
    assert!(
        listed.contains("ci") && listed.contains("runner") && !listed.contains("otter_"),
        "{listed}"
    );
    assert!(token(state, &["revoke", "--name", "ci"]).output().unwrap().status.success());
    let (code, text) = run_to_exit(token(state, &["revoke", "--name", "ci"])).await;
    assert_eq!(code, Some(1), "{text}");
    let (_, listed) = run_to_exit(token(state, &["list"])).await;
    assert!(listed.contains("revoked"), "{listed}");
    for wrong in [
        &["create", "--name", "", "--role", "runner"],
        &["create", "--name", "a b", "--role", "runner"],
        &["create", "--name", "ci", "--role", "root"],
    ] {
        assert_eq!(run_to_exit(token(state, wrong)).await.0, Some(2), "{wrong:?}");
    }
    // The database holds no token.
    let database = std::fs::read(std::path::Path::new(state).join("otter.db")).unwrap();
    let digits = &made.trim().as_bytes()[6..70];
    assert!(!database.windows(digits.len()).any(|window| window == digits));
}

/// Without a daemon, a copy of otter.db alone must have the effect of each command, so that a
/// revoked token does not come back.
#[tokio::test]
async fn after_each_command_the_database_file_alone_has_the_tokens() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().to_str().unwrap();
    let copy_database_alone = || {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(state.path().join("otter.db"), copy.path().join("otter.db")).unwrap();
        copy
    };
    for round in 0..5 {
        let name = format!("ci-{round}");
        for (command, expected) in [
            (vec!["create", &name, "--role", "runner"], "runner"),
            (vec!["rotate", &name], "runner"),
            (vec!["revoke", &name], "revoked"),
        ] {
            let output = token(path, &command).output().unwrap();
            assert!(output.status.success(), "{command:?}: {output:?}");
            let copy = copy_database_alone();
            let (code, listed) = run_to_exit(token(copy.path().to_str().unwrap(), &["list"])).await;
            let line = listed.lines().find(|line| line.contains(&name));
            let is_listed = line.is_some_and(|line| line.contains(expected));
            assert!(code == Some(0) && is_listed, "{command:?}: {listed}");
        }
    }
}

#[tokio::test]
async fn a_token_is_created_only_in_a_named_existing_directory() {
    let parent = tempfile::tempdir().unwrap();
    let missing = parent.path().join("mistyped");
    let create = ["create", "--name", "ci", "--role", "runner"];
    let (code, text) = run_to_exit(token(missing.to_str().unwrap(), &create)).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("install -d -m 700") && !missing.exists(), "{text}");
    // Without --state-dir the command uses the default directory and does not create it.
    let (code, text) = run_to_exit(otter_command(&[&["token"], &create[..]].concat())).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--state-dir"), "{text}");
}

#[tokio::test]
async fn a_token_is_created_with_restrictions_which_the_list_shows() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let restricted = [
        "create",
        "--name",
        "ci",
        "--role",
        "runner",
        "--machines",
        "qubes-*",
        "--machines",
        "sd-*",
        "--pool",
        "nightly",
        "--expires",
        "90d",
        "--max-leases",
        "4",
        "--max-queued-leases",
        "3",
        "--max-queued-jobs",
        "20",
        "--max-streams",
        "2",
        "--max-requests-per-second",
        "50",
    ];
    let (code, text) = run_to_exit(token(state, &restricted)).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("only machines qubes-*, machines sd-*, pool nightly"), "{text}");
    assert_eq!(
        run_to_exit(token(state, &["create", "--name", "free", "--role", "viewer"])).await.0,
        Some(0)
    );
    let listed = token(state, &["list", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed[0]["scope"], json!({"machines": ["qubes-*", "sd-*"], "pools": ["nightly"]}));
    let limits = json!({"leases": 4, "queued_leases": 3, "queued_jobs": 20, "streams": 2,
        "requests_per_second": 50});
    assert_eq!(listed[0]["limits"], limits);
    let time = |field: &str| listed[0][field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(time("expires_at").duration_since(time("created_at")).as_hours(), 90 * 24);
    assert_eq!(
        (&listed[0]["state"], &listed[0]["last_used_at"]),
        (&json!("in_force"), &Value::Null)
    );
    assert_eq!((&listed[1]["scope"], &listed[1]["expires_at"]), (&Value::Null, &Value::Null));
    for (wrong, code, message) in [
        (&["--name", "boss", "--role", "admin", "--pool", "nightly"][..], 1, "every machine"),
        (&["--name", "otter", "--role", "runner"], 2, "uses this name"),
        (&["--name", "Anonymous", "--role", "runner"], 2, "uses this name"),
        (&["--name", "x", "--role", "runner", "--machines", ""], 2, "empty"),
        (&["--name", "x", "--role", "runner", "--expires", "0s"], 2, "expire at once"),
        (&["--name", "x", "--role", "runner", "--expires", "-1d"], 2, "must be positive"),
        (&["--name", "x", "--role", "runner", "--expires", "--pool"], 2, "duration"),
        (&["--name", "x", "--role", "runner", "--expires", "soon"], 2, "duration"),
        (&["--name", "x", "--role", "runner", "--max-leases", "0"], 2, "1.."),
    ] {
        let (exit, text) = run_to_exit(token(state, &[&["create"], wrong].concat())).await;
        assert_eq!(exit, Some(code), "{wrong:?}: {text}");
        assert!(text.contains(message), "{wrong:?}: {text}");
    }
}

#[tokio::test]
async fn every_verb_takes_the_name_as_an_argument_or_as_an_option() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let run = async |arguments: &[&str]| run_to_exit(token(state, arguments)).await;
    for (name, how) in [("plain", &["plain"][..]), ("named", &["--name", "named"])] {
        for (verb, rest) in
            [("create", &["--role", "runner"][..]), ("rotate", &[]), ("revoke", &[])]
        {
            let (code, text) = run(&[&[verb], how, rest].concat()).await;
            assert_eq!(code, Some(0), "{verb} {how:?}: {text}");
            assert!(text.contains(name), "{verb} {how:?}: {text}");
        }
    }
    for (verb, rest) in [("create", &["--role", "runner"][..]), ("rotate", &[]), ("revoke", &[])] {
        for wrong in [&[][..], &["ci", "--name", "ci"]] {
            let (code, text) = run(&[&[verb], wrong, rest].concat()).await;
            assert_eq!(code, Some(2), "{verb} {wrong:?}: {text}");
            assert!(text.contains("--name"), "{verb} {wrong:?}: {text}");
        }
    }
    let (code, text) = run(&["create", "a b", "--role", "runner"]).await;
    assert!(code == Some(2) && text.contains("1 to 64 letters"), "{text}");
    let (code, text) = run(&["rotate", "plain", "--expires", "-1d"]).await;
    assert!(code == Some(2) && text.contains("must be positive"), "{text}");
}

#[tokio::test]
async fn a_scope_that_is_probably_a_mistake_is_a_warning() {
    let state = tempfile::tempdir().unwrap();
    let config = state.path().join("otter.toml");
    std::fs::write(&config, "[pools.qubes]\nmachines = [\"qubes-*\"]\n").unwrap();
    let state = state.path().to_str().unwrap();
    let with_config = ["--config", config.to_str().unwrap()];
    let warnings = async |name: &str, scope: &[&str]| {
        let create = ["create", name, "--role", "runner"];
        let (code, text) = run_to_exit(token(state, &[&create, scope].concat())).await;
        assert_eq!(code, Some(0), "{text}");
        text.lines().filter(|line| line.contains("warning:")).map(str::to_owned).collect::<Vec<_>>()
    };
    let sound = [&["--pool", "qubes", "--machines", "ci-*"][..], &with_config].concat();
    assert_eq!(warnings("sound", &sound).await, [""; 0]);
    // Without a configuration the pools are not known.
    assert_eq!(warnings("unknown", &["--pool", "qubse"]).await, [""; 0]);
    let [pool] = &warnings("pool", &[&["--pool", "qubse"][..], &with_config].concat()).await[..]
    else {
        panic!("one warning");
    };
    assert!(pool.contains("--pool qubse: the configuration has no pool of this name"), "{pool}");
    let [pattern] = &warnings("pattern", &["--machines", "ci-[12]"]).await[..] else {
        panic!("one warning");
    };
    assert!(pattern.contains("--machines ci-[12]: [ and ] stand for themselves"), "{pattern}");
}

#[tokio::test]
async fn each_change_of_a_token_is_audited() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let admin = token(state, &["create", "boss", "--role", "admin"]).output().unwrap();
    let admin = String::from_utf8(admin.stdout).unwrap().trim().to_owned();
    for arguments in
        [&["create", "ci", "--role", "runner"][..], &["rotate", "ci"], &["revoke", "ci"]]
    {
        assert_eq!(run_to_exit(token(state, arguments)).await.0, Some(0), "{arguments:?}");
    }
    let daemon = Daemon::start(&["--simulate", "--state-dir", state], &[]).await;
    let audit =
        daemon.request(Method::GET, "/v1/audit?action=token.created,token.rotated,token.revoked");
    let audit = Answer::from_request(audit.bearer_auth(admin)).await.expect(200).json;
    let facts = audit["items"].as_array().unwrap().iter().map(|fact| {
        assert_eq!(
            (&fact["actor"], &fact["outcome"]),
            (&json!("otter token"), &json!("done")),
            "{fact}"
        );
        (fact["action"].as_str().unwrap(), fact["detail"].as_str().unwrap())
    });
    let expected = [
        ("token.revoked", "ci, runner"),
        ("token.rotated", "ci, runner"),
        ("token.created", "ci, runner"),
        ("token.created", "boss, admin"),
    ];
    assert!(facts.eq(expected), "{audit}");
    assert!(daemon.terminate().await.success());
}

/// Earlier versions accepted names that otter now reserves.
#[tokio::test]
async fn a_token_with_a_reserved_name_is_a_warning_until_it_is_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let reserved = ["otter", "anonymous"];
    for name in ["ci", "one", "other"] {
        assert_eq!(
            run_to_exit(token(state, &["create", name, "--role", "runner"])).await.0,
            Some(0)
        );
    }
    let url = format!("sqlite://{}", directory.path().join("otter.db").display());
    let database = sqlx::SqlitePool::connect(&url).await.unwrap();
    for (name, earlier) in ["one", "other"].iter().zip(reserved) {
        let rename =
            sqlx::query("UPDATE tokens SET name = $2 WHERE name = $1").bind(name).bind(earlier);
        rename.execute(&database).await.unwrap();
    }
    database.close().await;
    let warned = async || {
        let log = directory.path().join("log");
        let arguments = ["--simulate", "--state-dir", state, "--log-format", "json"];
        let daemon = Daemon::start_with_log(&log, &arguments, &[]).await;
        assert!(daemon.terminate().await.success());
        let message =
            "otter uses the name of this token for itself: make one of another name and revoke it";
        let lines = log_lines(&log, message).into_iter();
        lines.map(|line| (line["level"].clone(), line["token"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(warned().await, reserved.map(|name| (json!("WARN"), json!(name))));
    for name in reserved {
        let (code, text) = run_to_exit(token(state, &["revoke", name])).await;
        assert_eq!(code, Some(0), "{text}");
    }
    assert_eq!(warned().await, []);
}

#[tokio::test]
async fn a_rotated_token_has_another_secret_and_the_old_one_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let shown = |arguments: &[&str]| {
        let output = token(state, arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let create =
        ["create", "--name", "ci", "--role", "viewer", "--machines", "qubes-*", "--expires", "90d"];
    let old = shown(&create);
    let listed = || serde_json::from_str::<Value>(&shown(&["list", "--json"])).unwrap()[0].clone();
    let before = listed();
    let daemon = Daemon::start(&["--simulate", "--state-dir", state], &[]).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let status = async |secret: &str| {
        let url = format!("http://{}/v1/about", daemon.address());
        client.get(url).bearer_auth(secret).send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(&old).await, 200);
    crate::harness::eventually("the use to be written", async || {
        !listed()["last_used_at"].is_null()
    })
    .await;
    let new = shown(&["rotate", "ci"]);
    assert!(new.starts_with("otter_") && new != old, "{new}");
    crate::harness::eventually("the old secret to be refused", async || status(&old).await == 401)
        .await;
    assert_eq!(status(&new).await, 200);
    let after = listed();
    for field in ["name", "role", "scope", "limits", "created_at", "expires_at"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert!(before["rotated_at"].is_null() && after["rotated_at"].is_string(), "{after}");
    shown(&["rotate", "ci", "--expires", "180d"]);
    assert!(listed()["expires_at"].as_str() > after["expires_at"].as_str());
    let (code, text) = run_to_exit(token(state, &["rotate", "missing"])).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(daemon.terminate().await.success());
}

/// A wait and a stream end when their token is revoked, rotated or expires.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_longer_in_force_ends_its_waits_and_streams() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    for end in ["revoke", "rotate", "expire"] {
        let create = ["create", "--name", end, "--role", "viewer"];
        let expiry: &[&str] = if end == "expire" { &["--expires", "5s"] } else { &[] };
        let made = token(state, &[&create[..], expiry].concat()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let secret = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        let daemon = Daemon::start(&["--simulate", "--state-dir", state], &[]).await;
        let call = |path: &str| {
            let request = daemon.request(Method::GET, path).bearer_auth(&secret);
            tokio::spawn(async move {
                let answer = request.send().await.unwrap();
                (answer.status().as_u16(), answer.text().await.unwrap())
            })
        };
        eventually("the inventory to be loaded", async || {
            daemon.get("/readyz").await.status == 200
        })
        .await;
        let stream = call("/v1/events?initial=true");
        let wait = call("/v1/machines/16/wait?until=power_state:on&wait=5m");
        let verb: &[&str] = match end {
            "revoke" => &["revoke", "--name", end],
            "rotate" => &["rotate", end],
            _ => &[],
        };
        if !verb.is_empty() {
            // Both calls have started when the metrics count them.
            eventually("the calls to have started", async || {
                let metrics = daemon.request(Method::GET, "/metrics").bearer_auth(&secret);
                let text = metrics.send().await.unwrap().text().await.unwrap();
                text.contains("otter_event_streams_open 1")
            })
            .await;
            assert!(token(state, verb).output().unwrap().status.success());
        }
        let (status, text) =
            tokio::time::timeout(TIMEOUT, wait).await.expect("the wait ends").unwrap();
        assert!(status == 401 && text.contains("unauthenticated"), "{end}: {status} {text}");
        let ended = tokio::time::timeout(TIMEOUT, stream).await.expect("the stream ends").unwrap();
        assert!(matches!(ended.0, 200 | 401), "{end}: {}", ended.0);
        assert!(daemon.terminate().await.success());
    }
}

#[tokio::test]
async fn tls_uses_the_certificate_files_and_reloads_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let certify = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(path("otter.pem"), made.cert.pem()).unwrap();
        std::fs::write(path("otter.key"), made.signing_key.serialize_pem()).unwrap();
        reqwest::Certificate::from_der(made.cert.der()).unwrap()
    };
    let certificate = certify();
    let config = path("otter.toml");
    let text = format!(
        "[http]\ntls_certificate = {:?}\ntls_key = {:?}\n",
        path("otter.pem"),
        path("otter.key")
    );
    std::fs::write(&config, text).unwrap();
    let arguments = ["--simulate", "--config", config.to_str().unwrap(), "--log-format", "json"];
    let daemon = Daemon::start_with_log(&path("log"), &arguments, &[]).await;
    let port = daemon.address().rsplit(':').next().unwrap().to_owned();
    let health = async |trusted: &reqwest::Certificate| {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([trusted.clone()])
            .build()
            .unwrap();
        let answer = client.get(format!("https://localhost:{port}/healthz")).send().await.ok()?;
        answer.json::<Value>().await.ok()
    };
    assert_eq!(health(&certificate).await.unwrap()["status"], "ok");
    let renewed = certify();
    assert!(health(&renewed).await.is_none());
    daemon.signal(rustix::process::Signal::HUP);
    crate::harness::eventually("the new certificate", async || health(&renewed).await.is_some())
        .await;
    // If the certificate cannot be read, the old one stays in use. The audit trail has both
    // reloads.
    std::fs::write(path("otter.pem"), "no certificate").unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    let client =
        reqwest::Client::builder().no_proxy().tls_certs_only([renewed.clone()]).build().unwrap();
    let mut facts = Value::Null;
    crate::harness::eventually("both reloads to be audited", async || {
        let url = format!("https://localhost:{port}/v1/audit?action=certificate.reloaded");
        facts =
            client.get(url).send().await.unwrap().json::<Value>().await.unwrap()["items"].take();
        facts.as_array().unwrap().len() == 2
    })
    .await;
    let outcomes =
        [0, 1].map(|place| (facts[place]["outcome"].as_str(), facts[place]["actor"].as_str()));
    assert_eq!(
        outcomes,
        [(Some("failed"), Some("otter")), (Some("done"), Some("otter"))],
        "{facts}"
    );
    assert_eq!(health(&renewed).await.unwrap()["status"], "ok");
    let logged: Vec<Value> = std::fs::read_to_string(path("log"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line))
        .filter(|line| line["action"] == "certificate.reloaded")
        .collect();
    let outcomes: Vec<&Value> = logged.iter().map(|line| &line["outcome"]).collect();
    assert_eq!(outcomes, ["done", "failed"], "{logged:?}");
    // The answer to a request without TLS names the right scheme.
    let plain = reqwest::get(format!("http://localhost:{port}/healthz")).await.unwrap();
    assert_eq!(plain.status(), 400);
    let said = plain.text().await.unwrap();
    assert_eq!(said, "This port serves HTTPS: write https:// in place of http://.\n");
    assert!(daemon.terminate().await.success());
}

#[tokio::test]
async fn a_certificate_without_its_key_is_a_wrong_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("otter.toml");
    std::fs::write(&config, "[http]\ntls_certificate = \"/etc/otter/otter.pem\"\n").unwrap();
    let (code, text) =
        run_to_exit(otter_command(&["serve", "--simulate", "--config", config.to_str().unwrap()]))
            .await;
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("http.tls_key is missing"), "{text}");
    std::fs::write(
        &config,
        "[http]\ntls_certificate = \"/nowhere.pem\"\ntls_key = \"/nowhere.key\"\n",
    )
    .unwrap();
    let (code, text) =
        run_to_exit(otter_command(&["serve", "--simulate", "--config", config.to_str().unwrap()]))
            .await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("/nowhere.pem"), "{text}");
}
