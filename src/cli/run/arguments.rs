//! The command line of `otter run`, and the lease request that is made from it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::domain::duration;
use crate::domain::lease::Readiness;
use crate::domain::network::Network;
use crate::domain::verify::Fingerprint;

/// The part of the command line that says where otter is, which token to send, and which
/// certificates to trust.
#[derive(Debug, Args)]
pub struct ServerArguments {
    /// The address of otter: `http://…`, `https://…` or `unix:/path`. The default is `OTTER_URL`.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The HTTP proxy to otter: `http://[user:password@]host:port`, or "" for none. The default is
    /// `https_proxy` or `HTTPS_PROXY` for an `https://` address, `http_proxy` for an `http://` one,
    /// then `all_proxy` or `ALL_PROXY`. `no_proxy` or `NO_PROXY` names hosts without a proxy.
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// A file that holds only the token. The default is the token in `OTTER_TOKEN`, if it is set.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Trust only the certificates in this PEM file.
    #[arg(long, value_name = "FILE", conflicts_with = "fingerprint")]
    pub cacert: Option<PathBuf>,
    /// Trust only the certificate with this SHA-256 fingerprint.
    #[arg(long, value_name = "SHA256", value_parser = fingerprint)]
    pub fingerprint: Option<Fingerprint>,
}

