//! `otter token`: makes, lists and revokes tokens in the state directory, beside a daemon that may run there.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{Sources, say};
use crate::clock::Clock;
use crate::domain::access::{Role, Token};
use crate::store::{Store, StoredToken};

#[derive(Debug, Args)]
pub struct TokenCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token and print it. It is shown this once; what is kept is a digest.
    Create {
        /// What its callers are called, in jobs and in the log.
        #[arg(long, value_name = "NAME", value_parser = name)]
        name: String,
        /// What they may do; each role may do what those before it may.
        #[arg(long, value_name = "ROLE")]
        role: RoleArgument,
        #[command(flatten)]
        sources: Sources,
    },
    /// List the tokens, those that were revoked too.
    List {
        #[command(flatten)]
        sources: Sources,
    },
    /// Revoke a token: within a second nobody can call with it.
    Revoke {
        /// The name that it was made with.
        #[arg(long, value_name = "NAME")]
        name: String,
        #[command(flatten)]
        sources: Sources,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArgument {
    /// Reads.
    Viewer,
    /// Takes leases, and changes machines that it holds.
    Runner,
    /// Changes any machine, revokes leases, sets machines aside.
    Operator,
    /// Whatever there is.
    Admin,
}

impl From<RoleArgument> for Role {
    fn from(role: RoleArgument) -> Self {
        match role {
            RoleArgument::Viewer => Self::Viewer,
            RoleArgument::Runner => Self::Runner,
            RoleArgument::Operator => Self::Operator,
            RoleArgument::Admin => Self::Admin,
        }
    }
}

pub async fn token(command: TokenCommand) -> anyhow::Result<ExitCode> {
    match command.verb {
        Verb::Create { name, role, sources } => create(name, role.into(), &sources).await,
        Verb::List { sources } => list(&sources).await,
        Verb::Revoke { name, sources } => revoke(&name, &sources).await,
    }
}

async fn create(name: String, role: Role, sources: &Sources) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let token = Token::new(&clock.random().context("the system gives no random bits")?);
    let stored = StoredToken {
        id: clock.uuid(),
        name: name.clone(),
        role,
        digest: token.digest(),
        created_at: clock.now(),
        revoked_at: None,
    };
    let store = beside_or_new(sources).await?;
    let inserted = with_writer(&store, async |store| Ok(store.insert_token(&stored).await?)).await?;
    if !inserted {
        bail!(
            "a token named {name} is in force: choose another name, or revoke it first: otter token revoke --name {name}"
        );
    }
    eprintln!("A token for {name}, {role}. It is shown this once:");
    // Alone on the standard output, for whoever puts it into a file.
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", token.text()).and_then(|()| out.flush()).context("the token cannot be shown")?;
    Ok(ExitCode::SUCCESS)
}

async fn list(sources: &Sources) -> anyhow::Result<ExitCode> {
    let tokens = beside(sources).await?.tokens().await?;
    if tokens.is_empty() {
        eprintln!("There are no tokens.");
    }
    for StoredToken { id: _, name, role, digest: _, created_at, revoked_at } in tokens {
        let revoked = revoked_at.map(|at| format!("  revoked {at:.0}")).unwrap_or_default();
        say(&format!("{name:<24}  {role:<8}  made {created_at:.0}{revoked}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn revoke(name: &str, sources: &Sources) -> anyhow::Result<ExitCode> {
    let now = Clock::system().now();
    let store = beside(sources).await?;
    if !with_writer(&store, async |store| Ok(store.revoke_token(name, now).await?)).await? {
        bail!("no token named {name} is in force: otter token list");
    }
    eprintln!("The token {name} is revoked.");
    Ok(ExitCode::SUCCESS)
}

async fn beside(sources: &Sources) -> anyhow::Result<Store> {
    Ok(Store::beside(sources.load()?.state.directory()).await?)
}

/// The first token may be made before the daemon's first start, but only in a directory that somebody named: a database
/// in any other place is one that no daemon reads.
async fn beside_or_new(sources: &Sources) -> anyhow::Result<Store> {
    let state = sources.load()?.state;
    match &state.dir {
        Some(directory) => Ok(Store::beside_or_new(directory).await?),
        None => Ok(Store::beside(state.directory()).await?),
    }
}

async fn with_writer<T>(
    store: &Store,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (stop, writer) = (CancellationToken::new(), store.clone());
    let stopped = stop.clone();
    let writing = tokio::spawn(async move { writer.run(stopped).await });
    let done = work(store).await;
    stop.cancel();
    writing.await??;
    done
}

/// A name is what people read in logs and lists.
fn name(text: &str) -> Result<String, String> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.@".contains(character);
    match text.len() {
        1..=64 if text.chars().all(plain) => Ok(text.to_owned()),
        _ => Err("1 to 64 letters, digits and - _ . @ are wanted".to_owned()),
    }
}
