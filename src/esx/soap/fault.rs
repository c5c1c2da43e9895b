//! Faults of vim25, and which kind of failure each of them is. The most derived type decides:
//! `NotAuthenticated` has a kind of its own although it extends `NoPermission`, and so has
//! `InvalidPowerState`, which extends `InvalidState`.

use std::collections::BTreeMap;

use super::Reference;
use super::xml::Element;
use crate::domain::failure::Fault;
use crate::domain::ids::TaskId;
use crate::hypervisor::{HostError, HostErrorKind};

/// The fields of a fault that contain its causes. Only the types and the messages of the causes are
/// kept.
const NESTED: [&str; 2] = ["faultCause", "fault"];

/// The maximum number of nested causes that are read. `MAX_MESSAGES` is the maximum number of
/// messages, and also of message keys, that are kept.
const MAX_CAUSES: usize = 8;
const MAX_MESSAGES: usize = 16;

/// A vim25 fault. An answer, a task, or a property that the host cannot read can contain one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VimFault {
    /// The vim25 type of the fault. Empty if the host sent only a text.
    pub name: String,
    /// The message of the host. It can be empty.
    pub message: String,
    /// The simple fields of the fault. A reference is shown by its id. `faultCause` holds the types
    /// of the causes, `faultMessage` their messages, and `faultMessageKey` the keys of the
    /// messages. Several values are separated by spaces.
    pub details: BTreeMap<String, String>,
}

/// Why a host refuses an account. Only a person can change this, and further logins could lock the
/// account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountRefusal {
    /// The user name or the password is wrong, or the account is locked: a host answers in the same
    /// way to all of these.
    Credentials,
    /// The account is locked, and the answer of the host says so.
    Locked,
    PasswordExpired,
    /// The account has no role on the host.
    NoPermission,
}

impl AccountRefusal {
    /// What a person can do about the refusal, in one sentence.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Credentials => "Correct esx.username or the password.",
            Self::Locked => "Unlock the account on the host, or wait until the host unlocks it.",
            Self::PasswordExpired => "Give the account a new password on the host.",
            Self::NoPermission => {
                "Give the account a role on the host (Host > Manage > Permissions). If the host is \
                 in lockdown mode, add the account to its exception users."
            }
        }
    }
}

impl VimFault {
    /// Reads the fault from the element `<soapenv:Fault>` of an answer.
    #[must_use]
    pub fn from_soap(fault: Element<'_>) -> Self {
        let message = fault.child_text("faultstring").unwrap_or_default();
        match fault.child("detail").and_then(|detail| detail.children().next()) {
            Some(detail) => Self::from_element(detail, message),
            None => Self { message: message.to_owned(), ..Self::default() },
        }
    }

    /// Reads the fault from a `LocalizedMethodFault`. A task has its error in this form, and so has
    /// a property that the host cannot read.
    #[must_use]
    pub fn from_localized(error: Element<'_>) -> Self {
        let message = error.child_text("localizedMessage").unwrap_or_default();
        Self::from_element(error.child("fault").unwrap_or(error), message)
    }

    /// Whether the fault is `NotAuthenticated`: the host has no session for the call, or the
    /// account lacks the privilege System.View.
    #[must_use]
    pub fn is_not_authenticated(&self) -> bool {
        self.name == "NotAuthenticated"
    }

    /// Whether a lost session can be the reason for this fault. If so, the caller must check the
    /// session.
    #[must_use]
    pub fn may_mean_lost_session(&self) -> bool {
        matches!(
            self.name.as_str(),
            "NotAuthenticated" | "SecurityError" | "RequestCanceled" | "ManagedObjectNotFound"
        )
    }

