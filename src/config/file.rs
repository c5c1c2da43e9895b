//! Reads the configuration file. Each key is read separately, so that otter finds all problems and
//! can say in which line each of them is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::changes::ConfigValues;
use super::problem::ConfigProblem;
use super::sections::{
    Artifacts, Audit, Config, ConfigDraft, Deadlines, Esx, Files, Http, Jobs, Leases, Log,
    Machines, Password, Screens, Serial, Snapshots, State,
};
use super::values;
use crate::domain::answers::AnswerRules;
use crate::domain::duration;
use crate::domain::lease::{Prepare, Readiness, Release};
use crate::domain::pool::{Pool, RunningLimits, ScreenAccess, SerialAccess};
use crate::domain::power::PowerState;
use crate::domain::recording::{PortChoice, Record};

/// The range of deadlines that callers and operators can set.
const DEADLINES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(7 * 24);

/// The result of reading a configuration file.
pub struct ReadFile {
    pub problems: Vec<ConfigProblem>,
    /// The full path of every key that otter knows.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a test compares them with the annotated file")
    )]
    pub known: Vec<String>,
    /// The value of each key: the value in the file, or the default.
    pub values: ConfigValues,
}

/// Overrides the settings of the draft with the settings of the file.
pub fn read(text: &str, path: &Path, draft: &mut ConfigDraft) -> ReadFile {
    let source = Source {
        text,
        path,
        problems: RefCell::default(),
        known: RefCell::default(),
        values: RefCell::default(),
    };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        source.problem(
            error.span().map(|span| span.start),
            "",
            format!("not TOML: {}", error.message()),
        );
    }
    if errors.is_empty() {
        sections(Table::new(&source, String::new(), Some(root.get_ref())), draft);
    }
    ReadFile {
        problems: source.problems.into_inner(),
        known: source.known.into_inner(),
        values: source.values.into_inner(),
    }
}

fn sections(mut root: Table<'_>, draft: &mut ConfigDraft) {
    // The file does not set the warnings. They are added when all settings are known.
    let Config {
        esx,
        http,
        machines,
        snapshots,
        jobs,
        leases,
        answers,
        pools,
        screens,
        serial,
        artifacts,
        files,
        audit,
        state,
        log,
        warnings: _,
    } = &mut draft.config;
    esx_section(root.table("esx"), esx, &mut draft.password);

    http_section(root.table("http"), http);

    let Machines { protected } = machines;
    let mut table = root.table("machines");
    table.set("protected", protected, parsed_list);
    table.finish();

    let Snapshots { protected, runners_may_remove } = snapshots;
    let mut table = root.table("snapshots");
    table.set("protected", protected, texts);
    table.set("runners_may_remove", runners_may_remove, boolean);
    table.finish();

    let Jobs { deadlines, queue_per_machine, queue_total, retention_days } = jobs;
    let mut table = root.table("jobs");
    table.set("queue_per_machine", queue_per_machine, count);
    table.set("queue_total", queue_total, count);
    table.set("retention_days", retention_days, days);
    let Deadlines { power, guest, create, revert, remove, prepare } = deadlines;
    let mut inner = table.table("deadlines");
    inner.set("power", power, deadline);
    inner.set("guest", guest, deadline);
    inner.set("create", create, deadline);
    inner.set("revert", revert, deadline);
    inner.set("remove", remove, deadline);
    inner.set("prepare", prepare, deadline);
    inner.finish();
    table.finish();

    leases_section(root.table("leases"), leases);
    *answers = answer_rules(root.table("answers"));

    for (name, mut table) in root.table("pools").tables() {
        let pool = pool_section(&mut table);
        table.finish();
        pools.insert(name, pool);
    }

    let Screens { idle, max_open, max_viewers, ocr_command } = screens;
    let mut table = root.table("screens");
    table.set("idle", idle, any_duration);
    table.set("max_open", max_open, count);
    table.set("max_viewers", max_viewers, count);
    table.set("ocr_command", ocr_command, command);
    table.finish();

    serial_section(root.table("serial"), serial);
    artifacts_section(root.table("artifacts"), artifacts);

    let Files { roots } = files;
    let mut table = root.table("files");
    table.set("roots", roots, parsed_list);
    table.finish();

    let Audit { retention_days, max_bytes } = audit;
    let mut table = root.table("audit");
    table.set("retention_days", retention_days, days);
    table.set("max_bytes", max_bytes, audit_bytes);
    table.finish();

    let State { dir } = state;
    let mut table = root.table("state");
    table.set("dir", dir, |value| some_path(value));
    table.finish();

    let Log { level, format, access } = log;
    let mut table = root.table("log");
    table.set("level", level, |value| values::log_level(text(value)?));
    table.set("format", format, parsed);
    table.set("access", access, boolean);
    table.finish();

    root.finish();
}

