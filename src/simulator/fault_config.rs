//! What can be made to go wrong, in words: the entries of `[[faults]]` in a scenario, and what the
//! admin endpoint takes. Read strictly, and checked against what vim25 has.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::fault_injection::{Disruption, DownMode, HostChange, HostdRestart};
use super::scenario::QuestionEntry;
use super::schema::{self, Occurs, TypeKind};
use super::value::{Moref, Value};
use super::vim_fault::Fault;

/// Something that goes wrong: with a call to come, or at once.
#[derive(Clone, Debug)]
pub enum ConfiguredFault {
    /// `times` calls of the method (`None`: all) are hit after `skip` more went well.
    Calls {
        method: String,
        skip: u64,
        times: Option<u64>,
        disruption: Disruption,
    },
    Now(HostChange),
}

/// A mishap as it is written.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultEntry {
    /// The method whose calls are hit, or `*`; without one it happens at once.
    method: Option<String>,
    /// How many calls go well before.
    #[serde(default)]
    skip: u64,
    /// How many calls are hit; 0: all.
    #[serde(default = "default_times")]
    times: u64,
    #[serde(rename = "what")]
    kind: FaultKindEntry,
}

/// The kinds, by the words that stand for them.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum FaultKindEntry {
    Fault(VimFaultEntry),
    CloseBefore,
    CloseAfter,
    CloseMidAnswer,
    NeverAnswer {
        #[serde(default)]
        run: bool,
    },
    Answer {
        status: u16,
        #[serde(default)]
        content_type: ContentType,
        #[serde(default)]
        body: String,
    },
    EmptyAnswer,
    Delay {
        ms: u64,
    },
    ExpireSessions,
    RestartHostd {
        away: Option<DownModeEntry>,
        #[serde(default)]
        drop_running: bool,
    },
    Resume,
    RebootHost,
    VanishTasks,
    RefuseLogins {
        #[serde(default = "default_true")]
        refuse: bool,
    },
    Licence {
        #[serde(default = "default_true")]
        read_only: bool,
    },
    Account {
        #[serde(default = "default_true")]
        read_only: bool,
    },
    FailNextTask {
        task: String,
        fault: VimFaultEntry,
    },
    Question {
        machine: String,
        ask: QuestionEntry,
    },
}

/// A fault of vim25: its type, or its type with more.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum VimFaultEntry {
    Type(String),
    Detailed(DetailedFaultEntry),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DetailedFaultEntry {
    #[serde(rename = "type")]
    type_name: String,
    message: Option<String>,
    #[serde(default)]
    fields: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DownModeEntry {
    Refuse,
    Unavailable,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum ContentType {
    #[default]
    #[serde(rename = "text/html")]
    Html,
    #[serde(rename = "text/xml")]
    Xml,
    #[serde(rename = "text/plain")]
    Plain,
    #[serde(rename = "application/json")]
    Json,
}

impl FaultEntry {
    /// Checks it against what vim25 has.
    ///
    /// # Errors
    /// What is wrong, told for people.
    pub fn check(self) -> Result<ConfiguredFault, String> {
        let Self { method, skip, times, kind } = self;
        match (method, kind.check()?) {
            (None, Disruption::HostChange(event)) => Ok(ConfiguredFault::Now(event)),
            (None, _) => {
                Err("this happens to a call: a method, or * for any, is wanted".to_owned())
            }
            (Some(method), disruption) => {
                if method != "*" {
                    known_method(&method)?;
                }
                Ok(ConfiguredFault::Calls {
                    method,
                    skip,
                    times: (times > 0).then_some(times),
                    disruption,
                })
            }
        }
    }
}

impl FaultKindEntry {
    fn check(self) -> Result<Disruption, String> {
        Ok(match self {
            Self::Fault(fault) => Disruption::Fault(fault.check()?),
            Self::CloseBefore => Disruption::CloseBeforeRunning,
            Self::CloseAfter => Disruption::CloseAfterRunning,
            Self::CloseMidAnswer => Disruption::CloseMidAnswer,
            Self::NeverAnswer { run } => Disruption::NeverAnswer { run },
            Self::Answer { status, content_type, body } => {
                if !(200..=599).contains(&status) {
                    return Err(format!("{status} is no status of an answer"));
                }
                Disruption::Answer { status, content_type: content_type.as_str(), body }
            }
            Self::EmptyAnswer => Disruption::EmptyAnswer,
            Self::Delay { ms } => Disruption::Delay(Duration::from_millis(ms)),
            Self::ExpireSessions => Disruption::HostChange(HostChange::ExpireSessions),
            Self::RestartHostd { away, drop_running } => {
                let down = away.map(|away| match away {
                    DownModeEntry::Refuse => DownMode::Refuse,
                    DownModeEntry::Unavailable => DownMode::Unavailable,
                });
                Disruption::HostChange(HostChange::RestartHostd(HostdRestart {
                    down,
                    drop_running,
                }))
            }
            Self::Resume => Disruption::HostChange(HostChange::Resume),
            Self::RebootHost => Disruption::HostChange(HostChange::RebootHost),
            Self::VanishTasks => Disruption::HostChange(HostChange::VanishTasks),
            Self::RefuseLogins { refuse } => {
                Disruption::HostChange(HostChange::RefuseLogins(refuse))
            }
            Self::Licence { read_only } => {
                Disruption::HostChange(HostChange::ReadOnlyLicence(read_only))
            }
            Self::Account { read_only } => {
                Disruption::HostChange(HostChange::ReadOnlyAccount(read_only))
            }
            Self::FailNextTask { task, fault } => {
                let method = known_method(&task)?;
                if !method.ends_with("_Task") {
                    return Err(format!("{method} has no task"));
                }
                Disruption::HostChange(HostChange::FailNextTask(method, fault.check()?))
            }
            Self::Question { machine, ask } => {
                let (question, pending) = ask.convert();
                Disruption::HostChange(HostChange::Question {
                    machine,
                    question: Box::new(question),
                    pending,
                })
            }
        })
    }
}

impl VimFaultEntry {
    /// The fault, with every field that its type must have.
    fn check(self) -> Result<Fault, String> {
        let DetailedFaultEntry { type_name, message, mut fields } = match self {
            Self::Type(type_name) => {
                DetailedFaultEntry { type_name, message: None, fields: BTreeMap::new() }
            }
            Self::Detailed(fault) => fault,
        };
        let name = schema::known_type_name(&type_name)
            .filter(|name| schema::kind(name) == Some(TypeKind::Fault))
            .ok_or_else(|| format!("{type_name:?} is no fault that the simulator knows"))?;
        let message = message.unwrap_or_else(|| usual_message(name));
        let mut fault = Fault::new(name, message);
        for field in schema::fields(name).unwrap_or_default() {
            let value = match fields.remove(field.name) {
                Some(id) if field.reference => Value::Reference(Moref::new(field.type_name, id)),
                Some(text) => Value::Text(text),
                None if field.occurs == Occurs::Once && !field.reference => {
                    Value::Text("simulated".to_owned())
                }
                None if field.occurs == Occurs::Once => {
                    return Err(format!("{name} has a field {} that must be given", field.name));
                }
                None => continue,
            };
            fault = fault.with(field.name, value);
        }
        match fields.into_keys().next() {
            Some(unknown) => Err(format!("{name} has no field {unknown}")),
            None => Ok(fault),
        }
    }
}

impl ContentType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Html => "text/html",
            Self::Xml => "text/xml",
            Self::Plain => "text/plain",
            Self::Json => "application/json",
        }
    }
}

