//! The telnet protocol between two programs that pass the bytes of a serial port, as a pure codec:
//! it takes bytes from the connection, and gives data, subnegotiations and bytes to send.
//!
//! ```text
//! data ──IAC──► command ──WILL, WONT, DO, DONT──► option ──► data
//!                  │ SB                                        ▲
//!                  ▼                                           │
//!             subnegotiation ──IAC SE──────────────────────────┘
//! ```

use super::constants::{
    BINARY, DO, DONT, ECHO, IAC, SB, SE, SUPPRESS_GO_AHEAD, VMWARE, WILL, WONT,
};

/// The longest subnegotiation. The rest of a longer one is ignored.
const MAX_SUBNEGOTIATION: usize = 4 * 1024;

/// The most bytes of answers that wait to be sent. Further answers are dropped: the other side
/// negotiates without end.
const MAX_TO_SEND: usize = 16 * 1024;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TelnetRole {
    /// It dialled a port that a host or a terminal server serves.
    Client,
    /// A machine dialled it, to pass the bytes of a serial port on.
    Concentrator,
}

/// One subnegotiation, without its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnegotiation {
    pub option: u8,
    pub payload: Vec<u8>,
}

/// One end of a telnet connection.
#[derive(Debug)]
pub struct Telnet {
    role: TelnetRole,
    state: State,
    /// Our side of each option that we know.
    ours: Options,
    /// The other side of each option that we know.
    theirs: Options,
    /// Whether the last byte of data was a carriage return, after which a NUL means nothing unless
    /// the transmission is binary.
    after_return: bool,
    to_send: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Data,
    Command,
    /// The option of a `WILL`, `WONT`, `DO` or `DONT`, which is this byte.
    Option(u8),
    Subnegotiation(Vec<u8>),
    /// After an `IAC` in a subnegotiation.
    SubnegotiationCommand(Vec<u8>),
}

/// One side of the options.
#[derive(Clone, Copy, Debug, Default)]
struct Options {
    binary: OptionState,
    echo: OptionState,
    go_ahead: OptionState,
    vmware: OptionState,
}

/// The state of one side of an option (RFC 1143, without its queue, because we never change our
/// mind).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OptionState {
    #[default]
    No,
    /// We asked for it.
    Asked,
    Yes,
    /// The other side refused it.
    Refused,
}

impl Options {
    fn of(&mut self, option: u8) -> Option<&mut OptionState> {
        match option {
            BINARY => Some(&mut self.binary),
            ECHO => Some(&mut self.echo),
            SUPPRESS_GO_AHEAD => Some(&mut self.go_ahead),
            VMWARE => Some(&mut self.vmware),
            _ => None,
        }
    }
}

impl Telnet {
    /// An end of a new connection. [`Telnet::to_send`] has what it says first.
    #[must_use]
    pub fn new(role: TelnetRole) -> Self {
        let mut telnet = Self {
            role,
            state: State::Data,
            ours: Options::default(),
            theirs: Options::default(),
            after_return: false,
            to_send: Vec::new(),
        };
        let (will, requests): (&[u8], &[u8]) = match role {
            TelnetRole::Client => (&[BINARY], &[BINARY, SUPPRESS_GO_AHEAD]),
            TelnetRole::Concentrator => {
                (&[BINARY, SUPPRESS_GO_AHEAD, ECHO], &[BINARY, SUPPRESS_GO_AHEAD])
            }
        };
        for (side, command, options) in
            [(&mut telnet.ours, WILL, will), (&mut telnet.theirs, DO, requests)]
        {
            for option in options {
                if let Some(state) = side.of(*option) {
                    *state = OptionState::Asked;
                }
                telnet.to_send.extend([IAC, command, *option]);
            }
        }
        telnet
    }