fn leases_section(mut table: Table<'_>, leases: &mut Leases) {
    let Leases {
        max_ttl,
        max_total,
        abandon_after,
        grace,
        quarantine_retry,
        question_grace,
        retention_days,
    } = leases;
    table.set("max_ttl", max_ttl, timeout);
    table.set("max_total", max_total, timeout);
    table.set("abandon_after", abandon_after, timeout);
    table.set("grace", grace, any_duration);
    table.set("quarantine_retry", quarantine_retry, any_duration);
    table.set("question_grace", question_grace, timeout);
    table.set("retention_days", retention_days, days);
    table.finish();
}

fn serial_section(mut table: Table<'_>, serial: &mut Serial) {
    let Serial { listen, allowed_peers, log_bytes, retention_days, max_open, tty } = serial;
    table.set("listen", listen, |value| {
        let expected = || "expected an address and a port, such as 10.0.0.5:13370".to_owned();
        text(value)?.parse().map(Some).map_err(|_| expected())
    });
    table.set("allowed_peers", allowed_peers, parsed_list);
    table.set("log_bytes", log_bytes, log_size);
    table.set("retention_days", retention_days, days);
    table.set("max_open", max_open, count);
    table.set("tty", tty, |value| {
        let tty = text(value)?;
        let is_path = tty.starts_with('/');
        is_path.then(|| tty.to_owned()).ok_or_else(|| "expected a path, such as /dev/ttyS".into())
    });
    table.finish();
}

fn artifacts_section(mut table: Table<'_>, artifacts: &mut Artifacts) {
    let Artifacts { max_bytes, max_total, retention_days, recording_bytes } = artifacts;
    table.set("max_bytes", max_bytes, bytes);
    table.set("max_total", max_total, bytes);
    table.set("retention_days", retention_days, days);
    table.set("recording_bytes", recording_bytes, bytes);
    table.finish();
}

fn http_section(mut table: Table<'_>, http: &mut Http) {
    let Http {
        listen,
        socket_mode,
        socket_group,
        tls_certificate,
        tls_key,
        max_wait,
        max_waits,
        body_limit,
        header_timeout,
        idle_timeout,
        body_timeout,
        allowed_origins,
        trusted_proxies,
        base_path,
    } = http;
    table.set("listen", listen, parsed);
    table.set("socket_mode", socket_mode, parsed);
    table.set("socket_group", socket_group, |value| parsed(value).map(Some));
    table.set("tls_certificate", tls_certificate, |value| some_path(value));
    table.set("tls_key", tls_key, |value| some_path(value));
    if tls_certificate.is_some() != tls_key.is_some() {
        let (given, missing) = if tls_key.is_some() {
            ("tls_key", "http.tls_certificate")
        } else {
            ("tls_certificate", "http.tls_key")
        };
        table.problem(given, format!("{missing} is missing: a certificate needs its key"));
    }
    table.set("max_wait", max_wait, timeout);
    table.set("max_waits", max_waits, count);
    table.set("body_limit", body_limit, count);
    table.set("header_timeout", header_timeout, timeout);
    table.set("idle_timeout", idle_timeout, timeout);
    table.set("body_timeout", body_timeout, timeout);
    table.set("allowed_origins", allowed_origins, parsed_list);
    table.set("trusted_proxies", trusted_proxies, parsed_list);
    table.set("base_path", base_path, parsed);
    table.finish();
}

