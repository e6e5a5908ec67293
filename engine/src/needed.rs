//! The needed map: does any snapshot still need what is on the origin here?
//!
//! Invariants:
//! - A block is *untouched* (needed, unclaimed), *being saved* (needed, claimed) or *settled* (not needed).
//! - A claim is taken by exactly one saver, which settles it or releases it.
//! - A bit once settled stays settled for the life of the map: a new epoch gets a new map.
//! - A page that nobody claimed in does not exist; its blocks are all untouched, or all settled where the map was
//!   made for an epoch that nobody needs.
//! - A map that was stopped needs nothing any more, for ever, whatever its bits say. Claims are still given back.
//!
//! Memory orders: `settle` clears the needed bit with release after the entry was published and its record was
//! durable; `any_needed` loads with acquire, so whoever finds the bit clear may overwrite the origin. `release` gives a
//! claim back with release and `claim` takes it with acquire, so that who takes over a claim comes after all that the
//! releaser did. `stop` clears `saving` with release, and it is read with acquire: who finds the map stopped comes
//! after all that had to be done first. Every other look at the bits is a guess that one of these, or the lock of the
//! waiters, confirms. `models/orders.rs` weakens each of them and is noticed.

use crate::signal::yield_now;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, OnceLock};
use crate::units::BlockIndex;
use crate::words::{words_of, WORD_BITS};
use std::ops::Range;
use std::task::{Poll, Waker};

/// In models a page is as small as it can be: every word of it is made anew for every interleaving.
const PAGE_WORDS: u64 = if cfg!(any(loom, shuttle)) { 1 } else { 64 };
/// Blocks covered by one page of the map (16 MiB of the volume).
pub const PAGE_BLOCKS: u64 = WORD_BITS * PAGE_WORDS;
/// Blocks forgone in one go, some tens of microseconds: 1 GiB of the volume.
const FORGO_STEP_BLOCKS: u64 = 1 << 18;
const WAITER_SHARDS: u64 = if cfg!(any(loom, shuttle)) { 1 } else { 64 };

struct Page {
    needed: [AtomicU64; PAGE_WORDS as usize],
    claimed: [AtomicU64; PAGE_WORDS as usize],
}

