//! The machine's end of a telnet connection: options, escapes, and the extension by which a machine
//! names itself to a concentrator (vSPC). It shares nothing with otter's own codec.
//!
//! ```text
//! machine                                   concentrator
//! WILL 232                       ──►
//!                                ◄──        DO 232
//! SB 232 0 (what it knows)       ──►
//!                                ◄──        SB 232 1 (what it knows)
//! SB 232 70 'S' service URI      ──►
//! SB 232 80 UUID, 82 name        ──►        only if it asks by 81, 83
//!                                ◄──        SB 232 71 will proxy | 73 won't
//! output begins after 71, or after DONT 232
//! ```

use std::collections::BTreeMap;

use bytes::BytesMut;

const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
const SB: u8 = 250;
const SE: u8 = 240;

const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;
const EXTENSION: u8 = 232;

/// The maximum length of a sub-option that a peer sends.
const MAX_SUBOPTION: usize = 1_024;

/// The codes of the extension.
mod code {
    pub const KNOWN_BY_MACHINE: u8 = 0;
    pub const KNOWN_BY_PROXY: u8 = 1;
    pub const UNKNOWN_TO_MACHINE: u8 = 2;
    pub const UNKNOWN_TO_PROXY: u8 = 3;
    pub const MOTION_BEGIN: u8 = 40;
    pub const MOTION_GO_AHEAD: u8 = 41;
    pub const MOTION_NOT_NOW: u8 = 43;
    pub const MOTION_PEER: u8 = 44;
    pub const MOTION_PEER_OK: u8 = 45;
    pub const MOTION_COMPLETE: u8 = 46;
    pub const MOTION_ABORT: u8 = 48;
    pub const DO_PROXY: u8 = 70;
    pub const WILL_PROXY: u8 = 71;
    pub const WONT_PROXY: u8 = 73;
    pub const INSTANCE_UUID: u8 = 80;
    pub const GET_INSTANCE_UUID: u8 = 81;
    pub const NAME: u8 = 82;
    pub const GET_NAME: u8 = 83;
    pub const BIOS_UUID: u8 = 84;
    pub const GET_BIOS_UUID: u8 = 85;
}

/// What a machine sends about itself to a concentrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub instance_uuid: String,
    pub bios_uuid: String,
    /// `S` if the machine is a server, `C` if it is a client.
    pub direction: char,
    pub service: String,
}

/// The machine's end of a connection.
#[derive(Debug)]
pub struct Telnet {
    /// The options that the machine uses.
    own: Options,
    /// The options that the machine wants its peer to use.
    of_peer: Options,
    place: Place,
    suboption: Vec<u8>,
    /// Whether the last byte that came was a carriage return.
    came_return: bool,
    /// Whether the last byte that went was a carriage return.
    sent_return: bool,
    proxy: Option<Proxy>,
}

/// The options of one side.
#[derive(Debug)]
struct Options {
    allowed: &'static [u8],
    /// `Some(false)`: the machine has proposed the option. `Some(true)`: the option is in use.
    states: BTreeMap<u8, bool>,
}

/// The connection to a concentrator.
#[derive(Debug)]
struct Proxy {
    identity: Identity,
    agreement: Agreement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    Pending,
    Agreed,
    Refused,
}

/// Where the reader is in the stream of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Data,
    Command,
    Option(u8),
    Suboption,
    SuboptionCommand,
}

impl Telnet {
    /// A machine that listens.
    pub const fn listening() -> Self {
        Self::new(&[BINARY, ECHO, SUPPRESS_GO_AHEAD], &[BINARY, SUPPRESS_GO_AHEAD], None)
    }

    /// A machine that dials another program than a concentrator.
    pub const fn dialling() -> Self {
        Self::new(&[BINARY, SUPPRESS_GO_AHEAD], &[BINARY, ECHO, SUPPRESS_GO_AHEAD], None)
    }

