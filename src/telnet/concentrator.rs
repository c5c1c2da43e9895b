//! How a machine that dials for one of its serial ports names itself, by VMware's extension.
//!
//! ```text
//! machine: WILL 232, DO 232 ─► known commands ─► do-proxy (URI) ─► UUID, name
//! we:      DO 232, WILL 232 ─► known commands, get UUID ─────────► will-proxy or wont-proxy
//! ```
//! The URI of do-proxy is never dialled: it only tells the ports of one machine apart.

use super::codec::{Subnegotiation, Telnet};
use super::constants::{VMWARE, vmware};

/// The longest text of a machine that is kept.
const MAX_TEXT: usize = 512;

/// The commands that we know.
const KNOWN: [u8; 9] = [
    vmware::KNOWN_OF_MACHINE,
    vmware::KNOWN_OF_PROXY,
    vmware::UNKNOWN_BY_MACHINE,
    vmware::UNKNOWN_BY_PROXY,
    vmware::DO_PROXY,
    vmware::WILL_PROXY,
    vmware::WONT_PROXY,
    vmware::INSTANCE_UUID,
    vmware::NAME,
];

/// What a machine said about itself and its port.
#[derive(Debug, Default)]
pub struct Identification {
    has_asked: bool,
    /// The instance UUID, as the machine writes it: with spaces.
    pub uuid: Option<String>,
    pub name: Option<String>,
    /// The URI of the port.
    pub service: Option<String>,
    /// Whether the machine is accepted. `None` until that is decided.
    accepted: Option<bool>,
    /// Whether the machine waits for the answer to its do-proxy.
    is_waiting: bool,
}

impl Identification {
    /// Asks the machine for its UUID, once both sides agree on the extension.
    pub fn ask(&mut self, telnet: &mut Telnet) {
        if telnet.speaks_vmware() && !std::mem::replace(&mut self.has_asked, true) {
            telnet.send_subnegotiation(VMWARE, &[vmware::GET_INSTANCE_UUID]);
            telnet.send_subnegotiation(VMWARE, &[vmware::GET_NAME]);
        }
    }

    /// Takes a subnegotiation of the machine, and answers it.
    pub fn take(&mut self, telnet: &mut Telnet, subnegotiation: &Subnegotiation) {
        if subnegotiation.option != VMWARE {
            return;
        }
        let Some((command, payload)) = subnegotiation.payload.split_first() else { return };
        match *command {
            vmware::KNOWN_OF_MACHINE => {
                let mut known = vec![vmware::KNOWN_OF_PROXY];
                known.extend(KNOWN);
                telnet.send_subnegotiation(VMWARE, &known);
            }
            vmware::INSTANCE_UUID => self.uuid = Some(text(payload)),
            vmware::NAME => self.name = Some(text(payload)),
            vmware::DO_PROXY => {
                // The first byte is the direction.
                self.service = payload.split_first().map(|(_, uri)| text(uri));
                self.is_waiting = true;
                self.answer_proxy(telnet);
            }
            vmware::KNOWN_OF_PROXY
            | vmware::UNKNOWN_BY_MACHINE
            | vmware::UNKNOWN_BY_PROXY
            | vmware::WILL_PROXY
            | vmware::WONT_PROXY => {}
            unknown => telnet.send_subnegotiation(VMWARE, &[vmware::UNKNOWN_BY_PROXY, unknown]),
        }
    }

    /// Accepts or refuses the machine.
    pub fn decide(&mut self, telnet: &mut Telnet, accepted: bool) {
        self.accepted = Some(accepted);
        if !accepted {
            // It learns it also if it has not asked yet.
            self.is_waiting = true;
        }
        self.answer_proxy(telnet);
    }

    fn answer_proxy(&mut self, telnet: &mut Telnet) {
        let Some(accepted) = self.accepted.filter(|_| self.is_waiting) else { return };
        self.is_waiting = false;
        let answer = if accepted { vmware::WILL_PROXY } else { vmware::WONT_PROXY };
        telnet.send_subnegotiation(VMWARE, &[answer]);
    }
}

fn text(payload: &[u8]) -> String {
    let cut = payload.get(..MAX_TEXT).unwrap_or(payload);
    String::from_utf8_lossy(cut).trim_matches(['\0', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telnet::TelnetRole;
    use crate::telnet::constants::{DO, IAC, SB, SE, WILL};

    struct Connection {
        telnet: Telnet,
        identification: Identification,
    }

    impl Connection {
        fn new() -> Self {
            let mut telnet = Telnet::new(TelnetRole::Concentrator);
            telnet.to_send();
            Self { telnet, identification: Identification::default() }
        }

        /// What is sent after these bytes of the machine.
        fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
            let Self { telnet, identification } = self;
            for subnegotiation in telnet.receive(bytes, &mut Vec::new()) {
                identification.take(telnet, &subnegotiation);
            }
            identification.ask(telnet);
            telnet.to_send()
        }
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        [&[IAC, SB, VMWARE], payload, &[IAC, SE]].concat()
    }

    #[test]
    fn a_machine_is_asked_for_its_uuid_and_then_accepted() {
        let mut connection = Connection::new();
        let asked = connection.receive(&[IAC, WILL, VMWARE]);
        let expected = [&[IAC, DO, VMWARE][..], &frame(&[81]), &frame(&[83])].concat();
        assert_eq!(asked, expected);
        let known = connection.receive(&frame(&[0, 1, 2, 70, 80]));
        assert_eq!(known, frame(&[1, 0, 1, 2, 3, 70, 71, 73, 80, 82]));
        assert_eq!(connection.receive(&frame(b"\x46Sdom0")), b"", "not before it is known");
        assert_eq!(connection.receive(&frame(b"\x5050 2a 00-01")), b"");
        let Connection { telnet, identification } = &mut connection;
        assert_eq!(identification.service.as_deref(), Some("dom0"));
        assert_eq!(identification.uuid.as_deref(), Some("50 2a 00-01"));
        identification.decide(telnet, true);
        assert_eq!(telnet.to_send(), frame(&[71]));
        assert_eq!(connection.receive(&frame(b"\x46Sdom0")), frame(&[71]), "asked again");
    }

    #[test]
    fn a_machine_that_is_not_known_is_refused() {
        let mut connection = Connection::new();
        connection.receive(&frame(b"\x50nonsense"));
        let Connection { telnet, identification } = &mut connection;
        identification.decide(telnet, false);
        assert_eq!(telnet.to_send(), frame(&[73]));
    }

    #[test]
    fn commands_that_otter_does_not_know_are_named_and_others_are_ignored() {
        let mut connection = Connection::new();
        // The begin of a move of the machine, whose secret has any bytes.
        assert_eq!(connection.receive(&frame(b"\x28\x01\xff\xff")), frame(&[3, 0x28]));
        assert_eq!(connection.receive(&frame(&[2, 40])), b"");
        assert_eq!(connection.receive(&[IAC, SB, 24, 0, IAC, SE]), b"", "another option");
        assert_eq!(connection.receive(&frame(&[])), b"");
        let long = frame(&[&[82][..], &[b'a'; 5_000]].concat());
        connection.receive(&long);
        assert_eq!(connection.identification.name.unwrap().len(), MAX_TEXT);
    }
}
