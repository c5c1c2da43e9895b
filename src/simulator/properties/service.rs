//! The properties of the service instance and of the managers that every host has.

use super::super::read_scope::{CallerSession, ReadScope};
use super::super::value::{Moref, Object, Value, list, references, texts};
use super::super::world::{Task, World};
use super::{event, task};

/// A managed object that always exists, and the field that refers to it. The field belongs to
/// `ServiceContent` or to another manager.
pub struct Singleton {
    pub kind: &'static str,
    pub id: &'static str,
    pub field: &'static str,
}

pub const fn singleton(field: &'static str, kind: &'static str, id: &'static str) -> Singleton {
    Singleton { kind, id, field }
}

/// The managed objects of an ESX host that always exist, with the moids that ESX gives them, in the
/// order of the fields of `ServiceContent`. ESX has no managers of alarms, scheduled tasks,
/// extensions and custom fields.
pub const SINGLETONS: &[Singleton] = &[
    singleton("", "ServiceInstance", "ServiceInstance"),
    singleton("rootFolder", "Folder", "ha-folder-root"),
    singleton("propertyCollector", "PropertyCollector", "ha-property-collector"),
    singleton("viewManager", "ViewManager", "ViewManager"),
    singleton("setting", "OptionManager", "HostAgentSettings"),
    singleton("userDirectory", "UserDirectory", "ha-user-directory"),
    singleton("sessionManager", "SessionManager", "ha-sessionmgr"),
    singleton("authorizationManager", "AuthorizationManager", "ha-authmgr"),
    singleton("serviceManager", "ServiceManager", "ha-servicemanager"),
    singleton("perfManager", "PerformanceManager", "ha-perfmgr"),
    singleton("eventManager", "EventManager", "ha-eventmgr"),
    singleton("taskManager", "TaskManager", "ha-taskmgr"),
    singleton("accountManager", "HostLocalAccountManager", "ha-localacctmgr"),
    singleton("diagnosticManager", "DiagnosticManager", "ha-diagnosticmgr"),
    singleton("licenseManager", "LicenseManager", "ha-license-manager"),
    singleton("searchIndex", "SearchIndex", "ha-searchindex"),
    singleton("fileManager", "FileManager", "ha-nfc-file-manager"),
    singleton(
        "datastoreNamespaceManager",
        "DatastoreNamespaceManager",
        "ha-datastore-namespace-manager",
    ),
    singleton("virtualDiskManager", "VirtualDiskManager", "ha-vdiskmanager"),
    singleton("ovfManager", "OvfManager", "ha-ovf-manager"),
    singleton("dvSwitchManager", "DistributedVirtualSwitchManager", "ha-dvsmanager"),
    singleton("localizationManager", "LocalizationManager", "ha-l10n-manager"),
    singleton("storageResourceManager", "StorageResourceManager", "ha-storage-resource-manager"),
    singleton("guestOperationsManager", "GuestOperationsManager", "ha-guest-operations-manager"),
    singleton("vStorageObjectManager", "HostVStorageObjectManager", "ha-vstorage-object-manager"),
    singleton("cryptoManager", "CryptoManagerHost", "ha-crypto-manager"),
];

/// The managers of guest operations, each with the field of `GuestOperationsManager` that refers to
/// it.
pub const GUEST_MANAGERS: &[Singleton] = &[
    singleton("authManager", "GuestAuthManager", "ha-guest-operations-auth-manager"),
    singleton("fileManager", "GuestFileManager", "ha-guest-operations-file-manager"),
    singleton("processManager", "GuestProcessManager", "ha-guest-operations-process-manager"),
    singleton(
        "guestWindowsRegistryManager",
        "GuestWindowsRegistryManager",
        "ha-guest-operations-windows-registry-manager",
    ),
    singleton("aliasManager", "GuestAliasManager", "ha-guest-operations-alias-manager"),
];

/// The `AboutInfo` of the host.
pub fn about(world: &World) -> Object {
    let host = &world.host;
    let major_minor: Vec<&str> = host.version.split('.').take(2).collect();
    Object::new("AboutInfo")
        .with("name", "VMware ESXi")
        .with("fullName", format!("VMware ESXi {} build-{}", host.version, host.build))
        .with("vendor", "VMware, Inc.")
        .with("version", &host.version)
        .with("patchLevel", "0")
        .with("build", &host.build)
        .with("localeVersion", "INTL")
        .with("localeBuild", "000")
        .with("osType", "vmnix-x86")
        .with("productLineId", "embeddedEsx")
        .with("apiType", "HostAgent")
        .with("apiVersion", &host.api_version)
        .with("licenseProductName", "VMware ESX Server")
        .with("licenseProductVersion", format!("{}.0", major_minor.first().unwrap_or(&"7")))
}

