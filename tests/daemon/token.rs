//! `otter token`, and serving TLS with the tokens on it.

use serde_json::Value;

use crate::harness::{Daemon, otter, said};

fn token(state: &str, arguments: &[&str]) -> std::process::Command {
    otter(&[&["token"], arguments, &["--state-dir", state]].concat())
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_and_shown_once() {
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    // Only `create` makes a database.
    for verb in [&["list"][..], &["revoke", "--name", "ci"]] {
        let (code, text) = said(token(state, verb)).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("there is no otter database in"), "{text}");
    }
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0);
    let output = token(state, &["create", "--name", "ci", "--role", "runner"]).output().unwrap();
    assert!(output.status.success());
    let made = String::from_utf8(output.stdout).unwrap();
    assert!(made.starts_with("otter_") && made.lines().count() == 1, "{made}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("ci") && told.contains("runner") && !told.contains(made.trim()), "{told}");

    let (code, text) = said(token(state, &["create", "--name", "ci", "--role", "viewer"])).await;
    assert_eq!(code, Some(1));
    assert!(text.contains("otter token revoke --name ci"), "{text}");
    let (_, listed) = said(token(state, &["list"])).await;
    assert!(listed.contains("ci") && listed.contains("runner") && !listed.contains("otter_"), "{listed}");
    assert!(token(state, &["revoke", "--name", "ci"]).output().unwrap().status.success());
    let (code, text) = said(token(state, &["revoke", "--name", "ci"])).await;
    assert_eq!(code, Some(1), "{text}");
    let (_, listed) = said(token(state, &["list"])).await;
    assert!(listed.contains("revoked"), "{listed}");
    for wrong in [
        &["create", "--name", "", "--role", "runner"],
        &["create", "--name", "a b", "--role", "runner"],
        &["create", "--name", "ci", "--role", "root"],
    ] {
        assert_eq!(said(token(state, wrong)).await.0, Some(2), "{wrong:?}");
    }
    // What is kept is no token.
    let kept = std::fs::read(std::path::Path::new(state).join("otter.db")).unwrap();
    let digits = &made.trim().as_bytes()[6..70];
    assert!(!kept.windows(digits.len()).any(|window| window == digits));
}

#[tokio::test]
async fn a_token_is_made_only_in_a_directory_that_was_named_and_exists() {
    let parent = tempfile::tempdir().unwrap();
    let missing = parent.path().join("mistyped");
    let create = ["create", "--name", "ci", "--role", "runner"];
    let (code, text) = said(token(missing.to_str().unwrap(), &create)).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no otter database in") && !missing.exists(), "{text}");
    // Without a name it is the default directory, which is left as it is even if it could be made.
    let (code, text) = said(otter(&[&["token"], &create[..]].concat())).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--state-dir"), "{text}");
}

#[tokio::test]
async fn tls_is_served_with_the_files_and_again_with_new_ones() {
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
    let text =
        format!("[http]\ntls_certificate = {:?}\ntls_key = {:?}\n", path("otter.pem"), path("otter.key"));
    std::fs::write(&config, text).unwrap();
    let daemon = Daemon::start(&["--simulate", "--config", config.to_str().unwrap()], &[]).await;
    let port = daemon.address().rsplit(':').next().unwrap().to_owned();
    let health = async |trusted: &reqwest::Certificate| {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([trusted.clone()]).build().unwrap();
        let answer = client.get(format!("https://localhost:{port}/healthz")).send().await.ok()?;
        answer.json::<Value>().await.ok()
    };
    assert_eq!(health(&certificate).await.unwrap()["status"], "ok");
    let renewed = certify();
    assert!(health(&renewed).await.is_none());
    daemon.signal(rustix::process::Signal::HUP);
    crate::harness::eventually("the new certificate", async || health(&renewed).await.is_some()).await;
    // Who does not speak TLS costs nothing and gets nothing.
    assert!(reqwest::get(format!("http://localhost:{port}/healthz")).await.is_err());
    assert!(daemon.terminate().await.success());
}

#[tokio::test]
async fn a_certificate_without_its_key_is_a_wrong_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("otter.toml");
    std::fs::write(&config, "[http]\ntls_certificate = \"/etc/otter/otter.pem\"\n").unwrap();
    let (code, text) = said(otter(&["serve", "--simulate", "--config", config.to_str().unwrap()])).await;
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("http.tls_key is missing"), "{text}");
    std::fs::write(&config, "[http]\ntls_certificate = \"/nowhere.pem\"\ntls_key = \"/nowhere.key\"\n")
        .unwrap();
    let (code, text) = said(otter(&["serve", "--simulate", "--config", config.to_str().unwrap()])).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("/nowhere.pem"), "{text}");
}
