//! The examples of `otter run` in the documents: each replaces its shell, so that the signals of a
//! cancelled job reach it.

use super::words::texts;

const COMMAND: &str = "otter run ";

#[test]
fn each_example_of_otter_run_replaces_its_shell() {
    let (mut right, mut wrong) = (0, Vec::new());
    for (file, text) in texts() {
        if file.starts_with("src") || file.starts_with("tests") {
            continue;
        }
        for (at, line) in text.lines().enumerate() {
            // An example runs a command, and a sentence about `otter run` does not.
            let examples =
                line.match_indices(COMMAND).filter(|(start, _)| line[*start..].contains(" -- "));
            for (start, _) in examples {
                if line[..start].ends_with("exec ") {
                    right += 1;
                } else {
                    wrong.push(format!("{}:{}: {line}", file.display(), at + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "write `exec otter run`:\n{}", wrong.join("\n"));
    assert!(right >= 5, "only {right} examples were found");
}
