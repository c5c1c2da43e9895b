//! The command line: parses the arguments and runs the subcommand that they name.
//!
//! Exit codes: 0 success, 1 failure, 2 wrong command line, 78 wrong configuration (`EX_CONFIG`).
//! The subcommands `run`, `release` and `files` have exit codes of their own (`run/exit.rs`). The
//! subcommand `check-config` exits with the code with which `serve` would fail.

mod check_host;
mod doctor;
mod doctor_console;
mod files;
mod host_session;
mod run;
mod screen;
mod serial;
mod server;
mod store;
mod token;
mod type_keys;
mod vnc;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use secrecy::SecretString;

use self::files::FilesCommand;
use self::run::{Exit, ReleaseCommand, RunCommand};
use self::screen::ScreenCommand;
use self::serial::SerialCommand;
use self::server::CallArguments;
use self::store::StoreCommand;
use self::token::TokenCommand;
use self::type_keys::TypeCommand;
use self::vnc::VncCommand;
use crate::app::{self, App, CheckedSettings, Reload, RenewedSettings, Settings, SimulatedHost};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Flags, LoadedConfig, LogFormat};
use crate::domain::terminal::{printable, printable_lines};
use crate::simulator::{Pace, Scenario, Simulator, SimulatorOptions};
use crate::store::Existing;
use crate::supervisor::{PassedSocket, ShutdownCause, Signals};
use crate::telemetry::logs::{self, LogLevel, Style};

/// A REST daemon in front of a VMware ESX host.
#[derive(Debug, Parser)]
#[command(name = "otter", version, about, max_term_width = 100)]
pub struct Command {
    #[command(subcommand)]
    subcommand: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Serve the machines of a host over HTTP.
    Serve(ServeArgs),
    /// Take a machine, run a command, and release the machine however the command ends.
    Run(Box<RunCommand>),
    /// End a lease, such as one that `otter run` kept after a failure, and give its machine back.
    Release(ReleaseCommand),
    /// Show the screen of a machine as a picture or as text, or wait for a text on it.
    ///
    /// Without --output, --text and --wait-text: print the size of the screen and the state of its
    /// connection. On a machine that is leased, this needs the lease (--lease), the token that
    /// created it, or the token of an operator.
    Screen(Box<ScreenCommand>),
    /// Type a text, or press keys, on a machine.
    ///
    /// No key is typed twice: if the input is interrupted, this command fails and does not repeat
    /// it. On a machine that is leased, it needs the lease (--lease).
    Type(Box<TypeCommand>),
    /// Pass the screen, the keyboard and the mouse of a machine on to a VNC viewer.
    ///
    /// Listens until Ctrl-C, and serves one viewer after the other. Viewers need no password: every
    /// user of this computer can connect. On a machine that is leased, this needs the lease
    /// (--lease).
    Vnc(Box<VncCommand>),
    /// Open a terminal on a serial port of a machine, print its output, or wait for a text in it.
    Serial(Box<SerialCommand>),
    /// List, download, upload and delete files on the datastores of the host.
    Files(FilesCommand),
    /// Create, list, rotate and revoke the tokens that identify callers.
    Token(TokenCommand),
    /// Back up, restore, check and compact the state directory.
    Store(StoreCommand),
    /// Run a simulated ESX as a server of its own, for otter or any other vim25 client.
    Simulate(SimulateArgs),
    /// Check the configuration, its files, the state directory and the address as `serve` does.
    /// Creates and changes nothing.
    CheckConfig(CheckConfigArgs),
    /// Connect to the host once, as `serve` does, and report which steps work and which fail.
    ///
    /// Run it where `serve` runs, with the same configuration. It exits with 0 if no check fails; a
    /// warning is no failure.
    Doctor(Box<DoctorArgs>),
    /// Print the OpenAPI document: `otter openapi >openapi/otter.json`.
    Openapi {
        /// The OpenAPI version of the printed document. The document for 3.0 is converted from that
        /// for 3.1.
        #[arg(long, value_enum, value_name = "VERSION", default_value = "3.1")]
        version: OpenapiVersion,
    },
    /// Print the script that completes command lines in a shell.
    Completions {
        /// The shell: bash, zsh, fish, elvish or powershell.
        shell: Shell,
    },
}

/// The OpenAPI versions that client generators accept.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OpenapiVersion {
    #[value(name = "3.1")]
    V3_1,
    #[value(name = "3.0")]
    V3_0,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Serve an embedded, simulated ESX instead of a real one. The state is kept in memory unless
    /// --state-dir names a directory.
    #[arg(long)]
    simulate: bool,
    #[command(flatten)]
    scenario: ScenarioArgs,
    #[command(flatten)]
    config_args: ConfigArgs,
}

