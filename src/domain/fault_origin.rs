//! The origin of a failure: its machine, the host, otter's account, the licence or a person. Only a
//! failure of the machine is a reason to set the machine aside; after the others, otter tries
//! again. This file has the one table that decides the origin.
//!
//! The types of faults and their families are those of the vSphere Web Services API reference. A
//! fault of a family has the origin of the family. The families are `Insufficient…`,
//! `NoPermission…` and `…License…`.

use super::failure::{Failure, FailureKind, Fault};

/// The part of the system that is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOrigin {
    /// The machine: its files, its configuration, its guest, or its question. A failure of unknown
    /// origin also counts here, because it may have left the machine in any state.
    Machine,
    /// The whole host: its resources, its datastores, its maintenance mode, its services, or the
    /// connection to it.
    Host,
    /// otter's account on the host lacks a right.
    Account,
    /// The licence of the host does not allow the operation.
    Licence,
    /// A person, who cancelled the job. This failure says nothing about the machine.
    Person,
}

/// The faults about the resources and datastores of a host whose names do not begin with
/// `Insufficient`. They decide the origin even if they are only the cause of another fault.
const OF_RESOURCES: &[&str] = &[
    // The types of the family InsufficientResourcesFault whose names do not begin with
    // `Insufficient`.
    "InvalidResourcePoolStructureFault",
    "NumVirtualCpusExceedsLimit",
    "VmFaultToleranceTooManyFtVcpusOnHost",
    "VmFaultToleranceTooManyVMsOnHost",
    "VmSmpFaultToleranceTooManyVMsOnHost",
    // Faults of datastores, which several machines share.
    "NoDiskSpace",
    "DatastoreNotWritableOnHost",
    "InaccessibleDatastore",
    "InvalidDatastoreState",
    "NasConnectionLimitReached",
    "SwapDatastoreNotWritableOnHost",
    "SwapDatastoreUnset",
];

/// The faults of the host that are not about its resources and datastores.
const OF_THE_HOST: &[&str] = &[
    // The state of the host. A host in maintenance mode answers a power-on with InvalidState. A
    // machine that is not connected also causes InvalidState, but otter never works on such a
    // machine.
    "DisallowedOperationOnFailoverHost",
    "InvalidHostConnectionState",
    "InvalidHostState",
    "InvalidState",
    "NoActiveHostInCluster",
    "NoCompatibleHost",
    "NoHost",
    // The service hostd itself, and the connection from a vCenter to the host. otter reports a
    // fault without a type as a RuntimeFault.
    "HostCommunication",
    "HostConnectFault",
    "HostNotConnected",
    "HostNotReachable",
    "RuntimeFault",
    "SystemError",
    "Timedout",
];

const OF_THE_ACCOUNT: &[&str] = &[
    "AuthMinimumAdminPermission",
    "InvalidLogin",
    "InvalidPrivilege",
    "NotAuthenticated",
    "PasswordExpired",
    "SecurityError",
];

/// The texts of the ESX kernel about a full datastore and missing resources: those of
/// `VMK_NO_SPACE`, `VMK_MEM_ADMIT_FAILED` and `VMK_CPU_ADMIT_FAILED`. They show that the host is at
/// fault if the type of the fault does not show it.
const WORDS_OF_RESOURCES: &[&str] = &[
    "No space left on device",
    "Admission check failed for memory resource",
    "Admission check failed for cpu resource",
];

impl Failure {
    /// The origin of this failure. The type of its fault decides. If there is no fault, or if the
    /// type shows no origin, the kind of the failure decides.
    #[must_use]
    pub fn origin(&self) -> FaultOrigin {
        let kind = self.cause.unwrap_or(self.kind);
        if kind == FailureKind::OutcomeUnknown {
            return FaultOrigin::Machine;
        }
        self.fault.as_ref().and_then(from_fault).unwrap_or_else(|| from_kind(kind))
    }
}

