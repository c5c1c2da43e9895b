//! Hardware (MAC) addresses, and the spellings in which people and tools write them.

use std::fmt;
use std::str::FromStr;

/// A hardware address. It is formatted in lower case with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress([u8; 6]);

/// The error for a text that is not a hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a hardware address: write six octets of hexadecimal digits, such as 00:50:56:ab:cd:ef"
)]
pub struct InvalidMacAddress;

impl MacAddress {
    /// Makes an address from its octets, in the order of the written form.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(formatter, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    /// Parses an address, in upper or lower case. Six octets may be separated by `:`, `-` or `.`,
    /// and an octet may lack its leading zero (`0:50:56:1:2:3`). Three groups of four digits, as
    /// some switches write them (`0050.56ab.cdef`), are also accepted. Digits without separators
    /// are padded on the left with zeros to twelve digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let separator = text.chars().find(|character| matches!(character, ':' | '-' | '.'));
        let digits = match separator {
            Some(separator) => {
                let groups: Vec<&str> = text.split(separator).collect();
                let width = match groups.len() {
                    6 => 2,
                    3 => 4,
                    _ => return Err(InvalidMacAddress),
                };
                let mut digits = String::with_capacity(12);
                for group in groups {
                    if group.is_empty() || group.len() > width {
                        return Err(InvalidMacAddress);
                    }
                    digits.extend(std::iter::repeat_n('0', width - group.len()));
                    digits.push_str(group);
                }
                digits
            }
            None if (1..=12).contains(&text.len()) => format!("{text:0>12}"),
            None => return Err(InvalidMacAddress),
        };
        let mut octets = [0; 6];
        // `hex` refuses every character that is not a hexadecimal digit, so other separators fail
        // here.
        hex::decode_to_slice(digits, &mut octets).map_err(|_| InvalidMacAddress)?;
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes one octet with or without its leading zero, in upper or lower case.
    fn spelled(octet: u8, short: bool, upper: bool) -> String {
        let text = if short { format!("{octet:x}") } else { format!("{octet:02x}") };
        if upper { text.to_uppercase() } else { text }
    }

    /// Makes six octets, and a text that writes them with separators in one of the accepted
    /// spellings.
    fn separated() -> impl Strategy<Value = ([u8; 6], String)> {
        let separator = prop::sample::select(vec![":", "-", "."]);
        (any::<[u8; 6]>(), separator, any::<[(bool, bool); 6]>()).prop_map(
            |(octets, separator, ways)| {
                let groups = octets
                    .iter()
                    .zip(ways)
                    .map(|(octet, (short, upper))| spelled(*octet, short, upper));
                (octets, groups.collect::<Vec<_>>().join(separator))
            },
        )
    }

    #[test]
    fn usual_spellings_are_parsed() {
        let expected = MacAddress([0x00, 0x50, 0x56, 0x01, 0x02, 0x0f]);
        for text in [
            "00:50:56:01:02:0f",
            "0:50:56:1:2:f",
            "00-50-56-01-02-0F",
            "0.50.56.1.2.f",
            "0050.5601.020f",
            "50:5601:20f",
            "00505601020f",
            "505601020F",
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert_eq!("1".parse(), Ok(MacAddress([0, 0, 0, 0, 0, 1])));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ":",
            "00:50:56:01:02",
            "00:50:56:01:02:03:04",
            "00:50:56:01:02:",
            "00:50:56:01:02:003",
            "00:50:56:01:02-03",
            "00:50:56:01:02:0g",
            "00505.0102.0304",
            "0050560102030",
            "0x5056010203",
            " 005056010203",
            "+05056010203",
            "\u{ff10}0:50:56:01:02:03",
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(InvalidMacAddress), "{text}");
        }
    }

    proptest! {
        #[test]
        fn six_octets_with_separators_are_read_back((octets, text) in separated()) {
            prop_assert_eq!(text.parse(), Ok(MacAddress(octets)));
        }

        #[test]
        fn three_groups_are_read_back(octets: [u8; 6], separator in "[:.-]", upper: bool) {
            let digits = hex::encode(octets);
            let text = [&digits[..4], &digits[4..8], &digits[8..]].join(&separator);
            let text = if upper { text.to_uppercase() } else { text };
            prop_assert_eq!(text.parse(), Ok(MacAddress(octets)));
        }

        #[test]
        fn bare_digits_are_parsed_without_their_leading_zeros(
            octets: [u8; 6],
            zeros in 0..6usize,
            upper: bool,
        ) {
            let mut octets = octets;
            octets[..zeros].fill(0);
            let digits = hex::encode(octets);
            let text = if upper { digits.to_uppercase() } else { digits };
            let start = text.find(|digit| digit != '0').unwrap_or(11);
            for from in 0..=start {
                prop_assert_eq!(text[from..].parse(), Ok(MacAddress(octets)));
            }
        }

        #[test]
        fn parsing_a_formatted_address_returns_the_same_address(octets: [u8; 6]) {
            let address = MacAddress::new(octets);
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn a_broken_spelling_is_refused(
            (_, text) in separated(),
            at: prop::sample::Index,
            wrong in "[^0-9a-fA-F:.-]",
        ) {
            let at = at.index(text.len());
            let (before, behind) = text.split_at(at);
            let separator = text.find([':', '-', '.']).unwrap();
            for broken in [
                [before, &wrong, behind].concat(),
                [before, &wrong, &behind[1..]].concat(),
                // The texts to refuse: one with only five octets, and one with seven.
                text[separator + 1..].to_owned(),
                ["0", &text[separator..=separator], &text].concat(),
            ] {
                prop_assert_eq!(broken.parse::<MacAddress>(), Err(InvalidMacAddress), "{}", broken);
            }
        }

        #[test]
        fn no_text_makes_parse_panic(text in "\\PC{0,20}|[0-9a-fA-F:.\\-]{0,20}") {
            if let Ok(address) = text.parse::<MacAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
