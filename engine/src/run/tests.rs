//! Runs against an oracle: a `BTreeMap` of the same entries.

use super::page::{Key, INNER_CHILDREN_MAX, LEAF_ENTRIES_MAX};
use super::*;
use crate::disk::Disk;
use crate::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{Epoch, SegmentIndex};
use fastrand::Rng;
use futures_util::FutureExt;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

const SEGMENTS_BASE_BYTES: u64 = 1 << 16;
const FIRST_EPOCH: u64 = 1000;
type Oracle = BTreeMap<Key, Entry>;

/// A disk in memory that completes at once and counts.
#[derive(Default)]
struct MemoryDisk {
    bytes: RefCell<Vec<u8>>,
    reads: Cell<u64>,
    writes: Cell<u64>,
    written_bytes: Cell<u64>,
    flushed_writes: Cell<u64>,
    longest_bytes: Cell<usize>,
    fail: Cell<bool>,
}

impl MemoryDisk {
    fn transfer(&self, offset_bytes: u64, length_bytes: usize) -> Result<()> {
        assert!(offset_bytes.is_multiple_of(4096) && length_bytes.is_multiple_of(4096) && length_bytes > 0);
        self.longest_bytes.set(self.longest_bytes.get().max(length_bytes));
        if self.fail.get() {
            return Err(Error::new(ErrorKind::Io, "transfer", "memory").at(offset_bytes));
        }
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        1 << 40
    }
    fn sector_bytes(&self) -> u32 {
        4096
    }
    fn discard_bytes_max(&self) -> u64 {
        0
    }
    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.transfer(offset_bytes, buffer.len())?;
        self.reads.set(self.reads.get() + 1);
        let bytes = self.bytes.borrow();
        buffer.copy_from_slice(&bytes[offset_bytes as usize..offset_bytes as usize + buffer.len()]);
        Ok(())
    }
    async fn write(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        self.transfer(offset_bytes, data.len())?;
        self.writes.set(self.writes.get() + 1);
        self.written_bytes.set(self.written_bytes.get() + data.len() as u64);
        let mut bytes = self.bytes.borrow_mut();
        let end = offset_bytes as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0xa5);
        }
        bytes[offset_bytes as usize..end].copy_from_slice(data);
        Ok(())
    }
    async fn write_durable(&self, _: u64, _: &[u8]) -> Result<()> {
        panic!("a run needs no durable write: it ends with a flush")
    }
    async fn write_zeroes(&self, _: u64, _: u64, _: bool) -> Result<()> {
        panic!("a run zeroes nothing")
    }
    async fn discard(&self, _: u64, _: u64) -> Result<()> {
        panic!("a run discards nothing")
    }
    fn flush_failures(&self) -> u64 {
        0
    }

    async fn flush(&self) -> Result<()> {
        self.flushed_writes.set(self.writes.get());
        Ok(())
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory disk never waits")
}

/// `count` entries; each block has one to four epochs, now and then hundreds.
fn random_entries(rng: &mut Rng, count: usize) -> Oracle {
    let mut oracle = Oracle::new();
    let mut block = rng.u64(..50);
    while oracle.len() < count {
        let epochs = if rng.u32(..200) == 0 { 500 } else { rng.usize(1..5) };
        for _ in 0..epochs.min(count - oracle.len()) {
            let epoch = Epoch(FIRST_EPOCH + rng.u64(..1000));
            let entry = Entry { block, epoch, address: rng.u64(..1 << 48), checksum: rng.u32(..) };
            oracle.insert(entry.key(), entry);
        }
        block += 1 + rng.u64(..3);
    }
    oracle
}

/// As many segments as a run of `entries` can need and `spare` more, in no order and with holes between.
fn layout(rng: &mut Rng, entries: u64, segment_bytes: u64, spare: u64) -> RunLayout {
    let count = RunLayout::segments_for(pages_for(entries).pages, segment_bytes) + spare;
    let mut segments: Vec<SegmentIndex> = (0..count as u32 * 2).collect();
    rng.shuffle(&mut segments);
    segments.truncate(count as usize);
    RunLayout { segments, segments_base_bytes: SEGMENTS_BASE_BYTES, segment_bytes }
}

fn write(disk: &MemoryDisk, run: u64, layout: RunLayout, expected: u64, entries: &Oracle) -> WrittenRun {
    let mut writer = RunWriter::new(run, Epoch(FIRST_EPOCH), layout, expected);
    for entry in entries.values() {
        now(writer.push(disk, *entry)).unwrap();
    }
    now(writer.finish(disk)).unwrap()
}

fn written(disk: &MemoryDisk, rng: &mut Rng, entries: &Oracle, segment_bytes: u64) -> Arc<Run> {
    let count = entries.len() as u64;
    let layout = layout(rng, count, segment_bytes, 0);
    Arc::new(write(disk, 7, layout, count, entries).run)
}

