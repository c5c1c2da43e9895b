//! The serial ports of machines: what guests write to them and read from them, and the files on
//! datastores that ports with a file as backing write.
//!
//! ```text
//! power-on from off, file exists ──► question: Append | Replace | Cancel ──► the file grows
//! ```

use std::time::Duration;

use super::{
    Choice, FileContent, Machine, PowerState, Question, SerialBacking, SerialFileAnswer, World,
};
use crate::simulator::vim_fault::Fault;

/// The id of the question that a host asks if the file of a port exists at a power-on.
const FILE_QUESTION: &str = "msg.serial.file.open";
/// The key of the answer by which the file is replaced.
const REPLACE: &str = "1";
/// The maximum size of a file. What is written beyond it is lost, as on a full datastore.
const MAX_FILE: u64 = 64 << 20;

impl Machine {
    /// The number of the serial port with this device key: the guest knows it as `ttyS<number>`.
    /// `None` if the machine has no such port.
    #[must_use]
    pub fn serial_number(&self, key: i32) -> Option<usize> {
        self.serial_ports.iter().position(|port| port.key == key)
    }

    /// The paths of the files that the serial ports write.
    fn serial_files(&self) -> Vec<String> {
        let paths = self.serial_ports.iter().filter_map(|port| match &port.backing {
            SerialBacking::File { path } => Some(path.clone()),
            _ => None,
        });
        paths.collect()
    }
}

impl World {
    /// What the guest has written to a serial port since the last call, and the host's time at
    /// which it writes next without an input. A machine that is not on writes nothing.
    pub fn serial_output(&mut self, id: &str, key: i32) -> (Vec<u8>, Option<Duration>) {
        let now = self.now.elapsed;
        // A read or a write of a port is no change of the machine.
        let machine = self.machines.get_mut(id).filter(|machine| machine.power == PowerState::On);
        let Some(machine) = machine else { return (Vec::new(), None) };
        match machine.serial_number(key) {
            Some(number) => machine.screen.serial_output(now, number),
            None => (Vec::new(), None),
        }
    }

    /// Sends bytes to the guest through a serial port. Returns what the guest writes.
    pub fn serial_input(&mut self, id: &str, key: i32, bytes: &[u8]) -> Vec<u8> {
        let now = self.now.elapsed;
        let machine = self.machines.get_mut(id).filter(|machine| machine.power == PowerState::On);
        let Some(machine) = machine else { return Vec::new() };
        match machine.serial_number(key) {
            Some(number) => machine.screen.serial_input(now, number, bytes),
            None => Vec::new(),
        }
    }

    /// Writes at the end of the file of a serial port, which is made if it does not exist. `path`
    /// is a datastore path, such as `[datastore1] logs/serial.txt`.
    pub fn append_to_file(&mut self, path: &str, bytes: &[u8]) {
        self.append_at(path, bytes, MAX_FILE);
    }

    /// The guest of a machine was on before the simulation: its files have what it wrote.
    pub(in crate::simulator) fn write_earlier_output(&mut self, id: &str) {
        for (key, file) in self.serial_backings(id) {
            let (output, _) = self.serial_output(id, key);
            if let Some(path) = file {
                self.append_to_file(&path, &output);
            }
        }
    }

    /// The guest goes on from a saved state: what it wrote before is not written again.
    pub(super) fn skip_earlier_output(&mut self, id: &str) {
        for (key, _) in self.serial_backings(id) {
            self.serial_output(id, key);
        }
    }

    /// The question that a machine asks at a power-on because the file of a port exists. `None` if
    /// there is no such file, or the configuration of the machine has the answer.
    pub(super) fn serial_file_question(&self, id: &str, number: i32) -> Option<Question> {
        let machine = self.machine(id)?;
        if machine.power == PowerState::Suspended || machine.serial_file_answer.is_some() {
            return None;
        }
        let paths = machine.serial_files();
        let path = paths.iter().find(|path| self.file_length(path).is_some())?;
        let choice = |key: &str, button: &str, summary: &str| Choice {
            key: key.to_owned(),
            label: format!("button.serial.file.{button}"),
            summary: summary.to_owned(),
            fails_with: None,
        };
        let cancelled =
            Fault::new("GenericVmConfigFault", "The power-on was cancelled by an answer.")
                .with("reason", FILE_QUESTION);
        Some(Question {
            id: number.to_string(),
            message_id: FILE_QUESTION.to_owned(),
            text: format!(
                "A serial port writes to the file \"{path}\", which exists. Replace its content, \
                 or append to it?"
            ),
            choices: vec![
                choice("0", "append", "Append"),
                choice(REPLACE, "overwrite", "Replace"),
                Choice { fails_with: Some(cancelled), ..choice("2", "cancel", "Cancel") },
            ],
            default_choice: Some(0),
        })
    }

