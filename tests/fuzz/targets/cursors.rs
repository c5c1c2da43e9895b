#![no_main]
//! Gives the property `cursors` what the fuzzer invents.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter_fuzz::cursors(data));
