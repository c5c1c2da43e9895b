#![no_main]
//! Feeds `otter::fuzzing::resume_ids` what the fuzzer makes up.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter::fuzzing::resume_ids(data));
