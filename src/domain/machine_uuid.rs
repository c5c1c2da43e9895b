//! Parses UUIDs of machines in the spellings of VMware and of DMI, the table in which firmware
//! describes the computer.

use uuid::Uuid;

/// The beginning of the serial number that VMware writes into the DMI table of a virtual machine.
const SERIAL_PREFIX: &str = "VMware-";

/// Parses a UUID. Case, dashes and spaces do not matter, because vmx files write pairs of digits:
/// `56 4d 4f 5c 1f 3a 4b 60-8a 65 7d 2c 6a 1e 0b 42`. `None` if the text is not a UUID.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    let digits: String = text.chars().filter(|letter| !matches!(letter, ' ' | '-')).collect();
    (digits.len() == 32).then(|| Uuid::try_parse(&digits).ok()).flatten()
}

/// Parses the UUID in the serial number of a VMware machine (`VMware-56 4d …`). This UUID is the
/// BIOS UUID of the machine. `None` if the text is a serial number of another form.
#[must_use]
pub fn parse_serial_number(text: &str) -> Option<Uuid> {
    parse_uuid(text.strip_prefix(SERIAL_PREFIX)?)
}

/// The UUID with the bytes of its first three fields in reverse order. SMBIOS 2.6 defines these
/// fields as little-endian, so a guest can see another order of bytes than the host.
#[must_use]
pub fn with_swapped_fields(uuid: Uuid) -> Uuid {
    Uuid::from_bytes_le(uuid.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42";

    #[test]
    fn a_uuid_is_parsed_in_every_spelling() {
        let uuid = Uuid::parse_str(TEXT).unwrap();
        for text in [
            TEXT,
            "564D4F5C-1F3A-4B60-8A65-7D2C6A1E0B42",
            "564d4f5c1f3a4b608a657d2c6a1e0b42",
            "56 4d 4f 5c 1f 3a 4b 60-8a 65 7d 2c 6a 1e 0b 42",
        ] {
            assert_eq!(parse_uuid(text), Some(uuid), "{text}");
        }
        for text in ["", "564d", "{564d4f5c-1f3a-4b60-8a65-7d2c6a1e0b42}", &TEXT[1..], "ü"] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
        let serial = "VMware-56 4d 4f 5c 1f 3a 4b 60-8a 65 7d 2c 6a 1e 0b 42";
        assert_eq!(parse_serial_number(serial), Some(uuid));
        assert_eq!(parse_serial_number("VMware-56 4d"), None);
        assert_eq!(parse_serial_number(TEXT), None);
    }

    #[test]
    fn the_first_three_fields_are_swapped_and_swapped_back() {
        let uuid = Uuid::parse_str(TEXT).unwrap();
        let swapped = with_swapped_fields(uuid);
        assert_eq!(swapped.to_string(), "5c4f4d56-3a1f-604b-8a65-7d2c6a1e0b42");
        assert_eq!(with_swapped_fields(swapped), uuid);
    }
}
