//! The binary as operators run it: killed, stopped, started wrongly.

mod crash;
mod doctor;
mod leaks;
mod signals;
mod start;
