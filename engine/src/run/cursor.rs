//! Reading a run from front to back, in large reads past the cache.
//!
//! Invariants:
//! - State: one window of at most 64 pages, whatever the size of the run. It is refilled only when it is used up.
//! - Entries come in strictly ascending order, also from page to page, or the cursor fails as corrupt.
//! - A cursor that starts at the front ends after exactly the number of entries the catalog names; none of them lies
//!   outside the blocks and epochs that it names.

use crate::disk::{aligned_buffer, AlignedBuffer, Disk};
use crate::entry::Entry;
use crate::error::Result;
use crate::run::cache::PageCache;
use crate::run::layout::PAGE_BYTES;
use crate::run::page::{Key, PageView};
use crate::run::reader::Run;
use crate::sync::Arc;
use crate::units::{BlockIndex, Epoch};

/// Pages in a window: 256 KiB.
pub(super) const WINDOW_PAGES: usize = 64;

/// A place in a run. It holds no disk: every step takes the caller's own.
pub struct Cursor {
    run: Arc<Run>,
    /// Entries below it are passed over.
    from: Key,
    window: AlignedBuffer,
    /// The run's pages that the window holds.
    window_start: u64,
    window_pages: usize,
    /// The page of the window that is read now, and the next slot in it.
    page: usize,
    slot: usize,
    previous: Option<Key>,
    /// Entries passed so far, where that began at the front.
    passed: Option<u64>,
}

impl Run {
    /// A cursor before the first entry.
    pub fn scan_all(self: &Arc<Run>) -> Cursor {
        Cursor::at(self, (0, Epoch(0)), 0, Some(0))
    }

    /// A cursor before the first entry whose block is not below `from`. The way down to it is read through `cache`; the
    /// entries themselves are not.
    pub async fn scan<D: Disk>(self: &Arc<Run>, disk: &D, cache: &PageCache, from: BlockIndex) -> Result<Cursor> {
        if from <= self.meta().first_block {
            return Ok(self.scan_all());
        }
        let key = (from, Epoch(0));
        let leaf = self.leaf_of_successor(disk, cache, key).await?;
        let start = leaf.map_or(self.meta().pages, |(number, _)| number);
        Ok(Cursor::at(self, key, start, None))
    }
}

impl Cursor {
    fn at(run: &Arc<Run>, from: Key, start: u64, passed: Option<u64>) -> Cursor {
        Cursor {
            run: Arc::clone(run),
            from,
            window: aligned_buffer(0),
            window_start: start,
            window_pages: 0,
            page: 0,
            slot: 0,
            previous: None,
            passed,
        }
    }

    /// The next entry, or `None` at the end. Reads only when the window is used up. After an error the cursor stays
    /// where it is.
    pub async fn next<D: Disk>(&mut self, disk: &D) -> Result<Option<Entry>> {
        loop {
            while self.page < self.window_pages {
                if let Some(entry) = self.take()? {
                    return Ok(Some(entry));
                }
                self.page += 1;
                self.slot = 0;
            }
            if !self.refill(disk).await? {
                return Ok(None);
            }
        }
    }

    /// The run that is read.
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// The next entry of the present page; `None` where there is no more.
    fn take(&mut self) -> Result<Option<Entry>> {
        let at = self.page * PAGE_BYTES;
        let view = PageView::checked_before(&self.window[at..at + PAGE_BYTES]);
        if view.level() > 0 {
            return Ok(None);
        }
        if self.slot == 0 {
            self.slot = view.successor_slot(self.from).unwrap_or(view.count());
        }
        if self.slot == view.count() {
            return Ok(None);
        }
        let entry = view.entry(self.slot);
        if self.previous.is_some_and(|previous| previous >= entry.key()) {
            let number = self.window_start + self.page as u64;
            return Err(self.run.identity(number).corrupt("begins before the page in front of it ends"));
        }
        let meta = self.run.meta();
        let is_named = entry.block <= meta.last_block && entry.epoch <= meta.last_epoch;
        if !is_named || self.passed == Some(meta.entries) {
            let number = self.window_start + self.page as u64;
            return Err(self.run.identity(number).corrupt("holds more than the catalog says of the run"));
        }
        self.slot += 1;
        self.previous = Some(entry.key());
        self.passed = self.passed.map(|passed| passed + 1);
        Ok(Some(entry))
    }

    /// Reads the next pages into the window and checks them all; false at the end of the run.
    async fn refill<D: Disk>(&mut self, disk: &D) -> Result<bool> {
        let meta = self.run.meta();
        let start = self.window_start + self.window_pages as u64;
        if start == meta.pages {
            if self.passed.is_some_and(|passed| passed != meta.entries) {
                return Err(self.run.identity(start - 1).corrupt("ends a run with another number of entries"));
            }
            return Ok(false);
        }
        let pages_left = (meta.pages - start).min(WINDOW_PAGES as u64);
        let pages = self.run.layout().contiguous_pages(start, pages_left) as usize;
        if self.window.len() < pages * PAGE_BYTES {
            self.window = aligned_buffer(pages * PAGE_BYTES);
        }
        (self.window_start, self.window_pages, self.page, self.slot) = (start, 0, 0, 0);
        let window = &mut self.window[..pages * PAGE_BYTES];
        disk.read(self.run.identity(start).address_bytes, window).await?;
        for (index, bytes) in window.chunks_exact(PAGE_BYTES).enumerate() {
            PageView::check(bytes, &self.run.identity(start + index as u64))?;
        }
        self.window_pages = pages;
        Ok(true)
    }
}
