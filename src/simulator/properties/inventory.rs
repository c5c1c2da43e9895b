//! The properties of folders, of the datacenter, of the compute resource and its resource pool, and
//! of datastores.

use super::super::value::{Moref, Object, Value, enum_value, list, references, texts};
use super::super::world::{Datastore, Network, World};
use super::{children, datastore_browser, entity_property, environment_browser};

pub fn property(world: &World, object: &Moref, name: &str) -> Option<Value> {
    match object.kind {
        "Folder" => folder(world, object, name),
        "Datacenter" => datacenter(world, name),
        "ComputeResource" => compute_resource(world, name),
        "ResourcePool" => resource_pool(world, name),
        "Datastore" => datastore(world, world.datastore(&object.id)?, name),
        "HostDatastoreBrowser" => match name {
            "datastore" => Some(references(datastores(world))),
            _ => None,
        },
        "EnvironmentBrowser" => match name {
            "datastoreBrowser" => Some(datastore_browser()),
            _ => None,
        },
        _ => None,
    }
}

pub fn datastores(world: &World) -> impl Iterator<Item = Moref> {
    world.datastores().map(|datastore| Moref::new("Datastore", datastore.id.clone()))
}

pub fn networks(world: &World) -> impl Iterator<Item = Moref> {
    world.networks().map(Network::moref)
}

pub fn machines(world: &World) -> Value {
    references(world.machines().map(|machine| Moref::new("VirtualMachine", machine.id.clone())))
}

fn folder(world: &World, object: &Moref, name: &str) -> Option<Value> {
    let datacenter = Some(Moref::new("Datacenter", "ha-datacenter"));
    let (own_name, parent, child_types) = match object.id.as_str() {
        "ha-folder-root" => ("ha-folder-root", None, vec!["Datacenter"]),
        "ha-folder-vm" => ("vm", datacenter, vec!["VirtualMachine"]),
        "ha-folder-host" => ("host", datacenter, vec!["ComputeResource"]),
        "ha-folder-datastore" => ("datastore", datacenter, vec!["Datastore"]),
        _ => ("network", datacenter, vec!["Network"]),
    };
    match name {
        "childType" => Some(texts(child_types)),
        "childEntity" => Some(references(children(world, object))),
        other => entity_property(other, own_name, parent),
    }
}

fn datacenter(world: &World, name: &str) -> Option<Value> {
    let folder = |id| Some(Value::Reference(Moref::new("Folder", id)));
    match name {
        "vmFolder" => folder("ha-folder-vm"),
        "hostFolder" => folder("ha-folder-host"),
        "datastoreFolder" => folder("ha-folder-datastore"),
        "networkFolder" => folder("ha-folder-network"),
        "datastore" => Some(references(datastores(world))),
        "network" => Some(references(networks(world))),
        "configuration" => Some(Value::Object(Object::new("DatacenterConfigInfo"))),
        other => {
            entity_property(other, "ha-datacenter", Some(Moref::new("Folder", "ha-folder-root")))
        }
    }
}

fn compute_resource(world: &World, name: &str) -> Option<Value> {
    let cores = world.host.cpu_count;
    match name {
        "resourcePool" => Some(Value::Reference(Moref::new("ResourcePool", "ha-root-pool"))),
        "host" => Some(references([Moref::new("HostSystem", "ha-host")])),
        "datastore" => Some(references(datastores(world))),
        "network" => Some(references(networks(world))),
        "summary" => Some(Value::Object(
            Object::new("ComputeResourceSummary")
                .with("totalCpu", i32::from(cores) * 2_400)
                .with("totalMemory", world.host.memory_bytes)
                .with("numCpuCores", cores)
                .with("numCpuThreads", cores)
                .with("effectiveCpu", i32::from(cores) * 2_400)
                .with("effectiveMemory", world.host.memory_bytes >> 20)
                .with("numHosts", 1)
                .with("numEffectiveHosts", 1)
                .with("overallStatus", enum_value("ManagedEntityStatus", "green")),
        )),
        "environmentBrowser" => Some(environment_browser()),
        "configurationEx" => Some(Value::Object(
            Object::new("ComputeResourceConfigInfo").with("vmSwapPlacement", "vmDirectory"),
        )),
        other => {
            entity_property(other, &world.host.name, Some(Moref::new("Folder", "ha-folder-host")))
        }
    }
}

