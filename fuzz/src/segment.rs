//! Any bytes as what lies in segments: records of before-images, and pages of runs.
//!
//! Input: a byte that chooses one of three readers, and what that reader is to find.
//!
//! What must hold: a header that is accepted says exactly what it was made of; a run gives the entries that were put
//! into it, or an error; an attach over any records gives a volume that works, or an error.

use crate::bytes::Bytes;
use crate::judge;
use crate::machine::{assert_typed, Machine, Pair};
use crate::memory::bounded;
use crate::scenario::{MetadataStore, VOLUME_BYTES};
use crate::seal::{seal_at, BLOCK_BYTES};
use cairn_engine::catalog::Catalog;
use cairn_engine::disk::aligned_buffer;
use cairn_engine::entry::Entry;
use cairn_engine::error::ErrorKind;
use cairn_engine::format::checksum;
use cairn_engine::format::geometry::Geometry;
use cairn_engine::format::item::{Consistency, Item, SegmentState, SnapshotRecord, VolumeFacts};
use cairn_engine::format::record::{RecordEntry, RecordHeader, RecordHome, RECORD_ENTRIES_MAX};
use cairn_engine::run::{pages_for, PageCache, Run, RunLayout, RunMeta, RunWriter};
use cairn_engine::sim::{block_on, SimDisk, SimDiskOptions};
use cairn_engine::units::Epoch;
use cairn_engine::volume::Accept;
use std::sync::{Arc, OnceLock};

const MEMORY_BYTES_MAX: usize = 32 << 20;
/// Entries that a run of an input may have: three leaves and their root.
const RUN_ENTRIES_MAX: u16 = 600;
/// Changes and records of an input.
const STEPS_MAX: usize = 64;

/// Reads what `data` describes.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let reader = bytes.u8();
    bounded(MEMORY_BYTES_MAX, || match reader % 3 {
        0 => header(&mut bytes),
        1 => pages(&mut bytes),
        _ => records(&mut bytes),
    });
}

/// A block as the header of a record: flag 1 seals it at its place; the rest are its bytes.
fn header(bytes: &mut Bytes) {
    let flags = bytes.u8();
    let home = RecordHome { store: [1; 16], lane: 0, segment: 3, incarnation: 2 };
    let address_bytes = u64::from(bytes.u8()) * BLOCK_BYTES;
    let fields = bytes.rest();
    let store = SimDisk::new(SimDiskOptions::new("store", 2 << 20));
    store.poke(address_bytes, &fields[..fields.len().min(BLOCK_BYTES as usize)]);
    if flags & 1 != 0 {
        seal_at(&store, address_bytes);
    }
    let block = store.peek(address_bytes, BLOCK_BYTES);
    let Some(header) = RecordHeader::decode(&home, address_bytes, &block) else { return };
    assert!(header.entries.len() <= RECORD_ENTRIES_MAX);
    let mut again = aligned_buffer(BLOCK_BYTES as usize);
    header.encode(address_bytes, &mut again);
    assert_eq!(RecordHeader::decode(&home, address_bytes, &again), Some(header));
}

/// A run of real entries; then bytes of its pages and what the catalog says of it are changed. Number of entries (u16),
/// distance of their blocks (u8), change of what the catalog says (field u8, value u64), then changes of pages: page
/// (u8), flags (u8, 1 seals), place (u16), a piece.
fn pages(bytes: &mut Bytes) {
    let store = SimDisk::new(SimDiskOptions::new("store", 2 << 20));
    let (count, step) = (1 + bytes.u16() % RUN_ENTRIES_MAX, 1 + u64::from(bytes.u8()));
    let (entries, written) = write_run(&store, count, step);
    let (mut meta, layout) = (written.meta().clone(), written.layout().clone());
    let mut lies = change_meta(&mut meta, bytes.u8(), bytes.u64());
    for _ in 0..STEPS_MAX {
        if bytes.is_empty() {
            break;
        }
        let page = u64::from(bytes.u8()) % written.meta().pages;
        let (flags, place, piece) = (bytes.u8(), u64::from(bytes.u16()) % BLOCK_BYTES, bytes.piece());
        let address_bytes = layout.segments_base_bytes + page * BLOCK_BYTES;
        store.poke(address_bytes + place, &piece[..piece.len().min((BLOCK_BYTES - place) as usize)]);
        if flags & 1 != 0 {
            seal_at(&store, address_bytes);
            lies = true;
        }
    }
    let Ok(run) = Run::open(meta, layout) else {
        assert!(lies, "what the engine wrote can be opened");
        return;
    };
    let expected = (!lies).then_some(&entries[..]);
    walk(&store, &Arc::new(run), expected);
}

