//! Content by number: every 4 KiB page is kept once, and an image of both devices is a list of numbers.
//!
//! Invariants:
//! - Two numbers below the scratch are equal exactly where the contents are.
//! - The hash of an image follows from the contents alone, not from their numbers.
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

/// Every content met so far, until they are too many.
pub(super) struct Pages {
    kept: Vec<Box<Page>>,
    hashes: Vec<u64>,
    by_hash: MixMap<u64, Vec<PageId>>,
    merged: MixMap<(PageId, PageId, u8), PageId>,
    scratch: Vec<Box<Page>>,
    scratch_used: usize,
}

impl Pages {
    pub(super) fn new() -> Pages {
        let mut pages = Pages {
            kept: Vec::new(),
            hashes: Vec::new(),
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
        let hash = hash_of(content);
        let known = self.by_hash.entry(hash).or_default();
        if let Some(id) = known.iter().find(|id| self.kept[**id as usize][..] == content[..]) {
            return *id;
        }
        let id = self.kept.len() as PageId;
        assert!(id < SCRATCH);
        self.kept.push(Box::new(*content));
        self.hashes.push(hash);
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
}

impl Image {
    pub(super) fn zeroes(pages: usize) -> Image {
        Image { pages: vec![ZERO_PAGE; pages] }
    }

    pub(super) fn get(&self, index: usize) -> PageId {
        self.pages[index]
    }

    pub(super) fn set(&mut self, index: usize, id: PageId) {
        self.pages[index] = id;
    }

    /// Equal for equal contents, whatever their numbers; for others only by a chance of one in 2^64.
    pub(super) fn hash(&self, pages: &Pages) -> u64 {
        let share = |(index, id): (usize, &PageId)| match *id {
            ZERO_PAGE => 0,
            id => mix(pages.hashes[id as usize] ^ mix(index as u64 + 1)),
        };
        self.pages.iter().enumerate().map(share).fold(0, u64::wrapping_add)
    }

    pub(super) fn copy_from(&mut self, other: &Image) {
        self.pages.copy_from_slice(&other.pages);
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
    fn an_image_hashes_by_content_not_by_numbers() {
        let (mut pages, mut others) = (Pages::new(), Pages::new());
        let (one, two) = (pages.keep(&[1; BLOCK_BYTES]), pages.keep(&[2; BLOCK_BYTES]));
        let other_two = others.keep(&[2; BLOCK_BYTES]);
        assert!(two != other_two);
        let mut first = Image::zeroes(4);
        let empty = first.hash(&pages);
        first.set(2, two);
        let mut second = Image::zeroes(4);
        second.set(2, other_two);
        assert_eq!(first.hash(&pages), second.hash(&others));
        second.set(2, ZERO_PAGE);
        assert_eq!(second.hash(&others), empty);
        second.set(3, other_two);
        assert!(first.hash(&pages) != second.hash(&others));
        first.set(2, one);
        first.set(3, two);
        assert!(first.hash(&pages) != second.hash(&others));
    }
}
