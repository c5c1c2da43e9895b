//! The exit codes of `otter run` for the cases in which it does not exit with the status of the
//! command. The help shows the same table.

use std::fmt::Write;

/// Why the command did not run, or did not end by itself. The exit codes are the closest ones of
/// `sysexits.h`.
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
                "the command line or the request is wrong: an unknown snapshot, a time too long, a \
                 reference to several machines"
            }
            Self::Unavailable => "otter cannot be reached, is not trusted, or fails",
            Self::Internal => "`otter run` itself failed",
            Self::NotReady => {
                "the machine could not be prepared: a revert failed, it got no IP address, or its \
                 screen did not show the text"
            }
            Self::LeaseLost => {
                "the lease was revoked or expired, or its machine vanished; the command was ended"
            }
            Self::Temporary => "no machine is free, or none became free in time; try again later",
            Self::NoSuchMachine => {
                "no machine matches the selection, or only protected ones do; waiting does not help"
            }
            Self::NotAllowed => {
                "the token is missing, unknown or revoked, or its role may not take a machine"
            }
            Self::CannotRun => "the command cannot be executed",
            Self::NoCommand => "the command does not exist",
        }
    }
}

/// The text that the help shows after the options: the exit codes, the environment variables and
/// the signals.
pub fn after_help() -> String {
    let mut text = "Exit status: that of the command; 128+n if signal n killed it, or came before \
        it ran. Otherwise:\n"
        .to_owned();
    for exit in Exit::ALL {
        // The result is ignored, because writing to a `String` cannot fail.
        let _ = writeln!(text, "  {:>3}  {}", exit.code(), exit.meaning());
    }
    text.push_str(
        "\nThe environment of the command has OTTER_MACHINE_ID, OTTER_MACHINE_NAME, \
         OTTER_MACHINE_IP (empty if no address is known), OTTER_URL and OTTER_LEASE. To call otter \
         with the lease, send the header `Otter-Lease: $OTTER_LEASE`. The command inherits \
         OTTER_TOKEN unless --no-token is given.\n\n\
         SIGINT, SIGTERM and SIGHUP are forwarded to the command and its child processes. After \
         --kill-after, or at a second signal, they are killed. However the command ends, the \
         machine is given back; another signal during that ends `otter run` at once.\n\n\
         In a script or a CI step, write `exec otter run … -- ./test.sh` as the last line: a \
         cancelled step may signal only its shell, and a shell passes no signal on. If no signal \
         arrives, as after SIGKILL, the machine is released when the lease expires: between half \
         of --ttl and --ttl later (5 to 10 minutes by default).",
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
