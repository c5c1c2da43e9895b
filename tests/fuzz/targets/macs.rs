#![no_main]
//! Feeds `otter::fuzzing::macs` what the fuzzer makes up.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter::fuzzing::macs(data));