    /// Whether the call may have run although the host answered with this fault. A vCenter answers
    /// with such faults if it loses its connection to the ESX host.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        matches!(
            self.name.as_str(),
            "HostCommunication" | "HostNotConnected" | "HostNotReachable" | "SystemError"
        )
    }

    /// The kind of failure that this fault is for callers.
    #[must_use]
    pub fn kind(&self) -> HostErrorKind {
        match self.name.as_str() {
            "NotAuthenticated" => HostErrorKind::NotAuthenticated,
            "InvalidLogin" => HostErrorKind::LoginRefused,
            "InvalidPowerState" => HostErrorKind::InvalidPowerState,
            "TaskInProgress" | "ConcurrentAccess" | "ResourceInUse" => HostErrorKind::Busy,
            "ManagedObjectNotFound" => HostErrorKind::NotFound,
            "InvalidProperty" => HostErrorKind::InvalidProperty,
            "InvalidState" => HostErrorKind::InvalidState,
            "RequestCanceled" => HostErrorKind::Cancelled,
            "NoPermission" => HostErrorKind::Forbidden,
            "RestrictedVersion" => HostErrorKind::LicenseRestricted,
            "ToolsUnavailable" => HostErrorKind::ToolsUnavailable,
            "MksConnectionLimitReached" => HostErrorKind::ScreenLimitReached,
            "NotSupported" | "MethodNotFound" | "NotImplemented" => HostErrorKind::NotSupported,
            "HostCommunication" | "HostNotConnected" | "HostNotReachable" => {
                HostErrorKind::Unreachable
            }
            // The remaining types that extend `InsufficientResourcesFault`.
            "InvalidResourcePoolStructureFault"
            | "NumVirtualCpusExceedsLimit"
            | "VmFaultToleranceTooManyFtVcpusOnHost"
            | "VmFaultToleranceTooManyVMsOnHost"
            | "VmSmpFaultToleranceTooManyVMsOnHost" => HostErrorKind::InsufficientResources,
            name if name.starts_with("Insufficient") => HostErrorKind::InsufficientResources,
            _ => HostErrorKind::Rejected,
        }
    }

    /// Why the host refuses the account, if this is a fault of `Login` that means a refusal. `None`
    /// for every other fault of a login, which is an outage of the host that ends without a person.
    ///
    /// | fault | meaning |
    /// | --- | --- |
    /// | `InvalidLogin` | wrong user name or password, or a locked account |
    /// | `PasswordExpired`, which extends `InvalidLogin` | the password is right and too old |
    /// | `NoPermission` | right credentials without any role on the host |
    /// | any, with a text about a locked account | a locked account |
    /// | no type, with a text about the user name or password | as `InvalidLogin` |
    /// | any other, such as `RuntimeFault`, `InvalidState`, `ResourceInUse` | an outage |
    #[must_use]
    pub fn account_refusal(&self) -> Option<AccountRefusal> {
        let text = self.message.to_lowercase();
        let says_locked = text.contains("account") && text.contains("locked");
        match self.name.as_str() {
            _ if says_locked => Some(AccountRefusal::Locked),
            "InvalidLogin" => Some(AccountRefusal::Credentials),
            "" if text.contains("user name or password") => Some(AccountRefusal::Credentials),
            "PasswordExpired" => Some(AccountRefusal::PasswordExpired),
            "NoPermission" => Some(AccountRefusal::NoPermission),
            _ => None,
        }
    }

    /// Converts the fault to a [`HostError`]. `prefix` says what failed, for example "The host
    /// refused to power it on".
    #[must_use]
    pub fn into_error(self, prefix: &str) -> HostError {
        let kind = self.kind();
        let privilege = match (kind, self.details.get("privilegeId")) {
            (HostErrorKind::Forbidden, Some(privilege)) => {
                format!(" The account of the host lacks the privilege {privilege}.")
            }
            _ => String::new(),
        };
        let reason = match (self.name.as_str(), self.message.trim()) {
            ("", "") => "without a reason".to_owned(),
            ("", message) => format!("\u{201c}{message}\u{201d}"),
            (name, "") => name.to_owned(),
            (name, message) => format!("{name}, \u{201c}{message}\u{201d}"),
        };
        let task = (kind == HostErrorKind::Busy)
            .then(|| self.details.get("task").map(TaskId::from_backend))
            .flatten();
        let outcome_uncertain = self.may_have_run();
        let Self { name, message, details } = self;
        let name = if name.is_empty() { "RuntimeFault".to_owned() } else { name };
        HostError::new(kind, format!("{prefix}: {reason}.{privilege}"))
            .with_fault(Fault { name, message, details })
            .blocked_by(task)
            .with_uncertain_outcome(outcome_uncertain)
    }

    fn from_element(fault: Element<'_>, message: &str) -> Self {
        let mut details = BTreeMap::new();
        for field in fault.children() {
            let is_message = field.name() == "faultMessage";
            if is_message || NESTED.contains(&field.name()) || field.children().next().is_some() {
            } else if let Some(reference) = Reference::from_element(field) {
                details.entry(field.name().to_owned()).or_insert(reference.value);
            }
        }
        let Texts { causes, messages, keys } = Texts::from_element(fault);
        for (field, texts) in
            [("faultCause", causes), ("faultMessage", messages), ("faultMessageKey", keys)]
        {
            if !texts.is_empty() {
                details.insert(field.to_owned(), texts.join(" "));
            }
        }
        let name = type_name(fault).to_owned();
        Self { name, message: message.to_owned(), details }
    }
}

