//! The page of otter (`src/web`) in Chromium, used as a person uses it: the scripts in
//! `tests/interop/page` drive the browser with Playwright, and check with axe-core.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::{program_in, repository, succeeds_within};

/// The longest time for a script.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Runs a script of `tests/interop/page`, which starts an otter and a browser itself.
async fn script(name: &str) {
    let mut node = Command::new("node");
    node.arg(repository().join("tests/interop/page").join(name));
    node.env("OTTER_PLAYWRIGHT", program_in("OTTER_PLAYWRIGHT"));
    node.env("OTTER_BINARY", env!("CARGO_BIN_EXE_otter"));
    node.env("OTTER_PICTURES", pictures()).stdin(Stdio::null());
    let output = succeeds_within(node, TIMEOUT).await.stdout;
    let text = String::from_utf8(output).unwrap();
    assert!(text.contains("all steps done"), "{text}");
}

/// The folder of the pictures of the views: `page` in the folder of all build products.
fn pictures() -> std::path::PathBuf {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_otter"));
    binary.ancestors().nth(2).unwrap().join("page")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_takes_a_machine_uses_its_consoles_and_gives_it_back() {
    script("person.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_uses_each_action_of_the_page() {
    script("operator.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_on_any_view_of_the_page() {
    script("views.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_strange_texts_as_text() {
    script("texts.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_outlives_tokens_and_otters() {
    script("connection.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_each_problem_code() {
    script("problems.mjs").await;
}
