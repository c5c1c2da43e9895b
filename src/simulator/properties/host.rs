//! The properties of the host itself, and of the managers to which its `configManager` refers.

use super::super::value::{Moref, Object, Value, enum_value, list, references, texts};
use super::super::world::{CardNetwork, World};
use super::inventory::{datastores, machines, networks};
use super::service::{self, Singleton, singleton};
use super::{datastore_browser, entity_property, supported_features};

/// The managers of an ESX host with the moids that ESX gives them, in the order of the fields of
/// `HostConfigManager`.
pub const MANAGERS: &[Singleton] = &[
    singleton("cpuScheduler", "HostCpuSchedulerSystem", "cpuSchedulerSystem"),
    singleton("datastoreSystem", "HostDatastoreSystem", "ha-datastoresystem"),
    singleton("memoryManager", "HostMemorySystem", "memoryManagerSystem"),
    singleton("storageSystem", "HostStorageSystem", "storageSystem"),
    singleton("networkSystem", "HostNetworkSystem", "networkSystem"),
    singleton("vmotionSystem", "HostVMotionSystem", "ha-vmotion-system"),
    singleton("virtualNicManager", "HostVirtualNicManager", "ha-vnic-mgr"),
    singleton("serviceSystem", "HostServiceSystem", "serviceSystem"),
    singleton("firewallSystem", "HostFirewallSystem", "firewallSystem"),
    singleton("advancedOption", "OptionManager", "ha-adv-options"),
    singleton("diagnosticSystem", "HostDiagnosticSystem", "diagnosticsystem"),
    singleton("autoStartManager", "HostAutoStartManager", "ha-autostart-mgr"),
    singleton("snmpSystem", "HostSnmpSystem", "ha-snmp-agent"),
    singleton("dateTimeSystem", "HostDateTimeSystem", "dateTimeSystem"),
    singleton("patchManager", "HostPatchManager", "ha-host-patch-manager"),
    singleton("imageConfigManager", "HostImageConfigManager", "ha-image-config-manager"),
    singleton("firmwareSystem", "HostFirmwareSystem", "ha-firmwareSystem"),
    singleton("healthStatusSystem", "HostHealthStatusSystem", "healthStatusSystem"),
    singleton("pciPassthruSystem", "HostPciPassthruSystem", "ha-pcipassthrusystem"),
    singleton("licenseManager", "LicenseManager", "ha-license-manager"),
    singleton("kernelModuleSystem", "HostKernelModuleSystem", "kernelModuleSystem"),
    singleton("authenticationManager", "HostAuthenticationManager", "ha-auth-manager"),
    singleton("powerSystem", "HostPowerSystem", "ha-power-system"),
    singleton(
        "cacheConfigurationManager",
        "HostCacheConfigurationManager",
        "ha-cache-configuration-manager",
    ),
    singleton("iscsiManager", "IscsiManager", "iscsiManager"),
    singleton("vFlashManager", "HostVFlashManager", "ha-vflash-manager"),
    singleton("vsanSystem", "HostVsanSystem", "vsanSystem"),
    singleton("messageBusProxy", "MessageBusProxy", "messageBusProxy"),
    singleton("userDirectory", "UserDirectory", "ha-user-directory"),
    singleton("accountManager", "HostLocalAccountManager", "ha-localacctmgr"),
    singleton("hostAccessManager", "HostAccessManager", "ha-host-access-manager"),
    singleton("graphicsManager", "HostGraphicsManager", "ha-graphics-manager"),
    singleton("vsanInternalSystem", "HostVsanInternalSystem", "ha-vsan-internal-system"),
    singleton("certificateManager", "HostCertificateManager", "ha-certificate-manager"),
];

