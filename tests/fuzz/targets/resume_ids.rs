#![no_main]
//! Calls the property `resume_ids` with the inputs of the fuzzer.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter_fuzz::resume_ids(data));
