//! Sparse bitmaps of the blocks of one region of the volume.
//!
//! Invariants:
//! - A page that holds no set bit does not exist; the pages that do lie one behind the other, ascending.
//! - `before[w]` is the number of pages in front of the 64 that `present[w]` speaks of: finding a page costs one
//!   population count.
//! - A bitmap once made does not change.

use crate::units::BlockIndex;
use std::ops::Range;

/// Blocks of a region: 64 GiB of the volume. A delta is computed a region at a time.
pub const REGION_BLOCKS: u64 = 1 << 24;

const WORD_BITS: u64 = 64;
const PAGE_WORDS: usize = 8;
/// Blocks of a page: one cache line of bits, 2 MiB of the volume.
const PAGE_BLOCKS: u64 = WORD_BITS * PAGE_WORDS as u64;
const REGION_PAGES: usize = (REGION_BLOCKS / PAGE_BLOCKS) as usize;
const PRESENT_WORDS: usize = REGION_PAGES / WORD_BITS as usize;

type Page = [u64; PAGE_WORDS];

/// A set of blocks of one region, each counted from the region's first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    /// One bit a page; empty where there is no page at all.
    present: Box<[u64]>,
    before: Box<[u32]>,
    pages: Box<[Page]>,
}

impl Bits {
    /// Whether no block is in the set.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        let parts = [size_of_val(&*self.present), size_of_val(&*self.before), size_of_val(&*self.pages)];
        size_of::<Bits>() + parts.iter().sum::<usize>()
    }

    /// The bits themselves, page after page: what a plain scan of the same bytes would read.
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().flatten().copied()
    }

    /// The page, which is present in the word of `present` that `present_bit` is of.
    fn page(&self, word: usize, present_bit: u64) -> &Page {
        let rank = (self.present[word] & (present_bit - 1)).count_ones();
        &self.pages[(self.before[word] + rank) as usize]
    }
}

/// Collects the blocks of a set in any order.
#[derive(Default)]
pub struct BitsBuilder {
    /// Page -> its place in `pages`, plus one.
    places: Vec<u32>,
    pages: Vec<Page>,
}

impl BitsBuilder {
    /// An empty set.
    pub fn new() -> BitsBuilder {
        BitsBuilder::default()
    }

    /// Adds a block, counted from the region's first.
    pub fn insert(&mut self, block: u64) {
        assert!(block < REGION_BLOCKS);
        let page = self.page_mut((block / PAGE_BLOCKS) as usize);
        page[(block % PAGE_BLOCKS / WORD_BITS) as usize] |= 1 << (block % WORD_BITS);
    }

    /// Adds all blocks of another set.
    pub fn insert_all(&mut self, bits: &Bits) {
        let mut pages = bits.pages.iter();
        for (word, &present) in bits.present.iter().enumerate() {
            for bit in set_bits(present) {
                let page = pages.next().expect("there are as many pages as bits");
                let own = self.page_mut(word * WORD_BITS as usize + bit as usize);
                own.iter_mut().zip(page).for_each(|(own, other)| *own |= other);
            }
        }
    }

    fn page_mut(&mut self, index: usize) -> &mut Page {
        if self.places.is_empty() {
            self.places.resize(REGION_PAGES, 0);
        }
        if self.places[index] == 0 {
            self.pages.push([0; PAGE_WORDS]);
            self.places[index] = self.pages.len() as u32;
        }
        &mut self.pages[self.places[index] as usize - 1]
    }

    /// The set.
    pub fn finish(self) -> Bits {
        if self.pages.is_empty() {
            return Bits::default();
        }
        let mut present = vec![0; PRESENT_WORDS];
        let mut before = vec![0; PRESENT_WORDS];
        let mut pages = Vec::with_capacity(self.pages.len());
        for (word, places) in self.places.chunks_exact(WORD_BITS as usize).enumerate() {
            before[word] = pages.len() as u32;
            for (bit, &place) in places.iter().enumerate().filter(|(_, place)| **place > 0) {
                present[word] |= 1 << bit;
                pages.push(self.pages[place as usize - 1]);
            }
        }
        Bits { present: present.into(), before: before.into(), pages: pages.into() }
    }
}

/// The blocks that are in any of several sets, as ascending ranges; word by word, and no farther than it is asked.
/// Ranges may touch: each ends with its word.
pub struct Union<'a> {
    sources: Vec<&'a Bits>,
    end: BlockIndex,
    /// The page under way, all sources together, and which words of it are left.
    page: Page,
    page_first: BlockIndex,
    word: usize,
    /// What is left of that word.
    bits: u64,
    /// Pages of this word of `present` that are left.
    present_word: usize,
    present: u64,
}

