//! `ReconfigVM_Task`: a change of the configuration of a machine. All of it takes effect, or
//! nothing.
//!
//! ```text
//! options, boot order, devices ──► a copy of the machine ──► the machine
//!     └─ takes a locked medium away ──► question: Yes | No
//! ```

use super::drives::{AddedDisk, BootDevice, CdBacking, CdDrive, Controller};
use super::drives::{DISK_CONTROLLER, DRIVE_CONTROLLERS, FIRST_DISK};
use super::file_content::FileContent;
use super::files::{FilePath, FileProblem};
use super::machine_files::{descriptor_text, extent_path};
use super::{
    CardNetwork, Machine, NetworkCard, PowerState, SerialBacking, SerialFileAnswer, SerialPort,
    World,
};
use crate::simulator::value::Moref;
use crate::simulator::vim_fault::Fault;

/// A change of a machine. What is `None` or empty stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChange {
    /// The version of the configuration that the client has seen.
    pub change_version: Option<String>,
    pub name: Option<String>,
    pub annotation: Option<String>,
    pub guest_id: Option<String>,
    pub bios_uuid: Option<String>,
    pub instance_uuid: Option<String>,
    pub cpu_count: Option<i32>,
    pub memory_mb: Option<i64>,
    pub nested_virtualization: Option<bool>,
    pub max_mks_connections: Option<i32>,
    /// Options with their values. An empty value removes the option.
    pub options: Vec<(String, String)>,
    pub boot: BootChange,
    pub devices: Vec<DeviceChange>,
}

/// A change of how a machine boots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootChange {
    /// The new order. Empty: the firmware's own order.
    pub order: Option<Vec<BootDevice>>,
    pub delay_ms: Option<i64>,
    pub enters_setup: Option<bool>,
    pub retries: Option<bool>,
    pub retry_delay_ms: Option<i64>,
}

/// A change of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChange {
    pub operation: DeviceOperation,
    /// Whether the file of a disk is made with the device or deleted with it.
    pub with_file: bool,
    /// The key of the device. For a new device any number, by which other new devices name it.
    pub key: i32,
    pub controller: Option<i32>,
    pub unit: Option<i32>,
    pub connection: Option<ConnectionChange>,
    pub device: DeviceSpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceOperation {
    Add,
    Remove,
    Edit,
}

/// How a change connects a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionChange {
    pub connected: bool,
    pub start_connected: bool,
    pub allows_guest_control: bool,
}

/// The device of a change, by its kind. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    Cdrom {
        backing: Option<CdBacking>,
    },
    Card {
        kind: &'static str,
        mac_address: Option<String>,
        network: Option<CardNetwork>,
    },
    Serial {
        backing: Option<SerialBacking>,
    },
    Disk {
        bytes: Option<i64>,
        path: Option<String>,
    },
    Controller {
        kind: &'static str,
        bus: Option<i32>,
    },
    /// A kind that the simulated host does not have.
    Unknown,
}

/// The place of a change in the list of changes, which faults name.
#[derive(Clone, Copy)]
struct Place(usize);

impl Place {
    fn fault(self, type_name: &'static str) -> Fault {
        let index = i32::try_from(self.0).unwrap_or(i32::MAX);
        Fault::new(type_name, format!("Invalid configuration for device '{index}'."))
            .with("deviceIndex", index)
    }

    fn missing(self) -> Fault {
        self.fault("DeviceNotFound")
    }
}

/// A machine while it is changed.
struct Draft {
    machine: Machine,
    /// The keys of the new devices by the keys that the client gave them.
    new_keys: Vec<(i32, i32)>,
    /// The descriptors of the disks that are deleted when the change takes effect.
    deleted: Vec<String>,
    /// The removed disks whose files stay: their descriptors and sizes.
    kept: Vec<(String, i64)>,
}

