//! How many pages a run takes, where they lie, and what the catalog remembers of the run.
//!
//! Invariants:
//! - Page `p` lies in the run's segment number `p / pages_per_segment`, at page `p % pages_per_segment` of it.
//! - The number of entries alone decides the number of pages and the height.

use crate::run::page::{INNER_CHILDREN_MAX, LEAF_ENTRIES_MAX};
use crate::units::{BlockIndex, Epoch, SegmentIndex};

/// Bytes in a page of a run.
pub const PAGE_BYTES: usize = 4096;
/// Entries a run may hold: page numbers are 32 bits wide. It is two thousand TiB of saved blocks.
pub const ENTRIES_MAX: u64 = 1 << 39;
/// Levels of the tallest run, that of [`ENTRIES_MAX`] entries.
pub const HEIGHT_MAX: u8 = 5;

/// Size of a run's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunShape {
    /// Pages of all levels together.
    pub pages: u64,
    /// Levels: 0 for no entries, 1 where the root is a leaf.
    pub height: u8,
}

/// The exact shape of a run of `entries`, at most [`ENTRIES_MAX`]. It never shrinks when `entries` grows, so segments
/// allocated for an upper bound are enough.
pub fn pages_for(entries: u64) -> RunShape {
    assert!(entries <= ENTRIES_MAX, "a run of {entries} entries");
    let mut level_pages = entries.div_ceil(LEAF_ENTRIES_MAX as u64);
    let mut shape = RunShape { pages: level_pages, height: u8::from(entries > 0) };
    while level_pages > 1 {
        level_pages = level_pages.div_ceil(INNER_CHILDREN_MAX as u64);
        shape.pages += level_pages;
        shape.height += 1;
    }
    assert!(shape.pages <= u64::from(u32::MAX) && shape.height <= HEIGHT_MAX);
    shape
}

/// What the catalog remembers of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMeta {
    /// The run's id, never used twice in a store.
    pub run: u64,
    /// No entry is of an older epoch; entries store their epoch relative to it.
    pub first_epoch: Epoch,
    /// The youngest epoch of any entry; `first_epoch` where there is none.
    pub last_epoch: Epoch,
    /// Number of entries.
    pub entries: u64,
    /// Number of pages; the root is page `pages - 1`.
    pub pages: u64,
    /// Number of levels; 0 for an empty run.
    pub height: u8,
    /// The smallest block of any entry; 0 where there is none.
    pub first_block: BlockIndex,
    /// The largest block of any entry; 0 where there is none.
    pub last_block: BlockIndex,
}

/// Where a run's pages lie on the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunLayout {
    /// The run's segments in the order of its pages; they need not be neighbours.
    pub segments: Vec<SegmentIndex>,
    /// The store byte at which segment 0 starts; a multiple of [`PAGE_BYTES`].
    pub segments_base_bytes: u64,
    /// Size of a segment; a multiple of [`PAGE_BYTES`], never 0.
    pub segment_bytes: u64,
}

impl RunLayout {
    /// Segments it takes to hold `pages` pages.
    pub fn segments_for(pages: u64, segment_bytes: u64) -> u64 {
        pages.div_ceil(segment_bytes / PAGE_BYTES as u64)
    }

    /// Whether the sizes are multiples of a page.
    pub(super) fn aligned(&self) -> bool {
        let page_bytes = PAGE_BYTES as u64;
        self.segment_bytes >= page_bytes
            && self.segment_bytes.is_multiple_of(page_bytes)
            && self.segments_base_bytes.is_multiple_of(page_bytes)
    }

    /// Pages in a segment.
    pub(super) fn pages_per_segment(&self) -> u64 {
        self.segment_bytes / PAGE_BYTES as u64
    }

    /// The store byte at which `page` lies. The page must be inside the segments.
    pub(super) fn page_address_bytes(&self, page: u64) -> u64 {
        let ordinal = usize::try_from(page / self.pages_per_segment()).expect("a segment ordinal fits in memory");
        assert!(ordinal < self.segments.len(), "page {page} lies past the run's {} segments", self.segments.len());
        let segment_bytes = u64::from(self.segments[ordinal]) * self.segment_bytes;
        self.segments_base_bytes + segment_bytes + page % self.pages_per_segment() * PAGE_BYTES as u64
    }

    /// How many pages from `page` on lie one after the other on the store, at most `pages_max`.
    pub(super) fn contiguous_pages(&self, page: u64, pages_max: u64) -> u64 {
        let pages_per_segment = self.pages_per_segment();
        pages_max.min(pages_per_segment - page % pages_per_segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_exact_at_every_boundary() {
        let leaf = LEAF_ENTRIES_MAX as u64;
        let fan = INNER_CHILDREN_MAX as u64;
        let shape = |entries| {
            let shape = pages_for(entries);
            (shape.pages, shape.height)
        };
        assert_eq!(shape(0), (0, 0));
        assert_eq!(shape(1), (1, 1));
        assert_eq!(shape(leaf), (1, 1));
        assert_eq!(shape(leaf + 1), (3, 2));
        assert_eq!(shape(leaf * fan), (fan + 1, 2));
        assert_eq!(shape(leaf * fan + 1), (fan + 1 + 2 + 1, 3));
        assert_eq!(pages_for(ENTRIES_MAX).height, HEIGHT_MAX);
    }

    #[test]
    fn pages_follow_the_segments_wherever_those_lie() {
        let layout = RunLayout { segments: vec![9, 2], segments_base_bytes: 1 << 20, segment_bytes: 16384 };
        assert_eq!(layout.page_address_bytes(0), (1 << 20) + 9 * 16384);
        assert_eq!(layout.page_address_bytes(3), (1 << 20) + 9 * 16384 + 3 * 4096);
        assert_eq!(layout.page_address_bytes(4), (1 << 20) + 2 * 16384);
        assert_eq!(layout.contiguous_pages(1, 64), 3);
        assert_eq!(layout.contiguous_pages(4, 2), 2);
    }
}
