//! otter: a REST daemon in front of a VMware ESX host. The binary is a thin shell around this library.

pub mod clock;
pub mod domain;
pub mod esx;
pub mod hypervisor;
pub mod simulator;
