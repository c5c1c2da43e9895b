//! `otter store`: backs up, restores, checks and compacts the state directory. None of its
//! subcommands creates an empty database or migrates one in place.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Subcommand};

use super::{ConfigArgs, print};
use crate::app::lease_key;
use crate::clock::Clock;
use crate::storage::Storage as _;
use crate::store::{self, CheckReport, CompactReport, RestoreReport, Store};

#[derive(Debug, Args)]
pub struct StoreCommand {
    #[command(subcommand)]
    subcommand: StoreSubcommand,
}

#[derive(Debug, Subcommand)]
enum StoreSubcommand {
    /// Write the database and the key of the lease secrets into one archive. The daemon may run
    /// meanwhile.
    Backup {
        /// The archive file, which must not exist yet. The archive holds secrets: keep it as safe
        /// as the state directory.
        #[arg(value_name = "FILE", value_parser = archive_file())]
        file: PathBuf,
        #[command(flatten)]
        config_args: ConfigArgs,
    },
    /// Create a state directory from an archive. Jobs and leases that had not ended when the
    /// archive was written are ended; the host is not called for them.
    Restore {
        /// An archive file that `otter store backup` wrote.
        #[arg(value_name = "FILE", value_parser = archive_file())]
        file: PathBuf,
        #[command(flatten)]
        config_args: ConfigArgs,
    },
    /// Read everything that is stored and report what is damaged or missing. Changes nothing, and
    /// exits with 1 if anything is damaged or missing.
    Check {
        #[command(flatten)]
        config_args: ConfigArgs,
    },
    /// Free the disk space of deleted jobs and leases. No daemon may run meanwhile.
    Compact {
        #[command(flatten)]
        config_args: ConfigArgs,
    },
    /// Create a new key for the secrets of leases if the old key is lost. This voids the secrets of
    /// open leases.
    NewKey {
        #[command(flatten)]
        config_args: ConfigArgs,
    },
}

pub async fn store(command: StoreCommand) -> anyhow::Result<ExitCode> {
    match command.subcommand {
        StoreSubcommand::Backup { file, config_args } => backup(file, &config_args).await,
        StoreSubcommand::Restore { file, config_args } => restore(file, &config_args).await,
        StoreSubcommand::Check { config_args } => check(&config_args).await,
        StoreSubcommand::Compact { config_args } => compact(&config_args).await,
        StoreSubcommand::NewKey { config_args } => new_key(&config_args).await,
    }
}

async fn backup(file: PathBuf, config_args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let state = config_args.load()?.state;
    store::backup(state.directory(), &file, Clock::system().now()).await?;
    print(&format!("{} holds the store as it is now.\n", file.display()));
    Ok(ExitCode::SUCCESS)
}

async fn restore(file: PathBuf, config_args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let Some(directory) = config_args.load()?.state.dir else {
        bail!(
            "the directory to restore into is not named: otter store restore {} --state-dir DIR",
            file.display()
        );
    };
    let restored = store::restore(&file, &directory, Clock::system().now()).await?;
    let RestoreReport {
        manifest,
        cancelled_jobs,
        unknown_jobs,
        revoked_leases,
        quarantined_machines,
    } = restored;
    print(&format!(
        "{} is the store as it was at {:.0}.\n\
         jobs cancelled: {cancelled_jobs}, jobs unknown: {unknown_jobs}, leases revoked: \
         {revoked_leases}, machines quarantined: {quarantined_machines}\n\
         Tokens that were revoked since then are in force again: otter token list --state-dir {}\n",
        directory.display(),
        manifest.created_at,
        directory.display(),
    ));
    Ok(ExitCode::SUCCESS)
}

async fn check(config_args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let state = config_args.load()?.state;
    let CheckReport { jobs, leases, tokens, problems, key_problem } =
        store::check(state.directory()).await?;
    for problem in problems.iter().chain(&key_problem) {
        eprintln!("otter: {problem}");
    }
    let counted = format!("(jobs: {jobs}, leases: {leases}, tokens: {tokens})");
    if problems.is_empty() {
        let (what, code) = match key_problem {
            None => ("The store is whole", ExitCode::SUCCESS),
            Some(_) => ("The database is whole, and the key is not", ExitCode::FAILURE),
        };
        print(&format!("{what} {counted}.\n"));
        return Ok(code);
    }
    bail!(
        "the store in {} is damaged: restore a backup into an empty directory, with otter store \
         restore",
        state.directory().display()
    );
}

async fn compact(config_args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let state = config_args.load()?.state;
    let CompactReport { before, after } = store::compact(state.directory()).await?;
    print(&format!("{before} bytes before, {after} bytes after.\n"));
    Ok(ExitCode::SUCCESS)
}

async fn new_key(config_args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let state = config_args.load()?.state;
    let open = Store::open_shared(state.directory()).await?.open_leases().await?.len();
    lease_key::create(state.directory(), &Clock::system())?;
    print(&format!(
        "There is a new key. Open leases whose secrets are void: {open}. An operator has to revoke \
         them, or they end when they expire.\n"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Makes the parser for the path of an archive. It refuses `-`, which often means a standard
/// stream, because otter reads and writes archives only as files.
fn archive_file() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.to_str() {
        Some("-") => {
            Err("an archive is a file and is not passed through a standard stream: name the file")
        }
        _ => Ok(path),
    })
}
