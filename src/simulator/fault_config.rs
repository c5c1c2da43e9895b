//! Faults as they are written in `[[faults]]` of a scenario and in requests to the admin endpoint.
//! Unknown keys are errors, and methods and fault types must exist in vim25.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::console::{ConsoleEnd, ConsoleQuirks};
use super::fault_injection::{Disruption, DownMode, HostChange, HostdRestart};
use super::files_entry::{FilesEntry, TransferEntry};
use super::scenario::{QuestionEntry, ScenarioQuestion, StageEntry};
use super::schema::{self, Occurs, TypeKind};
use super::serial::SerialEntry;
use super::value::{Moref, Value};
use super::vim_fault::Fault;

/// Calls that are no methods of vim25: the use of a ticket, the picture of a screen, and a file.
/// The last ones are the methods by which a file is used.
const HTTP_CALLS: [&str; 7] = [
    "/ticket",
    "/screen",
    "/folder",
    "GET /folder",
    "HEAD /folder",
    "PUT /folder",
    "DELETE /folder",
];

/// A checked fault: a disruption of later calls, or an immediate change of the host.
#[derive(Clone, Debug)]
pub enum ConfiguredFault {
    /// Disrupts `times` calls of the method (`None`: all calls) after `skip` undisturbed calls.
    Calls {
        method: String,
        skip: u64,
        times: Option<u64>,
        disruption: Disruption,
    },
    Now(HostChange),
}

/// A fault, as a scenario or a request to the admin endpoint writes it.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultEntry {
    /// The method whose calls are disrupted. `*` means every method. If no method is given, the
    /// fault changes the host at once.
    method: Option<String>,
    /// The number of calls that run undisturbed before the first disrupted call.
    #[serde(default)]
    skip: u64,
    /// The number of calls that are disrupted. 0 means that every later call is disrupted.
    #[serde(default = "default_times")]
    times: u64,
    #[serde(rename = "what")]
    kind: FaultKindEntry,
}

/// The kinds of faults that a scenario or a request to the admin endpoint can name. They write the
/// name of the variant in kebab-case.
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
    RemovalsLeaveDisks {
        #[serde(default = "default_true")]
        leave: bool,
    },
    FailNextTask {
        task: String,
        fault: VimFaultEntry,
    },
    FailTasks {
        task: String,
        /// The fault with which every task of the method ends. If `fault` is absent, the tasks no
        /// longer fail.
        fault: Option<VimFaultEntry>,
    },
    MaintenanceMode {
        #[serde(default = "default_true")]
        enabled: bool,
    },
    Question {
        machine: String,
        ask: QuestionEntry,
    },
    ConsoleQuirks(ConsoleQuirks),
    /// Ends the consoles of a machine, or of all machines if `machine` is absent.
    EndConsoles {
        machine: Option<String>,
        /// Whether the host closes the WebSocket. If not, the connection is cut.
        #[serde(default)]
        close: bool,
    },
    AbandonConsoles {
        machine: String,
        #[serde(default = "default_abandoned")]
        count: i32,
    },
    ForgetAbandonedConsoles,
    ShowScreen {
        machine: String,
        stage: StageEntry,
    },
    Serial(SerialEntry),
    Transfer(TransferEntry),
    Files(FilesEntry),
}

