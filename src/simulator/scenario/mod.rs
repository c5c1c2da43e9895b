//! The initial state of the simulated host: read from a TOML file, or generated.

mod directory;
mod drives;
mod file;
mod generate;
mod question;
mod screen;

use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::fault_config::ConfiguredFault;
use super::pace::Pace;
use super::world::{
    CardNetwork, Datastore, FileContent, HostInfo, Machine, Moment, Network, Operation, PowerState,
    World,
};
use file::ScenarioFile;
pub(super) use question::{QuestionEntry, ScenarioQuestion};
pub(super) use screen::StageEntry;

/// The network that every ESX has after its installation.
const DEFAULT_NETWORK: &str = "VM Network";

/// A checked scenario: a host with its datastores and machines.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub host: HostSettings,
    pub datastores: Vec<Datastore>,
    /// The networks of the file. The host also gets each network of a standard switch that a card
    /// names.
    pub networks: Vec<Network>,
    pub machines: Vec<Machine>,
    /// The datastore paths of folders.
    pub folders: Vec<String>,
    /// Files by their datastore paths. The files of machines follow from the machines.
    pub files: Vec<(String, FileContent)>,
    /// The faults that are planned or applied when the simulator starts.
    pub faults: Vec<ConfiguredFault>,
}

/// The properties and limits of the host itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostSettings {
    pub name: String,
    pub version: String,
    pub build: String,
    pub api_version: String,
    pub uuid: Uuid,
    pub cpu_count: i16,
    pub memory_gb: i64,
    /// The idle time in minutes after which a session ends; 0 means never.
    pub session_timeout_minutes: u64,
    /// The maximum number of sessions that the host accepts at the same time.
    pub session_limit: usize,
    /// The DNS names and IP addresses in the host's certificate.
    pub certificate_names: Vec<String>,
    /// Whether the host's certificate says that it belongs to a certificate authority (`CA:TRUE`),
    /// as a certificate from `openssl req -x509` does.
    pub certificate_of_authority: bool,
}

/// Why a scenario is unusable.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("the scenario {path} cannot be read")]
    Unreadable { path: String, source: std::io::Error },
    #[error("the scenario is not TOML: {0}")]
    Syntax(String),
    #[error("the scenario is wrong at `{path}`: {message}")]
    Invalid { path: String, message: String },
}

impl Scenario {
    /// The scenario of the file `config/lab.toml`, which is compiled into otter.
    pub fn lab() -> Result<Self, ScenarioError> {
        Self::from_toml(include_str!("../../../config/lab.toml"))
    }

    /// Reads a scenario from a file.
    ///
    /// # Errors
    /// Fails if the file is unreadable or the scenario is invalid.
    pub async fn from_file(path: &Path) -> Result<Self, ScenarioError> {
        let text = tokio::fs::read_to_string(path).await.map_err(|source| {
            ScenarioError::Unreadable { path: path.display().to_string(), source }
        })?;
        Self::from_toml(&text)
    }

