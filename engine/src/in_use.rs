//! The in-use map: which blocks of the volume hold anything at all (mission A4; figs. 41, 42).
//!
//! Invariants:
//! - One bit a *granule* of 1 to 64 blocks. It is *free* only where every block of it was discarded and none written
//!   since.
//! - Bits change only inside the gate: with the gate closed and drained the map stands still, and once its epoch is over
//!   it does so for good.
//! - A page that does not exist is as in the map of the epoch before; without one it is in use. So a cut copies nothing.
//! - Every error is towards in use.
//!
//! Memory orders: relaxed. A write and a discard that overlap have no order; a cut sees all that was done before it by
//! the gate, which orders whoever left before whoever finds it drained.

use crate::holes::{Holes, HolesBuilder};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, OnceLock, RwLock};
use crate::units::BlockIndex;
use crate::words::{words_of, WORD_BITS};
use std::ops::Range;

/// In models a page is as small as it can be.
const PAGE_WORDS: u64 = if cfg!(any(loom, shuttle)) { 1 } else { 64 };
const PAGE_GRANULES: u64 = WORD_BITS * PAGE_WORDS;
/// A granule has at most 64 blocks.
pub const GRANULE_SHIFT_MAX: u8 = 6;

/// A set bit is a granule that is free.
type Page = [AtomicU64; PAGE_WORDS as usize];

/// The map of one epoch.
pub struct InUseMap {
    blocks: u64,
    granule_shift: u8,
    pages: Box<[OnceLock<Box<Page>>]>,
    /// The map of the epoch before, until all that differs from "in use" is copied.
    before: RwLock<Option<Arc<InUseMap>>>,
    /// Whether any granule may be free: the only thing that requests look at in a volume that was never trimmed.
    may_have_free: AtomicBool,
    /// Whether `before` is still asked.
    inherits: AtomicBool,
}

impl InUseMap {
    /// A map of `blocks` blocks, all in use.
    pub fn all_in_use(blocks: u64, granule_shift: u8) -> InUseMap {
        assert!(granule_shift <= GRANULE_SHIFT_MAX);
        let pages = blocks.div_ceil(1 << granule_shift).div_ceil(PAGE_GRANULES);
        InUseMap {
            blocks,
            granule_shift,
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            before: RwLock::new(None),
            may_have_free: AtomicBool::new(false),
            inherits: AtomicBool::new(false),
        }
    }

    /// The map of the epoch that follows `before`. What the volume has grown by is free.
    pub fn following(before: &Arc<InUseMap>, blocks: u64) -> InUseMap {
        assert!(blocks >= before.blocks, "a volume only grows");
        before.inherit();
        let next = InUseMap::all_in_use(blocks, before.granule_shift);
        *next.before.write().expect("no holder of this lock panics") = Some(Arc::clone(before));
        next.inherits.store(true, Ordering::Relaxed);
        next
    }

    /// Its epoch begins: the map before stands still from now on. The gate is closed and drained.
    pub fn begin(&self) {
        let before = self.before.read().expect("no holder of this lock panics");
        let Some(before) = &*before else { return };
        let may_have_free = before.may_have_free.load(Ordering::Relaxed) || before.granules() < self.granules();
        self.may_have_free.store(may_have_free, Ordering::Relaxed);
    }

    /// Blocks in a granule.
    pub fn granule_blocks(&self) -> u64 {
        1 << self.granule_shift
    }

    fn granules(&self) -> u64 {
        self.blocks.div_ceil(self.granule_blocks())
    }

    /// Whether any granule may be free.
    #[inline]
    pub fn may_have_free(&self) -> bool {
        self.may_have_free.load(Ordering::Relaxed)
    }

    /// Whether all of these blocks are in use: asked by every write, inside the gate.
    #[inline]
    pub fn is_all_in_use(&self, range: Range<BlockIndex>) -> bool {
        !self.may_have_free() || !self.any_free(range)
    }

    fn any_free(&self, range: Range<BlockIndex>) -> bool {
        assert!(range.end <= self.blocks);
        words_of(self.granules_touched(range)).any(|(word, mask)| self.free_word(word) & mask != 0)
    }

    /// A write puts something there. Inside the gate.
    pub fn set_in_use(&self, range: Range<BlockIndex>) {
        for (word, mask) in words_of(self.granules_touched(range)) {
            if self.free_word(word) & mask != 0 {
                self.page(word)[(word % PAGE_WORDS) as usize].fetch_and(!mask, Ordering::Relaxed);
            }
        }
    }