fn expected(oracle: &Oracle, block: u64, min_epoch: Epoch) -> Option<Entry> {
    oracle.range((block, min_epoch)..(block + 1, Epoch(0))).next().map(|(_, entry)| *entry)
}

fn collect(disk: &MemoryDisk, mut cursor: Cursor) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    while let Some(entry) = now(cursor.next(disk))? {
        entries.push(entry);
    }
    Ok(entries)
}

fn check_against_oracle(rng: &mut Rng, count: usize, segment_bytes: u64) {
    let disk = MemoryDisk::default();
    let oracle = random_entries(rng, count);
    let run = written(&disk, rng, &oracle, segment_bytes);
    assert_eq!(run.meta().entries, count as u64);
    let end = run.meta().last_block + 5;
    let cache = PageCache::new(rng.usize(1..100));
    for _ in 0..500 {
        let block = rng.u64(..end);
        let min_epoch = Epoch(FIRST_EPOCH - 10 + rng.u64(..1030));
        let found = now(run.successor(&disk, &cache, block, min_epoch)).unwrap();
        assert_eq!(found, expected(&oracle, block, min_epoch), "block {block} from epoch {min_epoch}");

        let blocks = block..block + rng.u64(..140);
        let taken = Entry { block: 1, epoch: Epoch(1), address: 1, checksum: 1 };
        let before: Vec<Option<Entry>> = blocks.clone().map(|_| (rng.u32(..4) == 0).then_some(taken)).collect();
        let mut out = before.clone();
        now(run.lookup_range(&disk, &cache, blocks.clone(), min_epoch, &mut out)).unwrap();
        for (slot, block) in blocks.enumerate() {
            assert_eq!(out[slot], before[slot].or(expected(&oracle, block, min_epoch)), "block {block} of a range");
        }
    }
    assert_eq!(collect(&disk, run.scan_all()).unwrap(), oracle.values().copied().collect::<Vec<_>>());
    for _ in 0..10 {
        let from = rng.u64(..end);
        let cursor = now(run.scan(&disk, &cache, from)).unwrap();
        let rest: Vec<Entry> = oracle.range((from, Epoch(0))..).map(|(_, entry)| *entry).collect();
        assert_eq!(collect(&disk, cursor).unwrap(), rest, "scan from block {from}");
    }
    assert!(disk.longest_bytes.get() <= 64 * PAGE_BYTES, "no transfer is longer than a window");
}

#[test]
fn lookups_ranges_and_scans_agree_with_the_oracle_at_every_size() {
    let mut rng = Rng::with_seed(1);
    for count in [0, 1, 2, 202, 203, 204, 406, 407, 5_000] {
        for segment_bytes in [4096, 3 * 4096, 1 << 20] {
            check_against_oracle(&mut rng, count, segment_bytes);
        }
    }
    check_against_oracle(&mut rng, 50_000, 64 * 4096);
}

#[test]
fn a_run_of_three_levels_agrees_with_the_oracle() {
    let mut rng = Rng::with_seed(2);
    let boundary = LEAF_ENTRIES_MAX * INNER_CHILDREN_MAX;
    for count in [boundary - 1, boundary, boundary + 1, 3 * boundary + 77] {
        check_against_oracle(&mut rng, count, 1 << 20);
    }
}

