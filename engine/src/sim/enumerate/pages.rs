//! Content by number: every 4 KiB page is kept once, and an image of both devices is a list of numbers.
//!
//! Invariants:
//! - Two numbers below the scratch are equal exactly where the contents are.
//! - The hash of an image follows from its numbers alone, and is kept up as they change.
//! - What was put on the scratch lives until the scratch is cleared.

use crate::units::{BLOCK_BYTES, TEAR_BYTES};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The number of a content.
pub(super) type PageId = u32;
/// One page of content.
pub(super) type Page = [u8; BLOCK_BYTES];

/// All zeroes.
pub(super) const ZERO_PAGE: PageId = 0;
/// Every sector of a page.
pub(super) const WHOLE_PAGE: u8 = 0xff;
const SCRATCH: PageId = 1 << 31;

/// Spreads numbers that are far from random.
pub(super) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A hasher for keys that are a number or two.
#[derive(Default)]
pub(super) struct MixHasher(u64);

impl Hasher for MixHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0.rotate_left(23) ^ value);
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }
}

/// A map by such keys.
pub(super) type MixMap<K, V> = HashMap<K, V, BuildHasherDefault<MixHasher>>;

fn hash_of(page: &Page) -> u64 {
    let mut lanes = [1u64, 2, 3, 4];
    for chunk in page.chunks_exact(32) {
        for (lane, bytes) in lanes.iter_mut().zip(chunk.chunks_exact(8)) {
            let word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
            *lane = (lane.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
    lanes.iter().fold(0, |sum, lane| mix(sum ^ lane))
}

/// Every content that a family of workloads has met.
pub(super) struct Pages {
    kept: Vec<Box<Page>>,
    by_hash: MixMap<u64, Vec<PageId>>,
    merged: MixMap<(PageId, PageId, u8), PageId>,
    scratch: Vec<Box<Page>>,
    scratch_used: usize,
}

impl Pages {
    pub(super) fn new() -> Pages {
        let mut pages = Pages {
            kept: Vec::new(),
            by_hash: MixMap::default(),
            merged: MixMap::default(),
            scratch: Vec::new(),
            scratch_used: 0,
        };
        assert_eq!(pages.keep(&[0; BLOCK_BYTES]), ZERO_PAGE);
        pages
    }

    pub(super) fn get(&self, id: PageId) -> &Page {
        match id.checked_sub(SCRATCH) {
            Some(index) => &self.scratch[index as usize],
            None => &self.kept[id as usize],
        }
    }

    /// How many contents are kept.
    pub(super) fn count(&self) -> usize {
        self.kept.len()
    }

    /// The number of this content from now on.
    pub(super) fn keep(&mut self, content: &Page) -> PageId {
        let known = self.by_hash.entry(hash_of(content)).or_default();
        if let Some(id) = known.iter().find(|id| self.kept[**id as usize][..] == content[..]) {
            return *id;
        }
        let id = self.kept.len() as PageId;
        assert!(id < SCRATCH);
        self.kept.push(Box::new(*content));
        known.push(id);
        id
    }

    /// The page `below` with the sectors of `mask` as they are in `above`.
    pub(super) fn merge(&mut self, below: PageId, above: PageId, mask: u8) -> PageId {
        if mask == WHOLE_PAGE || below == above {
            return above;
        }
        if let Some(id) = self.merged.get(&(below, above, mask)) {
            return *id;
        }
        let mut content = *self.get(below);
        let upper = *self.get(above);
        for sector in (0..8).filter(|sector| mask & (1 << sector) != 0) {
            let range = sector * TEAR_BYTES..(sector + 1) * TEAR_BYTES;
            content[range.clone()].copy_from_slice(&upper[range]);
        }
        let id = self.keep(&content);
        self.merged.insert((below, above, mask), id);
        id
    }

    /// A page for the time being: `below` with other bytes from `start` on.
    pub(super) fn scribble(&mut self, below: PageId, start: usize, data: &[u8]) -> PageId {
        if self.scratch_used == self.scratch.len() {
            self.scratch.push(Box::new([0; BLOCK_BYTES]));
        }
        let index = self.scratch_used;
        self.scratch_used += 1;
        if data.len() < BLOCK_BYTES {
            let content = *self.get(below);
            *self.scratch[index] = content;
        }
        self.scratch[index][start..start + data.len()].copy_from_slice(data);
        SCRATCH + index as PageId
    }

    /// Forgets what was for the time being.
    pub(super) fn clear_scratch(&mut self) {
        self.scratch_used = 0;
    }
}

/// Both devices: the pages of the origin, then those of the store.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Image {
    pages: Vec<PageId>,
    hash: u64,
}

impl Image {
    pub(super) fn zeroes(pages: usize) -> Image {
        let mut image = Image { pages: vec![ZERO_PAGE; pages], hash: 0 };
        image.hash = (0..pages).fold(0, |sum: u64, index| sum.wrapping_add(image.share(index)));
        image
    }

    fn share(&self, index: usize) -> u64 {
        mix(((index as u64) << 32 | u64::from(self.pages[index])) ^ 0x5bd1_e995_9e37_79b9)
    }

    pub(super) fn get(&self, index: usize) -> PageId {
        self.pages[index]
    }

    pub(super) fn set(&mut self, index: usize, id: PageId) {
        let before = self.share(index);
        self.pages[index] = id;
        self.hash = self.hash.wrapping_sub(before).wrapping_add(self.share(index));
    }

    /// Equal for equal images; for different ones only by a chance of one in 2^64.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn copy_from(&mut self, other: &Image) {
        self.pages.copy_from_slice(&other.pages);
        self.hash = other.hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_has_one_number_and_a_merge_takes_sectors() {
        let mut pages = Pages::new();
        let (one, two) = (pages.keep(&[1; BLOCK_BYTES]), pages.keep(&[2; BLOCK_BYTES]));
        assert_eq!(pages.keep(&[1; BLOCK_BYTES]), one);
        let merged = pages.merge(one, two, 0b1000_0001);
        let content = *pages.get(merged);
        assert_eq!((content[0], content[511], content[512], content[4095]), (2, 2, 1, 2));
        assert_eq!(pages.keep(&content), merged);
        assert_eq!(pages.merge(one, two, WHOLE_PAGE), two);
    }

    #[test]
    fn an_image_hashes_by_content_not_by_history() {
        let mut first = Image::zeroes(4);
        let second = first.clone();
        first.set(2, 7);
        assert!(first.hash() != second.hash());
        let mut third = second.clone();
        third.set(3, 7);
        assert!(first.hash() != third.hash());
        first.set(2, ZERO_PAGE);
        assert!(first == second && first.hash() == second.hash());
    }
}
