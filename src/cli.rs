//! The commands: `serve`, `run`, `token`, `simulate`, `check-config`, `doctor`, `openapi`,
//! `completions`. Each reads what it is told and starts a room.
//!
//! Exit codes: 0 as asked, 1 a failure, 2 a wrong command line, 78 a wrong configuration
//! (`EX_CONFIG`); those of `run` are its own. What `check-config` refuses it refuses with the code
//! of `serve`.

mod check_host;
mod doctor;
mod run;
mod store;
mod token;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use secrecy::SecretString;

use self::run::{Exit, RunCommand};
use self::store::StoreCommand;
use self::token::TokenCommand;
use crate::app::{self, App, CheckedSettings, SimulatedHost};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Flags, LogFormat};
use crate::domain::terminal::{printable, printable_lines};
use crate::simulator::{Pace, Scenario, Simulator, SimulatorOptions};
use crate::store::Existing;
use crate::supervisor::{ShutdownCause, Signals};
use crate::telemetry::logs::{self, Style};

/// A REST daemon in front of a VMware ESX host.
#[derive(Debug, Parser)]
#[command(name = "otter", version, about, max_term_width = 100)]
pub struct Command {
    #[command(subcommand)]
    subcommand: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Serve a host's machines over HTTP.
    Serve(ServeArgs),
    /// Take a machine, run a command, and give the machine back however that ends: a machine in CI,
    /// in one command.
    Run(Box<RunCommand>),
    /// Make, list, rotate and revoke the tokens that callers are told apart by.
    Token(TokenCommand),
    /// Back up, restore, check and compact what otter keeps on disk.
    Store(StoreCommand),
    /// Run a simulated ESX by itself, for otter or any other vim25 client.
    Simulate(SimulateArgs),
    /// Check the configuration as `serve` does: read it, and look at the files, the state directory
    /// and the address. Nothing is made or changed.
    CheckConfig(CheckConfigArgs),
    /// Connect to the host as `serve` would, once, and say in plain words what works and what does
    /// not.
    Doctor(ConfigArgs),
    /// Print the OpenAPI document: `otter openapi >openapi/otter.json`.
    Openapi {
        /// In the words of this version of OpenAPI; the document is written in 3.1, and 3.0 is made
        /// of it.
        #[arg(long, value_enum, value_name = "VERSION", default_value = "3.1")]
        version: OpenapiVersion,
    },
    /// Print the completions for a shell: `otter completions bash >/etc/bash_completion.d/otter`.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: Shell,
    },
}

/// The versions of OpenAPI that generators of clients read.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OpenapiVersion {
    #[value(name = "3.1")]
    V3_1,
    #[value(name = "3.0")]
    V3_0,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Serve an embedded, simulated ESX in place of a real one. The state is kept in memory unless
    /// a state directory is named.
    #[arg(long)]
    simulate: bool,
    #[command(flatten)]
    scenario: ScenarioArgs,
    #[command(flatten)]
    config_args: ConfigArgs,
}

#[derive(Debug, Args)]
struct CheckConfigArgs {
    /// Also read the machines of the host once, and warn of patterns that match none.
    #[arg(long)]
    host: bool,
    #[command(flatten)]
    config_args: ConfigArgs,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file; `config/otter.toml` shows every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen: an IP address and a port, `localhost:PORT`, or `unix:/path`.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Where jobs, leases and tokens are kept: /var/lib/otter if nothing names a directory.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// off, error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// human, json, or auto: human on a terminal, else JSON.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

/// What is on a simulated host.
#[derive(Debug, Args)]
struct ScenarioArgs {
    /// A scenario; the lab of `config/lab.toml` where none is named.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// That many machines of no particular kind.
    #[arg(long, value_name = "N", conflicts_with = "scenario", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    machines: Option<u32>,
}

#[derive(Debug, Args)]
struct SimulateArgs {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where to take orders of what is to go wrong, on loopback: see `[[faults]]` in the scenario.
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// How long tasks and guests take, of the usual tenth of a real host's time: 0.1 is ten times
    /// as fast.
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = pace)]
    pace: f64,
    /// The account's name.
    #[arg(long, value_name = "NAME", default_value = "root")]
    username: String,
    /// The account's password. It guards nothing but a simulation.
    #[arg(long, value_name = "PASSWORD", default_value = "otter")]
    password: String,
}

