//! The benchmark itself: its verdicts, exit codes and failures, in `test_bench.py`, without a
//! measurement. `README.md` describes the benchmark.

use std::path::Path;
use std::process::Command;

#[test]
fn verdicts_exit_codes_and_failures_are_as_documented() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench");
    let mut tests = Command::new("python3");
    tests.args(["-B", "-m", "unittest", "-q", "test_bench"]).current_dir(folder);
    let output = tests.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Ran "), "{text}");
}
