//! See [`cairn_fuzz::nbd`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_fuzz::nbd::run(data));