/// A fault of vim25, as a scenario writes it: the name of its type alone, or a table of the type, a
/// message and fields.
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
    /// Checks the entry against the methods and fault types of vim25.
    ///
    /// # Errors
    /// A text for people that names what is wrong with the entry.
    pub fn check(self) -> Result<ConfiguredFault, String> {
        let Self { method, skip, times, kind } = self;
        match (method, kind.check()?) {
            (None, Disruption::HostChange(change)) => Ok(ConfiguredFault::Now(change)),
            (None, _) => {
                Err("this fault disrupts a call: name a method, or * for every method".to_owned())
            }
            (Some(method), disruption) => {
                if method != "*" && !HTTP_CALLS.contains(&method.as_str()) {
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
                    return Err(format!("{status} is not a status from 200 to 599"));
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
            Self::RemovalsLeaveDisks { leave } => {
                Disruption::HostChange(HostChange::RemovalsLeaveDisks(leave))
            }
            Self::FailNextTask { task, fault } => {
                let method = known_task_method(&task)?;
                Disruption::HostChange(HostChange::FailNextTask(method, fault.check()?))
            }
            Self::FailTasks { task, fault } => {
                let method = known_task_method(&task)?;
                let fault = fault.map(VimFaultEntry::check).transpose()?;
                Disruption::HostChange(HostChange::FailTasks(method, fault))
            }
            Self::MaintenanceMode { enabled } => {
                Disruption::HostChange(HostChange::MaintenanceMode(enabled))
            }
            Self::Question { machine, ask } => {
                let ScenarioQuestion { question, pending, repeats } = ask.convert();
                Disruption::HostChange(HostChange::Question {
                    machine,
                    question: Box::new(question),
                    pending,
                    repeats,
                })
            }
            Self::ConsoleQuirks(quirks) => {
                Disruption::HostChange(HostChange::ConsoleQuirks(quirks))
            }
            Self::EndConsoles { machine, close } => {
                let how = if close { ConsoleEnd::Close } else { ConsoleEnd::Cut };
                Disruption::HostChange(HostChange::EndConsoles { machine, how })
            }
            Self::AbandonConsoles { machine, count } => {
                Disruption::HostChange(HostChange::AbandonConsoles { machine, count })
            }
            Self::ForgetAbandonedConsoles => {
                Disruption::HostChange(HostChange::ForgetAbandonedConsoles)
            }
            Self::ShowScreen { machine, stage } => {
                let stage = stage.convert();
                Disruption::HostChange(HostChange::ShowScreen { machine, stage })
            }
            Self::Serial(entry) => Disruption::HostChange(HostChange::Serial(entry.check()?)),
            Self::Transfer(entry) => Disruption::Transfer(entry.check()?),
            Self::Files(entry) => Disruption::HostChange(HostChange::Files(entry.check()?)),
        })
    }
}

