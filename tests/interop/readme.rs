//! Runs the commands of README.md and deploy/README.md in a shell with curl and jq.

use super::pages::Page;
use super::start_simulated;

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_readme_has_the_shown_output() {
    run_page("README.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_page_for_operators_has_the_shown_output() {
    run_page("deploy/README.md").await;
}

async fn run_page(page: &str) {
    let page = Page::read(page);
    page.assert_every_curl_is_run();
    let daemon = start_simulated().await;
    page.run(&[("127.0.0.1:8080", daemon.address())]).await;
}