fn write_run(store: &SimDisk, count: u16, step: u64) -> (Vec<Entry>, Run) {
    let entry = |number: u64| Entry {
        block: number / 2 * step,
        epoch: Epoch(10 + number % 2),
        address: 40 + number,
        checksum: number as u32,
    };
    let entries: Vec<Entry> = (0..u64::from(count)).map(entry).collect();
    let segments = (0..RunLayout::segments_for(pages_for(u64::from(count)).pages, 64 << 10) as u32).collect();
    let layout = RunLayout { segments, segments_base_bytes: 1 << 20, segment_bytes: 64 << 10 };
    let mut writer = RunWriter::new(9, Epoch(10), layout, u64::from(count));
    for entry in &entries {
        block_on(writer.push(store, *entry)).expect("the disk takes it");
    }
    (entries, block_on(writer.finish(store)).expect("the disk takes it").run)
}

/// Changes one field; true if that makes it say something else.
fn change_meta(meta: &mut RunMeta, field: u8, value: u64) -> bool {
    let before = meta.clone();
    match field {
        1 => meta.run = value,
        2 => meta.first_epoch = Epoch(value),
        3 => meta.last_epoch = Epoch(value),
        4 => meta.entries = value,
        5 => meta.pages = value,
        6 => meta.height = value as u8,
        7 => meta.first_block = value,
        8 => meta.last_block = value,
        _ => {}
    }
    *meta != before
}

/// Reads the run from front to back and by lookups. `expected`: what it must give where it gives anything.
fn walk(store: &SimDisk, run: &Arc<Run>, expected: Option<&[Entry]>) {
    let mut cursor = run.scan_all();
    let mut entries_max = run.meta().entries + 1;
    let mut previous = None;
    let end = loop {
        match block_on(cursor.next(store)) {
            Ok(Some(entry)) => {
                assert!(previous < Some(entry.key()), "entries come in ascending order");
                previous = Some(entry.key());
                assert!(expected.is_none_or(|expected| expected.contains(&entry)), "{entry:?} was never written");
            }
            other => break other,
        }
        entries_max = entries_max.checked_sub(1).expect("a cursor ends");
    };
    if let Err(error) = end {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    }
    let cache = PageCache::new(2);
    for block in (0..40).chain([run.meta().last_block, u64::MAX - 1]) {
        for epoch in [0, 10, 11, u64::MAX] {
            match block_on(run.successor(store, &cache, block, Epoch(epoch))) {
                Ok(found) => {
                    let Some(expected) = expected else { continue };
                    let fits = |entry: &&Entry| entry.block == block && entry.epoch.0 >= epoch;
                    assert_eq!(found.as_ref(), expected.iter().find(fits));
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}"),
            }
        }
    }
}

/// Records in the segments of two lanes, over which the volume is attached. A record: segment (u8), where in it (u8, in
/// blocks), session, sequence, epoch, attempts (u8 each), flags (u8), number of entries (u8), then for each a block
/// (u16); flag 1 damages an image, 2 the header, 4 gives the blocks in the upper half of 64 bits.
fn records(bytes: &mut Bytes) {
    let disks = lane_store();
    let catalog = block_on(Catalog::open(&disks.store)).expect("it is whole");
    let geometry = catalog.superblock().geometry;
    for _ in 0..STEPS_MAX {
        if bytes.is_empty() {
            break;
        }
        record(bytes, &disks.store, &geometry, catalog.superblock().store_id);
    }
    let mut machine = match Machine::attach(disks, Accept::default()) {
        Ok(machine) => machine,
        Err(error) => return assert_typed("attach", &error),
    };
    judge::exercise(&mut machine);
    let (result, _) = machine.detach();
    if let Err(error) = result {
        assert_typed("detach", &error);
    }
}

