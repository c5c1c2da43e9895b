//! Tests of the otter binary in its own process: starts and stops, signals, kills, damaged or full
//! disks, and the subcommands.

mod access_log;
mod artifacts;
mod audit;
mod backup;
mod check_config;
mod crash;
mod doctor;
mod files;
mod files_command;
mod input_keys;
mod leaks;
mod lease_crowd;
mod lease_recovery;
mod lease_restarts;
mod open_files;
mod patterns;
mod recovery;
mod reload;
mod run;
mod signals;
mod snapshots;
mod sockets;
mod start;
mod storage;
mod terminal;
mod token;
mod token_leases;