/// The origin that a fault shows by its type and texts. `None` if the fault shows no origin, so
/// that the kind of the failure decides.
fn from_fault(fault: &Fault) -> Option<FaultOrigin> {
    let name = fault.name.as_str();
    let says_no_resources = || {
        let mut texts = fault.details.values().chain([&fault.message]);
        texts.any(|text| WORDS_OF_RESOURCES.iter().any(|words| text.contains(words)))
    };
    let has_cause_of_resources = || {
        let causes = fault.details.get("faultCause").map(String::as_str).unwrap_or_default();
        causes.split(' ').any(is_of_resources)
    };
    if name == "RestrictedVersion" || name.contains("License") {
        Some(FaultOrigin::Licence)
    } else if OF_THE_ACCOUNT.contains(&name) || name.starts_with("NoPermission") {
        Some(FaultOrigin::Account)
    } else if OF_THE_HOST.contains(&name)
        || is_of_resources(name)
        || has_cause_of_resources()
        || says_no_resources()
    {
        Some(FaultOrigin::Host)
    } else {
        None
    }
}

/// Whether a fault of this type is about resources or datastores that machines share.
fn is_of_resources(name: &str) -> bool {
    OF_RESOURCES.contains(&name) || name.starts_with("Insufficient")
}

/// The origin that the kind of a failure shows. Every kind must be listed in this function.
const fn from_kind(kind: FailureKind) -> FaultOrigin {
    match kind {
        FailureKind::InsufficientResources
        | FailureKind::HostUnreachable
        | FailureKind::HostProtocol
        | FailureKind::HostLoginRefused
        // The host refuses the console, or otter has no access to it.
        | FailureKind::ConsoleUnavailable
        | FailureKind::TooManyConsoles => FaultOrigin::Host,
        FailureKind::ForbiddenByHost => FaultOrigin::Account,
        FailureKind::LicenseRestricted => FaultOrigin::Licence,
        FailureKind::JobCancelled => FaultOrigin::Person,
        FailureKind::InvalidPowerState
        | FailureKind::MachineBusy
        | FailureKind::MachineGone
        | FailureKind::SelfProtection
        | FailureKind::QuestionPending
        | FailureKind::ToolsUnavailable
        | FailureKind::HostRejected
        | FailureKind::NotSupported
        | FailureKind::DeadlineExceeded
        | FailureKind::OutcomeUnknown
        // These two kinds mean that the machine has no snapshot with the requested name, or
        // several.
        | FailureKind::NotFound
        | FailureKind::AmbiguousName
        // The following kinds refuse a request, so a preparation or a release should never end with
        // one of them. If it does, the machine may be in any state.
        | FailureKind::InvalidRequest
        | FailureKind::UnknownParameter
        | FailureKind::InvalidCursor
        | FailureKind::Unauthenticated
        | FailureKind::Forbidden
        | FailureKind::MethodNotAllowed
        | FailureKind::RequestTimeout
        | FailureKind::NoFreeMachine
        | FailureKind::LeaseFailed
        | FailureKind::JobFailed
        | FailureKind::JobStillRunning
        | FailureKind::ArtifactExists
        | FailureKind::NoDrive
        | FailureKind::FileExists
        | FailureKind::FileInUse
        | FailureKind::FolderNotEmpty
        | FailureKind::LengthRequired
        | FailureKind::OffsetOutOfRange
        | FailureKind::PayloadTooLarge
        | FailureKind::UriTooLong
        | FailureKind::UnsupportedMediaType
        | FailureKind::HeadersTooLarge
        | FailureKind::IdempotencyMismatch
        | FailureKind::InputInterrupted
        | FailureKind::ConsoleBusy
        | FailureKind::SerialBusy
        | FailureKind::UpgradeRequired
        | FailureKind::MachineLeased
        | FailureKind::LeaseEnded
        | FailureKind::LeaseNotActive
        | FailureKind::QueueFull
        | FailureKind::TooManyRequests
        | FailureKind::Internal
        | FailureKind::InventoryLoading
        | FailureKind::StorageUnavailable
        | FailureKind::TooManyWaits
        | FailureKind::ShuttingDown
        | FailureKind::WaitTimeout => FaultOrigin::Machine,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn failure(kind: FailureKind, fault: &str) -> Failure {
        let fault = Fault {
            name: fault.to_owned(),
            message: "Said so.".to_owned(),
            details: BTreeMap::new(),
        };
        Failure::new(kind, "it failed").with_fault(Some(fault))
    }

    #[test]
    fn the_type_of_a_fault_decides() {
        for (origin, names) in [
            (
                FaultOrigin::Host,
                &[
                    "InsufficientResourcesFault",
                    "InsufficientCpuResourcesFault",
                    "InsufficientMemoryResourcesFault",
                    "InsufficientHostCapacityFault",
                    "InsufficientStandbyMemoryResource",
                    "InsufficientStorageSpace",
                    "NumVirtualCpusExceedsLimit",
                    "NoDiskSpace",
                    "InaccessibleDatastore",
                    "InvalidState",
                    "InvalidHostState",
                    "HostCommunication",
                    "HostNotConnected",
                    "SystemError",
                    "RuntimeFault",
                ][..],
            ),
            (FaultOrigin::Account, &["NoPermission", "NoPermissionOnHost", "SecurityError"]),
            (
                FaultOrigin::Licence,
                &["RestrictedVersion", "NotEnoughLicenses", "InvalidLicense", "LicenseExpired"],
            ),
            (
                FaultOrigin::Machine,
                &[
                    "FileLocked",
                    "FileNotFound",
                    "FileFault",
                    "CannotAccessFile",
                    "VmConfigFault",
                    "GenericVmConfigFault",
                    "SnapshotFault",
                    "InvalidPowerState",
                    "InvalidVmState",
                    "TaskInProgress",
                    "SomethingToCome",
                ],
            ),
        ] {
            for name in names {
                assert_eq!(failure(FailureKind::HostRejected, name).origin(), origin, "{name}");
            }
        }
    }

    #[test]
    fn without_a_fault_the_kind_decides() {
        for (kind, origin) in [
            (FailureKind::InsufficientResources, FaultOrigin::Host),
            (FailureKind::HostUnreachable, FaultOrigin::Host),
            (FailureKind::HostProtocol, FaultOrigin::Host),
            (FailureKind::HostLoginRefused, FaultOrigin::Host),
            (FailureKind::ForbiddenByHost, FaultOrigin::Account),
            (FailureKind::LicenseRestricted, FaultOrigin::Licence),
            (FailureKind::JobCancelled, FaultOrigin::Person),
            (FailureKind::HostRejected, FaultOrigin::Machine),
            (FailureKind::QuestionPending, FaultOrigin::Machine),
            (FailureKind::DeadlineExceeded, FaultOrigin::Machine),
            (FailureKind::NotFound, FaultOrigin::Machine),
        ] {
            assert_eq!(Failure::new(kind, "it failed").origin(), origin, "{kind:?}");
        }
    }

    #[test]
    fn the_cause_of_a_passed_deadline_decides() {
        let late = Failure::new(FailureKind::DeadlineExceeded, "the host was away");
        assert_eq!(late.caused_by(FailureKind::HostUnreachable).origin(), FaultOrigin::Host);
    }

    #[test]
    fn an_unknown_outcome_is_of_the_machine_whatever_the_fault() {
        let unknown = failure(FailureKind::OutcomeUnknown, "InsufficientResourcesFault");
        assert_eq!(unknown.origin(), FaultOrigin::Machine);
    }

    #[test]
    fn missing_resources_are_recognized_by_the_words_of_the_kernel() {
        for words in [
            "Failed to extend the swap file. No space left on device.",
            "The virtual machine could not start. Admission check failed for memory resource",
        ] {
            let mut failed = failure(FailureKind::HostRejected, "GenericVmConfigFault");
            let fault = failed.fault.as_mut().unwrap();
            fault.details.insert("faultMessage".to_owned(), words.to_owned());
            assert_eq!(failed.origin(), FaultOrigin::Host, "{words}");
        }
    }

    #[test]
    fn a_cause_decides_if_it_is_about_resources() {
        for (causes, origin) in [
            ("NoDiskSpace", FaultOrigin::Host),
            ("FileFault InsufficientMemoryResourcesFault", FaultOrigin::Host),
            ("FileLocked", FaultOrigin::Machine),
            ("SystemError", FaultOrigin::Machine),
        ] {
            let mut failed = failure(FailureKind::HostRejected, "CannotAccessFile");
            let fault = failed.fault.as_mut().unwrap();
            fault.details.insert("faultCause".to_owned(), causes.to_owned());
            assert_eq!(failed.origin(), origin, "{causes}");
        }
    }
}