impl ConfigChange {
    /// The key of a drive whose locked medium the change takes away. `None` if it takes none.
    #[must_use]
    pub fn takes_locked_medium(&self, machine: &Machine) -> Option<i32> {
        let taken = |change: &DeviceChange| {
            let drive = machine.cd_drives.iter().find(|drive| drive.key == change.key)?;
            let DeviceSpec::Cdrom { backing } = &change.device else { return None };
            let disconnects = change.connection.is_some_and(|connection| !connection.connected);
            let replaces = backing.as_ref().is_some_and(|backing| *backing != drive.backing);
            let is_removed = change.operation == DeviceOperation::Remove;
            let is_taken = drive.is_locked && (disconnects || replaces || is_removed);
            is_taken.then_some(drive.key)
        };
        self.devices.iter().find_map(taken)
    }
}

impl World {
    /// Changes the configuration of a machine.
    ///
    /// # Errors
    /// The fault with which a host refuses the change. Then the machine stays as it was.
    pub(super) fn reconfigure_now(&mut self, id: &str, change: &ConfigChange) -> Result<(), Fault> {
        let machine = self.require_machine(id)?;
        if change.change_version.as_ref().is_some_and(|seen| *seen != machine.change_version()) {
            return Err(Fault::new(
                "ConcurrentAccess",
                "The operation failed due to a concurrent operation.",
            ));
        }
        let machine = machine.clone();
        let mut draft =
            Draft { machine, new_keys: Vec::new(), deleted: Vec::new(), kept: Vec::new() };
        draft.set_fields(change)?;
        for (at, device) in change.devices.iter().enumerate() {
            self.change_device(&mut draft, Place(at), device)?;
        }
        draft.set_boot(&change.boot)?;
        let Draft { mut machine, deleted, kept, .. } = draft;
        machine.reconfigured_at = Some(self.now.wall);
        machine.log(self.now.wall, "The configuration was changed.");
        // A restart of the guest boots from what is in the drives then.
        let medium = machine.boot_drive().map(|(_, iso)| iso.to_owned());
        machine.screen.insert(medium);
        self.record_change(Moref::new("VirtualMachine", id));
        self.machines.insert(id.to_owned(), machine);
        for path in deleted {
            self.remove_file(&extent_path(&path));
            self.remove_file(&path);
        }
        for (path, bytes) in kept {
            let length = u64::try_from(bytes).unwrap_or(0);
            self.put_file(&extent_path(&path), FileContent::zeros(length));
            self.put_file(&path, FileContent::of(descriptor_text(bytes).as_bytes()));
        }
        Ok(())
    }

    fn change_device(
        &self,
        draft: &mut Draft,
        place: Place,
        change: &DeviceChange,
    ) -> Result<(), Fault> {
        match &change.device {
            DeviceSpec::Cdrom { backing } => {
                self.change_drive(draft, place, change, backing.as_ref())
            }
            DeviceSpec::Card { kind, mac_address, network } => {
                let card = (*kind, mac_address.as_deref(), network.as_ref());
                self.change_card(draft, place, change, card)
            }
            DeviceSpec::Serial { backing } => draft.change_port(place, change, backing.as_ref()),
            DeviceSpec::Disk { bytes, path } => {
                self.change_disk(draft, place, change, *bytes, path.as_deref())
            }
            DeviceSpec::Controller { kind, bus } => {
                draft.change_controller(place, change, kind, *bus)
            }
            DeviceSpec::Unknown => Err(place.fault("InvalidDeviceSpec")),
        }
    }

