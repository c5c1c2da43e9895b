#![no_main]
//! Feeds `otter::fuzzing::update_sets` what the fuzzer makes up.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter::fuzzing::update_sets(data));
