//! The modules of the page (`src/web`) in Node.js: each can be parsed, and those that need no
//! browser do what their tests say.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{TIMEOUT, repository, succeeds_within};

/// The modules below a folder.
fn modules(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(modules(&path));
        } else if path.extension().is_some_and(|ending| ending == "js") {
            found.push(path);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_module_of_the_page_can_be_parsed() {
    let modules = modules(&repository().join("src/web"));
    assert!(modules.len() > 20, "only {} modules", modules.len());
    for module in modules {
        let text = std::fs::read_to_string(&module).unwrap();
        assert!(text.starts_with("// "), "{} has no header", module.display());
        let lines = text.lines().count();
        assert!(lines <= 400, "{} has {lines} lines", module.display());
        // The folder has no package.json, so the ending would not say that it is a module.
        let mut check = Command::new("node");
        check.args(["--check", "--input-type=module", "-"]);
        check.stdin(Stdio::from(std::fs::File::open(&module).unwrap()));
        succeeds_within(check, TIMEOUT).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_modules_that_need_no_browser_do_what_their_tests_say() {
    let copied = tempfile::tempdir().unwrap();
    // Node.js takes the files for modules if the package.json above them says so.
    let web = copied.path().join("web");
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(repository().join("src/web")).arg(&web).stdin(Stdio::null());
    succeeds_within(copy, TIMEOUT).await;
    let tests = repository().join("tests/interop/web_modules");
    std::fs::copy(tests.join("package.json"), web.join("package.json")).unwrap();
    let mut node = Command::new("node");
    node.arg("--test").arg(tests.join("modules.test.mjs")).env("WEB", &web).stdin(Stdio::null());
    let output = succeeds_within(node, TIMEOUT).await.stdout;
    let report = String::from_utf8(output).unwrap();
    let passed = report
        .lines()
        .find_map(|line| line.trim_start_matches(['#', 'ℹ', ' ']).strip_prefix("pass "));
    let passed: usize = passed.unwrap().trim().parse().unwrap();
    assert!(passed >= 12, "{report}");
}