const VENDOR: &str = "Supermicro";
const MODEL: &str = "SYS-5019D";
const CPU_MODEL: &str = "Intel(R) Xeon(R) D-2146NT CPU @ 2.30GHz";
const CPU_MHZ: i32 = 2_400;
/// The physical network cards of the host: device, PCI address and MAC address of each.
const PHYSICAL_CARDS: [(&str, &str, &str); 2] = [
    ("vmnic0", "0000:65:00.0", "ac:1f:6b:00:00:10"),
    ("vmnic1", "0000:65:00.1", "ac:1f:6b:00:00:11"),
];
const SWITCH: &str = "vSwitch0";
const MANAGEMENT_PORT_GROUP: &str = "Management Network";
/// The MTU of the host's switch and of its management card.
const MTU: i32 = 1_500;

/// The value of a property of the host (the object `ha-host`). `None` if the property has no value.
pub fn property(world: &World, name: &str) -> Option<Value> {
    match name {
        "vm" => Some(machines(world)),
        "datastore" => Some(references(datastores(world))),
        "network" => Some(references(networks(world))),
        "runtime" => Some(Value::Object(runtime(world))),
        "summary" => Some(Value::Object(summary(world))),
        "hardware" => Some(Value::Object(hardware(world))),
        "capability" => Some(Value::Object(capability())),
        "licensableResource" => Some(Value::Object(licensable_resource(world))),
        "configManager" => Some(Value::Object(config_manager())),
        "config" => Some(Value::Object(
            Object::new("HostConfigInfo")
                .with("host", Moref::new("HostSystem", "ha-host"))
                .with("product", service::about(world))
                .with("network", network(world)),
        )),
        "datastoreBrowser" => Some(datastore_browser()),
        other => entity_property(
            other,
            &world.host.name,
            Some(Moref::new("ComputeResource", "ha-compute-res")),
        ),
    }
}

/// The value of a property of a manager of the type `HostNetworkSystem` or `HostDatastoreSystem`.
/// `None` if the property has no value.
pub fn manager_property(world: &World, kind: &str, name: &str) -> Option<Value> {
    match (kind, name) {
        ("HostNetworkSystem", "networkInfo") => Some(Value::Object(network(world))),
        ("HostNetworkSystem", "dnsConfig") => Some(Value::Object(dns_config(world))),
        ("HostNetworkSystem", "ipRouteConfig") => Some(Value::Object(route_config())),
        ("HostDatastoreSystem", "datastore") => Some(references(datastores(world))),
        _ => None,
    }
}

fn runtime(world: &World) -> Object {
    Object::new("HostRuntimeInfo")
        .with("connectionState", enum_value("HostSystemConnectionState", "connected"))
        .with("powerState", enum_value("HostSystemPowerState", "poweredOn"))
        .with("inMaintenanceMode", world.host.in_maintenance_mode)
        .with("bootTime", world.host.booted_at)
        .with("hostMaxVirtualDiskCapacity", 68_169_720_922_112_i64)
}

fn summary(world: &World) -> Object {
    let cores = world.host.cpu_count;
    let hardware = Object::new("HostHardwareSummary")
        .with("vendor", VENDOR)
        .with("model", MODEL)
        .with("uuid", &world.host.uuid)
        .with("memorySize", world.host.memory_bytes)
        .with("cpuModel", CPU_MODEL)
        .with("cpuMhz", CPU_MHZ)
        .with("numCpuPkgs", 1_i16)
        .with("numCpuCores", cores)
        .with("numCpuThreads", cores)
        .with("numNics", i32::try_from(PHYSICAL_CARDS.len()).unwrap_or(i32::MAX))
        .with("numHBAs", 1);
    let config = Object::new("HostConfigSummary")
        .with("name", &world.host.name)
        .with("port", 902)
        .with("product", service::about(world))
        .with("vmotionEnabled", false)
        .with("faultToleranceEnabled", false);
    let uptime = world.now().wall.as_second() - world.host.booted_at.as_second();
    let quick = Object::new("HostListSummaryQuickStats")
        .with("overallCpuUsage", 1_200)
        .with("overallMemoryUsage", 32_768)
        .with("uptime", i32::try_from(uptime / 60 * 60).unwrap_or(i32::MAX));
    Object::new("HostListSummary")
        .with("host", Moref::new("HostSystem", "ha-host"))
        .with("hardware", hardware)
        .with("runtime", runtime(world))
        .with("config", config)
        .with("quickStats", quick)
        .with("overallStatus", enum_value("ManagedEntityStatus", "green"))
        .with("rebootRequired", false)
}

