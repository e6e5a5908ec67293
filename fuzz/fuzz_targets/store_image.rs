//! See [`cairn_fuzz::store_image`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_fuzz::store_image::run(data));
