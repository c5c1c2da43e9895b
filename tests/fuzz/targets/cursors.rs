#![no_main]
//! Feeds `otter::fuzzing::cursors` what the fuzzer makes up.

libfuzzer_sys::fuzz_target!(|data: &[u8]| otter::fuzzing::cursors(data));
