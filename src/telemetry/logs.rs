//! The log, which goes to stderr: plain lines for people, or one JSON object per line.
//!
//! The log contains no secrets. otter keeps its secrets in types of the crate `secrecy`, which are
//! formatted as `[REDACTED]`. Crates that handle headers and cookies log only at the level `info`
//! and above, whatever level is configured.

use std::{fmt, io};

use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::domain::terminal::printable;

/// The crates whose log events at the levels `debug` and `trace` may contain headers and bodies.
const WIRE_CRATES: [&str; 9] = [
    "axum",
    "h2",
    "hyper",
    "hyper_util",
    "reqwest",
    "rustls",
    "tokio_tungstenite",
    "tower_http",
    "tungstenite",
];

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Human { colour: bool },
    Json,
}

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    #[error(
        "{level:?} is not a log level: expected off, error, warn, info, debug, trace or directives"
    )]
    Level { level: String, source: tracing_subscriber::filter::ParseError },
    #[error("the log was set up already")]
    Installed(#[source] tracing::subscriber::SetGlobalDefaultError),
    #[error("the level of the log cannot be changed")]
    Gone(#[source] reload::Error),
}

/// A handle that changes the level of the installed log. Clones change the same log.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Changes the level of the log.
    ///
    /// # Errors
    /// Fails if `level` is not a level. The log then keeps its old level.
    pub fn set(&self, level: &str) -> Result<(), LogsError> {
        self.0.reload(filter(level)?).map_err(LogsError::Gone)
    }
}

/// Installs the log: from now on, all log lines of the process go to stderr.
///
/// # Parameters
/// - `level`: a level, or directives of `EnvFilter`.
pub fn install(level: &str, style: Style) -> Result<LogLevel, LogsError> {
    let (subscriber, level) = subscriber(level, style, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(LogsError::Installed)?;
    Ok(level)
}

fn subscriber<W>(
    level: &str,
    style: Style,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync, LogLevel), LogsError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, level) = reload::Layer::new(filter(level)?);
    let layer = layer(style, writer).with_filter(filter.and(filter_fn(is_free_of_secrets)));
    Ok((Registry::default().with(layer), LogLevel(level)))
}

fn filter(level: &str) -> Result<EnvFilter, LogsError> {
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(level)
        .map_err(|source| LogsError::Level { level: level.to_owned(), source })
}

fn layer<S, W>(style: Style, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match style {
        Style::Human { colour } => layer.with_ansi(colour).fmt_fields(PrintableFields).boxed(),
        Style::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

/// Formats the fields of a log event and escapes characters that control a terminal. Otherwise a
/// text from the host or a caller could forge a log line or change a colour.
struct PrintableFields;

impl<'w> FormatFields<'w> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&printable(&text))
    }
}

fn is_free_of_secrets(metadata: &Metadata<'_>) -> bool {
    let name = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= tracing::Level::INFO || !WIRE_CRATES.contains(&name)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use jiff::Timestamp;
    use secrecy::SecretString;

    use super::*;
    use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
    use crate::domain::ids::MachineId;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the text that goes to the log while the function `log` runs.
    fn written(level: &str, style: Style, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, _level) = subscriber(level, style, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    const HUMAN: Style = Style::Human { colour: false };

    #[test]
    fn json_has_one_object_per_line() {
        let text = written("info", Style::Json, || {
            tracing::info_span!("task", task = "collector").in_scope(|| {
                tracing::info!(machine = "12", "first\nline");
                tracing::warn!("second");
            });
        });
        let objects: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[0]["level"], "INFO");
        assert_eq!(objects[0]["message"], "first\nline");
        assert_eq!(objects[0]["machine"], "12");
        assert_eq!(objects[0]["spans"][0]["task"], "collector");
        assert!(objects[0]["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn human_lines_have_colours_only_if_configured() {
        let plain = written("info", HUMAN, || tracing::info!(machine = "12", "started"));
        assert!(plain.contains("INFO") && plain.ends_with("started machine=\"12\"\n"), "{plain}");
        assert!(!plain.contains('\u{1b}'));
        let colour = written("info", Style::Human { colour: true }, || tracing::info!("started"));
        assert!(colour.contains('\u{1b}'));
    }

    #[test]
    fn names_of_the_host_cannot_control_the_terminal() {
        let name = "a\u{1b}[2J\nWARN forged \u{202e}\u{9b}31m";
        let log = || {
            tracing::info_span!("task", machine = %name).in_scope(|| {
                tracing::info!(machine = %name, name, error = ?name, "{name} is off");
            });
        };
        for colour in [false, true] {
            let text = written("info", Style::Human { colour }, log);
            assert_eq!(text.lines().count(), 1, "{text}");
            let hostile = ["\u{1b}[2J", "\u{202e}", "\u{9b}"];
            assert!(!hostile.iter().any(|hostile| text.contains(hostile)), "{text:?}");
            // The library itself escapes some characters of messages, in a format of its own.
            assert!(text.contains("[2J\\nWARN forged \\u{202e}\\u{9b}31m is off"), "{text}");
            assert!(text.contains("machine=a\\u{1b}[2J\\nWARN forged"), "{text}");
        }
        let json = written("info", Style::Json, log);
        let object: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
        assert_eq!(object["machine"], name, "the value is not escaped");
    }

    #[test]
    fn the_level_can_differ_by_module() {
        let log = || {
            tracing::debug!("fine");
            tracing::info!("usual");
            tracing::debug!(target: "otter::esx", "esx");
        };
        assert!(written("off", HUMAN, log).is_empty());
        assert_eq!(written("info", HUMAN, log).lines().count(), 1);
        assert_eq!(written("info,otter::esx=debug", HUMAN, log).lines().count(), 2);
        assert_eq!(written("debug", HUMAN, log).lines().count(), 3);
    }

    #[test]
    fn invalid_directives_are_refused() {
        let error = subscriber("otter=loud", HUMAN, io::sink).err().unwrap();
        assert!(error.to_string().starts_with("\"otter=loud\" is not a log level"), "{error}");
    }

    #[test]
    fn control_characters_of_an_audit_record_cannot_forge_a_line() {
        let forged = "web\n2026-03-01T12:00:00Z  INFO forged\u{1b}[2J\r";
        let record = AuditRecord {
            machine: Some((MachineId::from_backend("16\u{7}"), forged.to_owned())),
            reference: Some(forged.to_owned()),
            ..AuditRecord::new(Timestamp::UNIX_EPOCH, AuditAction::JobEnded, AuditOutcome::Failed)
        };
        let record = record.with_detail(forged);
        let human = written("info", HUMAN, || super::super::audit::log(&record));
        assert_eq!(human.lines().count(), 1, "{human:?}");
        assert!(!human.trim_end().contains(char::is_control), "{human:?}");
        assert!(human.contains("otter::audit: action=\"job.ended\""), "{human}");
        let json = written("info", Style::Json, || super::super::audit::log(&record));
        let line: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&line["machine_name"], &line["reference"]), (&forged.into(), &forged.into()));
        assert!(line.get("actor").is_none(), "absent fields are omitted: {line}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let password = SecretString::from("hunter2");
        let text = written("trace,hyper::proto=trace", HUMAN, || {
            tracing::info!(?password, "login");
            tracing::trace!(target: "hyper::proto::h1::role", "cookie: hunter2");
            tracing::debug!(target: "h2", "cookie: hunter2");
            tracing::warn!(target: "hyper", "connection closed");
        });
        assert!(text.contains("REDACTED") && text.contains("connection closed"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