fn resource_pool(world: &World, name: &str) -> Option<Value> {
    let usage = |most: i64| {
        Object::new("ResourcePoolResourceUsage")
            .with("reservationUsed", 0_i64)
            .with("reservationUsedForVm", 0_i64)
            .with("unreservedForPool", most)
            .with("unreservedForVm", most)
            .with("overallUsage", 0_i64)
            .with("maxUsage", most)
    };
    let runtime = || {
        Object::new("ResourcePoolRuntimeInfo")
            .with("memory", usage(world.host.memory_bytes))
            .with("cpu", usage(i64::from(world.host.cpu_count) * 2_400))
            .with("overallStatus", enum_value("ManagedEntityStatus", "green"))
    };
    let allocation = || {
        Object::new("ResourceAllocationInfo")
            .with("reservation", 0_i64)
            .with("expandableReservation", false)
            .with("limit", -1_i64)
            .with(
                "shares",
                Object::new("SharesInfo")
                    .with("shares", 9_000)
                    .with("level", enum_value("SharesLevel", "custom")),
            )
    };
    let config = || {
        Object::new("ResourceConfigSpec")
            .with("entity", Moref::new("ResourcePool", "ha-root-pool"))
            .with("cpuAllocation", allocation())
            .with("memoryAllocation", allocation())
    };
    match name {
        "owner" => Some(Value::Reference(Moref::new("ComputeResource", "ha-compute-res"))),
        "vm" => Some(machines(world)),
        "resourcePool" => Some(references([])),
        "runtime" => Some(Value::Object(runtime())),
        "config" => Some(Value::Object(config())),
        "summary" => Some(Value::Object(
            Object::new("ResourcePoolSummary")
                .with("name", "Resources")
                .with("config", config())
                .with("runtime", runtime()),
        )),
        other => entity_property(
            other,
            "Resources",
            Some(Moref::new("ComputeResource", "ha-compute-res")),
        ),
    }
}

fn datastore(world: &World, datastore: &Datastore, name: &str) -> Option<Value> {
    match name {
        "summary" => Some(Value::Object(
            Object::new("DatastoreSummary")
                .with("datastore", Moref::new("Datastore", datastore.id.clone()))
                .with("name", &datastore.name)
                .with("url", &datastore.url)
                .with("capacity", datastore.capacity_bytes)
                .with("freeSpace", datastore.free_bytes)
                .with("uncommitted", datastore.uncommitted_bytes)
                .with("accessible", datastore.accessible)
                .with("multipleHostAccess", datastore.remote.is_some())
                .with("type", &datastore.kind)
                .with("maintenanceMode", "normal"),
        )),
        "info" => Some(Value::Object(datastore_info(world, datastore))),
        "vm" => {
            let here = world.machines().filter(|machine| machine.datastore == datastore.id);
            Some(references(here.map(|machine| Moref::new("VirtualMachine", machine.id.clone()))))
        }
        "host" => {
            let mount = Object::new("HostMountInfo")
                .with("path", &datastore.url)
                .with("accessMode", "readWrite")
                .with("mounted", true)
                .with("accessible", datastore.accessible);
            let mount = Object::new("DatastoreHostMount")
                .with("key", Moref::new("HostSystem", "ha-host"))
                .with("mountInfo", mount);
            Some(list("DatastoreHostMount", vec![mount]))
        }
        "browser" => {
            let id = format!("{}-datastorebrowser", datastore.id);
            Some(Value::Reference(Moref::new("HostDatastoreBrowser", id)))
        }
        "capability" => Some(Value::Object(
            Object::new("DatastoreCapability")
                .with("directoryHierarchySupported", true)
                .with("rawDiskMappingsSupported", datastore.remote.is_none())
                .with("perFileThinProvisioningSupported", true)
                .with("storageIORMSupported", false)
                .with("nativeSnapshotSupported", false)
                .with("topLevelDirectoryCreateSupported", true),
        )),
        other => entity_property(
            other,
            &datastore.name,
            Some(Moref::new("Folder", "ha-folder-datastore")),
        ),
    }
}

fn datastore_info(world: &World, datastore: &Datastore) -> Object {
    let with_common = |object: Object| {
        object
            .with("name", &datastore.name)
            .with("url", &datastore.url)
            .with("freeSpace", datastore.free_bytes)
            .with("maxFileSize", 70_368_744_177_664_i64)
            .with("maxVirtualDiskCapacity", 68_169_720_922_112_i64)
            .with("maxMemoryFileSize", 70_368_744_177_664_i64)
            .with("timestamp", datastore.refreshed_at.unwrap_or(world.host.booted_at))
    };
    let volume = |object: Object| {
        object
            .with("type", &datastore.kind)
            .with("name", &datastore.name)
            .with("capacity", datastore.capacity_bytes)
    };
    if let Some((host, path)) = &datastore.remote {
        let nas =
            volume(Object::new("HostNasVolume")).with("remoteHost", host).with("remotePath", path);
        return with_common(Object::new("NasDatastoreInfo")).with("nas", nas);
    }
    let extent = Object::new("HostScsiDiskPartition")
        .with("diskName", "t10.ATA_____simulated")
        .with("partition", 8);
    let vmfs = volume(Object::new("HostVmfsVolume"))
        .with("blockSizeMb", 1)
        .with("blockSize", 1_024)
        .with("maxBlocks", 63_963_136)
        .with("majorVersion", 6)
        .with("version", "6.82")
        .with("uuid", &datastore.id)
        .with("extent", list("HostScsiDiskPartition", vec![extent]))
        .with("vmfsUpgradable", false)
        .with("ssd", true)
        .with("local", true);
    with_common(Object::new("VmfsDatastoreInfo"))
        .with("maxPhysicalRDMFileSize", 70_368_744_177_664_i64)
        .with("maxVirtualRDMFileSize", 68_169_720_922_112_i64)
        .with("vmfs", vmfs)
}
