//! The environment variables that otter reads, and the messages about other variables whose names
//! begin with `OTTER_`.
//!
//! An unknown variable `OTTER_ESX_…` is an error, because a misspelt name of the password variable
//! would be hard to find. Any other unknown variable leads to a warning. otter ignores the
//! variables that Kubernetes sets for a service, and the variables that `otter run` and
//! `deploy/ci/otter.sh` use.

/// The variables that the daemon reads. At most one of the last two may be set.
pub const VARIABLES: [&str; 8] = [
    "OTTER_LISTEN",
    "OTTER_STATE_DIR",
    "OTTER_ESX_URL",
    "OTTER_ESX_USERNAME",
    "OTTER_ESX_VERIFY",
    "OTTER_ESX_PROXY",
    "OTTER_ESX_PASSWORD",
    "OTTER_ESX_PASSWORD_FILE",
];

/// The variables that `otter run` reads or sets for its command, and those that
/// `deploy/ci/otter.sh` reads.
const RUN_COMMAND_VARIABLES: [&str; 12] = [
    "OTTER_URL",
    "OTTER_TOKEN",
    "OTTER_LEASE",
    "OTTER_MACHINE_ID",
    "OTTER_MACHINE_NAME",
    "OTTER_MACHINE_IP",
    "OTTER_SELECT",
    "OTTER_PREPARE",
    "OTTER_TTL",
    "OTTER_QUEUE_FOR",
    "OTTER_KEY",
    "OTTER_REFERENCE",
];

/// The message about a variable whose name begins with `OTTER_` but that otter does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnreadVariable {
    /// The name begins with `OTTER_ESX_`. The configuration is refused with this error message.
    HostSetting(String),
    /// The name does not begin with `OTTER_ESX_`. This message is only a warning.
    Other(String),
}

/// Checks a variable whose value is not empty. `None` if the daemon reads the variable, or if the
/// variable does not concern the daemon.
pub fn check_unread(name: &str, value: &str) -> Option<UnreadVariable> {
    let known = VARIABLES.contains(&name) || RUN_COMMAND_VARIABLES.contains(&name);
    if !name.starts_with("OTTER_") || known || is_kubernetes_service_variable(name, value) {
        return None;
    }
    let nearest = nearest(name);
    if name.starts_with("OTTER_ESX_") {
        let known = VARIABLES.join(", ");
        let message =
            format!("nothing reads this variable; did you mean {nearest}? There are {known}");
        return Some(UnreadVariable::HostSetting(message));
    }
    let hint = if name.starts_with("OTTER_LOG") {
        "; the log is set by --log-level and --log-format, or by log.level and log.format"
    } else {
        ""
    };
    let message =
        format!("{name} is ignored: nothing reads this variable; the nearest is {nearest}{hint}");
    Some(UnreadVariable::Other(message))
}

fn nearest(name: &str) -> &'static str {
    let near = |known: &&str| strsim::jaro_winkler(known, name);
    let nearest = VARIABLES.into_iter().max_by(|one, other| near(one).total_cmp(&near(other)));
    nearest.unwrap_or(VARIABLES[0])
}

/// Whether Kubernetes has set this variable. In each container of a namespace, Kubernetes sets
/// variables for each service. A service with the name `otter` or `otter-…` leads to these:
/// `<SERVICE>_SERVICE_HOST`, `<SERVICE>_SERVICE_PORT[_<NAME>]`, `<SERVICE>_PORT` with an address as
/// its value, and `<SERVICE>_PORT_<NUMBER>_<PROTOCOL>[_PROTO|_PORT|_ADDR]`.
fn is_kubernetes_service_variable(name: &str, value: &str) -> bool {
    let has_scheme = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    if name.ends_with("_SERVICE_HOST") || (name.ends_with("_PORT") && has_scheme) {
        return true;
    }
    if let Some((_, rest)) = name.split_once("_SERVICE_PORT")
        && (rest.is_empty() || rest.starts_with('_'))
    {
        return true;
    }
    let is_port_suffix = |rest: &str| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
        let protocol = parts.next().is_some_and(|part| matches!(part, "TCP" | "UDP" | "SCTP"));
        let detail = parts.next().is_none_or(|part| matches!(part, "PROTO" | "PORT" | "ADDR"));
        number && protocol && detail && parts.next().is_none()
    };
    name.match_indices("_PORT_").any(|(at, found)| is_port_suffix(&name[at + found.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_variables_of_kubernetes_are_ignored() {
        for (name, value) in [
            ("OTTER_ESX_SERVICE_HOST", "10.96.0.7"),
            ("OTTER_ESX_SERVICE_PORT", "443"),
            ("OTTER_ESX_SERVICE_PORT_HTTPS", "443"),
            ("OTTER_ESX_PORT", "tcp://10.96.0.7:443"),
            ("OTTER_ESX_PORT_443_TCP", "tcp://10.96.0.7:443"),
            ("OTTER_ESX_PORT_443_TCP_PROTO", "tcp"),
            ("OTTER_ESX_PORT_443_TCP_PORT", "443"),
            ("OTTER_ESX_PORT_443_TCP_ADDR", "10.96.0.7"),
            ("OTTER_SERVICE_HOST", "10.96.0.8"),
            ("OTTER_SERVICE_PORT", "8080"),
            ("OTTER_SERVICE_PORT_HTTP", "8080"),
            ("OTTER_PORT", "tcp://10.96.0.8:8080"),
            ("OTTER_PORT_8080_TCP", "tcp://10.96.0.8:8080"),
            ("OTTER_PORT_8080_TCP_ADDR", "10.96.0.8"),
            ("OTTER_PORT_53_UDP_PROTO", "udp"),
        ] {
            assert_eq!(check_unread(name, value), None, "{name}={value}");
        }
        for (name, value) in [
            ("OTTER_ESX_PORT", "443"),
            ("OTTER_ESX_PORT_443", "443"),
            ("OTTER_ESX_PORT_443_TCP_NAME", "esx"),
            ("OTTER_ESX_SERVICE_PORTS", "443"),
        ] {
            assert!(
                matches!(check_unread(name, value), Some(UnreadVariable::HostSetting(_))),
                "{name}={value}"
            );
        }
        assert!(matches!(check_unread("OTTER_PORT", "8080"), Some(UnreadVariable::Other(_))));
    }

    #[test]
    fn an_unknown_variable_is_reported_with_the_nearest_name() {
        for name in VARIABLES.into_iter().chain(RUN_COMMAND_VARIABLES).chain(["PATH", "OTTERS"]) {
            assert_eq!(check_unread(name, "x"), None, "{name}");
        }
        let warning = |name: &str| match check_unread(name, "x") {
            Some(UnreadVariable::Other(warning)) => warning,
            other => panic!("{name}: {other:?}"),
        };
        let near = warning("OTTER_STATEDIR");
        assert!(near.starts_with("OTTER_STATEDIR") && near.contains("OTTER_STATE_DIR"), "{near}");
        let log = warning("OTTER_LOG");
        assert!(log.contains("--log-level"), "{log}");
        let Some(UnreadVariable::HostSetting(wrong)) = check_unread("OTTER_ESX_PASSWORDD", "x")
        else {
            panic!()
        };
        assert!(wrong.contains("did you mean OTTER_ESX_PASSWORD?"), "{wrong}");
    }
}
