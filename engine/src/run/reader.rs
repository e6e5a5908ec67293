//! Looking up entries in a run: a descent from the root through a bounded cache.
//!
//! Invariants:
//! - A lookup reads one page a level, at most, and none that is cached.
//! - What a page says is compared with what its parent said of it: level and last key must agree.
//! - State while a lookup runs: two pages.

use crate::disk::{aligned_buffer, Disk};
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::run::cache::PageCache;
use crate::run::layout::{pages_for, RunLayout, RunMeta, RunShape, ENTRIES_MAX, PAGE_BYTES};
use crate::run::page::{Key, Page, PageIdentity};
use crate::sync::Arc;
use crate::units::{BlockIndex, Epoch, BLOCK_MAX};
use std::ops::Range;

/// A run that can be read: what the catalog remembers, and where the pages are. Immutable; shared by `Arc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    meta: RunMeta,
    layout: RunLayout,
}

impl Run {
    /// A run as the catalog describes it. [`ErrorKind::Corrupt`] where the description contradicts itself; nothing is
    /// read.
    pub fn open(meta: RunMeta, layout: RunLayout) -> Result<Run> {
        let corrupt = |what: &str| {
            let message = format!("index run {} has {what}; run `cairn check`", meta.run);
            Err(Error::new(ErrorKind::Corrupt, "opening an index run", "store").saying(message))
        };
        if meta.entries > ENTRIES_MAX {
            return corrupt("more entries than a run can hold");
        }
        if pages_for(meta.entries) != (RunShape { pages: meta.pages, height: meta.height }) {
            return corrupt("a number of pages that does not fit its number of entries");
        }
        if !layout.aligned() {
            return corrupt("segments that are not made of pages");
        }
        if layout.segments.len() as u64 != RunLayout::segments_for(meta.pages, layout.segment_bytes) {
            return corrupt("a number of segments that does not fit its number of pages");
        }
        if meta.last_block > BLOCK_MAX || meta.last_epoch > Epoch::LAST {
            return corrupt("blocks or epochs that no volume has");
        }
        if meta.first_block > meta.last_block || meta.first_epoch > meta.last_epoch {
            return corrupt("blocks or epochs that end before they begin");
        }
        Ok(Run { meta, layout })
    }

    /// What the catalog remembers of the run.
    pub fn meta(&self) -> &RunMeta {
        &self.meta
    }

    /// Where the pages lie.
    pub fn layout(&self) -> &RunLayout {
        &self.layout
    }

    /// Whether the run may hold an entry of `blocks` that is not older than `min_epoch`: no I/O, no false no.
    pub fn may_hold(&self, blocks: &Range<BlockIndex>, min_epoch: Epoch) -> bool {
        let meta = &self.meta;
        let overlaps = blocks.start <= meta.last_block && blocks.end > meta.first_block && !blocks.is_empty();
        meta.entries > 0 && min_epoch <= meta.last_epoch && overlaps
    }

    /// The entry of `block` with the smallest epoch that is not below `min_epoch`, or `None` (mission A3).
    pub async fn successor<D: Disk>(
        &self,
        disk: &D,
        cache: &PageCache,
        block: BlockIndex,
        min_epoch: Epoch,
    ) -> Result<Option<Entry>> {
        let mut found = [None];
        self.lookup_range(disk, cache, block..block + 1, min_epoch, &mut found).await?;
        Ok(found[0])
    }

    /// What [`Run::successor`] says of each of `blocks`, into the slots of `out` (one per block) that are `None`.
    /// Neighbours that share a leaf share its descent; the entries of other epochs in between are stepped over.
    pub async fn lookup_range<D: Disk>(
        &self,
        disk: &D,
        cache: &PageCache,
        blocks: Range<BlockIndex>,
        min_epoch: Epoch,
        out: &mut [Option<Entry>],
    ) -> Result<()> {
        assert_eq!(out.len() as u64, blocks.end.saturating_sub(blocks.start), "one slot per block");
        if !self.may_hold(&blocks, min_epoch) {
            return Ok(());
        }
        let end = blocks.end.min(self.meta.last_block + planted!("last-of-run-missed", 0, 1));
        let mut block = blocks.start.max(self.meta.first_block);
        let mut leaf: Option<Arc<Page>> = None;
        while block < end {
            let slot = (block - blocks.start) as usize;
            if out[slot].is_some() {
                block += 1;
                continue;
            }
            let key = (block, min_epoch);
            let page = match leaf.take().filter(|page| page.view().last_key() >= key) {
                Some(page) => page,
                None => match self.leaf_of_successor(disk, cache, key).await? {
                    Some((_, page)) => page,
                    None => return Ok(()),
                },
            };
            let view = page.view();
            let found = view.entry(view.successor_slot(key).expect("the leaf's last key is not below the key"));
            if found.block == block {
                out[slot] = Some(found);
                block += 1;
            } else {
                block = found.block;
            }
            leaf = Some(page);
        }
        Ok(())
    }

    /// The leaf that holds the smallest entry not below `key`, with its page number; `None` where all are below.
    pub(super) async fn leaf_of_successor<D: Disk>(
        &self,
        disk: &D,
        cache: &PageCache,
        key: Key,
    ) -> Result<Option<(u64, Arc<Page>)>> {
        if self.meta.entries == 0 {
            return Ok(None);
        }
        let mut number = self.meta.pages - 1;
        let mut level = self.meta.height - 1;
        let mut last = None;
        loop {
            let page = self.page(disk, cache, number).await?;
            let view = page.view();
            if view.level() != level || last.is_some_and(|last| last != view.last_key()) {
                return Err(self.identity(number).corrupt("does not match the page above it"));
            }
            if last.is_none() && view.last_key().0 != self.meta.last_block {
                return Err(self.identity(number).corrupt("does not match what the catalog says of the run"));
            }
            let Some(slot) = view.successor_slot(key) else {
                assert!(last.is_none(), "only the root may end below the key");
                return Ok(None);
            };
            if level == 0 {
                return Ok(Some((number, page)));
            }
            let child = view.child(slot);
            (number, level, last) = (child.page, level - 1, Some(child.last));
        }
    }

    /// Who the page `number` is and where it lies.
    pub(super) fn identity(&self, number: u64) -> PageIdentity {
        PageIdentity {
            run: self.meta.run,
            first_epoch: self.meta.first_epoch,
            page: number,
            address_bytes: self.layout.page_address_bytes(number),
        }
    }

    async fn page<D: Disk>(&self, disk: &D, cache: &PageCache, number: u64) -> Result<Arc<Page>> {
        if let Some(page) = cache.get(self.meta.run, number) {
            return Ok(page);
        }
        let identity = self.identity(number);
        let mut bytes = aligned_buffer(PAGE_BYTES);
        disk.read(identity.address_bytes, &mut bytes).await?;
        let page = Arc::new(Page::check(bytes, &identity)?);
        cache.insert(self.meta.run, number, Arc::clone(&page));
        Ok(page)
    }
}
