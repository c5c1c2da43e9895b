//! The programs of `tests/bench` whose own speed must not count: a bare server, and clients that
//! measure. Each subcommand prints its measurements as one line of JSON. `tests/bench/README.md`
//! says what they are for.

#![expect(clippy::disallowed_methods, reason = "these programs measure the real time")]

mod changes;
mod get;
mod hold;
mod host;
mod http;
mod power;
mod static_server;
mod submit;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The allocator of otter, so that the bare server differs from it only in what it does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "otter-bench", about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the answers of a file with otter's accept loop and nothing else.
    Static {
        #[arg(long)]
        listen: SocketAddr,
        /// A JSON array of objects with `path`, `status`, `headers` and `body`, a file.
        #[arg(long)]
        answers: PathBuf,
    },
    /// Read paths one by one on an open connection.
    Get(get::GetArguments),
    /// Change the power of machines through otter: submit a job and wait for its end.
    Power(power::PowerArguments),
    /// Change the power of machines on the host itself: the call and its task.
    RawPower(power::RawPowerArguments),
    /// Fetch the properties that otter follows from the host, in one call.
    RawFetch(host::FetchArguments),
    /// Change machines on the host and measure when otter shows it.
    Changes(changes::ChangesArguments),
    /// Submit jobs without waiting for their end.
    Submit(submit::SubmitArguments),
    /// Hold many open requests, and measure when all of them are answered.
    Hold(hold::HoldArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let outcome = match command {
        Command::Static { listen, answers } => static_server::serve(listen, &answers).await,
        Command::Get(arguments) => get::run(arguments).await,
        Command::Power(arguments) => power::run(arguments).await,
        Command::RawPower(arguments) => power::run_raw(arguments).await,
        Command::RawFetch(arguments) => host::run_fetch(arguments).await,
        Command::Changes(arguments) => changes::run(arguments).await,
        Command::Submit(arguments) => submit::run(arguments).await,
        Command::Hold(arguments) => hold::run(arguments).await,
    };
    match outcome {
        Ok(measured) => {
            println!("{measured}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("otter-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
