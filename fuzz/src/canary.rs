//! Planted faults: whoever runs the fuzzers makes sure first that they find them.
//!
//! - A panic behind four bytes that no seed holds, compared one after the other and then as one number, as real parsers do.
//!   Only a fuzzer that sees which branch an input took, and what it was compared with, gets there within seconds.
//! - A store whose before-images were forged, checksums and all, judged as if nothing had been sealed again: the judge
//!   must see that a snapshot shows something else.

use crate::store_image::run_judged;

/// Begins an input of [`crate::store_image`] that is judged strictly, whatever was done to the store.
pub const JUDGED_STRICTLY: [u8; 4] = *b"jdGe";

/// Panics where the input says so.
pub fn run(data: &[u8]) {
    let Some((magic, rest)) = data.split_first_chunk::<4>() else { return };
    if *magic == JUDGED_STRICTLY {
        return run_judged(rest, |_, _| true);
    }
    if magic[0] == b'C' && magic[1] == b'n' {
        assert!(u32::from_le_bytes(*magic) != u32::from_le_bytes(*b"CnRY"), "the canary was found");
    }
}
