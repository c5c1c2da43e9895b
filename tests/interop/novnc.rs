//! noVNC in a browser, on otter's WebSocket: its canvas shows otter's picture, and what is typed
//! there reaches the guest. With tokens, the page opens the viewer with a console token.

use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use super::browser::{Site, TIMEOUT, chromium};
use super::succeeds_within;
use crate::harness::{Daemon, eventually, otter_command};

/// The page. It reports what otter and noVNC show.
const PAGE: &str = include_str!("novnc/page.html");

#[tokio::test(flavor = "multi_thread")]
async fn novnc_sees_and_types() {
    let directory = tempfile::tempdir().unwrap();
    visit(directory.path(), "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn novnc_sees_and_types_with_a_console_token() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let mut create = otter_command(&["token", "create", "--name", "page", "--role", "operator"]);
    let token = create.arg("--state-dir").arg(&state).output().unwrap();
    assert!(token.status.success(), "{token:?}");
    visit(directory.path(), String::from_utf8(token.stdout).unwrap().trim()).await;
}

/// Opens the page in a browser, and checks what it reports.
///
/// # Parameters
/// - `directory`: for files. Its `state` is the state directory with the token.
/// - `token`: the token of the page. Empty if otter has no tokens.
async fn visit(directory: &Path, token: &str) {
    let site = Site::serve_with(PAGE, novnc()).await;
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let allowed = format!("[http]\nallowed_origins = [{:?}]\n", site.origin);
    std::fs::write(path("otter.toml"), allowed).unwrap();
    let (config, state) = (path("otter.toml"), path("state"));
    let mut arguments = vec!["--simulate", "--config", &config];
    if !token.is_empty() {
        arguments.extend(["--state-dir", &state]);
    }
    let daemon = Daemon::start(&arguments, &[]).await;
    eventually("the inventory to load", async || daemon.get("/readyz").await.status == 200).await;
    let url = format!("{}/?{},{token}", site.origin, daemon.address());
    let page = succeeds_within(chromium(&url, &directory.join("profile")), TIMEOUT).await.stdout;
    let results = site.results();
    let expected = [
        "name qubes-4.2-sdw-prod",
        "login 800x600",
        "Applications",
        "Terminal",
        "Hello-otter_42 Hello-otter_42",
        "terminal 1280x1024",
    ];
    let page = String::from_utf8_lossy(&page);
    assert_eq!(results.lines().collect::<Vec<_>>(), expected, "{page}");
}

/// The modules of noVNC below `/novnc`.
fn novnc() -> Router {
    let folder: PathBuf = std::env::var_os("OTTER_NOVNC")
        .expect("OTTER_NOVNC does not name the folder of noVNC. Run tests/run, which installs it")
        .into();
    let module = async move |extract::Path(name): extract::Path<String>| {
        let read = std::fs::read(folder.join(name)).map_err(|_| StatusCode::NOT_FOUND);
        read.map(|module| ([(CONTENT_TYPE, "text/javascript")], module).into_response())
    };
    Router::new().route("/novnc/{*name}", get(module))
}
