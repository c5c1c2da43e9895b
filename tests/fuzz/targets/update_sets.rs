#![no_main]
//! Calls the property `update_sets` with the inputs of the fuzzer.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter_fuzz::update_sets(data));
