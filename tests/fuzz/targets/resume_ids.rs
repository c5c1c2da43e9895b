#![no_main]
//! Gives the property `resume_ids` what the fuzzer invents.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter_fuzz::resume_ids(data));
