//! Aligned intervals of epochs: what merged bitmaps are made of.
//!
//! Invariants:
//! - An interval is `2^k` epochs long and begins at a multiple of that; any range of n epochs is put together from at
//!   most `2 log2 n` of them, and ranges that begin or end elsewhere share most of theirs.

use crate::units::Epoch;
use std::ops::Range;

/// The aligned intervals that a range of epochs consists of, ascending.
pub(super) fn aligned(epochs: Range<Epoch>) -> Vec<Range<Epoch>> {
    let (mut at, end) = (epochs.start.0, epochs.end.0);
    let mut intervals = Vec::new();
    while at < end {
        let fits = (end - at).ilog2();
        let length = 1 << at.trailing_zeros().min(fits);
        intervals.push(Epoch(at)..Epoch(at + length));
        at += length;
    }
    intervals
}

/// The two halves of an aligned interval; none of a single epoch.
pub(super) fn halves(interval: &Range<Epoch>) -> Option<[Range<Epoch>; 2]> {
    let length = interval.end.0 - interval.start.0;
    let middle = Epoch(interval.start.0 + length / 2);
    (length > 1).then_some([interval.start..middle, middle..interval.end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_consists_of_few_aligned_intervals() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let (start_bits, length_bits) = (random.u32(1..33), random.u32(1..20));
            let start = random.u64(..1 << start_bits);
            let end = start + random.u64(..1 << length_bits);
            let intervals = aligned(Epoch(start)..Epoch(end));
            let mut at = start;
            for interval in &intervals {
                assert_eq!(interval.start.0, at);
                at = interval.end.0;
                let length = at - interval.start.0;
                assert!(length.is_power_of_two() && interval.start.0 % length == 0);
            }
            assert_eq!(at, end.max(start));
            let most = 2 * (end - start).checked_ilog2().unwrap_or(0) as usize + 1;
            assert!(intervals.len() <= most, "{start}..{end}: {}", intervals.len());
        }
    }

    #[test]
    fn halves_are_aligned_too() {
        assert_eq!(halves(&(Epoch(8)..Epoch(16))), Some([Epoch(8)..Epoch(12), Epoch(12)..Epoch(16)]));
        assert_eq!(halves(&(Epoch(8)..Epoch(9))), None);
    }
}
