#![no_main]
//! Calls the property `soap_answers` with the inputs of the fuzzer.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter_fuzz::soap_answers(data));
