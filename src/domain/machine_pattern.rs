//! Entries of the configuration that name machines, in `machines.protected` and in the machines of
//! a pool. An entry is a pattern of names, an id, or a UUID or hardware address with a prefix.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::mac::{InvalidMacAddress, MacAddress};
use super::machine_reference::ReferencedMachine;
use super::machine_uuid::parse_uuid;
use super::names::matches_pattern;

/// The prefixes of those entries that are not patterns of names.
const PREFIXES: [&str; 2] = ["uuid", "mac"];

/// Prefixes that references of the HTTP API have but that an entry must not have: in an entry, a
/// name or an id stands without a prefix.
const PLAIN: [&str; 2] = ["name", "id"];

/// The similarity from which on an unknown prefix is refused as a misspelling of a known prefix.
/// This limit applies if the value after the prefix is a UUID or a hardware address.
const SIMILAR: f64 = 0.7;

/// The similarity from which on an unknown prefix is refused as a misspelling, if the value after
/// the prefix is neither a UUID nor a hardware address.
const VERY_SIMILAR: f64 = 0.9;

/// An entry of the configuration that names one or more machines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachinePattern {
    /// A pattern of names with `*` and `?`, or an id. A host can later give the id to another
    /// machine.
    NameOrId(String),
    /// `uuid:…`: every machine with this instance UUID or this BIOS UUID.
    Uuid { uuid: Uuid, text: String },
    /// `mac:…`: every machine that has a network card with this hardware address.
    Mac { address: MacAddress, text: String },
}

/// By which property an entry names a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternMatch {
    /// The entry names the machine by its id alone.
    Id,
    /// The entry names the machine by its name, its UUID or a hardware address.
    Property,
}

/// Why a text is not a valid entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMachinePattern {
    #[error("it must not be empty")]
    Empty,
    #[error(
        "not a UUID: write 32 hexadecimal digits, such as \
         uuid:564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42"
    )]
    Uuid,
    #[error(transparent)]
    Mac(InvalidMacAddress),
    /// The text begins with `name:` or `id:`. Only references of the HTTP API have these prefixes.
    #[error("names and ids have no prefix here; did you mean {value:?}?")]
    Plain { value: String },
    #[error("there is no prefix {given}:; did you mean {nearest}:?")]
    Prefix { given: String, nearest: &'static str },
}

impl MachinePattern {
    /// By which property the entry names the machine. `None` if the entry does not name the
    /// machine.
    #[must_use]
    pub fn match_with(&self, machine: &impl ReferencedMachine) -> Option<PatternMatch> {
        let (fits, by) = match self {
            Self::NameOrId(pattern) if matches_pattern(pattern, machine.name()) => {
                (true, PatternMatch::Property)
            }
            Self::NameOrId(id) => (*machine.id() == **id, PatternMatch::Id),
            Self::Uuid { uuid, .. } => {
                let uuids = [machine.instance_uuid(), machine.bios_uuid()];
                let fits = uuids.into_iter().flatten().any(|own| parse_uuid(own) == Some(*uuid));
                (fits, PatternMatch::Property)
            }
            Self::Mac { address, .. } => (machine.has_mac(*address), PatternMatch::Property),
        };
        fits.then_some(by)
    }

    /// Whether the entry names the machine.
    #[must_use]
    pub fn matches(&self, machine: &impl ReferencedMachine) -> bool {
        self.match_with(machine).is_some()
    }
}

impl FromStr for MachinePattern {
    type Err = InvalidMachinePattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidMachinePattern::Empty);
        }
        let Some((prefix, value)) = text.split_once(':') else {
            return Ok(Self::NameOrId(text.to_owned()));
        };
        match prefix {
            "uuid" => match parse_uuid(value) {
                Some(uuid) => Ok(Self::Uuid { uuid, text: text.to_owned() }),
                None => Err(InvalidMachinePattern::Uuid),
            },
            "mac" => match value.parse() {
                Ok(address) => Ok(Self::Mac { address, text: text.to_owned() }),
                Err(error) => Err(InvalidMachinePattern::Mac(error)),
            },
            _ if PLAIN.iter().any(|plain| plain.eq_ignore_ascii_case(prefix)) => {
                Err(InvalidMachinePattern::Plain { value: value.trim().to_owned() })
            }
            _ => check_prefix(prefix, value).map(|()| Self::NameOrId(text.to_owned())),
        }
    }
}