fn known_method(name: &str) -> Result<&'static str, String> {
    schema::known_method_name(name)
        .ok_or_else(|| format!("{name:?} is no method of vim25 that the simulator knows"))
}

/// What hosts say with the faults that are met most.
fn usual_message(name: &str) -> String {
    match name {
        "RestrictedVersion" => Fault::restricted_version().message,
        "NotAuthenticated" => Fault::not_authenticated().message,
        "ToolsUnavailable" => Fault::tools_unavailable().message,
        "NotSupported" => Fault::not_supported().message,
        "NoPermission" => "Permission to perform this operation was denied.".to_owned(),
        "InsufficientResourcesFault" => {
            "The available resources in the parent resource pool are insufficient for the operation."
                .to_owned()
        }
        _ => format!("{name}, as planned."),
    }
}

const fn default_times() -> u64 {
    1
}
const fn default_true() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ConfiguredFault, String> {
        serde_json::from_str::<FaultEntry>(text).map_err(|error| error.to_string())?.check()
    }

    #[test]
    fn every_kind_has_its_words() {
        for what in [
            r#""close-before""#,
            r#""close-after""#,
            r#""close-mid-answer""#,
            r#"{"never-answer": {}}"#,
            r#"{"never-answer": {"run": true}}"#,
            r#"{"answer": {"status": 503, "body": "<html>"}}"#,
            r#""empty-answer""#,
            r#"{"delay": {"ms": 20}}"#,
            r#"{"fault": "InsufficientResourcesFault"}"#,
            r#"{"fault": {"type": "NoPermission", "fields": {"privilegeId": "System.View"}}}"#,
            r#""expire-sessions""#,
            r#"{"restart-hostd": {"away": "unavailable", "drop_running": true}}"#,
            r#""resume""#,
            r#""reboot-host""#,
            r#""vanish-tasks""#,
            r#"{"refuse-logins": {}}"#,
            r#"{"licence": {"read_only": false}}"#,
            r#"{"account": {}}"#,
            r#"{"fail-next-task": {"task": "PowerOnVM_Task", "fault": "NoDiskSpace"}}"#,
        ] {
            read(&format!(r#"{{"method": "PowerOnVM_Task", "what": {what}}}"#))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (entry, wanted) in [
            (r#"{"what": "close-before"}"#, "a method"),
            (r#"{"method": "PowerOn", "what": "close-before"}"#, "PowerOn"),
            (r#"{"method": "*", "what": "explode"}"#, "explode"),
            (r#"{"method": "*", "what": {"delay": {"seconds": 1}}}"#, "seconds"),
            (r#"{"method": "*", "what": {"fault": "NoSuchFault"}}"#, "NoSuchFault"),
            (r#"{"method": "*", "what": {"fault": "TaskInProgress"}}"#, "task"),
            (
                r#"{"method": "*", "what": {"fault": {"type": "NoPermission", "fields": {"x": "y"}}}}"#,
                "x",
            ),
            (
                r#"{"what": {"fail-next-task": {"task": "Login", "fault": "NoDiskSpace"}}}"#,
                "no task",
            ),
            (r#"{"method": "*", "what": {"answer": {"status": 99}}}"#, "99"),
        ] {
            let error = read(entry).expect_err(entry);
            assert!(error.contains(wanted), "{entry}: {error}");
        }
    }
}
