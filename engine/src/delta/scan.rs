//! Finding the blocks of a region that were saved in a range of epochs: in runs, by merged bitmaps, and in the maps of
//! the epochs that no run holds yet.
//!
//! Invariants:
//! - Merged bitmaps speak only of epochs older than every map: nothing is saved in those any more.
//! - Whatever merged bitmaps are missing for a region is made in one pass over the runs' entries there.

use super::bits::{Bits, BitsBuilder, Union, REGION_BLOCKS};
use super::cache::{BitmapCache, BitmapKey};
use super::extents::{Ends, Extents};
use super::intervals::{aligned, halves};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::run::{PageCache, Run};
use crate::sync::Arc;
use crate::units::{BlockIndex, Epoch};
use crate::view::View;
use std::ops::Range;

/// Entries read between two looks whether somebody needs what the view holds.
const ENTRIES_BETWEEN_LOOKS: u32 = 1024;

/// What is searched.
pub(crate) struct Index<'a, G> {
    pub(crate) view: &'a View,
    pub(crate) pages: &'a PageCache,
    pub(crate) bitmaps: &'a BitmapCache,
    /// Somebody waits for segments that only this view keeps from being used again.
    pub(crate) is_in_the_way: G,
}

impl<G: Fn() -> bool> Index<'_, G> {
    /// Adds what changed in a range of blocks of one region: what was saved in `epochs`, if there is an older end.
    /// Fails with `Busy` as `saved_in` does, before anything is added.
    pub(crate) async fn add_changes<D: Disk>(
        &self,
        store: &D,
        epochs: Option<Range<Epoch>>,
        blocks: Range<BlockIndex>,
        ends: &Ends<'_>,
        extents: &mut Extents,
    ) -> Result<()> {
        let region = blocks.start / REGION_BLOCKS;
        let bitmaps = match epochs {
            Some(epochs) => self.saved_in(store, epochs, region).await?,
            None => Vec::new(),
        };
        let first = region_blocks(region).start;
        let changed = Union::new(bitmaps.iter().map(|bits| &**bits), blocks.start - first..blocks.end - first);
        extents.add(blocks, changed.map(|range| first + range.start..first + range.end), ends);
        Ok(())
    }

    /// Bitmaps whose union is what was saved in `epochs` in a region. Fails with `Busy` where the view is in the way:
    /// then the caller starts again with the view as it is now.
    async fn saved_in<D: Disk>(&self, store: &D, epochs: Range<Epoch>, region: u64) -> Result<Vec<Arc<Bits>>> {
        let settled_end = self.view.maps.first().map_or(epochs.end, |map| map.epoch()).min(epochs.end);
        let mut bitmaps = self.settled(store, epochs.start..settled_end.max(epochs.start), region).await?;
        let rest = epochs.start.max(settled_end)..epochs.end;
        if rest.is_empty() {
            return Ok(bitmaps);
        }
        for run in self.view.runs.iter().filter(|run| run.meta().last_epoch >= rest.start) {
            // Part of an epoch that still goes on; the run itself does not change.
            let epochs = rest.start..rest.end.min(run.meta().last_epoch.next());
            let key = BitmapKey { run: Some(run.meta().run), epochs: epochs.clone(), region };
            bitmaps.push(match self.bitmaps.get(&key) {
                Some(bits) => bits,
                None => {
                    let made = self.read_runs(store, std::slice::from_ref(run), &[epochs], region).await?;
                    let bits = Arc::new(made.into_iter().next().expect("one was asked for"));
                    self.bitmaps.insert(key, bits.clone());
                    bits
                }
            });
        }
        planted!("delta-forgets-the-maps", return Ok(bitmaps));
        bitmaps.push(Arc::new(self.in_maps(rest, region)));
        Ok(bitmaps)
    }

    /// What was saved in epochs that are over and sealed.
    async fn settled<D: Disk>(&self, store: &D, epochs: Range<Epoch>, region: u64) -> Result<Vec<Arc<Bits>>> {
        let key = |epochs: &Range<Epoch>| BitmapKey { run: None, epochs: epochs.clone(), region };
        let mut found: Vec<Arc<Bits>> = Vec::new();
        let mut missing: Vec<Range<Epoch>> = Vec::new();
        for interval in aligned(epochs) {
            match self.bitmaps.get(&key(&interval)).or_else(|| self.joined(&interval, &key)) {
                Some(bits) => found.push(bits),
                None => missing.push(interval),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let made = self.read_runs(store, &self.view.runs, &missing, region).await?;
        for (interval, bits) in missing.iter().zip(made) {
            let bits = Arc::new(bits);
            self.bitmaps.insert(key(interval), bits.clone());
            found.push(bits);
        }
        Ok(found)
    }

    /// An interval whose halves are both there is made of them.
    fn joined(&self, interval: &Range<Epoch>, key: &impl Fn(&Range<Epoch>) -> BitmapKey) -> Option<Arc<Bits>> {
        let [first, second] = halves(interval)?;
        let (first, second) = (self.bitmaps.get(&key(&first))?, self.bitmaps.get(&key(&second))?);
        let mut both = BitsBuilder::new();
        both.insert_all(&first);
        planted!("delta-joins-one-half", (), both.insert_all(&second));
        let both = Arc::new(both.finish());
        self.bitmaps.insert(key(interval), both.clone());
        Some(both)
    }

    /// One bitmap for each of `intervals`, which ascend and do not overlap, from the entries of `runs`.
    async fn read_runs<D: Disk>(
        &self,
        store: &D,
        runs: &[Arc<Run>],
        intervals: &[Range<Epoch>],
        region: u64,
    ) -> Result<Vec<Bits>> {
        let blocks = region_blocks(region);
        let mut builders: Vec<BitsBuilder> = intervals.iter().map(|_| BitsBuilder::new()).collect();
        let is_wanted = |run: &&Arc<Run>| {
            let (first, last) = (run.meta().first_epoch, run.meta().last_epoch);
            run.may_hold(&blocks, Epoch(0)) && intervals.iter().any(|wanted| wanted.start <= last && first < wanted.end)
        };
        let mut entries = 0;
        for run in runs.iter().filter(is_wanted) {
            let mut cursor = run.scan(store, self.pages, blocks.start).await?;
            while let Some(entry) = cursor.next(store).await? {
                if entry.block >= blocks.end {
                    break;
                }
                entries += 1;
                if entries % ENTRIES_BETWEEN_LOOKS == 0 && (self.is_in_the_way)() {
                    let message = "somebody needs the room that the scan keeps";
                    return Err(Error::new(ErrorKind::Busy, "compare snapshots", "store").saying(message));
                }
                let at = intervals.partition_point(|interval| interval.end <= entry.epoch);
                if intervals.get(at).is_some_and(|interval| interval.start <= entry.epoch) {
                    builders[at].insert(entry.block - blocks.start);
                }
            }
        }
        Ok(builders.into_iter().map(BitsBuilder::finish).collect())
    }

    /// What the maps hold; more may be added meanwhile.
    fn in_maps(&self, epochs: Range<Epoch>, region: u64) -> Bits {
        let blocks = region_blocks(region);
        let mut builder = BitsBuilder::new();
        for map in self.view.maps.iter().filter(|map| epochs.contains(&map.epoch())) {
            map.for_each_block(blocks.clone(), |block| builder.insert(block - blocks.start));
        }
        builder.finish()
    }
}

/// The blocks of a region.
fn region_blocks(region: u64) -> Range<BlockIndex> {
    region * REGION_BLOCKS..(region + 1) * REGION_BLOCKS
}