/// Refuses a misspelt prefix. A name may contain a colon too, so a prefix is refused only if it is
/// very similar to a known one, or if it is similar and a UUID or a hardware address follows.
fn check_prefix(given: &str, value: &str) -> Result<(), InvalidMachinePattern> {
    let is_address = || value.contains([':', '-', '.']) && value.parse::<MacAddress>().is_ok();
    let least = if parse_uuid(value).is_some() || is_address() { SIMILAR } else { VERY_SIMILAR };
    let similarity = |known: &str| strsim::jaro_winkler(known, &given.to_lowercase());
    let nearest =
        PREFIXES.into_iter().max_by(|one, other| similarity(one).total_cmp(&similarity(other)));
    match nearest.filter(|known| similarity(known) > least) {
        Some(nearest) => Err(InvalidMachinePattern::Prefix { given: given.to_owned(), nearest }),
        None => Ok(()),
    }
}

impl fmt::Display for MachinePattern {
    /// Writes the entry as the configuration has it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameOrId(text) | Self::Uuid { text, .. } | Self::Mac { text, .. } => {
                formatter.write_str(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::MachineId;
    use crate::domain::machine::Machine;

    const INSTANCE: &str = "52a1b2c3-0000-1111-2222-333344445555";
    const BIOS: &str = "564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42";

    fn machine() -> Machine {
        let mut machine = Machine::new(MachineId::from_backend("16"));
        machine.name = "golden-debian".to_owned();
        machine.instance_uuid = Some(INSTANCE.to_owned());
        machine.bios_uuid = Some(BIOS.to_owned());
        machine
    }

    #[test]
    fn an_entry_names_machines_by_name_id_uuid_and_address() {
        for (text, expected) in [
            ("16", Some(PatternMatch::Id)),
            ("17", None),
            ("golden-*", Some(PatternMatch::Property)),
            ("1*", None),
            (&format!("uuid:{INSTANCE}"), Some(PatternMatch::Property)),
            (&format!("uuid:{}", BIOS.to_uppercase()), Some(PatternMatch::Property)),
            ("uuid:56 4d 4f 5c 1f 3a 4b 60-8a 65 7d 2c 6a 1e 0b 42", Some(PatternMatch::Property)),
            ("uuid:564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b43", None),
            ("mac:00:50:56:00:00:01", None),
        ] {
            let pattern: MachinePattern = text.parse().unwrap();
            assert_eq!(pattern.match_with(&machine()), expected, "{text}");
            assert_eq!(pattern.to_string(), text);
        }
    }

    #[test]
    fn a_broken_entry_is_refused_with_the_nearest_prefix() {
        let problem = |text: &str| text.parse::<MachinePattern>().unwrap_err().to_string();
        assert_eq!(problem(""), "it must not be empty");
        for (text, expected) in [
            ("uuid:", "not a UUID"),
            ("uuid:564d", "not a UUID"),
            ("uuid:564d4f5c-*", "not a UUID"),
            ("mac:", "not a hardware address"),
            ("mac:00:50:56:00:00", "not a hardware address"),
            ("uid:564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42", "did you mean uuid:?"),
            ("UUID:564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42", "did you mean uuid:?"),
            ("macs:00:50:56:00:00:01", "did you mean mac:?"),
            ("uid:564d", "did you mean uuid:?"),
            ("MAC:host", "did you mean mac:?"),
            ("name:golden", "did you mean \"golden\"?"),
            ("Name: golden", "did you mean \"golden\"?"),
            ("id:16", "did you mean \"16\"?"),
        ] {
            assert!(problem(text).contains(expected), "{text}: {}", problem(text));
        }
        for name in ["lab:one", "a: b", "copy:2", "00:50:56:00:00:01", "uuidx"] {
            let pattern = name.parse::<MachinePattern>().unwrap();
            assert_eq!(pattern, MachinePattern::NameOrId(name.to_owned()), "{name}");
        }
    }
}
