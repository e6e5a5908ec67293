//! Writing a run: once, front to back, each page as soon as it is full.
//!
//! Invariants:
//! - State: one window of at most 64 pages, and one page under way per level, whatever the size of the run.
//! - A write never crosses the end of a segment.
//! - Nothing may refer to the run before `finish` returned: it ends with a flush of the store.
//! - A writer that failed once is of no use; its run id must not be used again.

use crate::disk::{aligned_buffer, flush_since, AlignedBuffer, Disk};
use crate::entry::Entry;
use crate::error::Result;
use crate::run::cursor::WINDOW_PAGES;
use crate::run::layout::{pages_for, RunLayout, RunMeta, RunShape, HEIGHT_MAX, PAGE_BYTES};
use crate::run::page::{
    encode_inner, encode_leaf, Child, Key, PageIdentity, INNER_CHILDREN_MAX, LEAF_ENTRIES_MAX, NUMBER_MAX,
};
use crate::run::reader::Run;
use crate::units::{Epoch, SegmentIndex};

/// A run that is durable and may be named in the catalog.
pub struct WrittenRun {
    /// The run, on the segments it took.
    pub run: Run,
    /// Segments that were not needed after all.
    pub unused: Vec<SegmentIndex>,
}

/// Writes one run.
pub struct RunWriter {
    run: u64,
    first_epoch: Epoch,
    layout: RunLayout,
    entries_expected: u64,
    /// The leaf under way.
    leaf: Vec<Entry>,
    /// The inner pages under way, from level 1 up.
    levels: Vec<InnerLevel>,
    /// Pages not written yet: those from `window_start` up to `pages`.
    window: AlignedBuffer,
    window_start: u64,
    pages: u64,
    entries: u64,
    first_block: u64,
    last_epoch: Epoch,
    last_key: Option<Key>,
    /// Flushes of the store that had failed when the first page was written.
    flush_failures_before: Option<u64>,
    /// A write failed, or was given up half-way.
    failed: bool,
}

/// A level of inner pages while the run is written.
struct InnerLevel {
    /// The children of the page under way, at most [`INNER_CHILDREN_MAX`].
    children: Vec<Child>,
    /// Whether the level has pages already.
    begun: bool,
}

impl RunWriter {
    /// A writer of run `run`, of at most `entries_expected` entries, none older than `first_epoch`. The layout must
    /// hold [`pages_for`] that many.
    pub fn new(run: u64, first_epoch: Epoch, layout: RunLayout, entries_expected: u64) -> RunWriter {
        assert!(layout.aligned(), "segments are made of whole pages");
        let pages_max = pages_for(entries_expected).pages;
        let segments_needed = RunLayout::segments_for(pages_max, layout.segment_bytes);
        assert!(layout.segments.len() as u64 >= segments_needed, "{entries_expected} entries need more segments");
        RunWriter {
            run,
            first_epoch,
            layout,
            entries_expected,
            leaf: Vec::with_capacity(LEAF_ENTRIES_MAX),
            levels: Vec::new(),
            window: aligned_buffer(WINDOW_PAGES.min(pages_max as usize) * PAGE_BYTES),
            window_start: 0,
            pages: 0,
            entries: 0,
            first_block: 0,
            last_epoch: first_epoch,
            last_key: None,
            flush_failures_before: None,
            failed: false,
        }
    }

    /// Adds an entry; its key must be above that of the entry before. Writes only when a window is full.
    pub async fn push<D: Disk>(&mut self, disk: &D, entry: Entry) -> Result<()> {
        assert!(!self.failed, "a run whose writing failed is given up");
        assert!(self.last_key.is_none_or(|last| last < entry.key()), "entries come in ascending order");
        assert!(self.entries < self.entries_expected, "more than the {} entries expected", self.entries_expected);
        assert!(entry.block <= NUMBER_MAX && entry.address <= NUMBER_MAX);
        assert!(entry.epoch >= self.first_epoch && entry.epoch.0 - self.first_epoch.0 <= u64::from(u32::MAX));
        if self.entries == 0 {
            self.first_block = entry.block;
        }
        self.last_key = Some(entry.key());
        self.last_epoch = self.last_epoch.max(entry.epoch);
        self.entries += 1;
        self.leaf.push(entry);
        if self.leaf.len() == LEAF_ENTRIES_MAX {
            self.place_leaf(disk).await?;
        }
        Ok(())
    }

