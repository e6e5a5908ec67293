//! See [`cairn_fuzz::canary`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_fuzz::canary::run_forged(data));