    fn change_drive(
        &self,
        draft: &mut Draft,
        place: Place,
        change: &DeviceChange,
        backing: Option<&CdBacking>,
    ) -> Result<(), Fault> {
        let is_on = draft.machine.power == PowerState::On;
        let mut drive = match change.operation {
            DeviceOperation::Add => draft.new_drive(place, change)?,
            DeviceOperation::Edit | DeviceOperation::Remove => {
                let drives = &mut draft.machine.cd_drives;
                let at = drives.iter().position(|drive| drive.key == change.key);
                drives.remove(at.ok_or_else(|| place.missing())?)
            }
        };
        if change.operation != DeviceOperation::Edit && is_on && drive.controller < DISK_CONTROLLER
        {
            // A drive at an IDE controller cannot be added or removed while the machine is on.
            return Err(Fault::invalid_power_state(Some("poweredOff"), "poweredOn"));
        }
        if change.operation == DeviceOperation::Remove {
            return Ok(());
        }
        if let Some(backing) = backing {
            if drive.backing != *backing {
                drive.is_locked = false;
            }
            drive.backing = backing.clone();
        }
        if let Some(connection) = change.connection {
            drive.start_connected = connection.start_connected;
            drive.allows_guest_control = connection.allows_guest_control;
            drive.connected = connection.connected && is_on;
        }
        drive.is_locked &= drive.connected;
        drive.is_broken = false;
        if drive.connected && !self.has_medium(&drive.backing) {
            let message = format!("Unable to connect the device '{}'.", drive.place());
            return Err(Fault::new("GenericVmConfigFault", &message).with("reason", message));
        }
        if let CdBacking::Iso(path) = &drive.backing
            && FilePath::parse(path).is_err()
        {
            return Err(place.fault("InvalidDeviceBacking"));
        }
        draft.machine.cd_drives.push(drive);
        draft.machine.cd_drives.sort_by_key(|drive| drive.key);
        Ok(())
    }

