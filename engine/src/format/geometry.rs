//! Where the parts of a store lie: superblocks, two catalog areas, segments.
//!
//! Invariants:
//! - The parts do not overlap, are aligned to 4 KiB, and lie inside the store.
//! - A catalog area holds at least two of the largest records beside a checkpoint that fills half of it.

use crate::error::{Error, ErrorKind, Result};
use crate::units::SegmentIndex;

/// Byte address of superblock copy A.
pub const SUPERBLOCK_A_BYTES: u64 = 0;
/// Byte address of superblock copy B.
pub const SUPERBLOCK_B_BYTES: u64 = 64 * 1024;
/// Where the first catalog area may start: behind both superblocks, with room for a bootstrap to come.
pub const RESERVED_BYTES: u64 = 128 * 1024;
/// The smallest catalog area the format allows.
pub const AREA_BYTES_MIN: u64 = 256 * 1024;
/// The smallest catalog area a new store gets, except where the caller asks for less.
pub const AREA_BYTES_DEFAULT_MIN: u64 = 1024 * 1024;
/// The largest catalog area a new store gets, beyond what its segments need.
pub const AREA_BYTES_DEFAULT_MAX: u64 = 32 * 1024 * 1024;
/// What one segment can take of an area: its item in a checkpoint (32 bytes at most), written twice, four times over.
pub const AREA_BYTES_PER_SEGMENT: u64 = 32 * 2 * 4;
/// The smallest segment.
pub const SEGMENT_BYTES_MIN: u32 = 64 * 1024;
/// The largest segment.
pub const SEGMENT_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// The most segments: each takes some 24 bytes of memory while the volume is attached.
pub const SEGMENT_COUNT_MAX: u32 = 1 << 22;

/// One of the two places for the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Byte address on the store.
    pub offset_bytes: u64,
    /// Length in bytes.
    pub length_bytes: u64,
}

impl Area {
    /// The byte behind the area's last.
    pub fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.length_bytes
    }
}

/// Where everything lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the store that Cairn uses.
    pub store_bytes: u64,
    /// The two catalog areas.
    pub areas: [Area; 2],
    /// Byte address of segment 0.
    pub segments_base_bytes: u64,
    /// Bytes in a segment; a power of two.
    pub segment_bytes: u32,
    /// Number of segments.
    pub segment_count: u32,
}

/// Bytes of one catalog area of a new store: a 64th of the store, at least 1 MiB and at most 32 MiB, and never less
/// than four times what its segments take in the worst case, when no two neighbours have anything in common.
pub const fn area_bytes(store_bytes: u64, segment_count: u64) -> u64 {
    let mut share = store_bytes / 64;
    if share < AREA_BYTES_DEFAULT_MIN {
        share = AREA_BYTES_DEFAULT_MIN;
    }
    if share > AREA_BYTES_DEFAULT_MAX {
        share = AREA_BYTES_DEFAULT_MAX;
    }
    (share + segment_count * AREA_BYTES_PER_SEGMENT).next_multiple_of(4096)
}

impl Geometry {
    /// Lays out a store of `store_bytes` with segments of `segment_bytes`.
    pub fn plan(store_bytes: u64, segment_bytes: u32) -> Result<Geometry> {
        let segment_count_max = store_bytes / u64::from(segment_bytes.max(1));
        Geometry::plan_with_area(store_bytes, segment_bytes, area_bytes(store_bytes, segment_count_max))
    }