fn pool_section(table: &mut Table<'_>) -> Pool {
    let mut pool = Pool::default();
    table.set("machines", &mut pool.machines, parsed_list);
    table.set("max_ttl", &mut pool.max_ttl, |value| timeout(value).map(Some));
    table.set("may_keep_power", &mut pool.may_keep_power, boolean);
    table.set("protected_snapshots", &mut pool.protected_snapshots, texts);
    table.set("screens", &mut pool.screens, |value| match text(value)? {
        "lease" => Ok(ScreenAccess::Lease),
        "public" => Ok(ScreenAccess::Public),
        _ => Err("expected lease or public".to_owned()),
    });
    table.set("serial", &mut pool.serial, |value| match text(value)? {
        "lease" => Ok(SerialAccess::Lease),
        "always" => Ok(SerialAccess::Always),
        _ => Err("expected lease or always".to_owned()),
    });
    running_limits(table, &mut pool.limits);
    let present = table.has("prepare");
    let mut inner = table.table("prepare");
    let mut prepare = Prepare::default();
    inner.set("snapshot", &mut prepare.snapshot, |value| values::not_empty(text(value)?).map(Some));
    inner.set("power", &mut prepare.power, |value| match text(value)? {
        "on" => Ok(Some(PowerState::On)),
        "off" => Ok(Some(PowerState::Off)),
        _ => Err("expected on or off".to_owned()),
    });
    inner.set("until", &mut prepare.until, |value| {
        Readiness::parse(text(value)?).map(Some).map_err(|error| format!("the text {error}"))
    });
    inner.set("cidr", &mut prepare.cidr, |value| parsed(value).map(Some));
    if prepare.cidr.is_some() && prepare.until != Some(Readiness::Address) {
        inner.problem(
            "cidr",
            "it is the network of the address that until waits for: set until to ip",
        );
    }
    inner.set("settle", &mut prepare.settle, |value| timeout(value).map(Some));
    inner.finish();
    pool.prepare = present.then_some(prepare);
    let present = table.has("release");
    let mut inner = table.table("release");
    let mut release = Release::default();
    inner.set("power", &mut release.keep_power, |value| match text(value)? {
        "off" => Ok(false),
        "keep" => Ok(true),
        _ => Err("expected off or keep".to_owned()),
    });
    inner.set("snapshot", &mut release.snapshot, |value| values::not_empty(text(value)?).map(Some));
    inner.finish();
    pool.release = present.then_some(release);
    let present = table.has("record");
    let mut inner = table.table("record");
    let mut record = Record::default();
    inner.set("screen", &mut record.screen, boolean);
    inner.set("serial", &mut record.serial, port_choices);
    inner.finish();
    pool.record = present.then_some(record);
    pool.answers = answer_rules(table.table("answers"));
    pool
}

fn answer_rules(mut table: Table<'_>) -> AnswerRules {
    AnswerRules(table.take_all(answer_rule).into_iter().collect())
}

/// Reads an answer rule: the id of a message, and the label of the choice that answers it.
fn answer_rule(message: &str, label: &DeValue<'_>) -> Result<(String, String), String> {
    const EXAMPLE: &str = "\"msg.uuid.altered\" = \"button.uuid.copiedTheVM\"";
    if message.is_empty()
        || message.contains(|character: char| character.is_whitespace() || character.is_control())
    {
        return Err(format!("this cannot be the id of a message; write one, as in {EXAMPLE}"));
    }
    // If the id of the message is not in quotes, TOML reads each dot in it as the beginning of a
    // subsection. The value is then a table instead of a text.
    let label = label.as_str().ok_or_else(|| {
        let kind = kind(label);
        format!("expected the label of a choice, not {kind}; write both in quotes, as in {EXAMPLE}")
    })?;
    if label.trim().is_empty() || label != label.trim() || label.contains(char::is_control) {
        return Err(format!("this cannot be the label of a choice; write one, as in {EXAMPLE}"));
    }
    Ok((message.to_owned(), label.to_owned()))
}

