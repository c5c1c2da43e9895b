#![no_main]
//! Gives the property `update_sets` what the fuzzer invents.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter_fuzz::update_sets(data));
