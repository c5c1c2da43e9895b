#![no_main]
//! Gives the property `soap_answers` what the fuzzer invents.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter_fuzz::soap_answers(data));