#[derive(Debug, Args)]
struct CheckConfigArgs {
    /// Also read the machines of the host once, and warn of each pattern that matches no machine.
    #[arg(long)]
    host: bool,
    #[command(flatten)]
    config_args: ConfigArgs,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// Also check the way to the screen of this machine: an id, name:<exact>, uuid:<…> or mac:<…>.
    #[arg(long, value_name = "MACHINE")]
    console: Option<String>,
    /// With --console: let the otter at --url reset the machine and revert it to its current
    /// snapshot, by the lease of --lease, and check its screen after each. Only this uses --url,
    /// --lease and the other options that say how to reach otter.
    #[arg(long, requires = "console")]
    restart: bool,
    #[command(flatten)]
    call: CallArguments,
    #[command(flatten)]
    config_args: ConfigArgs,
}

/// The sources of the configuration: a file, the environment, and these flags.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file; `config/otter.toml` shows every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address to listen on: an IP address and a port, `localhost:PORT`, or `unix:/path`.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// The directory for jobs, leases and tokens; /var/lib/otter by default.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// The log level: off, error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// The log format: human, json, or auto, which is human on a terminal and JSON otherwise.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

/// The machines of a simulated host.
#[derive(Debug, Args)]
struct ScenarioArgs {
    /// A scenario file. The default is the lab of `config/lab.toml`.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Simulate this number of generated machines instead of a scenario.
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "scenario",
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    machines: Option<u32>,
    /// A directory with files of the simulated datastores: DIR/<datastore>/<path>. The simulator
    /// only reads it.
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SimulateArgs {
    /// The address to listen on; port 0 takes a free port.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The loopback address of the admin endpoint, which injects faults: see `[[faults]]` in the
    /// scenario.
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    scenario: ScenarioArgs,
    /// The factor for the durations of tasks and of changes in guests. With 1, everything takes a
    /// tenth of the time on a real host; with 0.1, a hundredth.
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = pace)]
    pace: f64,
    /// The user name of the account on the simulated host.
    #[arg(long, value_name = "NAME", default_value = "root")]
    username: String,
    /// The password of the account on the simulated host. It protects only the simulation.
    #[arg(long, value_name = "PASSWORD", default_value = "otter")]
    password: String,
}

impl Command {
    /// Reads the command line of the process.
    ///
    /// # Errors
    /// The exit code of the process, if the command line is wrong or asks for help or for the
    /// version. The message has already been printed.
    pub fn from_command_line() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // An error of printing the message is ignored, because the exit code stays the same.
            let _ = error.print();
            match error.exit_code() {
                0 => ExitCode::SUCCESS,
                _ if Self::is_run() => ExitCode::from(Exit::Usage.code()),
                _ => ExitCode::from(2),
            }
        })
    }

    /// Whether the command line names a subcommand with the exit codes of `run`. The rest of the
    /// command line may be wrong.
    fn is_run() -> bool {
        let matches = Self::command().ignore_errors(true).try_get_matches();
        matches.is_ok_and(|matches| {
            matches
                .subcommand_name()
                .is_some_and(|name| ["run", "release", "files"].contains(&name))
        })
    }
}