    /// Entries added so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Writes what is left and flushes the store: the run is durable when this returns.
    pub async fn finish<D: Disk>(mut self, disk: &D) -> Result<WrittenRun> {
        assert!(!self.failed, "a run whose writing failed is given up");
        if !self.leaf.is_empty() {
            self.place_leaf(disk).await?;
        }
        self.place_inner_rest(disk).await?;
        self.write_window(disk).await?;
        let failures_before = self.flush_failures_before.unwrap_or_else(|| disk.flush_failures());
        planted!("run-left-volatile", Ok(()), flush_since(disk, failures_before).await)?;

        let RunShape { pages, height } = pages_for(self.entries);
        assert_eq!(self.pages, pages, "the shape follows from the number of entries");
        let segments_used = RunLayout::segments_for(pages, self.layout.segment_bytes) as usize;
        let unused = self.layout.segments.split_off(segments_used);
        let meta = RunMeta {
            run: self.run,
            first_epoch: self.first_epoch,
            last_epoch: self.last_epoch,
            entries: self.entries,
            pages,
            height,
            first_block: self.first_block,
            last_block: self.last_key.map_or(0, |key| key.0),
        };
        Ok(WrittenRun { run: Run::open(meta, self.layout)?, unused })
    }

    async fn place_leaf<D: Disk>(&mut self, disk: &D) -> Result<()> {
        let last = self.leaf.last().expect("a leaf is placed when it has entries").key();
        let (identity, at) = self.take_place();
        encode_leaf(&identity, &self.leaf, &mut self.window[at..at + PAGE_BYTES]);
        self.leaf.clear();
        self.write_full_window(disk).await?;
        self.add_child(disk, 1, Child { last, page: identity.page }).await
    }

    /// Enters a page in its parent on `level`; parents that become full by it are placed, level by level.
    async fn add_child<D: Disk>(&mut self, disk: &D, level: u8, child: Child) -> Result<()> {
        let mut child = child;
        for level in level..=HEIGHT_MAX {
            let index = usize::from(level) - 1;
            if index == self.levels.len() {
                self.levels.push(InnerLevel { children: Vec::with_capacity(INNER_CHILDREN_MAX), begun: false });
            }
            self.levels[index].children.push(child);
            if self.levels[index].children.len() < INNER_CHILDREN_MAX {
                return Ok(());
            }
            child = self.place_inner(disk, level).await?;
        }
        panic!("a run is at most {HEIGHT_MAX} levels high");
    }

    /// Places the page under way on `level` and says what its parent has to know.
    async fn place_inner<D: Disk>(&mut self, disk: &D, level: u8) -> Result<Child> {
        let (identity, at) = self.take_place();
        let inner = &mut self.levels[usize::from(level) - 1];
        encode_inner(&identity, level, &inner.children, &mut self.window[at..at + PAGE_BYTES]);
        let last = inner.children.last().expect("a page is placed when it has children").last;
        inner.children.clear();
        inner.begun = true;
        self.write_full_window(disk).await?;
        Ok(Child { last, page: identity.page })
    }

    /// Places the pages under way from the bottom up. A single child on a level without pages is the root itself.
    async fn place_inner_rest<D: Disk>(&mut self, disk: &D) -> Result<()> {
        for level in 1..=HEIGHT_MAX {
            let Some(inner) = self.levels.get(usize::from(level) - 1) else { return Ok(()) };
            match inner.children.len() {
                0 => continue,
                1 if !inner.begun => return Ok(()),
                _ => {
                    let child = self.place_inner(disk, level).await?;
                    self.add_child(disk, level + 1, child).await?;
                }
            }
        }
        Ok(())
    }

    /// The identity of the next page, and its place in the window.
    fn take_place(&mut self) -> (PageIdentity, usize) {
        let identity = PageIdentity {
            run: self.run,
            first_epoch: self.first_epoch,
            page: self.pages,
            address_bytes: self.layout.page_address_bytes(self.pages),
        };
        let at = (self.pages - self.window_start) as usize * PAGE_BYTES;
        self.pages += 1;
        (identity, at)
    }

    async fn write_full_window<D: Disk>(&mut self, disk: &D) -> Result<()> {
        let pages_max = (self.window.len() / PAGE_BYTES) as u64;
        if self.pages - self.window_start == self.layout.contiguous_pages(self.window_start, pages_max) {
            self.write_window(disk).await?;
        }
        Ok(())
    }

    async fn write_window<D: Disk>(&mut self, disk: &D) -> Result<()> {
        let length_bytes = (self.pages - self.window_start) as usize * PAGE_BYTES;
        if length_bytes == 0 {
            return Ok(());
        }
        self.failed = true;
        self.flush_failures_before.get_or_insert_with(|| disk.flush_failures());
        disk.write(self.layout.page_address_bytes(self.window_start), &self.window[..length_bytes]).await?;
        self.failed = false;
        self.window_start = self.pages;
        Ok(())
    }
}