impl<'a> Union<'a> {
    /// The blocks of `range`, counted from the region's first.
    pub fn new(sources: impl IntoIterator<Item = &'a Bits>, range: Range<BlockIndex>) -> Union<'a> {
        assert!(range.end <= REGION_BLOCKS);
        let sources: Vec<&Bits> = sources.into_iter().filter(|bits| !bits.is_empty()).collect();
        let mut union = Union {
            sources,
            end: range.end,
            page: [0; PAGE_WORDS],
            page_first: 0,
            word: PAGE_WORDS - 1,
            bits: 0,
            present_word: 0,
            present: 0,
        };
        if !range.is_empty() {
            union.start_at(range.start);
        }
        union
    }

    fn start_at(&mut self, block: BlockIndex) {
        let page = block / PAGE_BLOCKS;
        self.present_word = (page / WORD_BITS) as usize;
        self.present = self.presence(self.present_word) & (u64::MAX << (page % WORD_BITS));
        let is_present = self.present & (1 << (page % WORD_BITS)) != 0;
        if is_present && self.next_page() {
            self.word = (block % PAGE_BLOCKS / WORD_BITS) as usize;
            self.bits = self.page[self.word] & (u64::MAX << (block % WORD_BITS));
        }
    }

    fn presence(&self, word: usize) -> u64 {
        self.sources.iter().fold(0, |present, bits| present | bits.present[word])
    }

    /// Goes on to the next page that any source has; false where there is none.
    fn next_page(&mut self) -> bool {
        while self.present == 0 {
            self.present_word += 1;
            let first = self.present_word as u64 * WORD_BITS * PAGE_BLOCKS;
            if first >= self.end {
                return false;
            }
            self.present = self.presence(self.present_word);
        }
        let bit = self.present & self.present.wrapping_neg();
        self.present ^= bit;
        self.page_first = (self.present_word as u64 * WORD_BITS + u64::from(bit.trailing_zeros())) * PAGE_BLOCKS;
        self.page = [0; PAGE_WORDS];
        for bits in self.sources.iter().filter(|bits| bits.present[self.present_word] & bit != 0) {
            let other = bits.page(self.present_word, bit);
            self.page.iter_mut().zip(other).for_each(|(own, other)| *own |= other);
        }
        self.word = 0;
        self.bits = self.page[0];
        true
    }
}

impl Iterator for Union<'_> {
    type Item = Range<BlockIndex>;

    fn next(&mut self) -> Option<Range<BlockIndex>> {
        while self.bits == 0 {
            if self.word + 1 < PAGE_WORDS {
                self.word += 1;
                self.bits = self.page[self.word];
            } else if self.page_first >= self.end || !self.next_page() {
                return None;
            }
        }
        let start = self.bits.trailing_zeros();
        let length = (self.bits >> start).trailing_ones();
        self.bits &= !((u64::MAX >> (WORD_BITS as u32 - length)) << start);
        let first = self.page_first + self.word as u64 * WORD_BITS + u64::from(start);
        (first < self.end).then(|| first..self.end.min(first + u64::from(length)))
    }
}

fn set_bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn random_blocks(random: &mut fastrand::Rng) -> BTreeSet<u64> {
        let mut blocks = BTreeSet::new();
        for _ in 0..random.usize(..20) {
            let start = random.u64(..REGION_BLOCKS);
            let length = random.u64(1..700);
            blocks.extend(start..(start + length).min(REGION_BLOCKS));
        }
        blocks
    }

    fn bits(blocks: &BTreeSet<u64>) -> Bits {
        let mut builder = BitsBuilder::new();
        blocks.iter().for_each(|&block| builder.insert(block));
        builder.finish()
    }

    #[test]
    fn a_union_gives_the_blocks_of_every_set_from_any_place_on() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let sets: Vec<BTreeSet<u64>> = (0..random.usize(..5)).map(|_| random_blocks(&mut random)).collect();
            let all: BTreeSet<u64> = sets.iter().flatten().copied().collect();
            let sources: Vec<Bits> = sets.iter().map(bits).collect();
            let from = match all.iter().next() {
                Some(&first) if random.bool() => first + random.u64(..3),
                _ => random.u64(..REGION_BLOCKS),
            };
            let end = random.u64(from.min(REGION_BLOCKS)..=REGION_BLOCKS);
            let expected: Vec<u64> = all.range(from.min(end)..end).copied().collect();
            let found: Vec<u64> = Union::new(&sources, from.min(end)..end).flatten().collect();
            assert_eq!(found, expected, "seed {seed}");
            let mut together = BitsBuilder::new();
            sources.iter().for_each(|bits| together.insert_all(bits));
            assert_eq!(together.finish(), bits(&all), "seed {seed}");
        }
    }

    #[test]
    fn an_empty_set_takes_next_to_nothing_and_a_full_one_its_bits() {
        assert!(BitsBuilder::new().finish().memory_bytes() < 100);
        let mut full = BitsBuilder::new();
        (0..REGION_BLOCKS).for_each(|block| full.insert(block));
        let full = full.finish();
        assert!((full.memory_bytes() as u64) < REGION_BLOCKS / 8 * 101 / 100);
        assert_eq!(Union::new([&full], 5..REGION_BLOCKS - 5).flatten().count() as u64, REGION_BLOCKS - 10);
    }
}
