//! What `otter run` exits with where it is not the command's own status: one table, which the help
//! shows.

use std::fmt::Write;

/// Why the command did not run, or not to its end. The numbers are those of `sysexits.h` that come
/// nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Usage,
    Unavailable,
    Internal,
    NotReady,
    LeaseLost,
    Temporary,
    NoSuchMachine,
    NotAllowed,
    CannotRun,
    NoCommand,
}

impl Exit {
    const ALL: [Self; 10] = [
        Self::Usage,
        Self::Unavailable,
        Self::Internal,
        Self::NotReady,
        Self::LeaseLost,
        Self::Temporary,
        Self::NoSuchMachine,
        Self::NotAllowed,
        Self::CannotRun,
        Self::NoCommand,
    ];

    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::NotReady => 73,
            Self::LeaseLost => 74,
            Self::Temporary => 75,
            Self::NoSuchMachine => 76,
            Self::NotAllowed => 77,
            Self::CannotRun => 126,
            Self::NoCommand => 127,
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Usage => {
                "the command line, or what it asks for, is wrong: an unknown snapshot, a time too long"
            }
            Self::Unavailable => "otter cannot be reached, is not trusted, or fails",
            Self::Internal => "a fault of `otter run` itself",
            Self::NotReady => {
                "no machine could be made ready as asked: a revert failed, it got no address"
            }
            Self::LeaseLost => {
                "the lease was lost: revoked, run out, its machine gone; the command was ended"
            }
            Self::Temporary => "no machine is free, or none became free in time: later one may be",
            Self::NoSuchMachine => {
                "no machine matches what was asked, or only protected ones do: waiting does not help"
            }
            Self::NotAllowed => {
                "the token is missing, not known or revoked, or its role may not take a machine"
            }
            Self::CannotRun => "the command is there and cannot be run",
            Self::NoCommand => "there is no such command",
        }
    }
}

/// The table, for the help.
pub fn after_help() -> String {
    let mut text = "\
        Exit status: the command's own; 128+n where it died of signal n, or where signal n came before it ran. Else:\n"
        .to_owned();
    for exit in Exit::ALL {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "  {:>3}  {}", exit.code(), exit.meaning());
    }
    text.push_str(
        "\nThe command finds OTTER_MACHINE_ID, OTTER_MACHINE_NAME, OTTER_MACHINE_IP (empty if none is known), OTTER_URL, \
         and OTTER_LEASE, which its own calls of otter show as `Otter-Lease: $OTTER_LEASE`. It inherits OTTER_TOKEN \
         unless --no-token is given.\n\nSIGINT, SIGTERM and SIGHUP go on \
         to the command and all it has started; after --kill-after, or a second signal, it is killed. The machine is given back \
         however it ends. One more signal during that ends `otter run` at once. After a kill -9 of `otter run` the machine comes \
         back when its time, --ttl, is over.",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_has_every_code() {
        let guide = include_str!("../../../GUIDE.md");
        let rows = guide.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        let codes: Vec<&str> = rows.flat_map(|row| row.split(", ")).collect();
        for exit in Exit::ALL {
            assert!(codes.contains(&exit.code().to_string().as_str()), "{exit:?}");
        }
    }
}