fn running_limits(table: &mut Table<'_>, limits: &mut RunningLimits) {
    let RunningLimits { max_running, max_memory_bytes } = limits;
    table
        .set("max_running", max_running, |value| integer(value, 1..=i64::from(u32::MAX)).map(Some));
    table.set("max_memory_bytes", max_memory_bytes, |value| integer(value, 1..=i64::MAX).map(Some));
}

fn esx_section(mut table: Table<'_>, esx: &mut Esx, password: &mut Password) {
    let Esx {
        url,
        username,
        // The password is read later, because the environment may name another password file.
        password: _,
        headers,
        verify,
        proxy,
        machine_name,
        connect_timeout,
        read_timeout,
        settle,
        guest_settle,
        outage_grace,
        answer_limit,
        limits,
    } = esx;
    table.set("url", url, |value| values::host_url(text(value)?).map(Some));
    table.set("username", username, |value| values::not_empty(text(value)?).map(Some));
    let given =
        table.take("password", |value| values::not_empty(text(value)?).map(SecretString::from));
    let file = table.take("password_file", some_path);
    match (given, file.flatten()) {
        (None, None) => {}
        (Some(given), None) => *password = Password::Given(given),
        (None, Some(file)) => {
            *password = Password::InFile { file, named_by: "esx.password_file".to_owned() };
        }
        (Some(_), Some(_)) => {
            table.problem("password", "esx.password_file is also set: remove one of them");
        }
    }
    let mut inner = table.table("headers");
    headers.extend(inner.take_all(header));
    table.set("verify", verify, |value| match value {
        DeValue::Boolean(verify) => values::parsed(if *verify { "true" } else { "false" }),
        DeValue::String(text) => values::parsed(text),
        other => Err(format!(
            "expected true, false, \"ca:<file>\" or \"sha256:<fingerprint>\", not {}",
            kind(other)
        )),
    });
    table.set("proxy", proxy, |value| parsed(value).map(Some));
    table.set("machine_name", machine_name, |value| values::not_empty(text(value)?).map(Some));
    table.set("connect_timeout", connect_timeout, timeout);
    table.set("read_timeout", read_timeout, timeout);
    table.set("settle", settle, any_duration);
    table.set("guest_settle", guest_settle, any_duration);
    table.set("outage_grace", outage_grace, any_duration);
    table.set("answer_limit", answer_limit, count);
    running_limits(&mut table, limits);
    table.finish();
}

/// The text of the file, the problems found in it, and the keys that otter knows.
struct Source<'a> {
    text: &'a str,
    path: &'a Path,
    problems: RefCell<Vec<ConfigProblem>>,
    known: RefCell<Vec<String>>,
    values: RefCell<ConfigValues>,
}

impl Source<'_> {
    fn problem(&self, offset: Option<usize>, at: &str, message: impl Into<String>) {
        let before = offset.and_then(|offset| self.text.get(..offset));
        let line = before.map(|before| 1 + before.matches('\n').count());
        self.problems.borrow_mut().push(ConfigProblem {
            line,
            at: at.to_owned(),
            ..ConfigProblem::in_file(self.path, message)
        });
    }
}

/// One table of the file. The reader takes its keys one by one. The keys that are left are unknown
/// to otter.
struct Table<'a> {
    source: &'a Source<'a>,
    /// The beginning of the full paths of the table's keys. It ends with a dot, or is empty for the
    /// root table.
    prefix: String,
    entries: BTreeMap<&'a str, (usize, &'a Spanned<DeValue<'a>>)>,
    known_keys: Vec<&'static str>,
    /// The offset in the file at which each taken key stands.
    taken: BTreeMap<&'static str, usize>,
}

