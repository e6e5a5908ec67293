//! An append costs what its items name, not what exists: counted in bytes allocated, on a large store.
#![allow(unsafe_code)]

use cairn_engine::catalog::Catalog;
use cairn_engine::format::geometry::Geometry;
use cairn_engine::format::item::{Consistency, Item, RunRecord, SegmentState, SnapshotRecord, VolumeFacts};
use cairn_engine::format::superblock::{OriginIdentity, Superblock};
use cairn_engine::sim::{block_on, SimDisk, SimDiskOptions};
use cairn_engine::units::Epoch;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATED_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting what each thread asks for.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED_BYTES.with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn snapshot(epoch: u64) -> Item {
    Item::SnapshotPut(SnapshotRecord {
        epoch: Epoch(epoch),
        created_unix_ms: epoch,
        size_bytes: 1 << 40,
        flags: 0,
        consistency: Consistency::Crash,
        broken: None,
        name: format!("snapshot-{epoch}"),
        reason: String::new(),
    })
}

fn volume(epoch: u64) -> Item {
    Item::Volume(VolumeFacts { size_bytes: 1 << 40, active_epoch: Epoch(epoch), flush_failed: false })
}

fn run_of(run: u64) -> Item {
    let (first_epoch, last_epoch) = (Epoch(run), Epoch(run));
    Item::RunPut(RunRecord {
        run,
        first_epoch,
        last_epoch,
        entries: 1,
        pages: 1,
        height: 1,
        first_block: 0,
        last_block: 0,
    })
}

/// A store of so many segments, none like its neighbour, with so many snapshots and runs.
fn store_with(segments: u32, snapshots: u64) -> (SimDisk, Catalog) {
    let segment_bytes = 1 << 20;
    let store_bytes = u64::from(segments) * u64::from(segment_bytes) + (256 << 20);
    let geometry = Geometry::plan(store_bytes, segment_bytes).expect("it fits");
    let disk = SimDisk::new(SimDiskOptions::new("store", store_bytes));
    let origin = OriginIdentity { size_bytes: 1 << 40, sector_bytes: 512 };
    let mut items = vec![volume(snapshots)];
    items.extend((0..segments).map(|first| Item::Segments {
        first,
        count: 1,
        state: SegmentState::Data { epoch: Epoch(u64::from(first % 7)) },
        incarnation: 1,
    }));
    items.extend((1..snapshots).flat_map(|epoch| [snapshot(epoch), run_of(epoch)]));
    let superblock = Superblock::new([7; 16], [8; 16], geometry, origin);
    let catalog = block_on(Catalog::create(&disk, superblock, &items)).expect("created");
    (disk, catalog)
}

/// Bytes allocated by the append of a cut and of what a hand-out and a seal say.
fn append_bytes(segments: u32, snapshots: u64) -> usize {
    let (disk, mut catalog) = store_with(segments, snapshots);
    let before = catalog.superblock().catalog.generation;
    let freed = Item::Segments { first: 8, count: 4, state: SegmentState::Free, incarnation: 1 };
    let items = [volume(snapshots), snapshot(snapshots), freed, run_of(snapshots), Item::WatchReset];
    let start = ALLOCATED_BYTES.with(Cell::get);
    block_on(catalog.append(&disk, &items)).expect("appended");
    let allocated = ALLOCATED_BYTES.with(Cell::get) - start;
    assert_eq!(catalog.superblock().catalog.generation, before, "no checkpoint was due");
    assert_eq!(catalog.state().snapshots.len() as u64, snapshots);
    allocated
}

#[test]
fn an_append_costs_the_same_on_a_store_of_any_size() {
    let (small, large) = (append_bytes(100, 10), append_bytes(100_000, 3_000));
    println!("an append allocates {small} bytes on a small store, {large} on a large one");
    assert!(large <= small + 8192, "{large} bytes, {small} on a small store");
    assert!(large < 128 << 10, "{large} bytes");
}