impl VimFaultEntry {
    /// Checks the entry and makes the vim25 fault. A required field that the entry leaves out gets
    /// a placeholder, but a required reference must be given.
    fn check(self) -> Result<Fault, String> {
        let DetailedFaultEntry { type_name, message, mut fields } = match self {
            Self::Type(type_name) => {
                DetailedFaultEntry { type_name, message: None, fields: BTreeMap::new() }
            }
            Self::Detailed(fault) => fault,
        };
        let name = schema::known_type_name(&type_name)
            .filter(|name| schema::kind(name) == Some(TypeKind::Fault))
            .ok_or_else(|| format!("the simulator knows no fault {type_name:?}"))?;
        let message = message.unwrap_or_else(|| usual_message(name));
        let mut fault = Fault::new(name, message);
        for field in schema::fields(name).unwrap_or_default() {
            let value = match fields.remove(field.name) {
                Some(id) if field.reference => Value::Reference(Moref::new(field.type_name, id)),
                Some(text) => Value::Text(text),
                None if field.occurs == Occurs::Once && !field.reference => {
                    Value::Text(placeholder(field.type_name).to_owned())
                }
                None if field.occurs == Occurs::Once => {
                    return Err(format!("the field {} of {name} is required", field.name));
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
        .ok_or_else(|| format!("the simulator has no vim25 method {name:?}"))
}

fn known_task_method(name: &str) -> Result<&'static str, String> {
    let method = known_method(name)?;
    if method.ends_with("_Task") { Ok(method) } else { Err(format!("{method} starts no task")) }
}

/// The placeholder for a required field of this type, if a scenario leaves the field out.
fn placeholder(type_name: &str) -> &'static str {
    match type_name {
        "byte" | "short" | "int" | "long" | "float" | "double" => "0",
        "boolean" => "false",
        _ => "simulated",
    }
}

/// The message that real hosts send with a fault of this type, or a placeholder if it is not known.
fn usual_message(name: &str) -> String {
    match name {
        "RestrictedVersion" => Fault::restricted_version().message,
        "InvalidLogin" => Fault::invalid_login().message,
        "NotAuthenticated" => Fault::not_authenticated().message,
        "ToolsUnavailable" => Fault::tools_unavailable().message,
        "NotSupported" => Fault::not_supported().message,
        "NoPermission" => "Permission to perform this operation was denied.".to_owned(),
        "InsufficientResourcesFault" => {
            "The available resources in the parent resource pool are insufficient for the \
             operation."
                .to_owned()
        }
        _ => format!("{name} was injected."),
    }
}

const fn default_times() -> u64 {
    1
}
const fn default_abandoned() -> i32 {
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
    fn every_kind_can_be_written() {
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
            r#"{"fault": "InsufficientMemoryResourcesFault"}"#,
            r#"{"fault": "InvalidHostState"}"#,
            r#"{"fault": {"type": "NoPermission", "fields": {"privilegeId": "System.View"}}}"#,
            r#""expire-sessions""#,
            r#"{"restart-hostd": {"away": "unavailable", "drop_running": true}}"#,
            r#""resume""#,
            r#""reboot-host""#,
            r#""vanish-tasks""#,
            r#"{"refuse-logins": {}}"#,
            r#"{"licence": {"read_only": false}}"#,
            r#"{"account": {}}"#,
            r#"{"removals-leave-disks": {}}"#,
            r#"{"fail-next-task": {"task": "PowerOnVM_Task", "fault": "NoDiskSpace"}}"#,
            r#"{"fail-tasks": {"task": "PowerOnVM_Task", "fault": "NoDiskSpace"}}"#,
            r#"{"fail-tasks": {"task": "PowerOnVM_Task"}}"#,
            r#"{"maintenance-mode": {}}"#,
            r#"{"console-quirks": {"first_update": "one-pixel", "rectangles": 1}}"#,
            r#"{"end-consoles": {"machine": "17", "close": true}}"#,
            r#"{"abandon-consoles": {"machine": "17", "count": 39}}"#,
            r#""forget-abandoned-consoles""#,
            r#"{"show-screen": {"machine": "17", "stage": "terminal"}}"#,
            r#"{"serial": {"cut": {"machine": "16"}}}"#,
            r#"{"transfer": {"after_bytes": 10, "then": "stall", "bytes_per_second": 100}}"#,
            r#"{"files": {"put": {"path": "[isos] a.iso", "bytes": 10}}}"#,
            r#"{"files": {"make-folder": {"path": "[isos] iso"}}}"#,
            r#"{"files": {"remove": {"path": "[isos] a.iso"}}}"#,
            r#"{"files": {"lock": {"path": "[isos] a.iso"}}}"#,
            r#"{"files": {"lock-drives": {"machine": "16", "locked": false}}}"#,
            r#"{"files": {"datastore": {"name": "isos", "free_bytes": 0, "accessible": false}}}"#,
        ] {
            read(&format!(r#"{{"method": "PowerOnVM_Task", "what": {what}}}"#))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }

    #[test]
    fn an_invalid_entry_is_an_error() {
        for (entry, expected) in [
            (r#"{"what": "close-before"}"#, "name a method"),
            (r#"{"method": "PowerOn", "what": "close-before"}"#, "PowerOn"),
            (r#"{"method": "*", "what": "explode"}"#, "explode"),
            (r#"{"method": "*", "what": {"delay": {"seconds": 1}}}"#, "seconds"),
            (r#"{"method": "*", "what": {"fault": "NoSuchFault"}}"#, "NoSuchFault"),
            (r#"{"method": "*", "what": {"fault": "TaskInProgress"}}"#, "task"),
            (
                r#"{"method": "*",
                    "what": {"fault": {"type": "NoPermission", "fields": {"x": "y"}}}}"#,
                "x",
            ),
            (
                r#"{"what": {"fail-next-task": {"task": "Login", "fault": "NoDiskSpace"}}}"#,
                "starts no task",
            ),
            (r#"{"what": {"fail-tasks": {"task": "RenameSnapshot"}}}"#, "starts no task"),
            (r#"{"what": {"maintenance-mode": {"on": true}}}"#, "on"),
            (r#"{"what": {"console-quirks": {"rectangels": 1}}}"#, "rectangels"),
            (r#"{"what": {"show-screen": {"machine": "17", "stage": "x"}}}"#, "x"),
            (r#"{"what": {"serial": {"cut": {"machine": "16", "port": "x"}}}}"#, "ttyS0"),
            (r#"{"method": "/vmfs", "what": "close-before"}"#, "/vmfs"),
            (r#"{"what": {"transfer": {"after_bytes": 1}}}"#, "name a method"),
            (r#"{"method": "PUT /folder", "what": {"transfer": {"then": 99}}}"#, "99"),
            (r#"{"what": {"files": {"lock": {"path": "a.iso"}}}}"#, "a.iso"),
            (r#"{"method": "*", "what": {"answer": {"status": 99}}}"#, "99"),
        ] {
            let error = read(entry).expect_err(entry);
            assert!(error.contains(expected), "{entry}: {error}");
        }
    }
}