    /// A machine that dials a concentrator.
    pub const fn for_proxy(identity: Identity) -> Self {
        Self::new(
            &[BINARY, SUPPRESS_GO_AHEAD, EXTENSION],
            &[BINARY, ECHO, SUPPRESS_GO_AHEAD],
            Some(Proxy { identity, agreement: Agreement::Pending }),
        )
    }

    const fn new(own: &'static [u8], of_peer: &'static [u8], proxy: Option<Proxy>) -> Self {
        Self {
            own: Options::new(own),
            of_peer: Options::new(of_peer),
            place: Place::Data,
            suboption: Vec::new(),
            came_return: false,
            sent_return: false,
            proxy,
        }
    }

    /// The first bytes that the machine sends: what it proposes.
    pub fn begin(&mut self, output: &mut BytesMut) {
        if self.proxy.is_some() {
            self.own.propose(EXTENSION);
            output.extend_from_slice(&[IAC, WILL, EXTENSION]);
        }
        let listens = self.proxy.is_none() && self.own.allowed.contains(&ECHO);
        if listens {
            for option in [ECHO, SUPPRESS_GO_AHEAD, BINARY] {
                self.own.propose(option);
                output.extend_from_slice(&[IAC, WILL, option]);
            }
            self.of_peer.propose(BINARY);
            output.extend_from_slice(&[IAC, DO, BINARY]);
        }
    }

    /// Whether output of the guest can go to the peer.
    pub fn is_open(&self) -> bool {
        self.proxy.as_ref().is_none_or(|proxy| proxy.agreement == Agreement::Agreed)
    }