/// The `ServiceContent` of the host.
pub fn content(world: &World) -> Object {
    let mut content = Object::new("ServiceContent");
    for singleton in SINGLETONS.iter().filter(|singleton| !singleton.field.is_empty()) {
        content = content.with(singleton.field, Moref::new(singleton.kind, singleton.id));
        if singleton.field == "viewManager" {
            content = content.with("about", about(world));
        }
    }
    content
}

pub fn property(scope: ReadScope<'_>, object: &Moref, name: &str) -> Option<Value> {
    let world = scope.world;
    match (object.kind, name) {
        ("ServiceInstance", "content") => Some(Value::Object(content(world))),
        ("ServiceInstance", "capability") => Some(Value::Object(
            Object::new("Capability")
                .with("provisioningSupported", false)
                .with("multiHostSupported", false)
                .with("userShellAccessSupported", true),
        )),
        ("GuestOperationsManager", field) => GUEST_MANAGERS
            .iter()
            .find(|manager| manager.field == field)
            .map(|manager| Value::Reference(Moref::new(manager.kind, manager.id))),
        ("ServiceInstance", "serverClock") => Some(Value::Time(world.now().wall)),
        ("SessionManager", "currentSession") => {
            scope.session.map(|session| Value::Object(session.user_session()))
        }
        ("SessionManager", "sessionList") => {
            scope.session?;
            Some(list("UserSession", scope.sessions.user_sessions()))
        }
        ("SessionManager", "message") => Some(Value::Text(String::new())),
        ("SessionManager", "messageLocaleList" | "supportedLocaleList") => Some(texts(["en_US"])),
        ("SessionManager", "defaultLocale") => Some(Value::Text("en_US".to_owned())),
        ("TaskManager", "recentTask") => Some(references(world.tasks().map(Task::moref))),
        ("TaskManager" | "EventManager", "maxCollector") => Some(Value::Int(32)),
        ("EventManager", "description") => Some(Value::Object(event::description())),
        ("EventManager", "latestEvent") => world
            .history()
            .events()
            .next_back()
            .map(|newest| Value::Object(event::object(world, newest))),
        ("TaskManager", "description") => Some(Value::Object(task::description())),
        ("ViewManager", "viewList") => {
            Some(references(scope.session.into_iter().flat_map(CallerSession::views)))
        }
        ("OptionManager", "setting") => Some(list("OptionValue", Vec::new())),
        ("OptionManager", "supportedOption") => Some(list("OptionDef", Vec::new())),
        ("AuthorizationManager", "roleList") => Some(list("AuthorizationRole", roles())),
        ("LicenseManager", "licenses") => {
            Some(list("LicenseManagerLicenseInfo", vec![licence(world)]))
        }
        ("LicenseManager", "licensedEdition") => Some(Value::Text(edition(world).to_owned())),
        ("LicenseManager", "sourceAvailable") => Some(Value::Boolean(true)),
        ("LicenseManager", "evaluation") => {
            Some(Value::Object(Object::new("LicenseManagerEvaluationInfo")))
        }
        _ => None,
    }
}

/// The roles that every host has. A role lists only those of its privileges that otter needs.
fn roles() -> Vec<Object> {
    const LOOK: [&str; 3] = ["System.Anonymous", "System.Read", "System.View"];
    const CHANGE: [&str; 10] = [
        "VirtualMachine.Interact.AnswerQuestion",
        "VirtualMachine.Interact.PowerOff",
        "VirtualMachine.Interact.PowerOn",
        "VirtualMachine.Interact.Reset",
        "VirtualMachine.Interact.Suspend",
        "VirtualMachine.State.CreateSnapshot",
        "VirtualMachine.State.RemoveSnapshot",
        "VirtualMachine.State.RenameSnapshot",
        "VirtualMachine.State.RevertToSnapshot",
        "VirtualMachine.Config.Settings",
    ];
    let role = |id: i32, name: &str, privileges: Vec<&str>| {
        Object::new("AuthorizationRole")
            .with("roleId", id)
            .with("system", true)
            .with("name", name)
            .with("info", Object::new("Description").with("label", name).with("summary", name))
            .with("privilege", texts(privileges))
    };
    vec![
        role(World::NO_ACCESS, "NoAccess", Vec::new()),
        role(World::READ_ONLY, "ReadOnly", LOOK.to_vec()),
        role(World::ADMIN, "Admin", LOOK.iter().chain(&CHANGE).copied().collect()),
    ]
}

const fn edition(world: &World) -> &'static str {
    if world.rules.read_only_licence {
        "esx.hypervisor.cpuPackage"
    } else {
        "esx.enterprisePlus.cpuPackageCoreLimited"
    }
}

fn licence(world: &World) -> Object {
    let free = world.rules.read_only_licence;
    Object::new("LicenseManagerLicenseInfo")
        .with("licenseKey", "00000-00000-00000-00000-00000")
        .with("editionKey", edition(world))
        .with("name", if free { "vSphere 7 Hypervisor" } else { "vSphere 7 Enterprise Plus" })
        .with("total", 0)
        .with("used", 1)
        .with("costUnit", "cpuPackage:32core")
}
