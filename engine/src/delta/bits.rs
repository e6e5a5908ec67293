//! Sparse bitmaps of the blocks of one region of the volume.
//!
//! Invariants:
//! - A page that holds no set bit does not exist; those that do lie one behind the other, ascending by their numbers.
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
/// Pages that a union puts together at once: 32 KiB, which stay in the processor's cache.
const CHUNK_PAGES: usize = 512;

const _: () = assert!(REGION_PAGES - 1 <= PageNumber::MAX as usize && REGION_PAGES.is_multiple_of(CHUNK_PAGES));

type Page = [u64; PAGE_WORDS];
type PageNumber = u16;

/// A set of blocks of one region, each counted from the region's first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits {
    /// Which of the region's pages these are.
    numbers: Box<[PageNumber]>,
    pages: Box<[Page]>,
}

impl Bits {
    /// Whether no block is in the set.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Bits>() + size_of_val(&*self.numbers) + size_of_val(&*self.pages)
    }

    /// The bits themselves, page after page: what a plain scan of the same bytes would read.
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.iter().flatten().copied()
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &Page)> {
        self.numbers.iter().map(|&number| usize::from(number)).zip(&self.pages)
    }

    /// The place of the first page that is not in front of `number`.
    fn place_of(&self, number: usize) -> usize {
        self.numbers.partition_point(|&own| usize::from(own) < number)
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
        for (number, page) in bits.numbered() {
            unite(self.page_mut(number), page);
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
        let places = self.places.iter().enumerate().filter(|(_, place)| **place > 0);
        let numbered = places.map(|(number, &place)| (number as PageNumber, self.pages[place as usize - 1]));
        let (numbers, pages): (Vec<PageNumber>, Vec<Page>) = numbered.unzip();
        Bits { numbers: numbers.into(), pages: pages.into() }
    }
}

/// The blocks that are in any of several sets, as ascending ranges that do not touch within a chunk of pages; a chunk at
/// a time, and no farther than it is asked.
pub struct Union<'a> {
    /// The sets, and where in each the next chunk begins.
    sources: Vec<(&'a Bits, usize)>,
    range: Range<BlockIndex>,
    /// The pages of a chunk, where several sources are put together.
    pages: Box<[Page]>,
    next_page: usize,
    /// The ranges of the chunk under way, and how many of them were given.
    found: Vec<Range<BlockIndex>>,
    given: usize,
}

impl<'a> Union<'a> {
    /// The blocks of `range`, counted from the region's first.
    pub fn new(sources: impl IntoIterator<Item = &'a Bits>, range: Range<BlockIndex>) -> Union<'a> {
        assert!(range.end <= REGION_BLOCKS);
        let next_page = (range.start / PAGE_BLOCKS) as usize / CHUNK_PAGES * CHUNK_PAGES;
        let sources = sources.into_iter().filter(|bits| !bits.is_empty());
        let sources: Vec<(&Bits, usize)> = sources.map(|bits| (bits, bits.place_of(next_page))).collect();
        let pages = if sources.len() < 2 { Box::default() } else { vec![[0; PAGE_WORDS]; CHUNK_PAGES].into() };
        Union { sources, range, pages, next_page, found: Vec::new(), given: 0 }
    }

    /// Finds the ranges of the next chunk that has any; false where there is none.
    fn next_found(&mut self) -> bool {
        self.given = 0;
        self.found.clear();
        while self.found.is_empty() {
            if self.sources.is_empty() || self.next_page as u64 * PAGE_BLOCKS >= self.range.end {
                return false;
            }
            let numbers = self.next_page..self.next_page + CHUNK_PAGES;
            self.next_page = numbers.end;
            match &mut self.sources[..] {
                [source] => {
                    for (number, page) in chunk_of(source, numbers.end) {
                        add_ranges(page, number, &mut self.found);
                    }
                }
                _ => self.find_in_all(numbers),
            }
            self.clip();
        }
        true
    }

    /// Puts the pages of all sources together, one source after the other.
    fn find_in_all(&mut self, numbers: Range<usize>) {
        let mut present = [0u64; CHUNK_PAGES / WORD_BITS as usize];
        for source in &mut self.sources {
            for (number, page) in chunk_of(source, numbers.end) {
                let place = number - numbers.start;
                let (word, bit) = (&mut present[place / WORD_BITS as usize], 1 << (place as u64 % WORD_BITS));
                let is_first = *word & bit == 0;
                *word |= bit;
                match is_first {
                    true => self.pages[place] = *page,
                    false => unite(&mut self.pages[place], page),
                }
            }
        }
        for (word, &present) in present.iter().enumerate() {
            for bit in set_bits(present) {
                let place = word * WORD_BITS as usize + bit as usize;
                add_ranges(&self.pages[place], numbers.start + place, &mut self.found);
            }
        }
    }

    /// Leaves what lies within the range that was asked for.
    fn clip(&mut self) {
        let Range { start, end } = self.range;
        self.found.truncate(self.found.partition_point(|range| range.start < end));
        if let Some(last) = self.found.last_mut() {
            last.end = last.end.min(end);
        }
        self.found.drain(..self.found.partition_point(|range| range.end <= start));
        if let Some(first) = self.found.first_mut() {
            first.start = first.start.max(start);
        }
    }
}

impl Iterator for Union<'_> {
    type Item = Range<BlockIndex>;

    fn next(&mut self) -> Option<Range<BlockIndex>> {
        if self.given == self.found.len() && !self.next_found() {
            return None;
        }
        self.given += 1;
        Some(self.found[self.given - 1].clone())
    }
}

/// The pages of a set up to the page `end`, from where the last call stopped.
fn chunk_of<'a>((bits, next): &mut (&'a Bits, usize), end: usize) -> impl Iterator<Item = (usize, &'a Page)> {
    let count = bits.numbers[*next..].partition_point(|&number| usize::from(number) < end);
    let places = *next..*next + count;
    *next = places.end;
    bits.numbers[places.clone()].iter().map(|&number| usize::from(number)).zip(&bits.pages[places])
}

fn unite(page: &mut Page, other: &Page) {
    page.iter_mut().zip(other).for_each(|(word, other)| *word |= other);
}

/// Adds the ranges of a page; one that touches the last of `found` makes it longer.
fn add_ranges(page: &Page, number: usize, found: &mut Vec<Range<BlockIndex>>) {
    let first = number as u64 * PAGE_BLOCKS;
    // Most words of most pages are empty, and which is beyond any guess: only the others are gone through.
    let filled = page.iter().enumerate().fold(0, |filled, (word, bits)| filled | (u64::from(*bits != 0) << word));
    for word in set_bits(filled) {
        let (word_first, mut bits) = (first + u64::from(word) * WORD_BITS, page[word as usize]);
        while bits != 0 {
            let start = bits.trailing_zeros();
            let length = (bits >> start).trailing_ones();
            bits &= !((u64::MAX >> (WORD_BITS as u32 - length)) << start);
            let start = word_first + u64::from(start);
            match found.last_mut() {
                Some(last) if last.end == start => last.end += u64::from(length),
                _ => found.push(start..start + u64::from(length)),
            }
        }
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
        assert!((full.memory_bytes() as u64) < REGION_BLOCKS / 8 * 104 / 100);
        assert_eq!(Union::new([&full], 5..REGION_BLOCKS - 5).flatten().count() as u64, REGION_BLOCKS - 10);
    }
}
