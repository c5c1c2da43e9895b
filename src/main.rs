//! The binary: parses the command line, calls `otter::cli`, and maps how that went to an exit code.

use std::process::ExitCode;

use clap::Parser;
use otter::cli::{self, Command};

fn main() -> ExitCode {
    cli::run(Command::parse())
}