impl Command {
    /// Reads the command line of the process.
    ///
    /// # Errors
    /// What to exit with, where there is nothing to do but what it was told by now: a wrong line,
    /// or a question for help.
    pub fn from_command_line() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // Nobody reading it changes nothing.
            let _ = error.print();
            match error.exit_code() {
                0 => ExitCode::SUCCESS,
                _ if Self::is_run() => ExitCode::from(Exit::Usage.code()),
                _ => ExitCode::from(2),
            }
        })
    }

    /// Whether a command line that is wrong elsewhere names the subcommand `run`.
    fn is_run() -> bool {
        let matches = Self::command().ignore_errors(true).try_get_matches();
        matches.is_ok_and(|matches| matches.subcommand_name() == Some("run"))
    }
}

/// Does what the command line says.
#[must_use]
pub fn run(command: Command) -> ExitCode {
    let Command { subcommand } = command;
    let outcome = match subcommand {
        Subcommands::Serve(serve) => on_runtime(self::serve(serve)),
        Subcommands::Run(command) => run::run(&command),
        Subcommands::Token(command) => on_runtime(token::token(command)),
        Subcommands::Store(command) => on_runtime(store::store(command)),
        Subcommands::Simulate(simulate) => on_runtime(self::simulate(simulate)),
        Subcommands::CheckConfig(check) => on_runtime(check_config(check)),
        Subcommands::Doctor(config_args) => on_runtime(doctor::doctor(config_args)),
        Subcommands::Openapi { version } => openapi(version),
        Subcommands::Completions { shell } => Ok(completions(shell)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("otter: {}", printable_lines(&format!("{error:#}")));
        let wrong_configuration = error.is::<ConfigError>();
        if wrong_configuration { ExitCode::from(78) } else { ExitCode::FAILURE }
    })
}

fn on_runtime(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("the runtime cannot be started")?.block_on(work)
}

async fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let ServeArgs { simulate, scenario, config_args } = args;
    if !simulate && scenario.is_given() {
        let wrong =
            "--scenario and --machines say what is simulated: they go with --simulate alone\n";
        Command::command().error(clap::error::ErrorKind::MissingRequiredArgument, wrong).print()?;
        return Ok(ExitCode::from(2));
    }
    let config = config_args.read()?;
    install_log(&config)?;
    raise_file_limit();
    // Taken over before anything starts, so that a signal during the start is not lost.
    let signals = Signals::install().context("signals cannot be received")?;
    let clock = Clock::system();
    let simulated = if simulate {
        let simulator =
            Simulator::start(SimulatorOptions::new(scenario.load().await?, clock.clone())).await?;
        tracing::info!(url = simulator.url(), "the simulated ESX listens");
        Some(simulator)
    } else {
        None
    };
    let host = simulated.as_ref().map(|simulator| SimulatedHost {
        url: simulator.url(),
        fingerprint: simulator.fingerprint(),
    });
    let has_password = host.is_none();
    let settings = app::settings(config, host)?;
    let state = settings.state_dir.clone();
    let app = App::bind(settings, clock).await?;
    if has_password {
        app.reload_password_with(move || config_args.read()?.esx.host().map(|host| host.password));
    }
    let bound = app.listen_address_text().context("the bound address cannot be read")?;
    tracing::info!(address = bound, "listening");
    print(&printable_lines(&start_message(&bound, state.as_deref())));
    let ending = app.run(signals).await?;
    if let Some(simulator) = simulated {
        simulator.stop().await;
    }
    if let ShutdownCause::Task(failure) = &ending.cause {
        eprintln!("otter: {}", printable_lines(&failure.to_string()));
    }
    Ok(ExitCode::from(ending.exit_code()))
}

