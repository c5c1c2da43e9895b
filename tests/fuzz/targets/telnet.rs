#![no_main]
//! Calls the property `telnet` with the inputs of the fuzzer.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter_fuzz::telnet(data));