impl<'a> Table<'a> {
    fn new(source: &'a Source<'a>, prefix: String, table: Option<&'a DeTable<'a>>) -> Self {
        let entries = table
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.get_ref().as_ref(), (key.span().start, value)))
            .collect();
        Self { source, prefix, entries, known_keys: Vec::new(), taken: BTreeMap::new() }
    }

    /// Takes a key from the table and reads its value. `None` if the key is absent or its value is
    /// invalid.
    fn take<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Option<T> {
        self.known_keys.push(key);
        self.source.known.borrow_mut().push(format!("{}{key}", self.prefix));
        let (offset, value) = self.entries.remove(key)?;
        self.taken.insert(key, offset);
        match read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(key, message);
                None
            }
        }
    }

    /// Takes a key and stores its value in `place`. If the key is absent or its value is invalid,
    /// `place` keeps its old value.
    fn set<T: Debug>(
        &mut self,
        key: &'static str,
        place: &mut T,
        read: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) {
        if let Some(value) = self.take(key, read) {
            *place = value;
        }
        self.source.values.borrow_mut().set(format!("{}{key}", self.prefix), place);
    }

    /// Takes all keys that are left, whatever their names are.
    fn take_all<T>(&mut self, read: impl Fn(&str, &DeValue<'a>) -> Result<T, String>) -> Vec<T> {
        let mut all = Vec::new();
        for (key, (offset, value)) in std::mem::take(&mut self.entries) {
            self.source.values.borrow_mut().set(format!("{}{key}", self.prefix), value.get_ref());
            match read(key, value.get_ref()) {
                Ok(value) => all.push(value),
                Err(message) => {
                    self.source.problem(Some(offset), &format!("{}{key}", self.prefix), message);
                }
            }
        }
        all
    }

    /// Takes a table within this table. If it is absent, an empty table is returned.
    fn table(&mut self, key: &'static str) -> Table<'a> {
        self.known_keys.push(key);
        let path = format!("{}{key}", self.prefix);
        let table = match self.entries.remove(key) {
            None => None,
            Some((offset, value)) => match value.get_ref() {
                DeValue::Table(table) => Some(table),
                other => {
                    let message = format!("expected a section [{path}], not {}", kind(other));
                    self.source.problem(Some(offset), &path, message);
                    None
                }
            },
        };
        Self::new(self.source, format!("{path}."), table)
    }

    /// Whether the table has this key and no reader has taken it yet.
    fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Takes every key that is left as a table within this table, whatever its name is.
    fn tables(mut self) -> Vec<(String, Table<'a>)> {
        let mut all = Vec::new();
        for (key, (offset, value)) in std::mem::take(&mut self.entries) {
            let path = format!("{}{key}", self.prefix);
            match value.get_ref() {
                DeValue::Table(table) => {
                    all.push((
                        key.to_owned(),
                        Self::new(self.source, format!("{path}."), Some(table)),
                    ));
                }
                other => {
                    let message = format!("expected a section [{path}], not {}", kind(other));
                    self.source.problem(Some(offset), &path, message);
                }
            }
        }
        all
    }

    fn problem(&self, key: &str, message: impl Into<String>) {
        self.source.problem(
            self.taken.get(key).copied(),
            &format!("{}{key}", self.prefix),
            message,
        );
    }

    /// Reports each key that no reader has taken as an unknown key.
    fn finish(self) {
        for (key, (offset, _)) in &self.entries {
            let nearest = self.known_keys.iter().max_by(|one, other| {
                strsim::jaro_winkler(one, key).total_cmp(&strsim::jaro_winkler(other, key))
            });
            let hint = nearest.map(|nearest| format!("; did you mean {}{nearest}?", self.prefix));
            let message = format!("there is no such key{}", hint.unwrap_or_default());
            self.source.problem(Some(*offset), &format!("{}{key}", self.prefix), message);
        }
    }
}

/// Names the type of a value, for messages.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("expected a string in quotes, not {}", kind(value)))
}

fn parsed<T: FromStr<Err: Display>>(value: &DeValue<'_>) -> Result<T, String> {
    values::parsed(text(value)?)
}

fn some_path(value: &DeValue<'_>) -> Result<Option<PathBuf>, String> {
    values::not_empty(text(value)?).map(|path| Some(PathBuf::from(path)))
}