fn record(bytes: &mut Bytes, store: &SimDisk, geometry: &Geometry, store_id: [u8; 16]) {
    let segment = u32::from(bytes.u8()) % LANE_SEGMENTS;
    let segment_blocks = u64::from(geometry.segment_bytes) / BLOCK_BYTES;
    let at = u64::from(bytes.u8()) % segment_blocks;
    let (session, sequence, epoch) = (bytes.u8().into(), bytes.u8().into(), Epoch(bytes.u8().into()));
    let (attempts, flags, count) = (bytes.u8(), bytes.u8(), bytes.u8());
    let address_bytes = geometry.segment_offset_bytes(segment) + at * BLOCK_BYTES;
    let image = vec![count; BLOCK_BYTES as usize];
    let mut entries = Vec::new();
    for index in 1..=u64::from(count).min(RECORD_ENTRIES_MAX as u64) {
        let block = u64::from(bytes.u16());
        let block = if flags & 4 != 0 { !block } else { block };
        entries.push(RecordEntry {
            block,
            checksum: checksum::image(&image),
            unreadable: flags & 8 != 0,
            is_mark: flags & 16 != 0,
        });
        if at + index < segment_blocks {
            store.poke(address_bytes + index * BLOCK_BYTES, &image);
        }
    }
    let header = RecordHeader {
        lane: (segment % 2) as u16,
        session,
        sequence,
        epoch,
        attempt: u32::from(attempts & 15),
        predecessor_attempt: u32::from(attempts >> 4),
        store: store_id,
        segment,
        incarnation: 1,
        entries,
    };
    let mut block = aligned_buffer(BLOCK_BYTES as usize);
    header.encode(address_bytes, &mut block);
    if flags & 2 != 0 {
        block[100] ^= 1;
    }
    store.poke(address_bytes, &block);
    if flags & 1 != 0 && at + 1 < segment_blocks {
        store.flip(address_bytes + BLOCK_BYTES + 7, 1);
    }
}

/// Segments that lanes have in the store of [`lane_store`].
const LANE_SEGMENTS: u32 = 6;

/// An origin, and a store with three snapshots whose lanes have segments.
fn lane_store() -> Pair {
    static STORE: OnceLock<SimDisk> = OnceLock::new();
    let store = STORE.get_or_init(|| {
        let store = SimDisk::new(SimDiskOptions::new("store", MetadataStore::STORE_BYTES));
        let facts = VolumeFacts { size_bytes: VOLUME_BYTES, active_epoch: Epoch(4), flush_failed: false };
        let mut items = vec![Item::Volume(facts)];
        for epoch in 2..=4 {
            items.push(Item::SnapshotPut(SnapshotRecord {
                epoch: Epoch(epoch),
                created_unix_ms: 0,
                size_bytes: VOLUME_BYTES,
                flags: 0,
                consistency: Consistency::Crash,
                broken: None,
                name: format!("s{epoch}"),
                reason: String::new(),
            }));
        }
        for first in 0..LANE_SEGMENTS {
            let state = SegmentState::Lane { lane: (first % 2) as u16 };
            items.push(Item::Segments { first, count: 1, state, incarnation: 1 });
        }
        block_on(Catalog::create(&store, MetadataStore::get().decoded(), &items)).expect("the disk takes it");
        store
    });
    let origin = SimDisk::new(SimDiskOptions::new("origin", VOLUME_BYTES));
    crate::machine::copy_of(&Pair { origin, store: store.clone() })
}