/// The texts of a fault and of its causes, the outermost first.
#[derive(Default)]
struct Texts<'d> {
    /// The vim25 types of the causes.
    causes: Vec<&'d str>,
    messages: Vec<&'d str>,
    /// The keys of the messages, for example `msg.hbacommon.outofspace`.
    keys: Vec<&'d str>,
}

impl<'d> Texts<'d> {
    fn from_element(fault: Element<'d>) -> Self {
        let has_text = |text: &&str| !text.trim().is_empty();
        let mut texts = Self::default();
        let mut fault = fault;
        for _ in 0..=MAX_CAUSES {
            for message in fault.children().filter(|child| child.name() == "faultMessage") {
                texts.messages.extend(message.child_text("message").filter(has_text));
                texts.keys.extend(message.child_text("key").filter(has_text));
            }
            let Some(cause) = fault.child("faultCause") else { break };
            texts.messages.extend(cause.child_text("localizedMessage").filter(has_text));
            fault = cause.child("fault").unwrap_or(cause);
            if texts.causes.len() < MAX_CAUSES {
                texts.causes.extend(Some(type_name(fault)).filter(has_text));
            }
        }
        texts.messages.truncate(MAX_MESSAGES);
        texts.keys.truncate(MAX_MESSAGES);
        texts
    }
}

