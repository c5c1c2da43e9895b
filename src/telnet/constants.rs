//! The numbers of the telnet protocol (RFC 854 to 858), and of VMware's extension.

/// Begins a command. Doubled, it is a byte of data.
pub const IAC: u8 = 255;
pub const DONT: u8 = 254;
pub const DO: u8 = 253;
pub const WONT: u8 = 252;
pub const WILL: u8 = 251;
/// Begins a subnegotiation.
pub const SB: u8 = 250;
/// Ends a subnegotiation.
pub const SE: u8 = 240;

/// The option to transmit every byte as it is (RFC 856).
pub const BINARY: u8 = 0;
/// The option to echo (RFC 857).
pub const ECHO: u8 = 1;
/// The option to suppress `go ahead` (RFC 858).
pub const SUPPRESS_GO_AHEAD: u8 = 3;
/// VMware's extension.
pub const VMWARE: u8 = 232;

/// The commands of VMware's extension, in its subnegotiations.
pub mod vmware {
    /// The machine lists the commands that it knows.
    pub const KNOWN_OF_MACHINE: u8 = 0;
    /// The answer with the commands that the other side knows.
    pub const KNOWN_OF_PROXY: u8 = 1;
    pub const UNKNOWN_BY_MACHINE: u8 = 2;
    pub const UNKNOWN_BY_PROXY: u8 = 3;
    /// The machine asks the other side to connect to a URI for it.
    pub const DO_PROXY: u8 = 70;
    pub const WILL_PROXY: u8 = 71;
    pub const WONT_PROXY: u8 = 73;
    /// The machine names its instance UUID.
    pub const INSTANCE_UUID: u8 = 80;
    pub const GET_INSTANCE_UUID: u8 = 81;
    /// The machine names itself.
    pub const NAME: u8 = 82;
    pub const GET_NAME: u8 = 83;
}