#[derive(Debug, Args)]
#[command(after_help = super::exit::after_help())]
#[command(group(
    clap::ArgGroup::new("select")
        .required(true)
        .multiple(true)
        .args(["pool", "machine", "name", "mac", "memory_bytes_at_least", "nested_virtualization"])
))]
pub struct RunCommand {
    #[command(flatten)]
    pub server: ServerArguments,
    /// Take a machine of this pool, or of one of these pools if the option is repeated. If several
    /// options select the machine, it must match all of them.
    #[arg(long, value_name = "POOL")]
    pool: Vec<String>,
    /// Take this machine: an id, name:<exact>, uuid:<…> or mac:<…>.
    #[arg(long, value_name = "MACHINE")]
    machine: Option<String>,
    /// Take a machine whose name contains this text; upper and lower case are the same.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Take the machine with this MAC address.
    #[arg(long, value_name = "MAC")]
    mac: Option<String>,
    /// Take a machine with at least this memory.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    memory_bytes_at_least: Option<u64>,
    /// Take a machine whose guest can run virtual machines of its own (true), or one whose guest
    /// cannot (false).
    #[arg(long, value_name = "true|false")]
    nested_virtualization: Option<bool>,
    /// Do not take this machine: an id, name:<exact>, uuid:<…> or mac:<…>. May be repeated.
    #[arg(long, value_name = "MACHINE")]
    exclude: Vec<String>,
    /// Before the command, revert the machine to this snapshot: an id, a name or a path.
    /// --snapshot, --power, --until, --cidr and --settle replace the preparation of the pool.
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Before the command and after a revert, power the machine on or off.
    #[arg(long, value_name = "on|off", value_parser = ["on", "off"])]
    power: Option<String>,
    /// Then wait until it is on (`power_state:on`), has an IP address (`ip`), runs VMware Tools
    /// (`tools`), shows a text on its screen (`screen:TEXT`), or outputs a text on its first serial
    /// port (`serial:TEXT`) or another one (`serial@PORT:TEXT`).
    #[arg(long, value_name = "WHAT", value_parser = readiness)]
    until: Option<String>,
    /// With --until ip: the network in which the machine's address must be, such as 10.0.0.0/8.
    /// `OTTER_MACHINE_IP` is the first address in this network.
    #[arg(long, value_name = "NETWORK", value_parser = network, requires = "until")]
    cidr: Option<Network>,
    /// Before the command, wait for this time after all other preparations.
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    settle: Option<Duration>,
    /// The duration of the lease. `otter run` renews the lease at half of this time while the
    /// command runs. If `otter run` is killed or loses the connection, otter releases the machine
    /// when this time is over.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = positive_duration)]
    pub ttl: Duration,
    /// The longest wait if no machine is free or if a limit of the token is reached. By default
    /// `otter run` does not wait.
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub queue_for: Option<Duration>,
    /// The power state of the machine after the release. The default is the pool's setting, or off.
    #[arg(long, value_name = "off|keep", value_parser = ["off", "keep"])]
    release_power: Option<String>,
    /// Revert the machine to this snapshot at the release.
    #[arg(long, value_name = "SNAPSHOT")]
    release_snapshot: Option<String>,
    /// If the command fails by itself, keep the lease and its machine for this time, so that a
    /// person can look at it. `otter release` ends the lease earlier. A command that a signal ended
    /// has not failed.
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub keep_on_failure: Option<Duration>,
    /// Record the screen and the serial ports of the machine while the command runs. The recording
    /// becomes artifacts of the lease, which otter keeps for a while.
    #[arg(long)]
    pub record: bool,
    /// At the end, also after a failure, store the artifacts of the lease in this directory: the
    /// recording, the last picture of the screen and its text, and what the command stored. Waits
    /// at most 5 minutes for the recording.
    #[arg(long, value_name = "DIR")]
    pub artifacts: Option<PathBuf>,
    /// A name for the holder of the machine, for people. The default is the token's name.
    #[arg(long, value_name = "TEXT")]
    holder: Option<String>,
    /// A text that is stored with the lease, such as the address of a CI job. The lease can be
    /// found by this text.
    #[arg(long, value_name = "TEXT")]
    pub reference: Option<String>,
    /// Remove `OTTER_TOKEN` from the environment of the command.
    #[arg(long)]
    pub no_token: bool,
    /// The time that the command has to end after a signal, before it is killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    pub kill_after: Duration,
    /// The longest time for retries if otter does not answer, before and after the command. While
    /// the command runs, `otter run` retries until the lease expires.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = positive_duration)]
    pub retry_for: Duration,
    /// Print only errors and warnings.
    #[arg(long, short)]
    pub quiet: bool,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl RunCommand {
    /// The JSON body for `POST /v1/leases`. Options that the user did not give are left out.
    pub fn lease_request(&self) -> Value {
        let Self {
            pool,
            machine,
            name,
            mac,
            snapshot,
            power,
            until,
            cidr,
            settle,
            ttl,
            queue_for,
            ..
        } = self;
        let Self { release_power, release_snapshot, holder, keep_on_failure, record, .. } = self;
        let Self { memory_bytes_at_least, nested_virtualization, exclude, .. } = self;
        let text = |value: &Option<String>| value.clone().map(Value::from);
        let time = |value: Duration| Value::from(duration::format(value));
        let (pool, pools) = match pool.as_slice() {
            [] => (None, None),
            [one] => (Some(Value::from(one.as_str())), None),
            several => (None, Some(json!(several))),
        };
        let select = [
            ("pool", pool),
            ("pools", pools),
            ("machine", text(machine)),
            ("name", text(name)),
            ("mac", text(mac)),
            ("memory_bytes_at_least", memory_bytes_at_least.map(Value::from)),
            ("nested_virtualization", nested_virtualization.map(Value::from)),
            ("exclude", (!exclude.is_empty()).then(|| json!(exclude))),
        ];
        let prepare = [
            ("snapshot", text(snapshot)),
            ("power", text(power)),
            ("until", text(until)),
            ("cidr", cidr.map(|cidr| Value::from(cidr.to_string()))),
            ("settle", settle.map(time)),
        ];
        let release = [("power", text(release_power)), ("snapshot", text(release_snapshot))];
        let mut body = present([
            ("holder", text(holder)),
            ("queue_for", queue_for.map(time)),
            ("keep_on_failure", keep_on_failure.map(time)),
            ("record", record.then(|| json!({"screen": true, "serial": ["*"]}))),
        ]);
        body.insert("select".to_owned(), Value::Object(present(select)));
        body.insert("ttl".to_owned(), json!(duration::format(*ttl)));
        for (field, value) in [("prepare", present(prepare)), ("release", present(release))] {
            if !value.is_empty() {
                body.insert(field.to_owned(), Value::Object(value));
            }
        }
        Value::Object(body)
    }
}

/// A JSON object with those of the fields that have a value.
fn present<const N: usize>(fields: [(&str, Option<Value>); N]) -> Map<String, Value> {
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(Duration::ZERO) => Err("the time must be longer than zero".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn readiness(text: &str) -> Result<String, String> {
    match Readiness::parse(text) {
        Ok(readiness) => Ok(readiness.to_string()),
        Err(error) => Err(format!("it {error}")),
    }
}

fn network(text: &str) -> Result<Network, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    text.strip_prefix("sha256:").unwrap_or(text).parse().map_err(|error| format!("{error}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunCommand,
    }

    fn read(words: &str) -> Result<RunCommand, clap::Error> {
        Line::try_parse_from(["run"].into_iter().chain(words.split(' '))).map(|line| line.run)
    }

    #[test]
    fn absent_options_are_absent_from_the_request() {
        let run = read("--pool qubes -- ./test.sh --pool").unwrap();
        assert_eq!(run.lease_request(), json!({"select": {"pool": "qubes"}, "ttl": "10m"}));
        assert_eq!(run.command, ["./test.sh", "--pool"]);
        let all = "--machine name:a --name b --mac 1:2:3:4:5:6 --snapshot s --power on --until ip \
            --cidr 10.0.0.0/8 --settle 90s --ttl 5m --queue-for 1h --release-power keep \
            --release-snapshot t \
            --holder me -- true";
        let expected = json!({
            "select": {"machine": "name:a", "name": "b", "mac": "1:2:3:4:5:6"},
            "prepare": {
                "snapshot": "s", "power": "on", "until": "ip", "cidr": "10.0.0.0/8",
                "settle": "1m30s",
            },
            "release": {"power": "keep", "snapshot": "t"},
            "ttl": "5m", "queue_for": "1h", "holder": "me",
        });
        assert_eq!(read(all).unwrap().lease_request(), expected);
        let several = "--pool a --pool b --exclude name:c --exclude 17 --memory-bytes-at-least 8 \
            --nested-virtualization true --keep-on-failure 4h --record --artifacts out -- true";
        let expected = json!({
            "select": {
                "pools": ["a", "b"], "exclude": ["name:c", "17"], "memory_bytes_at_least": 8,
                "nested_virtualization": true,
            },
            "ttl": "10m", "keep_on_failure": "4h",
            "record": {"screen": true, "serial": ["*"]},
        });
        let run = read(several).unwrap();
        assert_eq!(run.lease_request(), expected);
        assert_eq!(run.artifacts, Some(PathBuf::from("out")));
    }

    #[test]
    fn invalid_options_are_refused() {
        let digits = "ab".repeat(32);
        for wrong in [
            "-- true",
            "--pool a",
            "--pool a true",
            "--pool a --ttl 0 -- true",
            "--pool a --ttl soon -- true",
            "--pool a --power up -- true",
            "--pool a --until ip --cidr ten -- true",
            "--pool a --cidr 10.0.0.0/8 -- true",
            "--exclude a -- true",
            "--memory-bytes-at-least 0 -- true",
            "--nested-virtualization maybe -- true",
            "--pool a --keep-on-failure 0 -- true",
            "--pool a --fingerprint ab -- true",
            &format!("--pool a --fingerprint {digits} --cacert a.pem -- true"),
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read(&format!("--pool a --fingerprint sha256:{digits} -- true")).is_ok());
    }
}
