//! Serial ports through otter's HTTP API, on the simulated host: what they output, how otter
//! reaches them, waits, input, terminals, and what stays over restarts and crashes.

mod command;
mod input;
mod log;
mod open_ports;
mod preparation;
mod restarts;
mod rights;
pub mod stream_client;
mod streams;
mod wait;
mod ways;

use otter::simulator::world::{Machine, PowerState};
use otter::simulator::{PortChange, Scenario, SerialStatus};
use serde_json::Value;

use crate::harness::{Answer, Lab, eventually};

/// A machine of the scenario that is on.
const RUNNING: &str = "17";

/// The name of [`RUNNING`].
const NAME: &str = "qubes-4.2-sdw-prod";

/// The port of [`RUNNING`] on which it listens, without telnet.
const PORT: &str = "ttyS1";

/// A machine of the scenario that is off. It listens on its first port, with telnet.
const OFF: &str = "16";

/// What a guest asks for a login.
const LOGIN: &str = "dom0 login: ";

/// The lab with a change of one machine.
fn scenario(machine: &str, change: impl FnOnce(&mut Machine)) -> Scenario {
    let mut scenario = Scenario::lab().unwrap();
    let machine = scenario.machines.iter_mut().find(|known| known.id == machine);
    change(machine.unwrap());
    scenario
}

/// The lab with [`RUNNING`] turned off, because only a machine that is off is free.
fn with_running_off() -> Scenario {
    scenario(RUNNING, |machine| machine.power = PowerState::Off)
}

/// The path of a port, and what is below it.
fn path(machine: &str, port: &str, rest: &str) -> String {
    format!("/v1/machines/{machine}/serial/{port}/{rest}")
}

/// The state of a port that `GET …/serial` shows.
async fn state(lab: &Lab, machine: &str, port: &str) -> Value {
    let shown = lab.get(&format!("/v1/machines/{machine}/serial")).await.expect(200).json;
    let ports = shown["ports"].as_array().unwrap();
    let port = ports.iter().find(|known| known["linux_device"] == port);
    port.expect("the port").clone()
}

async fn until_access(lab: &Lab, machine: &str, port: &str, access: &str) {
    let what = format!("{port} of {machine} to be {access}");
    eventually(&what, async || state(lab, machine, port).await["access"] == access).await;
}

/// The port of [`RUNNING`], as the simulated host sees it.
fn on_host(lab: &Lab) -> SerialStatus {
    lab.control().serial_port(RUNNING, PORT).unwrap()
}

/// Opens the port of [`RUNNING`]. It stays open for some seconds.
async fn open(lab: &Lab) {
    lab.get(&path(RUNNING, PORT, "log")).await.expect(200);
    until_access(lab, RUNNING, PORT, "open").await;
    eventually("the host to see otter", async || on_host(lab).is_connected).await;
}

/// The guest of [`RUNNING`] outputs bytes.
fn output(lab: &Lab, bytes: &[u8]) {
    lab.control().change_serial_port(RUNNING, PORT, PortChange::Write(bytes.to_vec()));
}

/// Reads the log of the port of [`RUNNING`].
async fn read(lab: &Lab, query: &str) -> Answer {
    lab.get(&format!("{}{query}", path(RUNNING, PORT, "log"))).await.expect(200)
}

/// Waits until the log of the port has these bytes.
async fn until_read(lab: &Lab, bytes: &[u8]) {
    let what = format!("{:?} in the log", String::from_utf8_lossy(bytes));
    eventually(&what, async || {
        let log = read(lab, "").await.bytes;
        log.windows(bytes.len()).any(|part| part == bytes)
    })
    .await;
}

/// A header with an offset.
fn offset(answer: &Answer, name: &str) -> u64 {
    answer.header(name).expect(name).parse().unwrap()
}
