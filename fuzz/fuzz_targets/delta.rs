//! See [`cairn_fuzz::delta`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_fuzz::delta::run(data));
