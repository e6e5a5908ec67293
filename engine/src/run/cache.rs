//! The pages of runs that are in memory, bounded.
//!
//! Invariants:
//! - Never more than `pages_max` pages, of 4 KiB and some hundred bytes of book-keeping each.
//! - Run ids are never used twice, so a cached page is never stale.
//! - No lock is held while anything waits. Which page leaves first follows from the order of calls alone: the hasher
//!   has no random state.

use crate::run::page::Page;
use crate::sync::{Arc, Mutex, MutexGuard};
use lru::LruCache;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroUsize;

/// Threads that look up different pages seldom meet on one of this many locks.
const SHARDS_MAX: usize = 16;

type PageKey = (u64, u64);
type Shard = LruCache<PageKey, Arc<Page>, BuildHasherDefault<PageKeyHasher>>;

/// A bounded cache of run pages, least recently used first out, shared by all threads.
pub struct PageCache {
    shards: Vec<Mutex<Shard>>,
}

impl PageCache {
    /// A cache of at most `pages_max` pages, at least 1.
    pub fn new(pages_max: usize) -> PageCache {
        assert!(pages_max > 0, "a cache of no pages");
        let shard_count = pages_max.min(SHARDS_MAX);
        let shard_pages = NonZeroUsize::new(pages_max / shard_count).expect("there are no more shards than pages");
        let shard = || Mutex::new(LruCache::with_hasher(shard_pages, BuildHasherDefault::default()));
        PageCache { shards: (0..shard_count).map(|_| shard()).collect() }
    }

    /// Number of pages held now.
    pub fn pages(&self) -> usize {
        (0..self.shards.len()).map(|index| self.lock(index).len()).sum()
    }

    /// Lets go of the pages of a run that is no more; without it they would leave by age.
    pub fn forget(&self, run: u64) {
        for index in 0..self.shards.len() {
            let mut shard = self.lock(index);
            let doomed: Vec<PageKey> = shard.iter().map(|(key, _)| *key).filter(|key| key.0 == run).collect();
            for key in doomed {
                shard.pop(&key);
            }
        }
    }

    pub(super) fn get(&self, run: u64, page: u64) -> Option<Arc<Page>> {
        self.lock(self.shard_of(run, page)).get(&(run, page)).cloned()
    }

    pub(super) fn insert(&self, run: u64, page: u64, content: Arc<Page>) {
        self.lock(self.shard_of(run, page)).put((run, page), content);
    }

    fn shard_of(&self, run: u64, page: u64) -> usize {
        // The low bits choose a bucket inside the shard, so the shard is chosen by the high ones.
        let hash = mix(mix(run) ^ page);
        (hash >> 32) as usize % self.shards.len()
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().expect("nothing panics while it holds a shard of the page cache")
    }
}

/// Spreads the bits of a number (the finaliser of splitmix64).
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A hasher without random state, for keys of numbers that nobody outside chooses.
#[derive(Default)]
struct PageKeyHasher(u64);

impl Hasher for PageKeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::aligned_buffer;
    use crate::entry::Entry;
    use crate::run::layout::PAGE_BYTES;
    use crate::run::page::{encode_leaf, PageIdentity};
    use crate::units::Epoch;

    fn page() -> Arc<Page> {
        let identity = PageIdentity { run: 0, first_epoch: Epoch(0), page: 0, address_bytes: 0 };
        let mut bytes = aligned_buffer(PAGE_BYTES);
        encode_leaf(&identity, &[Entry { block: 0, epoch: Epoch(0), address: 1, checksum: 0 }], &mut bytes);
        Arc::new(Page::check(bytes, &identity).unwrap())
    }

    #[test]
    fn the_cache_never_holds_more_than_its_bound() {
        for pages_max in [1, 15, 16, 100] {
            let cache = PageCache::new(pages_max);
            for number in 0..1000 {
                cache.insert(number % 7, number, page());
                assert!(cache.pages() <= pages_max);
            }
            assert!(cache.pages() >= pages_max / 2, "the bound is used");
        }
    }

    #[test]
    fn forgetting_a_run_leaves_the_others() {
        let cache = PageCache::new(100);
        (0..10).for_each(|number| cache.insert(number % 2, number, page()));
        let before = cache.pages();
        cache.forget(1);
        assert_eq!(cache.pages(), before - 5);
        assert!(cache.get(1, 1).is_none() && cache.get(0, 2).is_some());
    }
}
