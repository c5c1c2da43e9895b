//! The configuration. It comes from a file, which the environment overrides, and the command line
//! overrides both. All of it is checked before anything starts.
//!
//! ```text
//! defaults ─► file (TOML) ─► environment (OTTER_…) ─► flags ─► secrets from their files ─► Config
//! ```
//! All problems are reported together. An unknown key is an error. `config/otter.toml` shows every
//! key.

mod changes;
mod environment;
mod file;
mod problem;
mod sections;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

pub use changes::ConfigValues;
pub use problem::{ConfigError, ConfigProblem};
pub use sections::{
    Artifacts, Config, DEFAULT_STATE_DIR, Deadlines, Esx, Files, Host, Http, Jobs, Leases, Log,
    Machines, Screens, Serial, Snapshots, State,
};
pub use values::{InvalidValue, Listen, LogFormat};

use environment::{UnreadVariable, VARIABLES};
use sections::{ConfigDraft, Password};

/// The settings that the command line gives. A field is `None` if its flag is absent.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub listen: Option<String>,
    pub state_dir: Option<String>,
    pub log_level: Option<String>,
    pub log_format: Option<String>,
}

/// The byte order mark, with which some editors begin a text file.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// The maximum size of a password file in bytes. A password file contains one line.
const MAX_PASSWORD_FILE: usize = 64 * 1024;

/// A configuration, and its values in a form in which a reload can compare them.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    pub config: Config,
    /// The values in the file. Left out are values that a variable or a flag overrides, and the
    /// password.
    pub values: ConfigValues,
}

impl Config {
    /// Loads the configuration.
    ///
    /// # Parameters
    /// - `path`: the file. `None` if there is no file.
    /// - `environment`: the environment variables. A variable with an empty value counts as absent.
    ///
    /// # Errors
    /// All problems, each with its place and with what to write instead.
    pub fn load(
        path: Option<&Path>,
        environment: &BTreeMap<OsString, OsString>,
        flags: &Flags,
    ) -> Result<Self, ConfigError> {
        Self::load_with_values(path, environment, flags).map(|loaded| loaded.config)
    }

    /// Loads the configuration like [`Config::load`], together with its values for later
    /// comparisons.
    ///
    /// # Errors
    /// The errors of [`Config::load`].
    pub fn load_with_values(
        path: Option<&Path>,
        environment: &BTreeMap<OsString, OsString>,
        flags: &Flags,
    ) -> Result<LoadedConfig, ConfigError> {
        let mut draft = ConfigDraft::default();
        let mut problems = Vec::new();
        let text = path.map(|path| (path, std::fs::read_to_string(path)));
        let mut values = match text {
            None => ConfigValues::default(),
            Some((path, Ok(text))) => {
                let read = file::read(&text, path, &mut draft);
                problems.extend(read.problems);
                read.values
            }
            Some((path, Err(error))) => {
                problems.push(ConfigProblem::in_file(path, read_error(&error)));
                ConfigValues::default()
            }
        };
        let mut warnings = Vec::new();
        let environment = &readable_variables(environment, &mut problems, &mut warnings);
        let Flags { listen, state_dir, log_level, log_format } = flags;
        let flags = [
            ("--listen", listen),
            ("--state-dir", state_dir),
            ("--log-level", log_level),
            ("--log-format", log_format),
        ]
        .map(|(name, value)| (name, value.as_deref()));
        let variables = VARIABLES.map(|name| {
            (name, environment.get(name).map(String::as_str).filter(|value| !value.is_empty()))
        });
        if let [.., (_, Some(_)), (_, Some(_))] = variables {
            let [.., (name, _), (other, _)] = variables;
            problems
                .push(ConfigProblem::new(name, format!("{other} is also set: remove one of them")));
        }
        for (name, value) in environment {
            match environment::check_unread(name, value) {
                Some(UnreadVariable::HostSetting(message)) => {
                    problems.push(ConfigProblem::new(name, message));
                }
                Some(UnreadVariable::Other(warning)) => warnings.push(warning),
                None => {}
            }
        }
        for (name, value) in variables.into_iter().chain(flags) {
            let Some(value) = value else { continue };
            match override_setting(&mut draft, name, value) {
                Ok(key) => values.ignore(key),
                Err(message) => problems.push(ConfigProblem::new(name, message)),
            }
        }
        if draft.config.esx.proxy.is_some()
            && draft.config.esx.url.as_ref().is_some_and(|url| url.starts_with("http:"))
        {
            let message = "the address of the host (esx.url) is http://…, which is accepted only \
                           for this machine: write https://<host>, or remove the proxy";
            problems.push(ConfigProblem::new("esx.proxy", message));
        }
        let is_set = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
        if draft.config.esx.proxy.as_ref().is_some_and(|proxy| proxy.account.is_some())
            && !is_set("OTTER_ESX_PROXY")
            && let Some(path) = path
        {
            warnings.extend(readable_by_all_warning(
                path,
                "the configuration with the proxy's password",
            ));
        }
        let password = match draft.password {
            Password::None => None,
            Password::Given(password) => {
                // Other users may read the file if it does not contain the password, so its
                // permissions are checked only if the password comes from it.
                if !is_set("OTTER_ESX_PASSWORD")
                    && let Some(path) = path
                {
                    warnings.extend(readable_by_all_warning(
                        path,
                        "the configuration with the host's password",
                    ));
                }
                Some(password)
            }
            Password::InFile { file, named_by } => match read_password(&file) {
                Ok(password) => {
                    warnings.extend(readable_by_all_warning(&file, "the password file"));
                    Some(password)
                }
                Err(message) => {
                    problems.push(ConfigProblem {
                        at: named_by,
                        ..ConfigProblem::in_file(&file, message)
                    });
                    None
                }
            },
        };
        if problems.is_empty() {
            let esx = Esx { password, ..draft.config.esx };
            Ok(LoadedConfig { config: Self { esx, warnings, ..draft.config }, values })
        } else {
            Err(ConfigError { problems })
        }
    }
}

