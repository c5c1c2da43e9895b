//! The README's commands, run word for word by a shell with the real curl and jq.

use super::pages::Page;
use super::program::Program;
use super::simulating;
use crate::harness::otter;

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_readme_does_what_it_says() {
    const ADMIN: &str = "  admin        http://";
    let page = Page::read("README.md");
    page.has_no_idle_curl();
    let daemon = simulating().await;
    let mut simulator =
        Program::start(otter(&["simulate", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]));
    let admin = simulator.says("where it takes orders", |line| line.starts_with(ADMIN)).await;
    page.run(&[("127.0.0.1:8080", daemon.address()), ("127.0.0.1:8444", &admin[ADMIN.len()..])])
        .await;
}
