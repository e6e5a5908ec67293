//! The bitmaps of changed blocks that are in memory, bounded.
//!
//! Invariants:
//! - Never more bytes than the bound; a bitmap that is larger than it is not kept at all.
//! - What is kept stays true: it speaks of epochs in which nothing is saved any more, or of one run, and both never
//!   change. Merging may drop an entry of a block that an older entry of the same group speaks for; a bitmap made
//!   before says more, and together they say the same.

use super::bits::Bits;
use crate::sync::{Arc, Mutex};
use crate::units::Epoch;
use lru::LruCache;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

/// What a bitmap speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BitmapKey {
    /// One run; none: every run.
    pub(super) run: Option<u64>,
    /// The epochs whose entries count.
    pub(super) epochs: Range<Epoch>,
    /// The region of the volume.
    pub(super) region: u64,
}

struct Kept {
    bitmaps: LruCache<BitmapKey, Arc<Bits>, BuildHasherDefault<KeyHasher>>,
    bytes: usize,
}

/// A bounded cache of bitmaps, least recently used first out, shared by all threads.
pub struct BitmapCache {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

impl BitmapCache {
    /// A cache of at most `bytes_max` bytes; 0 keeps nothing.
    pub fn new(bytes_max: usize) -> BitmapCache {
        let bitmaps = LruCache::unbounded_with_hasher(BuildHasherDefault::default());
        BitmapCache { bytes_max, kept: Mutex::new(Kept { bitmaps, bytes: 0 }) }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.kept.lock().expect("no holder of this lock panics").bytes
    }

    /// The bitmaps held now, in no order.
    pub fn bitmaps(&self) -> Vec<Arc<Bits>> {
        let kept = self.kept.lock().expect("no holder of this lock panics");
        kept.bitmaps.iter().map(|(_, bits)| bits.clone()).collect()
    }

    pub(super) fn get(&self, key: &BitmapKey) -> Option<Arc<Bits>> {
        self.kept.lock().expect("no holder of this lock panics").bitmaps.get(key).cloned()
    }

    pub(super) fn insert(&self, key: BitmapKey, bits: Arc<Bits>) {
        let bytes = entry_bytes(&bits);
        if bytes > self.bytes_max {
            return;
        }
        let mut kept = self.kept.lock().expect("no holder of this lock panics");
        if let Some(before) = kept.bitmaps.put(key, bits) {
            kept.bytes -= entry_bytes(&before);
        }
        kept.bytes += bytes;
        while kept.bytes > self.bytes_max {
            let (_, oldest) = kept.bitmaps.pop_lru().expect("what takes bytes is there");
            kept.bytes -= entry_bytes(&oldest);
        }
    }
}

/// A bitmap with its key and its place in the list.
fn entry_bytes(bits: &Bits) -> usize {
    const PLACE_BYTES: usize = 96;
    bits.memory_bytes() + size_of::<BitmapKey>() + PLACE_BYTES
}

/// A hasher without random state, for keys of numbers that nobody outside chooses (the finaliser of splitmix64).
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let number = self.0 ^ number;
        let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = number ^ (number >> 31);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::bits::BitsBuilder;
    use super::*;

    #[test]
    fn the_cache_keeps_its_bound_and_what_was_used_last() {
        let cache = BitmapCache::new(10 << 10);
        let key = |region| BitmapKey { run: None, epochs: Epoch(1)..Epoch(2), region };
        for region in 0..100 {
            let mut builder = BitsBuilder::new();
            builder.insert(region);
            cache.insert(key(region), Arc::new(builder.finish()));
            assert!(cache.bytes() <= 10 << 10);
            assert!(cache.get(&key(0)).is_some(), "it is asked for every time");
        }
        assert!(cache.get(&key(50)).is_none() && cache.get(&key(99)).is_some());
        assert!(cache.bytes() > 8 << 10, "the bound is used");
    }

    #[test]
    fn what_is_larger_than_the_bound_is_not_kept() {
        let cache = BitmapCache::new(0);
        let key = BitmapKey { run: Some(3), epochs: Epoch(1)..Epoch(2), region: 0 };
        cache.insert(key.clone(), Arc::new(Bits::default()));
        assert!(cache.get(&key).is_none() && cache.bytes() == 0);
    }
}