    /// Reads a scenario from its text.
    ///
    /// # Errors
    /// Fails if the text is not TOML, has an unknown key, or has an invalid value. The error names
    /// the path of the key.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        let reader = toml::Deserializer::parse(text)
            .map_err(|error| ScenarioError::Syntax(error.to_string()))?;
        let file: ScenarioFile =
            serde_path_to_error::deserialize(reader).map_err(|error| ScenarioError::Invalid {
                path: error.path().to_string(),
                message: error.into_inner().message().to_owned(),
            })?;
        file.check()
    }

    /// A scenario of a host with this number of machines. Every third machine is a runner with
    /// tools and an address, and every tenth machine is powered on.
    #[must_use]
    pub fn generated(machines: usize) -> Self {
        let datastores =
            vec![generate::datastore("5f2c7a10-0c8e1b2a-7d31-0050569c0001", "datastore1")];
        let machines =
            (1..=machines).map(|number| generate::machine(number, &datastores[0])).collect();
        Self {
            host: HostSettings::default(),
            datastores,
            networks: Vec::new(),
            machines,
            folders: Vec::new(),
            files: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Makes the world as it is when the simulator starts.
    #[must_use]
    pub fn build(&self, pace: Pace, now: Moment) -> World {
        let host = HostInfo {
            name: self.host.name.clone(),
            version: self.host.version.clone(),
            build: self.host.build.clone(),
            api_version: self.host.api_version.clone(),
            uuid: self.host.uuid.to_string(),
            cpu_count: self.host.cpu_count,
            memory_bytes: self.host.memory_gb << 30,
            booted_at: days_before(now.wall, 3),
            in_maintenance_mode: false,
        };
        let mut world = World::new(host, pace, now);
        for datastore in &self.datastores {
            world.add_datastore(datastore.clone());
        }
        for folder in &self.folders {
            world.put_folder(folder);
        }
        for (path, content) in &self.files {
            world.put_file(path, content.clone());
        }
        // The free space of the scenario is that with these files.
        let ids: Vec<String> = world.datastores().map(|datastore| datastore.id.clone()).collect();
        for id in ids {
            world.forget_unreported_space(&id);
        }
        world.add_network(Network::standard(DEFAULT_NETWORK));
        for network in &self.networks {
            world.add_network(network.clone());
        }
        for machine in &self.machines {
            for card in &machine.network_cards {
                if let CardNetwork::Standard(name) = &card.network {
                    world.add_network(Network::standard(name));
                }
            }
            let mut machine = machine.clone();
            if machine.power == PowerState::On {
                machine.screen.run(now.elapsed, world.screen_scale());
                machine.booted_at = Some(days_before(now.wall, 1));
                machine.guest.tools_running = machine.guest.tools_installed;
                machine.guest.reported_address =
                    machine.guest.address.clone().filter(|_| machine.guest.tools_running);
            }
            if machine.power == PowerState::Suspended {
                machine.suspended_at = Some(days_before(now.wall, 1));
            }
            // A question that the machine asks from the start makes a power-on wait. So the world
            // starts a power-on and runs it until it waits for the answer.
            let pending = machine.question.take();
            let (id, is_on) = (machine.id.clone(), machine.power == PowerState::On);
            let later = machine.question_at_power_on.take();
            machine.question_at_power_on = pending.clone().or_else(|| later.clone());
            world.add_machine(machine);
            if is_on {
                world.connect_earlier_drives(&id);
                world.write_earlier_output(&id);
            }
            if pending.is_some() {
                if let Ok(task) = world.start_task(&id, Operation::PowerOn, "root") {
                    world.finish_task(&task.id);
                }
                if let Some(machine) = world.machine_mut(&id) {
                    machine.question_at_power_on = later;
                }
            }
        }
        world
    }
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            name: "localhost.localdomain".to_owned(),
            version: "7.0.3".to_owned(),
            build: "19193900".to_owned(),
            api_version: "7.0.3.0".to_owned(),
            uuid: Uuid::from_u128(0x4c4c_4544_0042_3510_8054_c4c0_4f58_4e32),
            cpu_count: 16,
            memory_gb: 256,
            session_timeout_minutes: 30,
            session_limit: 500,
            certificate_names: ["localhost.localdomain", "localhost", "127.0.0.1"]
                .map(str::to_owned)
                .to_vec(),
            certificate_of_authority: false,
        }
    }
}

fn days_before(time: Timestamp, days: i64) -> Timestamp {
    time.checked_sub(jiff::SignedDuration::from_hours(24 * days)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_path_of_the_key() {
        let with = |machine: &str| {
            let text = format!(
                "[[datastores]]\nid = \"d\"\nname = \"d\"\ncapacity_gb = 1\nfree_gb = 1\n\
                 [[machines]]\nid = \"1\"\n\
                 name = \"m\"\ndatastore = \"d\"\n{machine}"
            );
            Scenario::from_toml(&text)
                .map(|scenario| scenario.machines.len())
                .map_err(|error| error.to_string())
        };
        assert_eq!(with(""), Ok(1));
        let wrong = |machine: &str, path: &str| {
            let error = with(machine).unwrap_err();
            assert!(error.contains(path), "{error}");
        };
        wrong("nmae = 1", "machines[0]");
        wrong("nmae = 1", "nmae");
        wrong("power = \"of\"", "machines[0].power");
        wrong("serial_ports = [{}]", "machines[0].serial_ports[0]");
        wrong("serial_ports = [{ uri = \"tcp://:0\", tty = \"/x\" }]", "serial_ports[0].tty");
        wrong("serial_ports = [{ pipe = \"p\", foreign = true }]", "serial_ports[0].foreign");
        wrong("serial_file_answer = \"ask\"", "machines[0].serial_file_answer");
        wrong(
            "network_cards = [{ mac = \"00:50:56:00:00:01\", network = \"a\", \
             port_group = \"b\" }]",
            "machines[0].network_cards[0]",
        );
        wrong(
            "[[networks]]\nname = \"n\"\nport_group = \"dvportgroup-1\"\nopaque = \"o\"",
            "networks[0]",
        );
        wrong(
            "snapshots = [{ number = 1, name = \"a\", parent = 7 }]",
            "machines[0].snapshots[0].parent",
        );
        wrong("[[machines]]\nid = \"1\"\nname = \"n\"\ndatastore = \"d\"", "machines[1].id");
        assert!(Scenario::from_toml("a = [").is_err());
        let many = Scenario::generated(1_000);
        assert_eq!(many.machines.len(), 1_000);
        let mut macs: Vec<&str> = many
            .machines
            .iter()
            .flat_map(|machine| &machine.network_cards)
            .map(|card| &*card.mac_address)
            .collect();
        macs.sort_unstable();
        macs.dedup();
        assert_eq!(macs.len(), 1_000);
    }
}