    /// Whether the concentrator has refused the machine.
    pub fn is_refused(&self) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.agreement == Agreement::Refused)
    }

    /// Encodes output of the guest.
    pub fn encode(&mut self, bytes: &[u8], output: &mut BytesMut) {
        let is_binary = self.own.uses(BINARY);
        let is_special = |byte: &u8| *byte == IAC || (!is_binary && *byte == b'\r');
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            // Without binary transmission a carriage return alone is followed by a NUL.
            if std::mem::take(&mut self.sent_return) && *first != b'\n' {
                output.extend_from_slice(&[0]);
            }
            let length = rest.iter().position(is_special).map_or(rest.len(), |at| at + 1);
            let (part, behind) = rest.split_at(length);
            output.extend_from_slice(part);
            match part.last() {
                Some(&IAC) => output.extend_from_slice(&[IAC]),
                Some(b'\r') => self.sent_return = !is_binary,
                _ => {}
            }
            rest = behind;
        }
    }

    /// Takes bytes of the peer. Input for the guest goes to `input`, answers to the peer go to
    /// `output`.
    pub fn receive(&mut self, bytes: &[u8], input: &mut Vec<u8>, output: &mut BytesMut) {
        for byte in bytes {
            let byte = *byte;
            self.place = match (self.place, byte) {
                (Place::Data, IAC) => Place::Command,
                (Place::Data, _) | (Place::Command, IAC) => {
                    self.take_data(byte, input);
                    Place::Data
                }
                (Place::Command, SB) => {
                    self.suboption.clear();
                    Place::Suboption
                }
                (Place::Command, WILL..=DONT) => Place::Option(byte),
                (Place::Option(command), option) => {
                    self.negotiate(command, option, output);
                    Place::Data
                }
                (Place::Suboption, IAC) => Place::SuboptionCommand,
                (Place::Suboption, _) | (Place::SuboptionCommand, IAC) => {
                    if self.suboption.len() < MAX_SUBOPTION {
                        self.suboption.push(byte);
                    }
                    Place::Suboption
                }
                (Place::SuboptionCommand, SE) => {
                    let suboption = std::mem::take(&mut self.suboption);
                    if let [EXTENSION, received, ..] = suboption[..] {
                        self.take_extension(received, output);
                    }
                    Place::Data
                }
                // The other commands, such as a break, do nothing here.
                (Place::Command | Place::SuboptionCommand, _) => Place::Data,
            };
        }
    }

    /// Writes a sub-option of the extension, with each 255 in it doubled.
    pub fn suboption(code: u8, payload: &[u8], output: &mut BytesMut) {
        output.extend_from_slice(&[IAC, SB, EXTENSION]);
        for byte in std::iter::once(&code).chain(payload) {
            output.extend_from_slice(&[*byte]);
            if *byte == IAC {
                output.extend_from_slice(&[IAC]);
            }
        }
        output.extend_from_slice(&[IAC, SE]);
    }

    fn take_data(&mut self, byte: u8, input: &mut Vec<u8>) {
        let follows_return = std::mem::replace(&mut self.came_return, byte == b'\r');
        let is_end_of_line = follows_return && matches!(byte, 0 | b'\n');
        if is_end_of_line && !self.of_peer.uses(BINARY) {
            return;
        }
        input.push(byte);
    }

    fn negotiate(&mut self, command: u8, option: u8, output: &mut BytesMut) {
        let is_on = matches!(command, WILL | DO);
        let (side, yes, no) = match command {
            WILL | WONT => (&mut self.of_peer, DO, DONT),
            _ => (&mut self.own, WILL, WONT),
        };
        if let Some(agrees) = side.answer(option, is_on) {
            output.extend_from_slice(&[IAC, if agrees { yes } else { no }, option]);
        }
        let Some(proxy) = &mut self.proxy else { return };
        match (command, option) {
            (DO, EXTENSION) => {
                Self::suboption(code::KNOWN_BY_MACHINE, &KNOWN, output);
            }
            // The peer is no concentrator, but it takes the output.
            (DONT, EXTENSION) if proxy.agreement == Agreement::Pending => {
                proxy.agreement = Agreement::Agreed;
            }
            _ => {}
        }
    }

    fn take_extension(&mut self, received: u8, output: &mut BytesMut) {
        let Some(proxy) = &mut self.proxy else { return };
        let Identity { name, instance_uuid, bios_uuid, direction, service } = &proxy.identity;
        match received {
            code::KNOWN_BY_PROXY => {
                let request = format!("{direction}{service}");
                Self::suboption(code::DO_PROXY, request.as_bytes(), output);
            }
            code::WILL_PROXY => proxy.agreement = Agreement::Agreed,
            code::WONT_PROXY => proxy.agreement = Agreement::Refused,
            code::GET_INSTANCE_UUID => {
                let text = spaced_uuid(instance_uuid);
                Self::suboption(code::INSTANCE_UUID, text.as_bytes(), output);
            }
            code::GET_NAME => Self::suboption(code::NAME, name.as_bytes(), output),
            code::GET_BIOS_UUID => {
                Self::suboption(code::BIOS_UUID, spaced_uuid(bios_uuid).as_bytes(), output);
            }
            known if KNOWN.contains(&known) => {}
            unknown => Self::suboption(code::UNKNOWN_TO_MACHINE, &[unknown], output),
        }
    }
}

/// The codes that the machine knows.
const KNOWN: [u8; 20] = [
    code::KNOWN_BY_MACHINE,
    code::KNOWN_BY_PROXY,
    code::UNKNOWN_TO_MACHINE,
    code::UNKNOWN_TO_PROXY,
    code::MOTION_BEGIN,
    code::MOTION_GO_AHEAD,
    code::MOTION_NOT_NOW,
    code::MOTION_PEER,
    code::MOTION_PEER_OK,
    code::MOTION_COMPLETE,
    code::MOTION_ABORT,
    code::DO_PROXY,
    code::WILL_PROXY,
    code::WONT_PROXY,
    code::INSTANCE_UUID,
    code::GET_INSTANCE_UUID,
    code::NAME,
    code::GET_NAME,
    code::BIOS_UUID,
    code::GET_BIOS_UUID,
];

impl Options {
    const fn new(allowed: &'static [u8]) -> Self {
        Self { allowed, states: BTreeMap::new() }
    }

