//! The faults of vim25 that the simulator sends, with the messages that hosts use.

use super::value::{IntoValue, Moref, Object, Value, enum_value};

/// A fault of vim25.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The vim25 type of the fault. Empty if the SOAP fault has no `detail` element, as in the
    /// answer to a request that cannot be parsed.
    pub type_name: &'static str,
    /// The message for people. The wire has it as `faultstring` or `localizedMessage`.
    pub message: String,
    /// The fields of the fault type, in their order on the wire.
    pub fields: Vec<(&'static str, Value)>,
}

impl Fault {
    /// Makes a fault of this type without fields. The schema of vim25 must have the type, because
    /// clients look the type up.
    pub fn new(type_name: &'static str, message: impl Into<String>) -> Self {
        Self { type_name, message: message.into(), fields: Vec::new() }
    }

    /// Adds a field to the fault. Callers add the fields in their order on the wire.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl IntoValue) -> Self {
        if let Some(value) = value.into_value() {
            self.fields.push((name, value));
        }
        self
    }

    /// Sets the field for the cause of the fault. On the wire, the cause comes before the other
    /// fields.
    #[must_use]
    pub fn caused_by(mut self, cause: &Self) -> Self {
        self.fields.insert(0, ("faultCause", Value::Object(cause.localized())));
        self
    }

    /// The fault for a request that the host cannot parse as a call of a method. The fault has no
    /// `detail` element.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Self::new("", message)
    }

    #[must_use]
    pub fn not_authenticated() -> Self {
        Self::new("NotAuthenticated", "The session is not authenticated.")
            .with("object", Moref::new("PerformanceManager", "ha-perfmgr"))
            .with("privilegeId", "System.View")
    }

    #[must_use]
    pub fn invalid_login() -> Self {
        Self::new(
            "InvalidLogin",
            "Cannot complete login due to an incorrect user name or password.",
        )
    }

    #[must_use]
    pub fn not_found(object: &Moref) -> Self {
        let message = format!(
            "The object 'vim.{}:{}' has already been deleted or has not been completely created",
            object.kind, object.id
        );
        Self::new("ManagedObjectNotFound", message).with("obj", object)
    }

    /// The fault for a machine in the power state `existing`, if the call needs the power state
    /// `requested`.
    #[must_use]
    pub fn invalid_power_state(requested: Option<&str>, existing: &str) -> Self {
        let label = match existing {
            "poweredOn" => "Powered on",
            "poweredOff" => "Powered off",
            "suspended" => "Suspended",
            other => other,
        };
        let message =
            format!("The attempted operation cannot be performed in the current state ({label}).");
        Self::new("InvalidPowerState", message)
            .with(
                "requestedState",
                requested.map(|state| enum_value("VirtualMachinePowerState", state)),
            )
            .with("existingState", enum_value("VirtualMachinePowerState", existing))
    }

    #[must_use]
    pub fn task_in_progress(task: &str) -> Self {
        Self::new("TaskInProgress", "Another task is already in progress.")
            .with("task", Moref::new("Task", task))
    }

    #[must_use]
    pub fn restricted_version() -> Self {
        Self::new(
            "RestrictedVersion",
            "Current license or ESXi version prohibits execution of the requested operation.",
        )
    }

    #[must_use]
    pub fn tools_unavailable() -> Self {
        Self::new(
            "ToolsUnavailable",
            "Cannot complete operation because VMware Tools is not running in this virtual \
             machine.",
        )
    }

    #[must_use]
    pub fn not_supported() -> Self {
        Self::new("NotSupported", "The operation is not supported on the object.")
    }

    #[must_use]
    pub fn not_implemented() -> Self {
        Self::new("NotImplemented", "The requested operation is not implemented by the server.")
    }

    #[must_use]
    pub fn request_canceled() -> Self {
        Self::new("RequestCanceled", "The task was canceled by a user.")
    }

    #[must_use]
    pub fn invalid_argument(property: &str) -> Self {
        Self::new("InvalidArgument", format!("A specified parameter was not correct: {property}"))
            .with("invalidProperty", property)
    }

    #[must_use]
    pub fn invalid_property(name: &str) -> Self {
        Self::new("InvalidProperty", format!("The property {name} does not exist."))
            .with("name", name)
    }

    #[must_use]
    pub fn method_not_found(receiver: &Moref, method: &str) -> Self {
        let message = format!(
            "Unable to resolve WSDL method name {method} for {}:{}",
            receiver.kind, receiver.id
        );
        Self::new("MethodNotFound", message).with("receiver", receiver).with("method", method)
    }

    /// The fault as a data object.
    #[must_use]
    pub fn object(&self) -> Object {
        let type_name = if self.type_name.is_empty() { "RuntimeFault" } else { self.type_name };
        Object { type_name, fields: self.fields.clone() }
    }

    /// The fault as a `LocalizedMethodFault`, which is the form in the error of a task and in a
    /// `missingSet`.
    #[must_use]
    pub fn localized(&self) -> Object {
        Object::new("LocalizedMethodFault")
            .with("fault", self.object())
            .with("localizedMessage", self.message.as_str())
    }
}
