//! The binary `otter`: parses the command line, calls `otter::cli`, and returns its exit code.

use std::process::ExitCode;

use otter::cli::{self, Command};
use otter::fail_points;

/// The memory allocator. With mimalloc a request takes a quarter less processor time than with the
/// allocator of glibc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fail_points::arm();
    match Command::from_command_line() {
        Ok(command) => cli::run(command),
        Err(code) => code,
    }
}
