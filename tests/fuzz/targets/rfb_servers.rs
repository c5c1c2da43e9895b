#![no_main]
//! Calls the property `rfb_servers` with the inputs of the fuzzer.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter_fuzz::rfb_servers(data));