    /// All of these blocks were discarded. Granules that lie there in part stay as they are. Inside the gate.
    pub fn set_free(&self, range: Range<BlockIndex>) {
        let granules = self.granules_inside(range);
        if granules.is_empty() {
            return;
        }
        self.may_have_free.store(true, Ordering::Relaxed);
        for (word, mask) in words_of(granules) {
            self.page(word)[(word % PAGE_WORDS) as usize].fetch_or(mask, Ordering::Relaxed);
        }
    }

    /// From now on exactly these blocks are free. The gate is closed and drained.
    pub fn replace(&self, holes: &Holes) {
        self.inherit();
        for page in self.pages.iter().filter_map(|page| page.get()) {
            page.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        let ends_at = self.blocks;
        let inside = holes.ranges().iter().map(|hole| hole.start.min(ends_at)..hole.end.min(ends_at));
        inside.for_each(|hole| self.set_free(hole));
    }

    /// What is free, as ranges of blocks. Exact where nobody changes the map meanwhile.
    pub fn holes(&self) -> Holes {
        let mut holes = HolesBuilder::default();
        if !self.may_have_free() {
            return holes.finish();
        }
        for word in (0..self.granules().div_ceil(WORD_BITS)).filter(|word| self.has_page(*word)) {
            let mut free = self.free_word(word);
            while free != 0 {
                let start = u64::from(free.trailing_zeros());
                let length = u64::from((free >> start).trailing_ones());
                free &= !((u64::MAX >> (WORD_BITS - length)) << start);
                let blocks = |granule: u64| ((word * WORD_BITS + granule) << self.granule_shift).min(self.blocks);
                holes.push(blocks(start)..blocks(start + length));
            }
        }
        holes.finish()
    }

    /// Copies what the map before says and this one does not say yet; from then on that one is not asked any more.
    pub fn inherit(&self) {
        let Some(before) = self.before.read().expect("no holder of this lock panics").clone() else { return };
        let first_grown = before.granules() / PAGE_GRANULES;
        for (index, page) in self.pages.iter().enumerate() {
            let is_grown = before.granules() < self.granules() && index as u64 >= first_grown;
            if is_grown || before.pages.get(index).is_some_and(|page| page.get().is_some()) {
                page.get_or_init(|| self.inherited_page(index as u64));
            }
        }
        self.inherits.store(false, Ordering::Release);
        *self.before.write().expect("no holder of this lock panics") = None;
    }

    /// Bytes of memory the map holds now: at most one bit a granule, and the page table.
    pub fn memory_bytes(&self) -> usize {
        let pages = self.pages.iter().filter(|page| page.get().is_some()).count();
        pages * size_of::<Page>() + std::mem::size_of_val(&*self.pages)
    }

    fn granules_touched(&self, range: Range<BlockIndex>) -> Range<u64> {
        if range.is_empty() {
            return 0..0;
        }
        range.start >> self.granule_shift..range.end.div_ceil(self.granule_blocks())
    }

    /// The last granule may be cut off by the end of the volume: it is inside where the range ends there.
    fn granules_inside(&self, range: Range<BlockIndex>) -> Range<u64> {
        assert!(range.end <= self.blocks);
        let end = if range.end == self.blocks { self.granules() } else { range.end >> self.granule_shift };
        range.start.div_ceil(self.granule_blocks())..end
    }

    fn has_page(&self, word: u64) -> bool {
        self.inherits.load(Ordering::Acquire) || self.pages[(word / PAGE_WORDS) as usize].get().is_some()
    }

    fn page(&self, word: u64) -> &Page {
        let index = word / PAGE_WORDS;
        self.pages[index as usize].get_or_init(|| self.inherited_page(index))
    }

    /// The free bits of one word.
    fn free_word(&self, word: u64) -> u64 {
        let (index, at) = ((word / PAGE_WORDS) as usize, (word % PAGE_WORDS) as usize);
        let copied = || self.pages[index].get().map(|page| page[at].load(Ordering::Relaxed));
        if let Some(free) = copied() {
            return free;
        }
        // Acquires what `inherit` copied before it stopped asking; where it has stopped, the page is looked for again.
        if self.inherits.load(Ordering::Acquire) {
            if let Some(before) = &*self.before.read().expect("no holder of this lock panics") {
                return self.inherited_word(before, word);
            }
        }
        copied().unwrap_or(0)
    }

    /// A page as the map before has it.
    fn inherited_page(&self, index: u64) -> Box<Page> {
        let before = self.before.read().expect("no holder of this lock panics");
        let word = |at| before.as_ref().map_or(0, |before| self.inherited_word(before, index * PAGE_WORDS + at as u64));
        Box::new(std::array::from_fn(|at| AtomicU64::new(word(at))))
    }

    /// A word as the map before has it; what the volume has grown by is free.
    fn inherited_word(&self, before: &InUseMap, word: u64) -> u64 {
        let page = before.pages.get((word / PAGE_WORDS) as usize).and_then(|page| page.get());
        let copied = page.map_or(0, |page| page[(word % PAGE_WORDS) as usize].load(Ordering::Relaxed));
        let first = word * WORD_BITS;
        let grown = before.granules().max(first)..self.granules().min(first + WORD_BITS);
        copied | words_of(grown).next().map_or(0, |(_, mask)| mask)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use fastrand::Rng;

    #[test]
    fn a_granule_is_free_only_when_all_of_it_was_discarded() {
        let map = InUseMap::all_in_use(1000, 2);
        assert!(map.is_all_in_use(0..1000));
        map.set_free(3..14);
        assert_eq!(map.holes().ranges(), std::slice::from_ref(&(4..12)));
        map.set_in_use(9..10);
        assert_eq!(map.holes().ranges(), std::slice::from_ref(&(4..8)));
        assert!(!map.is_all_in_use(7..8) && map.is_all_in_use(8..1000));
        let odd = InUseMap::all_in_use(1001, 2);
        odd.set_free(990..1001);
        assert_eq!(odd.holes().ranges(), std::slice::from_ref(&(992..1001)));
    }

    #[test]
    fn a_following_map_begins_as_the_one_before_and_leaves_it_alone() {
        let first = Arc::new(InUseMap::all_in_use(20_000, 0));
        first.set_free(100..5000);
        let second = Arc::new(InUseMap::following(&first, 20_000));
        first.set_free(9000..9001);
        second.begin();
        assert_eq!(second.holes(), first.holes());
        second.set_in_use(200..300);
        second.set_free(15_000..15_001);
        assert_eq!(first.holes().ranges(), [100..5000, 9000..9001]);
        assert_eq!(second.holes().ranges(), [100..200, 300..5000, 9000..9001, 15_000..15_001]);
        let before = second.holes();
        second.inherit();
        assert_eq!(second.holes(), before);
    }

    #[test]
    fn what_a_volume_grows_by_is_free() {
        let first = Arc::new(InUseMap::all_in_use(100, 3));
        let second = InUseMap::following(&first, 10_000);
        second.begin();
        assert_eq!(second.holes().ranges(), std::slice::from_ref(&(104..10_000)));
        second.inherit();
        assert_eq!(second.holes().ranges(), std::slice::from_ref(&(104..10_000)));
        second.replace(&first.holes());
        assert!(second.is_all_in_use(0..10_000));
    }

    #[test]
    fn maps_over_many_epochs_are_what_a_plain_list_says() {
        for seed in 0..60 {
            let mut random = Rng::with_seed(seed);
            let shift = random.u8(0..4);
            let mut blocks = random.u64(1..20_000);
            let mut free = vec![false; blocks.div_ceil(1 << shift) as usize];
            let mut map = Arc::new(InUseMap::all_in_use(blocks, shift));
            for _ in 0..60 {
                let start = random.u64(0..blocks);
                let end = random.u64(start..=blocks);
                let granule = 1u64 << shift;
                match random.u32(..5) {
                    0 => {
                        let grown = blocks + if random.bool() { random.u64(..6000) } else { 0 };
                        let next = Arc::new(InUseMap::following(&map, grown));
                        next.begin();
                        free.resize(grown.div_ceil(granule) as usize, true);
                        (map, blocks) = (next, grown);
                    }
                    1 => map.inherit(),
                    2 => {
                        map.set_in_use(start..end);
                        if start < end {
                            free[(start / granule) as usize..end.div_ceil(granule) as usize].fill(false);
                        }
                    }
                    _ => {
                        map.set_free(start..end);
                        let last = if end == blocks { blocks.div_ceil(granule) } else { end / granule };
                        (start.div_ceil(granule)..last).for_each(|index| free[index as usize] = true);
                    }
                }
                let is_free = |block: u64| free[(block / granule) as usize];
                let holes = map.holes();
                let probe = random.u64(0..blocks);
                assert_eq!(holes.contains(probe), is_free(probe), "seed {seed}");
                assert_eq!(holes.blocks(), (0..blocks).filter(|block| is_free(*block)).count() as u64, "seed {seed}");
                assert_eq!(map.is_all_in_use(start..end), !(start..end).any(is_free), "seed {seed}");
            }
        }
    }
}
