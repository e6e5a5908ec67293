//! See [`cairn_fuzz::ops_crash`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_fuzz::ops_crash::run(data));
