//! `otter token`: creates, lists, rotates and revokes tokens in the state directory. It works while
//! a daemon uses the directory.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, print};
use crate::clock::Clock;
use crate::config::State;
use crate::domain::access::{Role, Token, TokenLimits, is_reserved_name};
use crate::domain::duration;
use crate::domain::ids::TokenId;
use crate::domain::pool::Pool;
use crate::domain::scope::Scope;
use crate::domain::terminal::printable;
use crate::storage::{Storage as _, StoredToken};
use crate::store::Store;

#[derive(Debug, Args)]
pub struct TokenCommand {
    #[command(subcommand)]
    subcommand: TokenSubcommand,
}

#[derive(Debug, Subcommand)]
enum TokenSubcommand {
    /// Create a token and print it. It is shown only this once; otter stores only its digest.
    Create(CreateArgs),
    /// List the tokens, revoked ones included.
    List {
        /// Print one JSON array with the rights and the last use of each token.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config_args: ConfigArgs,
    },
    /// Give a token a new secret and print it. The token keeps its name, role, scope and limits;
    /// otter refuses the old secret within a second.
    Rotate {
        #[command(flatten)]
        name: TokenName,
        /// The time from now until the token expires. By default the expiry does not change.
        #[arg(long, value_name = "TIME", value_parser = lifetime, allow_hyphen_values = true)]
        expires: Option<Duration>,
        #[command(flatten)]
        config_args: ConfigArgs,
    },
    /// Revoke a token. otter refuses it within a second.
    Revoke {
        #[command(flatten)]
        name: TokenName,
        #[command(flatten)]
        config_args: ConfigArgs,
    },
}

/// The name of a token on the command line: as the argument NAME, or as the option --name NAME.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TokenName {
    /// The name of the token. Jobs and the log show it as the name of the caller.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The name of the token, as an option instead of the argument.
    #[arg(long = "name", value_name = "NAME")]
    named: Option<String>,
}

impl TokenName {
    /// The name that was given. clap requires exactly one of the fields `name` and `named`.
    fn into_name(self) -> String {
        self.name.or(self.named).unwrap_or_default()
    }
}