/// The environment variables whose name and value are UTF-8. If another variable is one that otter
/// reads, it is reported as a problem. If its name only begins with `OTTER_`, it leads to a
/// warning.
fn readable_variables(
    environment: &BTreeMap<OsString, OsString>,
    problems: &mut Vec<ConfigProblem>,
    warnings: &mut Vec<String>,
) -> BTreeMap<String, String> {
    let mut readable = BTreeMap::new();
    for (name, value) in environment {
        match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) => {
                readable.insert(name.to_owned(), value.to_owned());
            }
            (Some(name), None) if VARIABLES.contains(&name) => {
                problems.push(ConfigProblem::new(name, "its value is not UTF-8".to_owned()));
            }
            _ if name.to_string_lossy().starts_with("OTTER_") => {
                let name = name.to_string_lossy();
                warnings.push(format!("{name} is ignored: its name or value is not UTF-8"));
            }
            _ => {}
        }
    }
    readable
}

/// Finds the problems in the text of a configuration, without reading the files that it names.
#[must_use]
pub fn find_problems(text: &str, path: &Path) -> Vec<ConfigProblem> {
    file::read(text, path, &mut ConfigDraft::default()).problems
}

/// A warning if every account of this machine can read a file that contains a secret. `None` if
/// other accounts cannot read the file.
///
/// It is a warning and not an error, because Kubernetes mounts secrets with permissions for all
/// accounts, in a container that has only one user.
#[must_use]
pub fn readable_by_all_warning(file: &Path, what: &str) -> Option<String> {
    let mode = std::fs::metadata(file).ok()?.permissions().mode() & 0o777;
    (mode & 0o004 != 0).then(|| {
        let path = file.display();
        format!(
            "{what}, {path}, can be read by every account of this machine (mode {mode:04o}): \
             chmod o= {path}"
        )
    })
}

/// Overrides a setting with the value of an environment variable or a flag. Returns the
/// configuration key of the setting.
fn override_setting(
    draft: &mut ConfigDraft,
    name: &'static str,
    value: &str,
) -> Result<&'static str, String> {
    let Config { esx, http, state, log, .. } = &mut draft.config;
    Ok(match name {
        "OTTER_LISTEN" | "--listen" => {
            http.listen = values::parsed(value)?;
            "http.listen"
        }
        "OTTER_STATE_DIR" | "--state-dir" => {
            state.dir = Some(PathBuf::from(values::not_empty(value)?));
            "state.dir"
        }
        "OTTER_ESX_URL" => {
            esx.url = Some(values::host_url(value)?);
            "esx.url"
        }
        "OTTER_ESX_USERNAME" => {
            esx.username = Some(value.to_owned());
            "esx.username"
        }
        "OTTER_ESX_VERIFY" => {
            esx.verify = values::parsed(value)?;
            "esx.verify"
        }
        "OTTER_ESX_PASSWORD" => {
            draft.password = Password::Given(SecretString::from(value));
            "esx.password"
        }
        "OTTER_ESX_PROXY" => {
            esx.proxy = Some(values::parsed(value)?);
            "esx.proxy"
        }
        "OTTER_ESX_PASSWORD_FILE" => {
            draft.password =
                Password::InFile { file: PathBuf::from(value), named_by: name.to_owned() };
            "esx.password_file"
        }
        "--log-level" => {
            log.level = values::log_level(value)?;
            "log.level"
        }
        "--log-format" => {
            log.format = values::parsed(value)?;
            "log.format"
        }
        _ => return Err("nothing reads this".to_owned()),
    })
}

/// Reads the password from a file: the only line of the file, without the line end.
fn read_password(file: &Path) -> Result<SecretString, String> {
    let text = std::fs::read_to_string(file).map_err(|error| read_error(&error))?;
    // Some editors begin a file with this mark, which is never a part of the password.
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
    let password =
        text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if password.is_empty() {
        return Err("the file is empty; it must contain the password".to_owned());
    }
    if text.len() > MAX_PASSWORD_FILE || password.contains('\n') {
        return Err("the file must contain only the password, in one line".to_owned());
    }
    Ok(SecretString::from(password))
}

fn read_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::InvalidData => "the file is not text in UTF-8".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    }
}