    fn change_card(
        &self,
        draft: &mut Draft,
        place: Place,
        change: &DeviceChange,
        (kind, mac_address, network): (&'static str, Option<&str>, Option<&CardNetwork>),
    ) -> Result<(), Fault> {
        let is_on = draft.machine.power == PowerState::On;
        let is_unknown = |network: &CardNetwork| self.network(network).is_none();
        if network.is_some_and(is_unknown) && change.operation != DeviceOperation::Remove {
            return Err(place.fault("InvalidDeviceBacking"));
        }
        let cards = &mut draft.machine.network_cards;
        let at = cards.iter().position(|card| card.key == change.key);
        let mut card = match (change.operation, at) {
            (DeviceOperation::Add, _) => {
                let network = network.ok_or_else(|| place.fault("InvalidDeviceBacking"))?;
                let key = free_key(4_000, cards.iter().map(|card| card.key));
                draft.new_keys.push((change.key, key));
                let machine: u32 = draft.machine.id.bytes().map(u32::from).sum();
                let [.., high, low] = (machine << 4).wrapping_add(key.unsigned_abs()).to_be_bytes();
                NetworkCard {
                    key,
                    kind,
                    mac_address: format!("00:0c:29:f0:{high:02x}:{low:02x}"),
                    network: network.clone(),
                    connected: true,
                }
            }
            (_, None) => return Err(place.missing()),
            (DeviceOperation::Remove, Some(at)) => {
                cards.remove(at);
                return Ok(());
            }
            (DeviceOperation::Edit, Some(at)) => cards.remove(at),
        };
        if let Some(address) = mac_address.filter(|address| !address.is_empty()) {
            address.clone_into(&mut card.mac_address);
        }
        if let Some(network) = network {
            card.network = network.clone();
        }
        if let Some(connection) = change.connection {
            card.connected = if is_on { connection.connected } else { connection.start_connected };
        }
        let cards = &mut draft.machine.network_cards;
        cards.push(card);
        cards.sort_by_key(|card| card.key);
        Ok(())
    }

    fn change_disk(
        &self,
        draft: &mut Draft,
        place: Place,
        change: &DeviceChange,
        bytes: Option<i64>,
        path: Option<&str>,
    ) -> Result<(), Fault> {
        let machine = &mut draft.machine;
        let at = machine.added_disks.iter().position(|disk| disk.key == change.key);
        let is_first = change.key == FIRST_DISK && machine.disk_bytes > 0;
        match change.operation {
            DeviceOperation::Add => {
                let path = draft.path_of_new_disk(path);
                let place_of_file =
                    FilePath::parse(&path).map_err(|_| place.fault("InvalidDeviceBacking"))?;
                let exists = self.entry(&place_of_file).is_ok();
                if change.with_file && exists {
                    return Err(FileProblem::Exists.fault(&place_of_file));
                }
                if !change.with_file && !exists {
                    return Err(FileProblem::NotFound.fault(&place_of_file));
                }
                let bytes = bytes.filter(|bytes| *bytes > 0);
                let bytes = bytes.ok_or_else(|| place.fault("InvalidDeviceSpec"))?;
                draft.add_disk(change, bytes, path);
            }
            DeviceOperation::Edit => {
                let size = match (is_first, at) {
                    (true, _) => &mut machine.disk_bytes,
                    (false, Some(at)) => &mut machine.added_disks[at].bytes,
                    (false, None) => return Err(place.missing()),
                };
                match bytes {
                    // A disk can only grow.
                    Some(bytes) if bytes < *size => return Err(place.fault("InvalidDeviceSpec")),
                    Some(bytes) => *size = bytes,
                    None => {}
                }
            }
            DeviceOperation::Remove => {
                let (path, bytes) = match (is_first, at) {
                    (true, _) => {
                        let bytes = std::mem::take(&mut machine.disk_bytes);
                        (format!("{}.vmdk", machine.base_path()), bytes)
                    }
                    (false, Some(at)) => {
                        let disk = machine.added_disks.remove(at);
                        (disk.path, disk.bytes)
                    }
                    (false, None) => return Err(place.missing()),
                };
                if change.with_file {
                    draft.deleted.push(path);
                } else {
                    draft.kept.push((path, bytes));
                }
            }
        }
        Ok(())
    }
}

impl Draft {
    fn set_fields(&mut self, change: &ConfigChange) -> Result<(), Fault> {
        let machine = &mut self.machine;
        let is_on = machine.power == PowerState::On;
        if let Some(name) = &change.name {
            if name.is_empty() || name.chars().count() > 80 {
                return Err(Fault::new("InvalidName", format!("The name '{name}' is invalid."))
                    .with("name", name));
            }
            name.clone_into(&mut machine.name);
        }
        let hardware = change.cpu_count.is_some_and(|count| count != machine.cpu_count)
            || change.memory_mb.is_some_and(|size| size != i64::from(machine.memory_mb));
        if hardware && is_on {
            // The machines cannot take another processor or more memory while they are on.
            return Err(Fault::invalid_power_state(Some("poweredOff"), "poweredOn"));
        }
        if let Some(count) = change.cpu_count {
            machine.cpu_count = Some(count)
                .filter(|count| (1..=768).contains(count))
                .ok_or_else(|| Fault::invalid_argument("configSpec.numCPUs"))?;
        }
        if let Some(size) = change.memory_mb {
            machine.memory_mb = i32::try_from(size)
                .ok()
                .filter(|size| *size >= 4 && size % 4 == 0)
                .ok_or_else(|| Fault::invalid_argument("configSpec.memoryMB"))?;
        }
        let fields = [
            (&change.annotation, &mut machine.annotation),
            (&change.guest_id, &mut machine.guest_id),
            (&change.bios_uuid, &mut machine.bios_uuid),
            (&change.instance_uuid, &mut machine.instance_uuid),
        ];
        for (new, field) in fields {
            if let Some(new) = new {
                new.clone_into(field);
            }
        }
        if let Some(nested) = change.nested_virtualization {
            machine.nested_virtualization = nested;
        }
        if let Some(most) = change.max_mks_connections {
            machine.max_mks_connections = most;
        }
        for (key, value) in &change.options {
            self.set_option(key, value);
        }
        Ok(())
    }