// Only `create` checks the name, because earlier versions of otter accepted names that a new token
// cannot have.
#[derive(Debug, Args)]
#[command(
    mut_arg("name", |arg| arg.value_parser(name)),
    mut_arg("named", |arg| arg.value_parser(name))
)]
struct CreateArgs {
    #[command(flatten)]
    name: TokenName,
    /// The role of the token. Each role may also do what the roles before it may do.
    #[arg(long, value_name = "ROLE")]
    role: RoleArgument,
    /// Restrict the token to machines whose name matches this pattern: `*` is any text, `?` is any
    /// one character. May be repeated.
    #[arg(long, value_name = "PATTERN", value_parser = non_empty)]
    machines: Vec<String>,
    /// Restrict the token to machines of this pool, in addition to those that --machines selects.
    /// May be repeated.
    #[arg(long, value_name = "POOL", value_parser = non_empty)]
    pool: Vec<String>,
    /// The time from now until the token expires: 12h, 90d. By default it does not expire.
    #[arg(long, value_name = "TIME", value_parser = lifetime, allow_hyphen_values = true)]
    expires: Option<Duration>,
    /// The most leases of this token that may be open at a time, including queued leases.
    #[arg(long, value_name = "NUMBER", value_parser = limit())]
    max_leases: Option<u32>,
    /// The most leases of this token that may wait for a machine.
    #[arg(long, value_name = "NUMBER", value_parser = limit())]
    max_queued_leases: Option<u32>,
    /// The most jobs of this token that may wait behind another job of their machine.
    #[arg(long, value_name = "NUMBER", value_parser = limit())]
    max_queued_jobs: Option<u32>,
    /// The most event streams of this token that may be open at a time.
    #[arg(long, value_name = "NUMBER", value_parser = limit())]
    max_streams: Option<u32>,
    /// The most requests with this token in a second.
    #[arg(long, value_name = "NUMBER", value_parser = limit())]
    max_requests_per_second: Option<u32>,
    #[command(flatten)]
    config_args: ConfigArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArgument {
    /// A viewer may read.
    Viewer,
    /// A runner may also take leases, and change the machines that it holds.
    Runner,
    /// An operator may also change any machine, revoke leases and quarantine machines.
    Operator,
    /// An admin may do everything.
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
    match command.subcommand {
        TokenSubcommand::Create(args) => create(args).await,
        TokenSubcommand::List { json, config_args } => list(json, &config_args).await,
        TokenSubcommand::Rotate { name, expires, config_args } => {
            rotate(&name.into_name(), expires, &config_args).await
        }
        TokenSubcommand::Revoke { name, config_args } => {
            revoke(&name.into_name(), &config_args).await
        }
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<ExitCode> {
    let CreateArgs {
        name,
        role,
        machines,
        pool,
        expires,
        max_leases,
        max_queued_leases,
        max_queued_jobs,
        max_streams,
        max_requests_per_second,
        config_args,
    } = args;
    let (name, role) = (name.into_name(), Role::from(role));
    let scope = Scope::new(machines, pool);
    if scope.is_restricted() && role == Role::Admin {
        bail!("an admin acts on every machine: omit --machines and --pool, or choose another role");
    }
    let config = config_args.load()?;
    let pools = config_args.config.is_some().then_some(&config.pools);
    let warnings = scope_warnings(&scope, pools);
    let clock = Clock::system();
    let token = new_token(&clock)?;
    let now = clock.now();
    let stored = StoredToken {
        scope,
        limits: TokenLimits {
            leases: max_leases,
            queued_leases: max_queued_leases,
            queued_jobs: max_queued_jobs,
            streams: max_streams,
            requests_per_second: max_requests_per_second,
        },
        expires_at: expires.map(|expires| expiry(now, expires)).transpose()?,
        ..StoredToken::new(TokenId::new(clock.uuid()), &name, role, token.digest(), now)
    };
    let store = open_shared_or_new(&config.state).await?;
    let inserted =
        with_writer(&store, async |store| Ok(store.insert_token(&stored).await?)).await?;
    if !inserted {
        bail!(
            "there is a token named {name}: choose another name, or give that token a new secret: \
             otter token rotate {name}; or revoke it first: otter token revoke --name {name}"
        );
    }
    for warning in warnings {
        eprintln!("otter: warning: {}", printable(&warning));
    }
    eprintln!(
        "A token for {name}, {role}{}. It is shown this once:",
        printable(&stored.restrictions())
    );
    show_token(&token)
}

async fn rotate(
    name: &str,
    expires: Option<Duration>,
    config_args: &ConfigArgs,
) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let token = new_token(&clock)?;
    let now = clock.now();
    let expires_at = expires.map(|expires| expiry(now, expires)).transpose()?;
    let store = open_shared(config_args).await?;
    with_writer(&store, async |store| {
        let tokens = store.tokens().await?;
        let Some(known) =
            tokens.iter().find(|known| known.name == name && known.revoked_at.is_none())
        else {
            bail!("no token named {name} is in force: otter token list");
        };
        if expires_at.is_none() && known.expires_at.is_some_and(|at| at <= now) {
            bail!("the token {name} has expired: add --expires, for example --expires 90d");
        }
        if !store.rotate_token(name, token.digest(), now, expires_at).await? {
            bail!("the token {name} was revoked just now");
        }
        Ok(())
    })
    .await?;
    let name = printable(name);
    eprintln!("The token {name} has a new secret; the old one is refused. It is shown this once:");
    show_token(&token)
}

async fn list(json: bool, config_args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let tokens = open_shared(config_args).await?.tokens().await?;
    let now = Clock::system().now();
    if json {
        let listed: Vec<ListedToken> =
            tokens.iter().map(|token| ListedToken::from_token(token, now)).collect();
        print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&listed).context("the list cannot be written")?
        ));
        return Ok(ExitCode::SUCCESS);
    }
    if tokens.is_empty() {
        eprintln!("There are no tokens.");
    }
    for token in tokens {
        let restrictions = token.restrictions();
        let StoredToken { name, role, created_at, expires_at, last_used_at, revoked_at, .. } =
            token;
        let dated = [
            (expires_at.is_some_and(|at| at <= now), "expired", expires_at),
            (last_used_at.is_some(), "last used", last_used_at),
            (revoked_at.is_some(), "revoked", revoked_at),
        ];
        let dated: String = dated
            .iter()
            .filter(|(is_listed, ..)| *is_listed)
            .filter_map(|(_, what, at)| at.map(|at| format!("  {what} {at:.0}")))
            .collect();
        let line = format!("{name:<24}  {role:<8}  made {created_at:.0}{restrictions}{dated}");
        // The line is made printable, because earlier versions and other programs may have stored
        // names with characters that control a terminal.
        print(&format!("{}\n", printable(&line)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A token in the JSON list that `otter token list --json` prints.
#[derive(Serialize)]
struct ListedToken {
    name: String,
    role: &'static str,
    /// Whether the token can be used: `in_force`, `expired` or `revoked`.
    state: &'static str,
    /// The machines that the token may see. Null if it may see every machine.
    scope: Option<ListedScope>,
    limits: ListedLimits,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    rotated_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct ListedScope {
    machines: Vec<String>,
    pools: Vec<String>,
}

/// The limits of a token. A limit is null if otter does not limit it.
#[derive(Serialize)]
struct ListedLimits {
    leases: Option<u32>,
    queued_leases: Option<u32>,
    queued_jobs: Option<u32>,
    streams: Option<u32>,
    requests_per_second: Option<u32>,
}

impl ListedToken {
    fn from_token(token: &StoredToken, now: Timestamp) -> Self {
        let StoredToken {
            id: _,
            name,
            role,
            digest: _,
            scope,
            limits,
            created_at,
            expires_at,
            rotated_at,
            last_used_at,
            revoked_at,
        } = token;
        let TokenLimits { leases, queued_leases, queued_jobs, streams, requests_per_second } =
            limits;
        let state = match (revoked_at, expires_at) {
            (Some(_), _) => "revoked",
            (None, Some(at)) if *at <= now => "expired",
            (None, _) => "in_force",
        };
        let scope = match scope {
            Scope::All => None,
            Scope::Selected { machines, pools } => {
                Some(ListedScope { machines: machines.clone(), pools: pools.clone() })
            }
        };
        Self {
            name: name.clone(),
            role: role.as_str(),
            state,
            scope,
            limits: ListedLimits {
                leases: *leases,
                queued_leases: *queued_leases,
                queued_jobs: *queued_jobs,
                streams: *streams,
                requests_per_second: *requests_per_second,
            },
            created_at: *created_at,
            expires_at: *expires_at,
            rotated_at: *rotated_at,
            last_used_at: *last_used_at,
            revoked_at: *revoked_at,
        }
    }
}

fn new_token(clock: &Clock) -> anyhow::Result<Token> {
    Ok(Token::new(&clock.random().context("the system gives no random bits")?))
}

/// Prints a new token. Only the token goes to the standard output, so that a shell can redirect it
/// into a file.
fn show_token(token: &Token) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", token.text())
        .and_then(|()| out.flush())
        .context("the token cannot be shown")?;
    Ok(ExitCode::SUCCESS)
}

fn expiry(now: Timestamp, lifetime: Duration) -> anyhow::Result<Timestamp> {
    now.saturating_add(lifetime).context("the expiry is too far away")
}

async fn revoke(name: &str, config_args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let now = Clock::system().now();
    let store = open_shared(config_args).await?;
    if !with_writer(&store, async |store| Ok(store.revoke_token(name, now).await?)).await? {
        bail!("no token named {name} is in force: otter token list");
    }
    eprintln!("The token {} is revoked.", printable(name));
    Ok(ExitCode::SUCCESS)
}

async fn open_shared(config_args: &ConfigArgs) -> anyhow::Result<Store> {
    Ok(Store::open_shared(config_args.load()?.state.directory()).await?)
}

/// Opens the store. If the user names a state directory that has no database, creates the database,
/// because the first token may be created before the first start of the daemon. In the default
/// directory nothing is created, because the daemon may use another directory.
async fn open_shared_or_new(state: &State) -> anyhow::Result<Store> {
    match &state.dir {
        Some(directory) => Ok(Store::open_or_create_shared(directory).await?),
        None => Ok(Store::open_shared(state.directory()).await?),
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

/// Parses the name of a new token. Only few characters are allowed, because people read the name in
/// logs and lists.
fn name(text: &str) -> Result<String, String> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.@".contains(character);
    if is_reserved_name(text) {
        return Err(
            "otter uses this name for itself or for callers without a token; choose another"
                .to_owned(),
        );
    }
    match text.len() {
        1..=64 if text.chars().all(plain) => Ok(text.to_owned()),
        _ => Err("a name has 1 to 64 letters, digits and - _ . @".to_owned()),
    }
}

/// Warns of those parts of a scope that are probably mistakes.
///
/// # Parameters
/// - `pools`: the pools of the configuration. `None` if no configuration file is given.
fn scope_warnings(scope: &Scope, pools: Option<&BTreeMap<String, Pool>>) -> Vec<String> {
    let Scope::Selected { machines, pools: selected } = scope else { return Vec::new() };
    let literal = machines.iter().filter(|pattern| pattern.contains(['[', ']'])).map(|pattern| {
        format!(
            "--machines {pattern}: [ and ] stand for themselves; only * and ? have a meaning in a \
             pattern"
        )
    });
    let is_unknown = |pool: &&String| pools.is_some_and(|pools| !pools.contains_key(*pool));
    let unknown = selected.iter().filter(is_unknown).map(|pool| {
        format!(
            "--pool {pool}: the configuration has no pool of this name, so the token gets no \
             machine by it"
        )
    });
    literal.chain(unknown).collect()
}

/// Parses a pattern of names or the name of a pool. An empty text is refused, because it matches
/// nothing.
fn non_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(text.to_owned())
}

fn lifetime(text: &str) -> Result<Duration, String> {
    if text
        .strip_prefix('-')
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    {
        return Err(
            "the time counts from now on, so it must be positive, for example 90d".to_owned()
        );
    }
    match duration::parse(text) {
        Ok(lifetime) if lifetime.is_zero() => {
            Err("the token would expire at once; give a longer time, for example 90d".to_owned())
        }
        Ok(lifetime) => Ok(lifetime),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes the parser for a limit of a token. It refuses zero, because no caller can work with a
/// limit of zero.
fn limit() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}
