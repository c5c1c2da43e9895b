#![no_main]
//! Feeds `otter::fuzzing::soap_answers` what the fuzzer makes up.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter::fuzzing::soap_answers(data));