fn hardware(world: &World) -> Object {
    let cores = world.host.cpu_count;
    let hertz = i64::from(CPU_MHZ) * 1_000_000;
    let system = Object::new("HostSystemInfo")
        .with("vendor", VENDOR)
        .with("model", MODEL)
        .with("uuid", &world.host.uuid)
        .with("serialNumber", "S000000X0000000");
    let cpu = Object::new("HostCpuInfo")
        .with("numCpuPackages", 1_i16)
        .with("numCpuCores", cores)
        .with("numCpuThreads", cores)
        .with("hz", hertz);
    let package = Object::new("HostCpuPackage")
        .with("index", 0_i16)
        .with("vendor", "intel")
        .with("hz", hertz)
        .with("busHz", 100_000_000_i64)
        .with("description", CPU_MODEL)
        .with("threadId", Value::List("short", (0..cores).map(Value::Short).collect()));
    let bios = Object::new("HostBIOSInfo").with("biosVersion", "1.6").with("vendor", "AMI");
    Object::new("HostHardwareInfo")
        .with("systemInfo", system)
        .with("cpuInfo", cpu)
        .with("cpuPkg", list("HostCpuPackage", vec![package]))
        .with("memorySize", world.host.memory_bytes)
        .with("smcPresent", false)
        .with("biosInfo", bios)
}

/// `HostCapability`: the host supports every feature, except features that need a vCenter or
/// special hardware.
fn capability() -> Object {
    supported_features(
        "HostCapability",
        &[
            "vmotionSupported",
            "standbySupported",
            "suspendedRelocateSupported",
            "unsharedSwapVMotionSupported",
            "storageVMotionSupported",
            "vmotionWithStorageVMotionSupported",
            "recordReplaySupported",
            "ftSupported",
            "smpFtSupported",
            "tpmSupported",
            "storageIORMSupported",
        ],
    )
}

fn licensable_resource(world: &World) -> Object {
    let count = |key: &str, value: i16| {
        let value = Object::new("KeyValue").with("key", key).with("value", value.to_string());
        Object::new("KeyAnyValue").with("key", key).with("value", value)
    };
    let resources = vec![count("numCpuPackages", 1), count("numCpuCores", world.host.cpu_count)];
    Object::new("HostLicensableResourceInfo").with("resource", list("KeyAnyValue", resources))
}

fn config_manager() -> Object {
    MANAGERS.iter().fold(Object::new("HostConfigManager"), |managers, manager| {
        managers.with(manager.field, Moref::new(manager.kind, manager.id))
    })
}