    fn set_option(&mut self, key: &str, value: &str) {
        let machine = &mut self.machine;
        match key {
            SerialFileAnswer::OPTION => {
                machine.serial_file_answer = match value {
                    "Append" => Some(SerialFileAnswer::Append),
                    "Replace" => Some(SerialFileAnswer::Replace),
                    _ => None,
                };
            }
            "vhv.enable" => machine.nested_virtualization = value.eq_ignore_ascii_case("true"),
            _ if value.is_empty() => drop(machine.extra_config.remove(key)),
            _ => drop(machine.extra_config.insert(key.to_owned(), value.to_owned())),
        }
    }

    fn set_boot(&mut self, change: &BootChange) -> Result<(), Fault> {
        if let Some(order) = &change.order {
            let machine = &self.machine;
            let exists = |device: &BootDevice| match device {
                BootDevice::Cdrom | BootDevice::Floppy => true,
                BootDevice::Disk(key) => machine.disk_keys().contains(key),
                BootDevice::Network(key) => {
                    machine.network_cards.iter().any(|card| card.key == *key)
                }
            };
            if !order.iter().all(exists) {
                return Err(Fault::invalid_argument("configSpec.bootOptions.bootOrder"));
            }
        }
        let boot = &mut self.machine.boot;
        if let Some(order) = &change.order {
            boot.order.clone_from(order);
        }
        boot.delay_ms = change.delay_ms.unwrap_or(boot.delay_ms);
        boot.enters_setup = change.enters_setup.unwrap_or(boot.enters_setup);
        boot.retries = change.retries.unwrap_or(boot.retries);
        boot.retry_delay_ms = change.retry_delay_ms.unwrap_or(boot.retry_delay_ms);
        Ok(())
    }

    /// The controller that a change names, which can be a new one. `None`: it names none.
    fn controller(&self, place: Place, change: &DeviceChange) -> Result<Option<i32>, Fault> {
        let Some(named) = change.controller else { return Ok(None) };
        let renamed = self.new_keys.iter().find(|(given, _)| *given == named);
        let key = renamed.map_or(named, |(_, key)| *key);
        let is_known = DRIVE_CONTROLLERS.contains(&key)
            || key == DISK_CONTROLLER
            || self.machine.controllers.iter().any(|controller| controller.key == key);
        if is_known { Ok(Some(key)) } else { Err(place.fault("InvalidDeviceSpec")) }
    }

    /// A drive for a change that adds one, at the place that the change names or at a free one.
    fn new_drive(&mut self, place: Place, change: &DeviceChange) -> Result<CdDrive, Fault> {
        let named = self.controller(place, change)?;
        let drives = &self.machine.cd_drives;
        let is_free = |controller: i32, unit: i32| {
            !drives.iter().any(|drive| drive.controller == controller && drive.unit == unit)
        };
        let controllers = named.map_or_else(|| DRIVE_CONTROLLERS.to_vec(), |named| vec![named]);
        let units = |controller: i32| if controller < DISK_CONTROLLER { 0..2 } else { 0..30 };
        let wanted = change.unit.filter(|unit| *unit >= 0);
        let found = controllers.iter().find_map(|controller| {
            let mut units = units(*controller).filter(|unit| is_free(*controller, *unit));
            let unit = match wanted {
                Some(wanted) => units.find(|unit| *unit == wanted),
                None => units.next(),
            };
            unit.map(|unit| (*controller, unit))
        });
        let (controller, unit) = found.ok_or_else(|| place.fault("InvalidDeviceSpec"))?;
        let key = match controller {
            key if key < DISK_CONTROLLER => 3_000 + 2 * (key - DRIVE_CONTROLLERS[0]) + unit,
            key => 16_000 + 30 * (key % 1_000) + unit,
        };
        self.new_keys.push((change.key, key));
        Ok(CdDrive::new(key, controller, unit))
    }