    /// The same with catalog areas of a given size, for small stores and for tests.
    pub fn plan_with_area(store_bytes: u64, segment_bytes: u32, area_bytes: u64) -> Result<Geometry> {
        let store_bytes = store_bytes - store_bytes % 4096;
        let first = Area { offset_bytes: RESERVED_BYTES, length_bytes: area_bytes };
        let second = Area { offset_bytes: first.end_bytes(), length_bytes: area_bytes };
        let align_bytes = u64::from(segment_bytes.max(1));
        let segments_base_bytes = second.end_bytes().next_multiple_of(align_bytes);
        let segment_count = store_bytes.saturating_sub(segments_base_bytes) / align_bytes;
        let geometry = Geometry {
            store_bytes,
            areas: [first, second],
            segments_base_bytes,
            segment_bytes,
            segment_count: u32::try_from(segment_count).unwrap_or(u32::MAX),
        };
        geometry.check().map_err(|field| {
            Error::new(ErrorKind::NoSpace, "lay out the store", "store").saying(format!(
                "{store_bytes} bytes do not hold a catalog and segments of {segment_bytes} bytes ({field}); \
                 use a larger store"
            ))
        })?;
        Ok(geometry)
    }

    /// Byte address of a segment.
    pub fn segment_offset_bytes(&self, segment: SegmentIndex) -> u64 {
        assert!(segment < self.segment_count, "segment {segment} of {}", self.segment_count);
        self.segments_base_bytes + u64::from(segment) * u64::from(self.segment_bytes)
    }

    /// The segment that a byte of the store lies in, if it lies in one.
    pub fn segment_of(&self, offset_bytes: u64) -> Option<SegmentIndex> {
        let index = offset_bytes.checked_sub(self.segments_base_bytes)? / u64::from(self.segment_bytes);
        u32::try_from(index).ok().filter(|index| *index < self.segment_count)
    }

    /// Names the first field that makes no sense.
    pub fn check(&self) -> std::result::Result<(), &'static str> {
        if !self.store_bytes.is_multiple_of(4096) {
            return Err("store_bytes");
        }
        let bytes = self.segment_bytes;
        if !bytes.is_power_of_two() || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
            return Err("segment_bytes");
        }
        if self.segment_count == 0 || self.segment_count > SEGMENT_COUNT_MAX {
            return Err("segment_count");
        }
        for area in self.areas {
            if area.offset_bytes % 4096 != 0 || area.offset_bytes < RESERVED_BYTES {
                return Err("catalog area offset");
            }
            if area.length_bytes % 4096 != 0 || area.length_bytes < AREA_BYTES_MIN {
                return Err("catalog area length");
            }
        }
        self.check_no_overlap()
    }

    fn check_no_overlap(&self) -> std::result::Result<(), &'static str> {
        if !self.segments_base_bytes.is_multiple_of(4096) {
            return Err("segments_base_bytes");
        }
        let segments_bytes = u64::from(self.segment_bytes) * u64::from(self.segment_count);
        let mut parts = [
            (self.segments_base_bytes, segments_bytes),
            (self.areas[0].offset_bytes, self.areas[0].length_bytes),
            (self.areas[1].offset_bytes, self.areas[1].length_bytes),
        ];
        parts.sort_unstable();
        let mut end_bytes = RESERVED_BYTES;
        for (offset_bytes, length_bytes) in parts {
            if offset_bytes < end_bytes {
                return Err("overlapping parts");
            }
            end_bytes = offset_bytes.checked_add(length_bytes).ok_or("part length")?;
        }
        if end_bytes > self.store_bytes {
            return Err("store_bytes");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_never_overlap_and_fit() {
        for store_bytes in [8 << 20, (100 << 20) + 512, 1 << 30, 1 << 44] {
            for segment_bytes in [64 << 10, 1 << 20, 4 << 20] {
                let Ok(geometry) = Geometry::plan(store_bytes, segment_bytes) else { continue };
                assert_eq!(geometry.check(), Ok(()));
                let last = geometry.segment_count - 1;
                assert_eq!(geometry.segment_of(geometry.segment_offset_bytes(last)), Some(last));
                assert_eq!(geometry.segment_of(geometry.segments_base_bytes - 1), None);
            }
        }
    }

    #[test]
    fn a_store_too_small_says_so() {
        let error = Geometry::plan(1 << 20, 1 << 20).expect_err("nothing fits");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
    }
}