impl Page {
    fn untouched() -> Box<Page> {
        Box::new(Page {
            needed: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            claimed: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }
}

type Waiters = Mutex<Vec<(u64, Waker)>>;

/// The map of one epoch.
pub struct NeededMap {
    blocks: u64,
    /// Only ever goes from true to false.
    saving: AtomicBool,
    pages: Box<[OnceLock<Box<Page>>]>,
    /// Who waits for a claim in which word, sharded by word.
    waiters: Box<[Waiters]>,
}

impl NeededMap {
    /// A map of `blocks` blocks. `saving`: every block is needed; otherwise none is, for ever.
    pub fn new(blocks: u64, saving: bool) -> NeededMap {
        let pages = if saving { blocks.div_ceil(PAGE_BLOCKS) } else { 0 };
        NeededMap {
            blocks,
            saving: AtomicBool::new(saving),
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            waiters: (0..WAITER_SHARDS).map(|_| Mutex::new(Vec::new())).collect(),
        }
    }

    /// Whether first overwrites are saved at all.
    #[inline]
    pub fn saving(&self) -> bool {
        // Pairs with `stop`.
        self.saving.load(Ordering::Acquire)
    }

    /// Nothing is needed any more: what snapshots needed is given up. Whoever waits for a claim looks again.
    pub fn stop(&self) {
        // Pairs with `saving`.
        self.saving.store(false, Ordering::Release);
        for shard in &self.waiters {
            // Who looked before waits in here by now; who comes later finds the map stopped.
            let waiting = std::mem::take(&mut *shard.lock().expect("no holder of this lock panics"));
            waiting.into_iter().for_each(|(_, waker)| waker.wake());
        }
    }

    /// Whether the map has bits: it was made for an epoch that something is needed in.
    fn has_pages(&self) -> bool {
        !self.pages.is_empty()
    }

    fn page(&self, word: u64) -> &Page {
        self.pages[(word / PAGE_WORDS) as usize].get_or_init(Page::untouched)
    }

    /// Whether some snapshot needs what is on the origin in any of these blocks: the one test of the write path.
    #[inline]
    pub fn any_needed(&self, range: Range<BlockIndex>) -> bool {
        assert!(range.end <= self.blocks);
        if !self.saving() {
            return false;
        }
        let range = planted!("last-block-missed", range.start..(range.end - 1).max(range.start + 1), range);
        words_of(range).any(|(word, mask)| match self.pages[(word / PAGE_WORDS) as usize].get() {
            None => true,
            // Pairs with `settle`: what is found clear was saved before.
            Some(page) => page.needed[(word % PAGE_WORDS) as usize].load(Ordering::Acquire) & mask != 0,
        })
    }

    /// Whether this block is needed.
    pub fn is_needed(&self, block: BlockIndex) -> bool {
        self.any_needed(block..block + 1)
    }

    /// Claims every block of the range that is needed and unclaimed; appends them to `claimed`, ascending, as runs.
    pub fn claim(&self, range: Range<BlockIndex>, claimed: &mut Vec<Range<BlockIndex>>) {
        assert!(self.has_pages() && range.end <= self.blocks);
        for (word, mask) in words_of(range) {
            let (page, index) = (self.page(word), (word % PAGE_WORDS) as usize);
            // A guess: a bit that was settled meanwhile is claimed for ever, so it is not turned on below.
            let needed = page.needed[index].load(Ordering::Relaxed) & mask;
            if needed == 0 {
                continue;
            }
            // Pairs with `release`.
            let before = page.claimed[index].fetch_or(needed, Ordering::Acquire);
            // A settled block keeps its claim bit, so a bit that this call turned on was untouched.
            push_runs(word * WORD_BITS, needed & !before, claimed);
        }
    }

    /// The block's before-image is durable and published: it may be overwritten.
    pub fn settle(&self, block: BlockIndex) {
        let (word, mask) = (block / WORD_BITS, 1 << (block % WORD_BITS));
        let page = self.page(word);
        let index = (word % PAGE_WORDS) as usize;
        assert!(page.claimed[index].load(Ordering::Relaxed) & mask != 0, "only a claimed block is settled");
        // Pairs with `any_needed`. Settling others in the same word keeps this for who reads the word after them.
        page.needed[index].fetch_and(!mask, Ordering::Release);
        planted!("settling-wakes-nobody", return);
        self.wake(word);
    }

    /// The block was saved in an earlier life of this epoch (recovery): nobody has to claim it.
    pub fn settle_unclaimed(&self, block: BlockIndex) {
        if !self.has_pages() || block >= self.blocks {
            return;
        }
        let (word, mask) = (block / WORD_BITS, 1 << (block % WORD_BITS));
        let page = self.page(word);
        page.claimed[(word % PAGE_WORDS) as usize].fetch_or(mask, Ordering::Relaxed);
        // Pairs with `any_needed`, like `settle`.
        page.needed[(word % PAGE_WORDS) as usize].fetch_and(!mask, Ordering::Release);
    }

    /// Nobody needs these blocks as they are now, but whom the epoch `before` still kept them for: what was not needed
    /// there and is claimed by nobody here need not be saved. Says how many blocks that were.
    pub fn forgo(&self, range: Range<BlockIndex>, before: &NeededMap) -> u64 {
        if !self.saving() {
            return 0;
        }
        let mut forgone = 0;
        for (word, mask) in words_of(range.start.min(self.blocks)..range.end.min(self.blocks)) {
            let free = mask & !before.needed_word(word);
            if free == 0 {
                continue;
            }
            let (page, index) = (self.page(word), (word % PAGE_WORDS) as usize);
            // Claimed and settled at once. What somebody is saving stays theirs.
            let claimed = free & !page.claimed[index].fetch_or(free, Ordering::Acquire);
            // Pairs with `any_needed`, like `settle`.
            page.needed[index].fetch_and(!claimed, Ordering::Release);
            forgone += u64::from(claimed.count_ones());
            self.wake(word);
        }
        forgone
    }

    /// The same of any number of ranges. Between two steps whoever shares the thread has a turn: the map of a large
    /// volume takes long.
    pub async fn forgo_all(&self, ranges: &[Range<BlockIndex>], before: &NeededMap) -> u64 {
        let (mut forgone, mut left) = (0, FORGO_STEP_BLOCKS);
        for range in ranges {
            let mut start = range.start;
            while start < range.end {
                let end = range.end.min(start + left);
                forgone += self.forgo(start..end, before);
                // However short a range is, it costs a word.
                left = left.saturating_sub((end - start).max(WORD_BITS));
                start = end;
                if left == 0 {
                    yield_now().await;
                    left = FORGO_STEP_BLOCKS;
                }
            }
        }
        forgone
    }

    /// The needed bits of a word; what lies behind the end of the map is not needed.
    fn needed_word(&self, word: u64) -> u64 {
        let first = word * WORD_BITS;
        if !self.saving() || first >= self.blocks {
            return 0;
        }
        let page = self.pages[(word / PAGE_WORDS) as usize].get();
        let needed = page.map_or(u64::MAX, |page| page.needed[(word % PAGE_WORDS) as usize].load(Ordering::Acquire));
        needed & (u64::MAX >> (WORD_BITS - (self.blocks - first).min(WORD_BITS)))
    }

    /// Gives back claims that were not settled; who waited for them tries itself.
    pub fn release(&self, claimed: &[Range<BlockIndex>]) {
        for range in claimed {
            for (word, mask) in words_of(range.clone()) {
                let page = self.page(word);
                let index = (word % PAGE_WORDS) as usize;
                // The claims are this caller's, so nobody else settles these bits meanwhile.
                let unsettled = page.needed[index].load(Ordering::Relaxed) & mask;
                // Pairs with `claim`.
                page.claimed[index].fetch_and(!unsettled, Ordering::Release);
                self.wake(word);
            }
        }
    }

    /// Waits until nothing in the range is being saved: each block is settled, its claim was released, or the map was
    /// stopped. True if there was something to wait for.
    pub async fn wait_unclaimed(&self, range: Range<BlockIndex>) -> bool {
        let mut waited = false;
        for (word, mask) in words_of(range) {
            let (page, index) = (self.page(word), (word % PAGE_WORDS) as usize);
            // Ordered by the lock below; the caller tests again before it relies on what it finds.
            let being_saved = || {
                if !self.saving() {
                    return false;
                }
                let claimed = page.claimed[index].load(Ordering::Relaxed);
                page.needed[index].load(Ordering::Relaxed) & claimed & mask != 0
            };
            std::future::poll_fn(|context| {
                let mut waiters = self.shard(word).lock().expect("no holder of this lock panics");
                // Looked at under the lock that `wake` takes after it changed the bits: a change is seen here, or
                // its wake-up finds this waker.
                if !being_saved() {
                    return Poll::Ready(());
                }
                if !waiters.iter().any(|(at, waker)| *at == word && waker.will_wake(context.waker())) {
                    waiters.push((word, context.waker().clone()));
                }
                waited = true;
                Poll::Pending
            })
            .await;
        }
        waited
    }

    fn shard(&self, word: u64) -> &Waiters {
        &self.waiters[(word % WAITER_SHARDS) as usize]
    }

    fn wake(&self, word: u64) {
        let mut woken = Vec::new();
        self.shard(word).lock().expect("no holder of this lock panics").retain(|(at, waker)| {
            if *at == word {
                woken.push(waker.clone());
            }
            *at != word
        });
        for waker in woken {
            waker.wake();
        }
    }

    /// Bytes of memory the map holds now: at most two bits a block, and the page table.
    pub fn memory_bytes(&self) -> usize {
        let pages = self.pages.iter().filter(|page| page.get().is_some()).count();
        pages * size_of::<Page>() + std::mem::size_of_val(&*self.pages)
    }
}

/// Appends the set bits as runs, joining the last run where they touch.
fn push_runs(first: u64, mut bits: u64, runs: &mut Vec<Range<u64>>) {
    while bits != 0 {
        let start = u64::from(bits.trailing_zeros());
        let length = u64::from((bits >> start).trailing_ones());
        match runs.last_mut() {
            Some(last) if last.end == first + start => last.end += length,
            _ => runs.push(first + start..first + start + length),
        }
        bits &= !((u64::MAX >> (WORD_BITS - length)) << start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(map: &NeededMap, range: Range<u64>) -> Vec<Range<u64>> {
        let mut claimed = Vec::new();
        map.claim(range, &mut claimed);
        claimed
    }

    #[test]
    fn a_block_is_claimed_once_and_settled_for_ever() {
        let map = NeededMap::new(10_000, true);
        assert!(map.any_needed(0..10_000));
        assert_eq!(claim(&map, 60..70), vec![60..70]);
        assert_eq!(claim(&map, 55..75), vec![55..60, 70..75]);
        for block in 55..75 {
            assert!(map.is_needed(block));
            map.settle(block);
        }
        assert!(!map.any_needed(55..75));
        assert!(map.any_needed(54..75));
        assert_eq!(claim(&map, 55..75), Vec::<Range<u64>>::new());
    }

    #[test]
    fn a_released_claim_can_be_taken_again_but_a_settled_block_not() {
        let map = NeededMap::new(200, true);
        assert_eq!(claim(&map, 0..130), vec![0..130]);
        map.settle(64);
        let claimed: [Range<u64>; 1] = std::array::from_fn(|_| 0..130);
        map.release(&claimed);
        assert_eq!(claim(&map, 0..130), vec![0..64, 65..130]);
    }

    #[test]
    fn what_nobody_needs_is_forgone_but_not_what_an_older_snapshot_needs() {
        let before = NeededMap::new(300, true);
        let saved = claim(&before, 10..200);
        saved.iter().cloned().flatten().for_each(|block| before.settle(block));
        let map = NeededMap::new(400, true);
        assert_eq!(claim(&map, 20..30), vec![20..30]);
        assert_eq!(map.forgo(5..150, &before), 130);
        assert!(map.is_needed(9) && map.is_needed(20) && map.is_needed(150));
        assert!(!map.any_needed(10..20) && !map.any_needed(30..150));
        assert_eq!(map.forgo(290..400, &before), 100, "what lies behind the end of the map before was not needed");
        let all = NeededMap::new(400, false);
        assert_eq!(NeededMap::new(400, true).forgo(0..400, &all), 400);
    }

    #[test]
    fn much_is_forgone_in_steps_between_which_others_have_a_turn() {
        use futures_util::task::noop_waker_ref;
        use std::future::Future;
        use std::pin::pin;
        use std::task::Context;
        let blocks = 5 * FORGO_STEP_BLOCKS;
        let nobody = NeededMap::new(0, false);
        let halves: Vec<Range<u64>> = (0..blocks).step_by(128).map(|start| start..start + 64).collect();
        for (ranges, expected) in
            [(vec![3..FORGO_STEP_BLOCKS * 4 + 5], 4 * FORGO_STEP_BLOCKS + 2), (halves, blocks / 2)]
        {
            let map = NeededMap::new(blocks, true);
            let mut forgoing = pin!(map.forgo_all(&ranges, &nobody));
            let is_forgone = |block: &u64| !map.is_needed(*block);
            let (mut done, mut turns) = (0, 0);
            loop {
                let polled = forgoing.as_mut().poll(&mut Context::from_waker(noop_waker_ref()));
                let now = (0..blocks).filter(is_forgone).count() as u64;
                assert!(now - done <= FORGO_STEP_BLOCKS, "{} in one go", now - done);
                done = now;
                if let Poll::Ready(forgone) = polled {
                    assert_eq!((forgone, done), (expected, expected));
                    break;
                }
                turns += 1;
            }
            assert_eq!(turns, expected / FORGO_STEP_BLOCKS);
        }
    }

    #[test]
    fn an_epoch_without_snapshots_needs_nothing() {
        let map = NeededMap::new(1 << 30, false);
        assert!(!map.any_needed(0..1 << 30));
        assert!(map.memory_bytes() < 1024);
    }

    #[test]
    fn a_map_that_is_stopped_needs_nothing_and_takes_claims_back() {
        let map = NeededMap::new(200, true);
        let claimed = claim(&map, 10..20);
        map.stop();
        assert!(!map.any_needed(0..200) && !map.saving());
        assert_eq!(claim(&map, 15..30), vec![20..30], "a request that found the map needing may still come to claim");
        map.release(&claimed);
        assert_eq!(claim(&map, 10..20), vec![10..20]);
    }

    #[test]
    fn memory_stays_at_two_bits_a_block_when_everything_is_touched() {
        let blocks = 1 << 20;
        let map = NeededMap::new(blocks, true);
        for block in (0..blocks).step_by(PAGE_BLOCKS as usize) {
            map.settle_unclaimed(block);
        }
        assert!(map.memory_bytes() as u64 * 8 <= blocks * 5 / 2);
    }
}