async fn simulate(args: SimulateArgs) -> anyhow::Result<ExitCode> {
    let SimulateArgs { listen, admin, scenario, pace, username, password } = args;
    raise_file_limit();
    let clock = Clock::system();
    let mut signals = Signals::install().context("signals cannot be received")?;
    let options = SimulatorOptions {
        listen,
        admin,
        pace: Pace::Auto { scale: pace },
        username: username.clone(),
        password: SecretString::from(password),
        ..SimulatorOptions::new(scenario.load().await?, clock)
    };
    let simulator = Simulator::start(options).await?;
    print(&format!(
        "A simulated ESX listens on {}/sdk\n  account      {username}\n  fingerprint  sha256:{}\n",
        simulator.url(),
        simulator.fingerprint()
    ));
    if let Some(admin) = simulator.admin() {
        print(&format!("  admin        http://{admin}\n"));
    }
    signals.wait_for_termination().await;
    simulator.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn check_config(args: CheckConfigArgs) -> anyhow::Result<ExitCode> {
    let CheckConfigArgs { host, config_args } = args;
    let settings = app::settings(config_args.read()?, None)?;
    let CheckedSettings { warnings, state, .. } = app::check_with_state(&settings).await?;
    for warning in &warnings {
        eprintln!("otter: warning: {}", printable(warning));
    }
    if let (Some(directory), Some(found)) = (&settings.state_dir, state) {
        let made = match found.existing {
            Existing::Nothing => ", which does not exist yet: serve makes it",
            Existing::Directory => ", which has no database yet: serve makes one",
            Existing::Database => "",
        };
        print(&format!("The state is kept in {}{made}.\n", directory.display()));
    }
    if host {
        check_host::check_host(&settings).await?;
    }
    print("The configuration is good.\n");
    Ok(ExitCode::SUCCESS)
}

fn openapi(version: OpenapiVersion) -> anyhow::Result<ExitCode> {
    let document = crate::api::openapi();
    let document = match version {
        OpenapiVersion::V3_1 => document,
        OpenapiVersion::V3_0 => crate::api::document::v3_0::convert(&document),
    };
    print(&format!("{}\n", serde_json::to_string_pretty(&document)?));
    Ok(ExitCode::SUCCESS)
}

fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Command::command(), "otter", &mut script);
    print(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

impl ConfigArgs {
    /// Reads the configuration, and prints its warnings, for commands that neither log nor check.
    fn load(&self) -> Result<Config, ConfigError> {
        let config = self.read()?;
        for warning in &config.warnings {
            eprintln!("otter: warning: {}", printable(warning));
        }
        Ok(config)
    }

    fn read(&self) -> Result<Config, ConfigError> {
        let Self { config, listen, state_dir, log_level, log_format } = self;
        let flags = Flags {
            listen: listen.clone(),
            state_dir: state_dir.clone(),
            log_level: log_level.clone(),
            log_format: log_format.clone(),
        };
        let environment = std::env::vars_os().collect();
        Config::load(config.as_deref(), &environment, &flags)
    }
}

/// Reads a factor that time can be stretched by.
fn pace(text: &str) -> Result<f64, String> {
    let fits = |factor: &f64| (0.0..=1_000.0).contains(factor);
    text.parse().ok().filter(fits).ok_or_else(|| "a number from 0 to 1000 is wanted".to_owned())
}

impl ScenarioArgs {
    const fn is_given(&self) -> bool {
        self.scenario.is_some() || self.machines.is_some()
    }

    async fn load(&self) -> anyhow::Result<Scenario> {
        Ok(match (&self.scenario, self.machines) {
            (Some(file), _) => Scenario::from_file(file).await?,
            (None, Some(machines)) => Scenario::generated(usize::try_from(machines)?),
            (None, None) => Scenario::lab()?,
        })
    }
}

fn install_log(config: &Config) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && allows_colour();
    let style = match config.log.format {
        LogFormat::Human => Style::Human { colour },
        LogFormat::Auto if terminal => Style::Human { colour },
        LogFormat::Auto | LogFormat::Json => Style::Json,
    };
    logs::install(&config.log.level, style)?;
    Ok(())
}

/// Whether the environment allows escape sequences on a terminal: `NO_COLOR` is not set, or empty
/// (<https://no-color.org>).
fn allows_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Each waiting client holds a file descriptor, and the usual soft limit is 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files cannot be raised: fewer clients can wait at once");
    }
}

/// The message of a start: the address, the state directory, and a first command to try.
fn start_message(bound: &str, state: Option<&Path>) -> String {
    let (curl, browser) = match bound.strip_prefix("unix:") {
        Some(path) => (format!("curl -s --unix-socket {path} http://localhost"), String::new()),
        None => (format!("curl -s {bound}"), format!("In a browser: {bound}/docs\n")),
    };
    let state = state.map_or_else(
        || "in memory, and is gone when otter ends (--state-dir keeps it)".to_owned(),
        |directory| format!("in {}", directory.display()),
    );
    format!(
        "otter listens on {bound}. Its state is kept {state}. Try:\n  {curl}/v1/machines\n  {curl}/v1/about\n{browser}"
    )
}

/// Writes to the standard output. Nobody reading it any more is no reason to end a daemon.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Command::command().debug_assert();
    }

    #[test]
    fn the_start_message_names_what_works_where_it_listens() {
        let tcp = start_message("http://127.0.0.1:8080", None);
        assert!(tcp.contains("\n  curl -s http://127.0.0.1:8080/v1/machines\n"), "{tcp}");
        assert!(tcp.ends_with("\nIn a browser: http://127.0.0.1:8080/docs\n"), "{tcp}");
        assert!(tcp.contains("is kept in memory"), "{tcp}");
        let unix = start_message("unix:/run/otter.sock", Some(Path::new("/var/lib/otter")));
        assert!(unix.contains("is kept in /var/lib/otter."), "{unix}");
        assert!(
            unix.ends_with("\n  curl -s --unix-socket /run/otter.sock http://localhost/v1/about\n"),
            "{unix}"
        );
    }
}