#[test]
fn every_flipped_byte_gives_the_right_answer_or_corrupt() {
    let mut rng = Rng::with_seed(3);
    let disk = MemoryDisk::default();
    let oracle = random_entries(&mut rng, 500);
    let run = written(&disk, &mut rng, &oracle, 2 * 4096);
    let all: Vec<Entry> = oracle.values().copied().collect();
    for page in 0..run.meta().pages {
        let address = run.identity(page).address_bytes as usize;
        for byte in address..address + PAGE_BYTES {
            let original = disk.bytes.borrow()[byte];
            disk.bytes.borrow_mut()[byte] ^= 1 << rng.u32(..8);
            let cache = PageCache::new(10);
            let wanted = all[rng.usize(..all.len())];
            match now(run.successor(&disk, &cache, wanted.block, wanted.epoch)) {
                Ok(found) => assert_eq!(found, Some(wanted)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
            }
            let scan = collect(&disk, run.scan_all()).expect_err("a scan reads every page");
            assert_eq!(scan.kind(), ErrorKind::Corrupt);
            assert!(scan.to_string().contains(&address.to_string()), "the error names the byte: {scan}");
            disk.bytes.borrow_mut()[byte] = original;
        }
    }
    assert_eq!(collect(&disk, run.scan_all()).unwrap(), all);
}

#[test]
fn a_page_of_another_run_in_place_of_ours_is_corrupt() {
    let mut rng = Rng::with_seed(4);
    let disk = MemoryDisk::default();
    let oracle = random_entries(&mut rng, 1000);
    let run = written(&disk, &mut rng, &oracle, 1 << 20);
    write(&disk, 8, run.layout().clone(), 1000, &random_entries(&mut rng, 1000));
    let cache = PageCache::new(10);
    let block = oracle.values().next().unwrap().block;
    let error = now(run.successor(&disk, &cache, block, Epoch(0))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_valid_page_that_is_not_the_one_its_parent_knew_is_corrupt() {
    let mut rng = Rng::with_seed(13);
    let disk = MemoryDisk::default();
    let oracle = random_entries(&mut rng, 1000);
    let run = written(&disk, &mut rng, &oracle, 1 << 20);
    let root = run.identity(run.meta().pages - 1).address_bytes as usize;
    let root_bytes = disk.bytes.borrow()[root..root + PAGE_BYTES].to_vec();
    // What must never happen: the run's id used again, here for a run of other entries on the same pages.
    write(&disk, run.meta().run, run.layout().clone(), 1000, &random_entries(&mut rng, 1000));
    disk.bytes.borrow_mut()[root..root + PAGE_BYTES].copy_from_slice(&root_bytes);
    let block = oracle.values().next().unwrap().block;
    let error = now(run.successor(&disk, &PageCache::new(10), block, Epoch(0))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("does not match the page above it"), "{error}");
}

#[test]
fn a_failed_read_is_reported_and_not_cached() {
    let mut rng = Rng::with_seed(5);
    let disk = MemoryDisk::default();
    let oracle = random_entries(&mut rng, 1000);
    let run = written(&disk, &mut rng, &oracle, 1 << 20);
    let (cache, entry) = (PageCache::new(10), *oracle.values().next().unwrap());
    let mut cursor = run.scan_all();
    disk.fail.set(true);
    assert_eq!(now(run.successor(&disk, &cache, entry.block, Epoch(0))).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(now(cursor.next(&disk)).unwrap_err().kind(), ErrorKind::Io);
    disk.fail.set(false);
    assert_eq!(now(run.successor(&disk, &cache, entry.block, Epoch(0))).unwrap(), Some(entry));
    assert_eq!(collect(&disk, cursor).unwrap().len(), 1000, "the cursor goes on where it was");
}

#[test]
#[should_panic(expected = "given up")]
fn a_writer_that_failed_cannot_finish() {
    let mut rng = Rng::with_seed(6);
    let disk = MemoryDisk::default();
    disk.fail.set(true);
    let mut writer = RunWriter::new(1, Epoch(FIRST_EPOCH), layout(&mut rng, 20_000, 4096, 0), 20_000);
    for entry in random_entries(&mut rng, 20_000).values() {
        if now(writer.push(&disk, *entry)).is_err() {
            break;
        }
    }
    let _ = now(writer.finish(&disk));
}

#[test]
fn a_cold_lookup_reads_at_most_the_height_and_a_warm_one_nothing() {
    let mut rng = Rng::with_seed(7);
    let disk = MemoryDisk::default();
    let oracle = random_entries(&mut rng, 200_000);
    let run = written(&disk, &mut rng, &oracle, 1 << 20);
    assert_eq!(run.meta().height, 3);
    for _ in 0..1000 {
        let block = rng.u64(..run.meta().last_block + 2);
        let min_epoch = Epoch(FIRST_EPOCH + rng.u64(..1001));
        let cache = PageCache::new(16 * 3);
        for reads_max in [3, 0] {
            let before = disk.reads.get();
            now(run.successor(&disk, &cache, block, min_epoch)).unwrap();
            assert!(disk.reads.get() - before <= reads_max);
        }
    }
    let before = disk.reads.get();
    let cache = PageCache::new(100);
    now(run.successor(&disk, &cache, run.meta().last_block + 1, Epoch(0))).unwrap();
    now(run.successor(&disk, &cache, 0, run.meta().last_epoch.next())).unwrap();
    assert_eq!(disk.reads.get(), before, "outside the run's blocks and epochs nothing is read");
}

#[test]
fn writing_a_large_run_costs_little_more_than_its_entries() {
    let mut rng = Rng::with_seed(8);
    let disk = MemoryDisk::default();
    let count = 200_000;
    let entries = random_entries(&mut rng, count);
    let run = written(&disk, &mut rng, &entries, 1 << 20);
    let per_entry_bytes = disk.written_bytes.get() as f64 / count as f64;
    assert!(per_entry_bytes <= 0.006 * 4096.0, "{per_entry_bytes} bytes per entry");
    assert_eq!(disk.written_bytes.get(), run.meta().pages * PAGE_BYTES as u64, "each page is written once");
    assert_eq!(disk.writes.get(), run.meta().pages.div_ceil(64), "a window at a time");
    assert_eq!(disk.flushed_writes.get(), disk.writes.get(), "the last thing is the flush");
}

#[test]
fn fewer_entries_than_expected_give_segments_back() {
    let mut rng = Rng::with_seed(9);
    let disk = MemoryDisk::default();
    let oracle = random_entries(&mut rng, 1000);
    let layout = layout(&mut rng, 10_000, 4 * 4096, 3);
    let all = layout.segments.clone();
    let WrittenRun { run, unused } = write(&disk, 7, layout, 10_000, &oracle);
    assert_eq!(run.layout().segments, all[..2], "six pages take two segments");
    assert_eq!(unused, all[2..]);
    assert_eq!(collect(&disk, Arc::new(run).scan_all()).unwrap().len(), 1000);
}

#[test]
fn a_run_whose_description_contradicts_itself_does_not_open() {
    let mut rng = Rng::with_seed(10);
    let disk = MemoryDisk::default();
    let oracle = random_entries(&mut rng, 1000);
    let run = written(&disk, &mut rng, &oracle, 2 * 4096);
    let refused = |change: &dyn Fn(&mut RunMeta, &mut RunLayout)| {
        let (mut meta, mut layout) = (run.meta().clone(), run.layout().clone());
        change(&mut meta, &mut layout);
        let result = Run::open(meta, layout);
        assert_eq!(result.expect_err("must not open").kind(), ErrorKind::Corrupt);
    };
    refused(&|meta, _| meta.entries = u64::MAX);
    refused(&|meta, _| meta.pages += 1);
    refused(&|meta, _| meta.height += 1);
    refused(&|meta, _| meta.last_block = 0);
    refused(&|_, layout| layout.segments.truncate(1));
    refused(&|_, layout| layout.segment_bytes = 100);
    assert!(Run::open(run.meta().clone(), run.layout().clone()).is_ok());
}

#[test]
fn merging_gives_every_key_once_and_the_first_source_wins() {
    let mut rng = Rng::with_seed(11);
    let disk = MemoryDisk::default();
    let mut runs = Vec::new();
    let mut oracle = Oracle::new();
    let mut total = 0;
    for id in 0..4 {
        let entries = random_entries(&mut rng, 3000);
        total += entries.len();
        let mut layout = layout(&mut rng, 3000, 2 * 4096, 0);
        layout.segments_base_bytes += id * (1 << 20);
        runs.push(Arc::new(write(&disk, id, layout, 3000, &entries).run));
        entries.into_iter().for_each(|(key, entry)| {
            oracle.entry(key).or_insert(entry);
        });
    }
    let mut merge = Merge::new(runs.iter().map(Run::scan_all).collect());
    let (mut kept, mut dropped) = (Vec::new(), 0);
    while let Some(merged) = now(merge.next(&disk, &mut |_, _| true)).unwrap() {
        match merged {
            Merged::Kept(entry) => kept.push(entry),
            Merged::Dropped(entry) => {
                dropped += 1;
                assert_ne!(oracle[&entry.key()], entry);
            }
        }
    }
    assert_eq!(kept, oracle.into_values().collect::<Vec<_>>());
    assert!(dropped > 0, "the sources share keys");
    assert_eq!(kept.len() + dropped, total, "every entry is accounted for");
}

#[test]
fn a_merge_that_keeps_the_oldest_of_each_block_drops_the_younger_ones() {
    let mut rng = Rng::with_seed(12);
    let disk = MemoryDisk::default();
    let oracle = random_entries(&mut rng, 3000);
    let run = written(&disk, &mut rng, &oracle, 1 << 20);
    // The same run twice: the second lists the same images again, which is neither kept nor a loss.
    let mut merge = Merge::new(vec![run.scan_all(), run.scan_all()]);
    let mut oldest: BTreeMap<u64, Entry> = BTreeMap::new();
    oracle.values().for_each(|entry| {
        oldest.entry(entry.block).or_insert(*entry);
    });
    let (mut kept, mut dropped) = (Vec::new(), 0);
    let mut keep = |before: Option<&Entry>, _: &Entry| before.is_none();
    while let Some(merged) = now(merge.next(&disk, &mut keep)).unwrap() {
        match merged {
            Merged::Kept(entry) => kept.push(entry),
            Merged::Dropped(_) => dropped += 1,
        }
    }
    assert_eq!(kept.len() + dropped, oracle.len());
    assert_eq!(kept, oldest.into_values().collect::<Vec<_>>());
}

#[test]
fn runs_caches_and_cursors_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<Run>();
    shared::<PageCache>();
    moved::<Cursor>();
    moved::<Merge>();
    moved::<RunWriter>();
}