    fn propose(&mut self, option: u8) {
        self.states.insert(option, false);
    }

    fn uses(&self, option: u8) -> bool {
        self.states.get(&option) == Some(&true)
    }

    /// The peer wants an option on or off. Returns whether the machine agrees that it is on. `None`
    /// if it sends nothing: the peer has answered a proposal, or nothing changes.
    fn answer(&mut self, option: u8, is_on: bool) -> Option<bool> {
        if is_on && !self.allowed.contains(&option) {
            return Some(false);
        }
        let before =
            if is_on { self.states.insert(option, true) } else { self.states.remove(&option) };
        match (is_on, before) {
            (true, None) => Some(true),
            (false, Some(true)) => Some(false),
            _ => None,
        }
    }
}

/// A UUID as VMware writes it: pairs of digits with spaces, and a dash in the middle.
fn spaced_uuid(uuid: &str) -> String {
    let digits: Vec<char> = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    let mut text = String::new();
    for (at, pair) in digits.chunks(2).enumerate() {
        match at {
            0 => {}
            8 => text.push('-'),
            _ => text.push(' '),
        }
        text.extend(pair);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [u8; 0] = [];
    const UUID: &str = "502e6b1f-0c1d-4a55-9c11-7d0e214b8a37";

    /// What the machine sends to the peer, and the input of its guest, after these bytes.
    fn exchange(telnet: &mut Telnet, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut output, mut input) = (BytesMut::new(), Vec::new());
        telnet.receive(bytes, &mut input, &mut output);
        (output.to_vec(), input)
    }

    fn encoded(telnet: &mut Telnet, bytes: &[u8]) -> Vec<u8> {
        let mut output = BytesMut::new();
        telnet.encode(bytes, &mut output);
        output.to_vec()
    }

    fn suboption(code: u8, payload: &[u8]) -> Vec<u8> {
        let mut output = BytesMut::new();
        Telnet::suboption(code, payload, &mut output);
        output.to_vec()
    }

    fn begun(telnet: &mut Telnet) -> Vec<u8> {
        let mut output = BytesMut::new();
        telnet.begin(&mut output);
        output.to_vec()
    }

    fn for_proxy() -> Telnet {
        let mut telnet = Telnet::for_proxy(Identity {
            name: "staging".to_owned(),
            instance_uuid: UUID.to_owned(),
            bios_uuid: UUID.replace('5', "6"),
            direction: 'S',
            service: "vspc".to_owned(),
        });
        assert_eq!(begun(&mut telnet), [IAC, WILL, EXTENSION]);
        telnet
    }

    #[test]
    fn a_listening_machine_agrees_to_what_it_knows_without_a_loop() {
        let mut telnet = Telnet::listening();
        let first = begun(&mut telnet);
        let offers = [
            [IAC, WILL, ECHO],
            [IAC, WILL, SUPPRESS_GO_AHEAD],
            [IAC, WILL, BINARY],
            [IAC, DO, BINARY],
        ];
        assert_eq!(first, offers.concat());
        assert!(telnet.is_open());
        // Answers to the offers need no answer.
        let answers = [IAC, DO, ECHO, IAC, DO, BINARY, IAC, WILL, BINARY];
        assert_eq!(exchange(&mut telnet, &answers).0, NOTHING);
        assert_eq!(exchange(&mut telnet, &[IAC, WILL, 3]).0, [IAC, DO, 3]);
        assert_eq!(exchange(&mut telnet, &[IAC, WILL, 3]).0, NOTHING);
        // 44 sets the speed of the line, 24 is the type of a terminal.
        assert_eq!(exchange(&mut telnet, &[IAC, DO, 44]).0, [IAC, WONT, 44]);
        assert_eq!(exchange(&mut telnet, &[IAC, WILL, 24]).0, [IAC, DONT, 24]);
        assert_eq!(exchange(&mut telnet, &[IAC, DONT, ECHO]).0, [IAC, WONT, ECHO]);
        assert_eq!(exchange(&mut telnet, &[IAC, DONT, 44, IAC, WONT, 24]).0, NOTHING);
    }

    #[test]
    fn escapes_and_ends_of_lines_are_those_of_the_mode() {
        let mut telnet = Telnet::listening();
        let input = exchange(&mut telnet, &[b'a', IAC, IAC, 13, 0, 13, 10, 10]).1;
        assert_eq!(input, [b'a', 255, 13, 13, 10]);
        assert_eq!(encoded(&mut telnet, b"\r\n\rx\r"), b"\r\n\r\0x\r");
        assert_eq!(encoded(&mut telnet, b"\n\xff"), b"\n\xff\xff");
        begun(&mut telnet);
        exchange(&mut telnet, &[IAC, DO, BINARY, IAC, WILL, BINARY]);
        assert_eq!(exchange(&mut telnet, &[13, 0, 13, 10]).1, [13, 0, 13, 10]);
        assert_eq!(encoded(&mut telnet, b"\rx\xff"), b"\rx\xff\xff");
        // Commands and sub-options may come in any pieces.
        for byte in [IAC, 241, IAC, SB, 44, 1, IAC, IAC, 2, IAC, SE] {
            assert_eq!(exchange(&mut telnet, &[byte]), (vec![], vec![]), "{byte}");
        }
        assert_eq!(exchange(&mut telnet, b"b").1, b"b");
    }

    #[test]
    fn a_machine_names_itself_to_a_concentrator_that_asks() {
        let mut telnet = for_proxy();
        assert_eq!(exchange(&mut telnet, &[IAC, DO, EXTENSION]).0, suboption(0, &KNOWN));
        let known = suboption(1, &[0, 1, 2, 3, 70, 71, 73, 80, 81]);
        assert_eq!(exchange(&mut telnet, &known).0, suboption(70, b"Svspc"));
        let uuid = b"50 2e 6b 1f 0c 1d 4a 55-9c 11 7d 0e 21 4b 8a 37";
        assert_eq!(exchange(&mut telnet, &suboption(81, b"")).0, suboption(80, uuid));
        assert_eq!(exchange(&mut telnet, &suboption(83, b"")).0, suboption(82, b"staging"));
        assert!(exchange(&mut telnet, &suboption(85, b"")).0.ends_with(b"8a 37\xff\xf0"));
        assert_eq!(exchange(&mut telnet, &suboption(99, b"x")).0, suboption(2, &[99]));
        assert_eq!(exchange(&mut telnet, &suboption(41, b"\xff\xff")).0, NOTHING);
        assert!(!telnet.is_open());
        exchange(&mut telnet, &suboption(71, b""));
        assert!(telnet.is_open() && !telnet.is_refused());
    }

    #[test]
    fn a_concentrator_can_refuse_and_another_program_need_not_agree() {
        let mut telnet = for_proxy();
        exchange(&mut telnet, &suboption(73, b""));
        assert!(telnet.is_refused() && !telnet.is_open());
        let mut telnet = for_proxy();
        assert_eq!(exchange(&mut telnet, &[IAC, DONT, EXTENSION]).0, NOTHING);
        assert!(telnet.is_open());
        let mut telnet = Telnet::dialling();
        assert_eq!((begun(&mut telnet), telnet.is_open()), (vec![], true));
        assert_eq!(exchange(&mut telnet, &[IAC, DO, EXTENSION]).0, [IAC, WONT, EXTENSION]);
    }

    #[test]
    fn a_suboption_doubles_each_255() {
        let expected = [IAC, SB, EXTENSION, 40, 1, 255, 255, 240, IAC, SE];
        assert_eq!(suboption(40, &[1, 255, 240]), expected);
        assert_eq!(suboption(255, b""), [IAC, SB, EXTENSION, 255, 255, IAC, SE]);
    }
}