/// Runs the subcommand and returns the exit code of the process.
#[must_use]
pub fn run(command: Command) -> ExitCode {
    let Command { subcommand } = command;
    let outcome = match subcommand {
        // The sockets that the service manager passed are taken before the runtime starts threads,
        // because this changes the environment of the process.
        Subcommands::Serve(serve) => PassedSocket::take_all()
            .context("otter cannot serve on the sockets that it was passed")
            .and_then(|passed| on_runtime(self::serve(serve, passed))),
        Subcommands::Run(command) => run::run(&command),
        Subcommands::Release(command) => run::release_lease(&command),
        Subcommands::Screen(command) => on_runtime(screen::screen(*command)),
        Subcommands::Type(command) => on_runtime(type_keys::type_keys(*command)),
        Subcommands::Vnc(command) => on_runtime(vnc::vnc(*command)),
        Subcommands::Serial(command) => on_runtime(serial::serial(*command)),
        Subcommands::Files(command) => files::files(&command),
        Subcommands::Token(command) => on_runtime(token::token(command)),
        Subcommands::Store(command) => on_runtime(store::store(command)),
        Subcommands::Simulate(simulate) => on_runtime(self::simulate(simulate)),
        Subcommands::CheckConfig(check) => on_runtime(check_config(check)),
        Subcommands::Doctor(args) => on_runtime(doctor::doctor(*args)),
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

async fn serve(args: ServeArgs, passed_sockets: Vec<PassedSocket>) -> anyhow::Result<ExitCode> {
    let ServeArgs { simulate, scenario, config_args } = args;
    if !simulate && scenario.is_given() {
        let wrong =
            "--scenario, --machines and --files describe the simulated host: add --simulate\n";
        Command::command().error(clap::error::ErrorKind::MissingRequiredArgument, wrong).print()?;
        return Ok(ExitCode::from(2));
    }
    let LoadedConfig { config, values } = config_args.read_with_values()?;
    let log_level = install_log(&config)?;
    raise_file_limit();
    // The signals are registered before anything starts, so that a signal during the start is not
    // lost.
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
    let settings = Settings { passed_sockets, ..app::settings(config, host.clone())? };
    let state = settings.state_dir.clone();
    let password = host.is_none().then(|| settings.esx.password.clone());
    let app = App::bind(settings, clock).await?;
    if let Some(simulator) = &simulated {
        // Simulated machines cannot resolve the name by which otter's host knows otter.
        simulator.control().set_concentrator(app.serial_address());
    }
    let read = move || {
        let LoadedConfig { config, values } = config_args.read_with_values()?;
        let log_level = config.log.level.clone();
        let settings = app::settings(config, host.clone())?;
        Ok(RenewedSettings { settings, values, log_level })
    };
    app.reload_with(Reload { read: Box::new(read), values, password, log_level });
    let bound = app.listen_addresses().context("the bound address cannot be read")?;
    for address in &bound {
        tracing::info!(address, "listening");
    }
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
            Existing::Nothing => ", which does not exist yet: serve creates it",
            Existing::Directory => ", which has no database yet: serve creates one",
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
    /// Reads the configuration and prints its warnings to stderr, for commands that have no log.
    fn load(&self) -> Result<Config, ConfigError> {
        let config = self.read()?;
        for warning in &config.warnings {
            eprintln!("otter: warning: {}", printable(warning));
        }
        Ok(config)
    }

    fn read(&self) -> Result<Config, ConfigError> {
        self.read_with_values().map(|loaded| loaded.config)
    }

    fn read_with_values(&self) -> Result<LoadedConfig, ConfigError> {
        let Self { config, listen, state_dir, log_level, log_format } = self;
        let flags = Flags {
            listen: listen.clone(),
            state_dir: state_dir.clone(),
            log_level: log_level.clone(),
            log_format: log_format.clone(),
        };
        let environment = std::env::vars_os().collect();
        Config::load_with_values(config.as_deref(), &environment, &flags)
    }
}

/// Parses the factor for the durations of simulated tasks and guests.
fn pace(text: &str) -> Result<f64, String> {
    let fits = |factor: &f64| (0.0..=1_000.0).contains(factor);
    text.parse().ok().filter(fits).ok_or_else(|| "the pace is a number from 0 to 1000".to_owned())
}

impl ScenarioArgs {
    const fn is_given(&self) -> bool {
        self.scenario.is_some() || self.machines.is_some() || self.files.is_some()
    }

    async fn load(&self) -> anyhow::Result<Scenario> {
        let scenario = match (&self.scenario, self.machines) {
            (Some(file), _) => Scenario::from_file(file).await?,
            (None, Some(machines)) => Scenario::generated(usize::try_from(machines)?),
            (None, None) => Scenario::lab()?,
        };
        Ok(match &self.files {
            Some(directory) => scenario.with_files(directory.clone()).await?,
            None => scenario,
        })
    }
}

fn install_log(config: &Config) -> anyhow::Result<LogLevel> {
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && allows_colour();
    let style = match config.log.format {
        LogFormat::Human => Style::Human { colour },
        LogFormat::Auto if terminal => Style::Human { colour },
        LogFormat::Auto | LogFormat::Json => Style::Json,
    };
    Ok(logs::install(&config.log.level, style)?)
}

/// Whether the environment allows colours on a terminal: `NO_COLOR` is not set, or it is empty
/// (<https://no-color.org>).
fn allows_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Raises the soft limit of open files to the hard limit. Each waiting client holds a file
/// descriptor, and the usual soft limit of 1,024 would be too low.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files cannot be raised: fewer clients can wait \
            at once");
    }
}

/// The message that `serve` prints when it starts to listen: the address, the state directory, and
/// commands to try.
fn start_message(bound: &[String], state: Option<&Path>) -> String {
    let first = bound.first().map_or("", String::as_str);
    let (curl, browser) = match first.strip_prefix("unix:") {
        Some(path) => (format!("curl -s --unix-socket {path} http://localhost"), String::new()),
        None => (format!("curl -s {first}"), format!("In a browser: {first}/\n")),
    };
    let bound = bound.join(" and ");
    let state = state.map_or_else(
        || "in memory, and is gone when otter ends (--state-dir keeps it)".to_owned(),
        |directory| format!("in {}", directory.display()),
    );
    format!(
        "otter listens on {bound}. Its state is kept {state}. Try:\n  {curl}/v1/machines\n  \
         {curl}/v1/about\n{browser}"
    )
}

/// Writes a text to the standard output. If the standard output is closed, the daemon goes on
/// running.
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
        let tcp = start_message(&["http://127.0.0.1:8080".to_owned()], None);
        assert!(tcp.contains("\n  curl -s http://127.0.0.1:8080/v1/machines\n"), "{tcp}");
        assert!(tcp.ends_with("\nIn a browser: http://127.0.0.1:8080/\n"), "{tcp}");
        assert!(tcp.contains("is kept in memory"), "{tcp}");
        let both = ["unix:/run/otter.sock".to_owned(), "http://[::1]:80".to_owned()];
        let unix = start_message(&both, Some(Path::new("/var/lib/otter")));
        assert!(unix.starts_with("otter listens on unix:/run/otter.sock and http://[::1]:80. "));
        assert!(unix.contains("is kept in /var/lib/otter."), "{unix}");
        assert!(
            unix.ends_with("\n  curl -s --unix-socket /run/otter.sock http://localhost/v1/about\n"),
            "{unix}"
        );
    }
}