/// `HostNetworkInfo`: one switch, with the port groups of the machines and of the management card.
fn network(world: &World) -> Object {
    let standard = world.networks().filter_map(|network| match &network.reference {
        CardNetwork::Standard(_) => Some(network.name.as_str()),
        CardNetwork::PortGroup(_) | CardNetwork::Opaque(_) => None,
    });
    let groups: Vec<&str> = standard.chain([MANAGEMENT_PORT_GROUP]).collect();
    let cards = PHYSICAL_CARDS.iter().map(|(device, pci, mac)| {
        let link = Object::new("PhysicalNicLinkInfo").with("speedMb", 10_000).with("duplex", true);
        Object::new("PhysicalNic")
            .with("key", format!("key-vim.host.PhysicalNic-{device}"))
            .with("device", *device)
            .with("pci", *pci)
            .with("driver", "i40en")
            .with("linkSpeed", link)
            .with("spec", Object::new("PhysicalNicSpec").with("ip", ip_config(None)))
            .with("wakeOnLanSupported", true)
            .with("mac", *mac)
    });
    let group_keys = groups.iter().map(|group| format!("key-vim.host.PortGroup-{group}"));
    let [(uplink, ..), ..] = PHYSICAL_CARDS;
    let bridge = Object::new("HostVirtualSwitchBondBridge").with("nicDevice", texts([uplink]));
    let switch = Object::new("HostVirtualSwitch")
        .with("name", SWITCH)
        .with("key", format!("key-vim.host.VirtualSwitch-{SWITCH}"))
        .with("numPorts", 1_536)
        .with("numPortsAvailable", 1_530)
        .with("mtu", MTU)
        .with("portgroup", texts(group_keys.clone()))
        .with("pnic", texts([format!("key-vim.host.PhysicalNic-{uplink}")]))
        .with(
            "spec",
            Object::new("HostVirtualSwitchSpec")
                .with("numPorts", 128)
                .with("bridge", bridge)
                .with("policy", network_policy())
                .with("mtu", MTU),
        );
    let port_groups = groups.iter().zip(group_keys).map(|(group, key)| {
        let spec = Object::new("HostPortGroupSpec")
            .with("name", *group)
            .with("vlanId", 0)
            .with("vswitchName", SWITCH)
            .with("policy", Object::new("HostNetworkPolicy"));
        Object::new("HostPortGroup")
            .with("key", key)
            .with("vswitch", format!("key-vim.host.VirtualSwitch-{SWITCH}"))
            .with("computedPolicy", network_policy())
            .with("spec", spec)
    });
    Object::new("HostNetworkInfo")
        .with("vswitch", list("HostVirtualSwitch", vec![switch]))
        .with("portgroup", list("HostPortGroup", port_groups.collect()))
        .with("pnic", list("PhysicalNic", cards.collect()))
        .with("vnic", list("HostVirtualNic", vec![management_card()]))
        .with("dnsConfig", dns_config(world))
        .with("ipRouteConfig", route_config())
        .with("ipV6Enabled", false)
        .with("atBootIpV6Enabled", false)
}

/// The network card of the host itself, over which clients reach it.
fn management_card() -> Object {
    let [(_, _, mac), ..] = PHYSICAL_CARDS;
    let spec = Object::new("HostVirtualNicSpec")
        .with("ip", ip_config(Some(("10.0.0.2", "255.255.255.0"))))
        .with("mac", mac)
        .with("portgroup", MANAGEMENT_PORT_GROUP)
        .with("mtu", MTU)
        .with("tsoEnabled", true)
        .with("netStackInstanceKey", "defaultTcpipStack");
    Object::new("HostVirtualNic")
        .with("device", "vmk0")
        .with("key", "key-vim.host.VirtualNic-vmk0")
        .with("portgroup", MANAGEMENT_PORT_GROUP)
        .with("spec", spec)
}

fn ip_config(address: Option<(&str, &str)>) -> Object {
    let (address, mask) = address.unzip();
    Object::new("HostIpConfig")
        .with("dhcp", false)
        .with("ipAddress", address)
        .with("subnetMask", mask)
}

fn network_policy() -> Object {
    let security = Object::new("HostNetworkSecurityPolicy")
        .with("allowPromiscuous", false)
        .with("macChanges", false)
        .with("forgedTransmits", false);
    Object::new("HostNetworkPolicy").with("security", security)
}

fn dns_config(world: &World) -> Object {
    let (name, domain) = world.host.name.split_once('.').unwrap_or((&world.host.name, ""));
    Object::new("HostDnsConfig")
        .with("dhcp", false)
        .with("hostName", name)
        .with("domainName", domain)
        .with("address", texts(["10.0.0.1"]))
        .with("searchDomain", texts([domain]))
}

fn route_config() -> Object {
    Object::new("HostIpRouteConfig").with("defaultGateway", "10.0.0.1")
}
