//! Planted faults: whoever runs the fuzzers makes sure first that they find them.

use crate::seeds::wrong_content;
use crate::store_image::run_judged;

/// A panic behind four bytes that no seed holds, compared one after the other and then as one number, as real parsers
/// do. Only a fuzzer that sees which branch an input took, and what it was compared with, gets there within seconds.
pub fn run(data: &[u8]) {
    let Some((magic, _)) = data.split_first_chunk::<4>() else { return };
    if magic[0] == b'C' && magic[1] == b'n' {
        assert!(u32::from_le_bytes(*magic) != u32::from_le_bytes(*b"CnRY"), "the canary was found");
    }
}

/// A store whose before-images were forged, checksums and all, judged as if nothing had been sealed again: the judge must
/// see that a snapshot shows something else, whatever the input.
pub fn run_forged(_data: &[u8]) {
    run_judged(&wrong_content(), |_, _| true);
}