/// The vim25 type of a fault. Hosts always send the type in `xsi:type`. If it is absent, it is
/// taken from the name of the element, which is the type followed by `Fault`.
fn type_name(fault: Element<'_>) -> &str {
    match fault.type_name() {
        Some(name) => name,
        None => fault.name().strip_suffix("Fault").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esx::soap::xml::Document;

    fn soap(detail: &str) -> VimFault {
        let text = format!(
            r#"<s:Fault xmlns:s="urn:s" xmlns:v="urn:vim25"
                 xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
               <faultcode>ServerFaultCode</faultcode><faultstring>Said so.</faultstring>
               <detail>{detail}</detail></s:Fault>"#
        );
        VimFault::from_soap(Document::parse(text.as_bytes()).unwrap().root())
    }

    #[test]
    fn each_fault_has_its_kind() {
        let table = [
            ("InvalidPowerState", HostErrorKind::InvalidPowerState),
            ("TaskInProgress", HostErrorKind::Busy),
            ("ConcurrentAccess", HostErrorKind::Busy),
            ("ResourceInUse", HostErrorKind::Busy),
            ("ManagedObjectNotFound", HostErrorKind::NotFound),
            ("InvalidName", HostErrorKind::Rejected),
            ("DuplicateName", HostErrorKind::Rejected),
            ("InvalidArgument", HostErrorKind::Rejected),
            ("InsufficientResourcesFault", HostErrorKind::InsufficientResources),
            ("InsufficientMemoryResourcesFault", HostErrorKind::InsufficientResources),
            ("InsufficientHostCapacityFault", HostErrorKind::InsufficientResources),
            ("NumVirtualCpusExceedsLimit", HostErrorKind::InsufficientResources),
            ("FileLocked", HostErrorKind::Rejected),
            ("FileNotFound", HostErrorKind::Rejected),
            ("FileFault", HostErrorKind::Rejected),
            ("VmConfigFault", HostErrorKind::Rejected),
            ("SnapshotFault", HostErrorKind::Rejected),
            ("SomethingToCome", HostErrorKind::Rejected),
            ("NoPermission", HostErrorKind::Forbidden),
            ("NotAuthenticated", HostErrorKind::NotAuthenticated),
            ("InvalidLogin", HostErrorKind::LoginRefused),
            ("RestrictedVersion", HostErrorKind::LicenseRestricted),
            ("ToolsUnavailable", HostErrorKind::ToolsUnavailable),
            ("NotSupported", HostErrorKind::NotSupported),
            ("MethodNotFound", HostErrorKind::NotSupported),
            ("NotImplemented", HostErrorKind::NotSupported),
            ("HostCommunication", HostErrorKind::Unreachable),
            ("HostNotConnected", HostErrorKind::Unreachable),
            ("InvalidProperty", HostErrorKind::InvalidProperty),
            ("InvalidState", HostErrorKind::InvalidState),
            ("RequestCanceled", HostErrorKind::Cancelled),
        ];
        for (name, kind) in table {
            let fault = soap(&format!(r#"<v:{name}Fault i:type="v:{name}"/>"#));
            assert_eq!((fault.name.as_str(), fault.kind()), (name, kind));
            let bare = soap(&format!("<{name}Fault/>"));
            assert_eq!(bare.kind(), kind, "{name} without a type");
        }
    }

    #[test]
    fn faults_of_a_lost_host_connection_have_an_uncertain_outcome() {
        for name in ["HostCommunication", "HostNotConnected", "HostNotReachable", "SystemError"] {
            let error =
                soap(&format!(r#"<v:{name}Fault i:type="v:{name}"/>"#)).into_error("it failed");
            assert!(error.outcome_uncertain, "{name}");
        }
        for name in ["InvalidPowerState", "TaskInProgress", "SomethingToCome"] {
            let error =
                soap(&format!(r#"<v:{name}Fault i:type="v:{name}"/>"#)).into_error("it failed");
            assert!(!error.outcome_uncertain, "{name}");
        }
    }

    #[test]
    fn only_faults_of_the_account_refuse_a_login() {
        let fault = |name: &str, message: &str| VimFault {
            name: name.to_owned(),
            message: message.to_owned(),
            ..VimFault::default()
        };
        let wrong = "Cannot complete login due to an incorrect user name or password.";
        let table = [
            ("InvalidLogin", wrong, Some(AccountRefusal::Credentials)),
            ("InvalidLogin", "", Some(AccountRefusal::Credentials)),
            ("", wrong, Some(AccountRefusal::Credentials)),
            ("PasswordExpired", "", Some(AccountRefusal::PasswordExpired)),
            ("NoPermission", "", Some(AccountRefusal::NoPermission)),
            ("InvalidLogin", "The account is locked.", Some(AccountRefusal::Locked)),
            ("SystemError", "User account 'root' is locked out.", Some(AccountRefusal::Locked)),
            ("", "The request could not be processed.", None),
            ("FileLocked", "Unable to access a file since it is locked.", None),
            ("RuntimeFault", "The service is starting.", None),
            ("InvalidState", "", None),
            ("ResourceInUse", "", None),
            ("InvalidLocale", "", None),
            ("InvalidArgument", "", None),
            ("SecurityError", "", None),
            ("NotAuthenticated", "", None),
            ("NotSupported", "", None),
            ("SystemError", "", None),
            ("HostCommunication", "", None),
            ("LimitExceeded", "The maximum number of sessions has been exceeded.", None),
            ("InsufficientResourcesFault", "", None),
            ("RestrictedVersion", "", None),
            ("SomethingToCome", "", None),
        ];
        for (name, message, refusal) in table {
            assert_eq!(fault(name, message).account_refusal(), refusal, "{name}: {message}");
        }
    }

    #[test]
    fn simple_fields_are_kept_as_details() {
        let fault = soap(
            r#"<TaskInProgressFault i:type="TaskInProgress"><faultCause><fault/></faultCause>
               <faultMessage><key>k</key><message>More.</message></faultMessage>
               <task type="Task">haTask-1</task></TaskInProgressFault>"#,
        );
        let error = fault.into_error("PowerOnVM_Task on 16");
        assert_eq!(error.blocking_task, Some(TaskId::from_backend("haTask-1")));
        let fault = error.fault.unwrap();
        assert_eq!((fault.name.as_str(), fault.message.as_str()), ("TaskInProgress", "Said so."));
        assert_eq!(fault.details["faultMessage"], "More.");
        assert_eq!(fault.details["faultMessageKey"], "k");
        assert_eq!(fault.details.len(), 3);
        let denied = soap(
            r#"<x i:type="NoPermission"><privilegeId>VirtualMachine.Interact</privilegeId></x>"#,
        );
        assert!(denied.into_error("it").message.contains("privilege VirtualMachine.Interact"));
    }

    #[test]
    fn the_causes_are_kept_with_their_types_messages_and_keys() {
        let cause = |inner: &str| {
            format!(
                r#"<faultCause><fault i:type="CannotAccessFile">{inner}<faultMessage>
                   <key>msg.inner</key><message>Inner.</message></faultMessage></fault>
                   <localizedMessage>Cause.</localizedMessage></faultCause>"#
            )
        };
        let last = r#"<faultCause i:type="NoDiskSpace"><file>a</file></faultCause>"#;
        let fault = soap(&format!(
            r#"<x i:type="GenericVmConfigFault">{}<faultMessage><key>msg.outer</key>
               <message>Outer.</message></faultMessage></x>"#,
            cause(last)
        ));
        assert_eq!(fault.name, "GenericVmConfigFault");
        assert_eq!(fault.details["faultCause"], "CannotAccessFile NoDiskSpace");
        assert_eq!(fault.details["faultMessage"], "Outer. Cause. Inner.");
        assert_eq!(fault.details["faultMessageKey"], "msg.outer msg.inner");
        let deep = (0..20).fold(String::new(), |inner, _| cause(&inner));
        let fault = soap(&format!(r#"<x i:type="FileFault">{deep}</x>"#));
        assert_eq!(fault.details["faultCause"].split(' ').count(), MAX_CAUSES);
    }

    #[test]
    fn a_fault_without_detail_keeps_its_text() {
        let error = soap("").into_error("The host refused Login");
        assert_eq!(error.kind, HostErrorKind::Rejected);
        assert_eq!(error.message, "The host refused Login: \u{201c}Said so.\u{201d}.");
        assert_eq!(error.fault.unwrap().name, "RuntimeFault");
    }

    #[test]
    fn the_error_of_a_task_is_read() {
        let text = r#"<error xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
            <fault i:type="InvalidPowerState"><requestedState>poweredOn</requestedState>
            <existingState>poweredOn</existingState></fault>
            <localizedMessage>Is on.</localizedMessage></error>"#;
        let fault = VimFault::from_localized(Document::parse(text.as_bytes()).unwrap().root());
        assert_eq!(fault.details["existingState"], "poweredOn");
        assert_eq!(
            (fault.kind(), fault.message.as_str()),
            (HostErrorKind::InvalidPowerState, "Is on.")
        );
    }
}