    /// Keeps the answer to the question about files until the power-on is done.
    pub(super) fn keep_serial_file_answer(&mut self, id: &str, asked: &Question, choice: &Choice) {
        if asked.message_id == FILE_QUESTION
            && let Some(machine) = self.machines.get_mut(id)
        {
            let replaces = choice.key == REPLACE;
            machine.chosen_serial_file_answer = replaces.then_some(SerialFileAnswer::Replace);
        }
    }

    /// Opens the files of the serial ports, at a power-on from off.
    pub(super) fn open_serial_files(&mut self, id: &str) {
        let Some(machine) = self.machines.get_mut(id) else { return };
        let chosen = machine.chosen_serial_file_answer.take();
        let answer = chosen.or(machine.serial_file_answer);
        for path in machine.serial_files() {
            if answer == Some(SerialFileAnswer::Replace) || self.file_length(&path).is_none() {
                self.put_file(&path, FileContent::default());
            }
        }
    }

    /// The device keys of the serial ports of a machine, and the paths of their files.
    fn serial_backings(&self, id: &str) -> Vec<(i32, Option<String>)> {
        let ports = self.machine(id).into_iter().flat_map(|machine| &machine.serial_ports);
        let backings = ports.map(|port| match &port.backing {
            SerialBacking::File { path } => (port.key, Some(path.clone())),
            _ => (port.key, None),
        });
        backings.collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::simulator::world::{Moment, Operation, SerialPort};
    use crate::simulator::{Pace, Scenario};

    const FILE: &str = "[scratch] serial.txt";

    /// A world in which the machine 16 writes to a file.
    fn world() -> World {
        let now = Moment { wall: Timestamp::constant(1_780_000_000, 0), elapsed: Duration::ZERO };
        let mut world = Scenario::lab().unwrap().build(Pace::Stepped, now);
        let file = SerialBacking::File { path: FILE.to_owned() };
        world.machine_mut("16").unwrap().serial_ports = vec![SerialPort::new(9_000, file)];
        world
    }

    fn power_on(world: &mut World) -> Option<Question> {
        let task = world.start_task("16", Operation::PowerOn, "root").unwrap();
        world.finish_task(&task.id);
        world.machine("16").unwrap().question.clone()
    }

    fn answer(world: &mut World, question: &Question, key: &str) {
        world.answer("16", &question.id, key).unwrap();
        for task in world.running_tasks() {
            world.finish_task(&task);
        }
    }

    #[test]
    fn a_power_on_asks_what_becomes_of_an_existing_file() {
        let mut world = world();
        assert_eq!(power_on(&mut world), None);
        assert_eq!(world.file_bytes(FILE), Some(Vec::new()));
        world.append_to_file(FILE, b"one");
        for (key, kept) in [("0", &b"one"[..]), ("1", &b""[..]), ("2", &b""[..])] {
            world.power_off_now("16");
            let question = power_on(&mut world).unwrap();
            assert_eq!(question.message_id, "msg.serial.file.open");
            assert!(question.text.contains(FILE), "{}", question.text);
            answer(&mut world, &question, key);
            assert_eq!(world.file_bytes(FILE).as_deref(), Some(kept), "{key}");
            let is_on = world.machine("16").unwrap().power == PowerState::On;
            assert_eq!(is_on, key != "2", "{key}");
        }
    }

    #[test]
    fn the_configuration_can_have_the_answer() {
        let mut world = world();
        for (answer, kept) in
            [(SerialFileAnswer::Append, &b"one"[..]), (SerialFileAnswer::Replace, &b""[..])]
        {
            world.append_to_file(FILE, b"one");
            world.machine_mut("16").unwrap().serial_file_answer = Some(answer);
            assert_eq!(power_on(&mut world), None);
            assert_eq!(world.file_bytes(FILE).as_deref(), Some(kept), "{answer:?}");
            world.power_off_now("16");
        }
    }

    #[test]
    fn a_file_has_a_maximum_size() {
        let mut world = world();
        let almost_full = usize::try_from(MAX_FILE).unwrap() - 1;
        world.append_to_file(FILE, &vec![b'x'; almost_full]);
        world.append_to_file(FILE, b"yz");
        assert_eq!(world.file_length(FILE), Some(MAX_FILE));
    }
}