    fn path_of_new_disk(&self, given: Option<&str>) -> String {
        let base = self.machine.base_path();
        if let Some(path) = given.and_then(|path| path.strip_suffix(".vmdk")) {
            return format!("{path}.vmdk");
        }
        let taken: Vec<&str> =
            self.machine.added_disks.iter().map(|disk| disk.path.as_str()).collect();
        let names = (1..).map(|number| format!("{base}_{number}.vmdk"));
        let mut free = names.filter(|name| !taken.contains(&name.as_str()));
        free.next().unwrap_or_default()
    }

    fn add_disk(&mut self, change: &DeviceChange, bytes: i64, path: String) {
        let controller = change
            .controller
            .filter(|key| self.machine.controllers.iter().any(|controller| controller.key == *key));
        let renamed = change.controller.and_then(|named| {
            self.new_keys.iter().find(|(given, _)| *given == named).map(|(_, key)| *key)
        });
        let controller = renamed.or(controller).unwrap_or(DISK_CONTROLLER);
        let start = if controller == DISK_CONTROLLER {
            FIRST_DISK
        } else {
            FIRST_DISK + 16 * (controller % 1_000)
        };
        let key = free_key(start, self.machine.disk_keys().into_iter());
        self.new_keys.push((change.key, key));
        let unit = key - start;
        self.machine.added_disks.push(AddedDisk { key, controller, unit, bytes, path });
    }

    fn change_port(
        &mut self,
        place: Place,
        change: &DeviceChange,
        backing: Option<&SerialBacking>,
    ) -> Result<(), Fault> {
        let ports = &mut self.machine.serial_ports;
        let at = ports.iter().position(|port| port.key == change.key);
        match (change.operation, at) {
            (DeviceOperation::Add, _) => {
                let backing = backing.ok_or_else(|| place.fault("InvalidDeviceBacking"))?;
                let key = free_key(9_000, ports.iter().map(|port| port.key));
                ports.push(SerialPort::new(key, backing.clone()));
                ports.sort_by_key(|port| port.key);
                self.new_keys.push((change.key, key));
            }
            (_, None) => return Err(place.missing()),
            (DeviceOperation::Remove, Some(at)) => drop(ports.remove(at)),
            (DeviceOperation::Edit, Some(at)) => {
                if let Some(backing) = backing {
                    ports[at].backing = backing.clone();
                }
            }
        }
        Ok(())
    }

    fn change_controller(
        &mut self,
        place: Place,
        change: &DeviceChange,
        kind: &'static str,
        bus: Option<i32>,
    ) -> Result<(), Fault> {
        let machine = &mut self.machine;
        let at = machine.controllers.iter().position(|known| known.key == change.key);
        match (change.operation, at) {
            (DeviceOperation::Add, _) => {
                let is_sata = kind == "VirtualAHCIController";
                let (start, first_bus) = if is_sata { (15_000, 0) } else { (1_001, 1) };
                let taken = machine.controllers.iter().map(|known| known.key);
                let key = free_key(start, taken);
                let bus = bus.filter(|bus| *bus >= first_bus).unwrap_or(key - start + first_bus);
                machine.controllers.push(Controller { kind, key, bus });
                self.new_keys.push((change.key, key));
            }
            (_, None) => return Err(place.missing()),
            (DeviceOperation::Edit, Some(_)) => {}
            (DeviceOperation::Remove, Some(at)) => {
                let key = machine.controllers[at].key;
                let is_used = machine.cd_drives.iter().any(|drive| drive.controller == key)
                    || machine.added_disks.iter().any(|disk| disk.controller == key);
                if is_used {
                    return Err(place.fault("InvalidDeviceOperation"));
                }
                machine.controllers.remove(at);
            }
        }
        Ok(())
    }
}

/// The smallest key from `start` on that is free.
fn free_key(start: i32, taken: impl Iterator<Item = i32>) -> i32 {
    let taken: Vec<i32> = taken.collect();
    (start..i32::MAX).find(|key| !taken.contains(key)).unwrap_or(start)
}