    /// Takes bytes that the connection received.
    ///
    /// # Parameters
    /// - `data`: gets the bytes of the serial port.
    ///
    /// # Returns
    /// The subnegotiations that ended.
    pub fn receive(&mut self, bytes: &[u8], data: &mut Vec<u8>) -> Vec<Subnegotiation> {
        let mut subnegotiations = Vec::new();
        let mut rest = bytes;
        while let Some((byte, after)) = rest.split_first() {
            if matches!(self.state, State::Data) {
                // Data in one piece, which is nearly all of the bytes.
                let length = rest.iter().position(|byte| *byte == IAC).unwrap_or(rest.len());
                if length > 0 {
                    let (piece, after) = rest.split_at(length);
                    self.take_data(piece, data);
                    rest = after;
                    continue;
                }
            }
            rest = after;
            if let Some(ended) = self.take(*byte, data) {
                subnegotiations.push(ended);
            }
        }
        subnegotiations
    }

    /// The bytes that have to be sent, which the codec forgets.
    pub fn to_send(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_send)
    }

    /// Appends data for the other side, as the connection has to send it.
    pub fn encode(&self, data: &[u8], encoded: &mut Vec<u8>) {
        // Until the other side refuses it, the transmission counts as binary: programs that pass a
        // serial port do not interpret a NUL after a carriage return.
        let is_binary = self.ours.binary != OptionState::Refused;
        for (at, byte) in data.iter().enumerate() {
            encoded.push(*byte);
            if *byte == IAC {
                encoded.push(IAC);
            }
            if *byte == b'\r' && !is_binary && data.get(at + 1) != Some(&b'\n') {
                encoded.push(0);
            }
        }
    }

    /// Has to send a subnegotiation.
    pub fn send_subnegotiation(&mut self, option: u8, payload: &[u8]) {
        let mut frame = vec![IAC, SB, option];
        for byte in payload {
            frame.push(*byte);
            if *byte == IAC {
                frame.push(IAC);
            }
        }
        frame.extend([IAC, SE]);
        self.answer(&frame);
    }

    /// Whether the other side speaks VMware's extension.
    #[must_use]
    pub fn speaks_vmware(&self) -> bool {
        self.ours.vmware == OptionState::Yes || self.theirs.vmware == OptionState::Yes
    }

    fn take(&mut self, byte: u8, data: &mut Vec<u8>) -> Option<Subnegotiation> {
        match std::mem::replace(&mut self.state, State::Data) {
            State::Data if byte == IAC => self.state = State::Command,
            State::Data => self.take_data(&[byte], data),
            State::Command => match byte {
                IAC => self.take_data(&[IAC], data),
                SB => self.state = State::Subnegotiation(Vec::new()),
                WILL | WONT | DO | DONT => self.state = State::Option(byte),
                // The other commands mean nothing on a serial port.
                _ => {}
            },
            State::Option(command) => self.negotiate(command, byte),
            State::Subnegotiation(payload) if byte == IAC => {
                self.state = State::SubnegotiationCommand(payload);
            }
            State::Subnegotiation(mut payload) => {
                push_limited(&mut payload, byte);
                self.state = State::Subnegotiation(payload);
            }
            State::SubnegotiationCommand(payload) if byte == SE => {
                let (option, payload) = payload.split_first()?;
                return Some(Subnegotiation { option: *option, payload: payload.to_vec() });
            }
            State::SubnegotiationCommand(mut payload) => {
                // An `IAC` that is not doubled is a mistake of the other side, and counts as one.
                push_limited(&mut payload, IAC);
                if byte != IAC {
                    push_limited(&mut payload, byte);
                }
                self.state = State::Subnegotiation(payload);
            }
        }
        None
    }

    fn take_data(&mut self, piece: &[u8], data: &mut Vec<u8>) {
        let Some(last) = piece.last() else { return };
        if self.theirs.binary == OptionState::Yes {
            data.extend_from_slice(piece);
            self.after_return = *last == b'\r';
            return;
        }
        for byte in piece {
            let is_padding = self.after_return && *byte == 0;
            if !is_padding {
                data.push(*byte);
            }
            self.after_return = *byte == b'\r';
        }
    }

    fn negotiate(&mut self, command: u8, option: u8) {
        let is_theirs = matches!(command, WILL | WONT);
        let is_on = matches!(command, WILL | DO);
        let may_be_on = self.accepts(is_theirs, option);
        let (agree, refuse) = if is_theirs { (DO, DONT) } else { (WILL, WONT) };
        let side = if is_theirs { &mut self.theirs } else { &mut self.ours };
        let Some(state) = side.of(option) else {
            if is_on {
                self.answer(&[IAC, refuse, option]);
            }
            return;
        };
        let (next, answer) = match (*state, is_on) {
            (OptionState::Asked | OptionState::Yes, true) => (OptionState::Yes, None),
            (OptionState::No | OptionState::Refused, true) if may_be_on => {
                (OptionState::Yes, Some(agree))
            }
            (state, true) => (state, Some(refuse)),
            (OptionState::Yes, false) => (OptionState::Refused, Some(refuse)),
            (OptionState::Asked | OptionState::Refused | OptionState::No, false) => {
                (OptionState::Refused, None)
            }
        };
        *state = next;
        if let Some(answer) = answer {
            self.answer(&[IAC, answer, option]);
        }
    }

    /// Whether a side of an option may be on.
    const fn accepts(&self, is_theirs: bool, option: u8) -> bool {
        match option {
            BINARY | SUPPRESS_GO_AHEAD => true,
            // Only the end that serves a port echoes: its machine does so.
            ECHO => is_theirs == matches!(self.role, TelnetRole::Client),
            VMWARE => matches!(self.role, TelnetRole::Concentrator),
            _ => false,
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.to_send.len() + bytes.len() <= MAX_TO_SEND {
            self.to_send.extend_from_slice(bytes);
        }
    }
}