fn texts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let wrong = |value: &DeValue<'_>| format!("expected a list of strings, not {}", kind(value));
    let list = value.as_array().ok_or_else(|| wrong(value))?;
    list.iter()
        .map(|item| match item.get_ref() {
            DeValue::String(text) => values::not_empty(text),
            other => Err(format!("expected a list of strings, but one item is {}", kind(other))),
        })
        .collect()
}

/// A program and its arguments.
fn command(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match texts(value)? {
        command if command.is_empty() => Err("expected the name of a program".to_owned()),
        command => Ok(command),
    }
}

fn parsed_list<T: FromStr<Err: Display>>(value: &DeValue<'_>) -> Result<Vec<T>, String> {
    let parse =
        |text: String| values::parsed(&text).map_err(|message| format!("{text:?}: {message}"));
    texts(value)?.into_iter().map(parse).collect()
}

fn port_choices(value: &DeValue<'_>) -> Result<Vec<PortChoice>, String> {
    let parse =
        |text: String| PortChoice::parse(&text).map_err(|error| format!("{text:?} {error}"));
    texts(value)?.into_iter().map(parse).collect()
}

fn integer<T: TryFrom<i64>>(value: &DeValue<'_>, range: RangeInclusive<i64>) -> Result<T, String> {
    let expected = || format!("expected a number from {} to {}", range.start(), range.end());
    let integer =
        value.as_integer().ok_or_else(|| format!("{}, not {}", expected(), kind(value)))?;
    i64::from_str_radix(integer.as_str(), integer.radix())
        .ok()
        .filter(|number| range.contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(expected)
}

fn count(value: &DeValue<'_>) -> Result<usize, String> {
    integer(value, 1..=i64::from(u32::MAX))
}

fn days(value: &DeValue<'_>) -> Result<u32, String> {
    integer(value, 1..=36_500)
}

/// Reads a size in bytes.
fn bytes(value: &DeValue<'_>) -> Result<u64, String> {
    integer(value, 1..=i64::MAX)
}

/// Reads the maximum size of the audit. The smallest allowed size has room for the refused calls of
/// one minute.
fn audit_bytes(value: &DeValue<'_>) -> Result<u64, String> {
    integer(value, 1_048_576..=i64::MAX)
}

/// Reads the maximum size of the output of a serial port. The smallest allowed size is what otter
/// keeps in memory.
fn log_size(value: &DeValue<'_>) -> Result<u64, String> {
    integer(value, 1_048_576..=i64::MAX)
}

fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        other => Err(format!("expected true or false, not {}", kind(other))),
    }
}

fn any_duration(value: &DeValue<'_>) -> Result<Duration, String> {
    let text = match value {
        DeValue::String(text) => text,
        // A number without a unit means seconds, as it does in a text.
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        other => {
            return Err(format!(
                "expected a duration, such as \"30s\" or \"1h30m\", not {}",
                kind(other)
            ));
        }
    };
    duration::parse(text).map_err(|error| error.to_string())
}

/// Reads a duration that must not be zero.
fn timeout(value: &DeValue<'_>) -> Result<Duration, String> {
    match any_duration(value)? {
        Duration::ZERO => Err("the duration must not be zero".to_owned()),
        duration => Ok(duration),
    }
}

fn deadline(value: &DeValue<'_>) -> Result<Duration, String> {
    let deadline = any_duration(value)?;
    if DEADLINES.contains(&deadline) {
        Ok(deadline)
    } else {
        Err("a deadline is from 1s to 7d".to_owned())
    }
}

/// Reads an HTTP header. The value may be a secret, so no message contains it.
fn header(name: &str, value: &DeValue<'_>) -> Result<(http::HeaderName, SecretString), String> {
    let name = name.parse().map_err(|_| "this cannot be the name of a header".to_owned())?;
    let value = text(value)?;
    http::HeaderValue::from_str(value)
        .map_err(|_| "its value cannot be that of a header".to_owned())?;
    Ok((name, SecretString::from(value)))
}
