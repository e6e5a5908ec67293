//! See [`cairn_fuzz::rbd_diff`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_fuzz::rbd_diff::run(data));