fn push_limited(payload: &mut Vec<u8>, byte: u8) {
    if payload.len() < MAX_SUBNEGOTIATION {
        payload.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn receive(telnet: &mut Telnet, bytes: &[u8]) -> (Vec<u8>, Vec<Subnegotiation>) {
        let mut data = Vec::new();
        let subnegotiations = telnet.receive(bytes, &mut data);
        (data, subnegotiations)
    }

    fn client() -> Telnet {
        let mut telnet = Telnet::new(TelnetRole::Client);
        assert_eq!(
            telnet.to_send(),
            [IAC, WILL, BINARY, IAC, DO, BINARY, IAC, DO, SUPPRESS_GO_AHEAD]
        );
        telnet
    }

    #[test]
    fn a_client_agrees_with_a_server_of_a_port_and_answers_nothing_twice() {
        let mut telnet = client();
        // What QEMU sends first.
        let first = [
            [IAC, WILL, ECHO],
            [IAC, WILL, SUPPRESS_GO_AHEAD],
            [IAC, WILL, BINARY],
            [IAC, DO, BINARY],
        ]
        .concat();
        assert_eq!(receive(&mut telnet, &first).0, b"");
        assert_eq!(telnet.to_send(), [IAC, DO, ECHO], "the others are answers");
        assert_eq!(receive(&mut telnet, &first).0, b"");
        assert_eq!(telnet.to_send(), b"");
        assert_eq!(receive(&mut telnet, b"boot\r\0login: ").0, b"boot\r\0login: ", "binary");
    }

    #[test]
    fn unknown_options_are_refused_and_the_end_of_one_is_not_answered() {
        let mut telnet = client();
        // The window size, and the control of a port (RFC 2217).
        receive(&mut telnet, &[IAC, DO, 31, IAC, WILL, 44, IAC, WONT, 44, IAC, DONT, 31]);
        assert_eq!(telnet.to_send(), [IAC, WONT, 31, IAC, DONT, 44]);
        receive(&mut telnet, &[IAC, DO, ECHO, IAC, WILL, VMWARE]);
        assert_eq!(telnet.to_send(), [IAC, WONT, ECHO, IAC, DONT, VMWARE]);
        receive(&mut telnet, &[IAC, WILL, ECHO]);
        telnet.to_send();
        receive(&mut telnet, &[IAC, WONT, ECHO]);
        assert_eq!(telnet.to_send(), [IAC, DONT, ECHO]);
    }

    #[test]
    fn the_padding_after_a_carriage_return_is_only_for_transmissions_that_are_not_binary() {
        let mut telnet = client();
        let mut encoded = Vec::new();
        telnet.encode(b"a\r", &mut encoded);
        assert_eq!(encoded, b"a\r");
        receive(&mut telnet, &[IAC, DONT, BINARY, IAC, WONT, BINARY]);
        let mut encoded = Vec::new();
        telnet.encode(b"a\rb\r\n\xff", &mut encoded);
        assert_eq!(encoded, b"a\r\0b\r\n\xff\xff");
        let (first, _) = receive(&mut telnet, b"x\r");
        let (second, _) = receive(&mut telnet, b"\0y\0\r\n");
        assert_eq!([first, second].concat(), b"x\ry\0\r\n");
    }

    #[test]
    fn a_subnegotiation_may_have_any_byte() {
        let mut telnet = Telnet::new(TelnetRole::Concentrator);
        telnet.to_send();
        let (data, subnegotiations) = receive(
            &mut telnet,
            b"a\xff\xfa\xe8\x29\xff\xff\x01\xff\xf0b\xff\xffc\xff\xf1\xff\xfa\xff\xf0d",
        );
        assert_eq!(data, b"ab\xffcd");
        let expected = Subnegotiation { option: VMWARE, payload: vec![0x29, IAC, 1] };
        assert_eq!(subnegotiations, [expected], "the second one has no option");
        telnet.send_subnegotiation(VMWARE, &[1, IAC]);
        assert_eq!(telnet.to_send(), [IAC, SB, VMWARE, 1, IAC, IAC, IAC, SE]);
    }

    #[test]
    fn a_machine_learns_that_the_extension_is_spoken() {
        let mut telnet = Telnet::new(TelnetRole::Concentrator);
        assert_eq!(telnet.to_send().len(), 15);
        receive(&mut telnet, &[IAC, WILL, VMWARE, IAC, DO, VMWARE]);
        assert!(telnet.speaks_vmware());
        assert_eq!(telnet.to_send(), [IAC, DO, VMWARE, IAC, WILL, VMWARE]);
    }

    #[test]
    fn what_the_other_side_sends_without_end_takes_no_memory_without_end() {
        let mut telnet = client();
        for _ in 0..10_000 {
            receive(&mut telnet, &[IAC, DO, 31]);
        }
        assert!(telnet.to_send().len() <= MAX_TO_SEND);
        receive(&mut telnet, &[IAC, SB, VMWARE]);
        receive(&mut telnet, &vec![7; 100_000]);
        let (_, ended) = receive(&mut telnet, &[IAC, SE]);
        assert_eq!(ended[0].payload.len(), MAX_SUBNEGOTIATION - 1);
    }

    /// Bytes, more than a few of which mean something to telnet.
    fn data() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(IAC), Just(b'\r'), Just(0), any::<u8>()];
        prop::collection::vec(byte, 0..60)
    }

    proptest! {
        #[test]
        fn encoded_data_is_received_as_it_was_however_it_is_cut(
            data in data(),
            cuts in prop::collection::vec(1..7_usize, 1..60),
        ) {
            let mut encoded = Vec::new();
            client().encode(&data, &mut encoded);
            let (mut telnet, mut received) = (client(), Vec::new());
            telnet.receive(&[IAC, WILL, BINARY], &mut received);
            let mut rest = encoded.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                prop_assert!(telnet.receive(piece, &mut received).is_empty());
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(received, data);
        }
    }
}
