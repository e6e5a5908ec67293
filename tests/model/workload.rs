//! The writes of a run, each a function of the seed and its sequence number.
//!
//! Invariants:
//! - A write lies inside the device, is a multiple of the granule and not longer than `write_sectors_max`.
//! - Write 0 is the first fill and covers the device.

use std::ops::Range;

use super::stamp::mix;

/// The shape of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Makes runs differ; part of every stamp.
    pub seed: u64,
    /// Sectors of 512 bytes that are written to, from the start of the device.
    pub sectors: u64,
    /// Offsets and lengths are multiples of this many sectors: 1, or 8 on disks with 4 KiB sectors.
    pub granule_sectors: u64,
    /// The longest write, in sectors.
    pub write_sectors_max: u64,
}

impl Workload {
    /// Whether write `sequence` writes zeroes, by the command of their own that disks have for it.
    pub fn is_zeroes(&self, sequence: u64) -> bool {
        sequence > 0 && mix(sequence ^ mix(!self.seed)).is_multiple_of(16)
    }

    /// The sectors that write `sequence` covers.
    pub fn write(&self, sequence: u64) -> Range<u64> {
        assert!(self.granule_sectors > 0 && self.sectors >= self.granule_sectors);
        if sequence == 0 {
            return 0..self.sectors;
        }
        let granules = self.sectors / self.granule_sectors;
        let granules_max = (self.write_sectors_max / self.granule_sectors).clamp(1, granules);
        let dice = mix(self.seed ^ mix(sequence));
        let size_dice = mix(dice);
        // Sizes are spread over the powers of two, and a quarter of them is odd.
        let power = 1 << (size_dice % u64::from(granules_max.ilog2() + 1));
        let odd = (size_dice >> 32) % power;
        let length = if (size_dice >> 16).is_multiple_of(4) { (power + odd).min(granules_max) } else { power };
        // Half of the writes go to an eighth of the device, so that blocks are overwritten again and again.
        let area = if dice.is_multiple_of(2) { granules.div_ceil(8) } else { granules };
        let mut start = (dice >> 1) % area;
        if !(size_dice >> 24).is_multiple_of(4) {
            start -= start % length;
        }
        start = start.min(granules - length);
        start * self.granule_sectors..(start + length) * self.granule_sectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stay_inside_the_device_and_keep_the_granule() {
        for (sectors, granule_sectors, write_sectors_max) in [(1000, 1, 512), (1024, 8, 64), (8, 8, 4096), (3, 1, 1)] {
            let workload = Workload { seed: 5, sectors, granule_sectors, write_sectors_max };
            for sequence in 1..10_000 {
                let range = workload.write(sequence);
                assert!(range.start < range.end && range.end <= sectors, "{workload:?} {sequence}");
                assert_eq!((range.start % granule_sectors, range.end % granule_sectors), (0, 0));
                assert!(range.end - range.start <= write_sectors_max.max(granule_sectors));
            }
        }
    }

    #[test]
    fn writes_are_mixed_in_size_and_alignment() {
        let workload = Workload { seed: 1, sectors: 1 << 17, granule_sectors: 1, write_sectors_max: 512 };
        let writes: Vec<_> = (1..10_000).map(|sequence| workload.write(sequence)).collect();
        let share = |test: &dyn Fn(&Range<u64>) -> bool| writes.iter().filter(|write| test(write)).count();
        assert!(share(&|write| write.end - write.start == 1) > 500);
        assert!(share(&|write| write.end - write.start >= 256) > 500);
        assert!(share(&|write| write.start % 8 != 0) > 2000);
        assert!(share(&|write| write.start < (1 << 14)) > 5000);
    }
}
