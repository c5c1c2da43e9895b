//! The commands of the README and of the page for operators, run word for word by a shell with the
//! real curl and jq.

use super::pages::Page;
use super::start_simulated;

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_readme_does_what_it_says() {
    runs_as_it_says("README.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_page_for_operators_does_what_it_says() {
    runs_as_it_says("deploy/README.md").await;
}

async fn runs_as_it_says(page: &str) {
    let page = Page::read(page);
    page.assert_every_curl_is_run();
    let daemon = start_simulated().await;
    page.run(&[("127.0.0.1:8080", daemon.address())]).await;
}
