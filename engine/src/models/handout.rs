//! Segments on their way to lanes: a whole volume on simulated disks, whose reserves are empty.

use super::explore;
use crate::disk::Disks;
use crate::format::item::SegmentState;
use crate::sim::disk::{Crash, SimDisk, SimDiskOptions};
use crate::sim::executor;
use crate::sim::rig::{create_options, open_options, StateDirectory};
use crate::volume::{create, Limits, Volume};
use ::loom::thread;
use std::collections::BTreeSet;
use std::sync::Arc;

const SEGMENT_BYTES: u32 = 64 << 10;
const LANES: u16 = 2;
const LIMITS: Limits = Limits {
    spill_entries: 64,
    entries_max: 128,
    cache_pages: 1,
    reserve_segments: 2,
    restore_step_blocks: 1,
    bitmap_bytes: 1 << 20,
};

/// A new store beside an empty origin.
fn new_store() -> Disks<SimDisk> {
    let disk = |name, size_bytes| SimDisk::new(SimDiskOptions::new(name, size_bytes));
    let disks = Disks { origin: disk("origin", 64 << 10), store: disk("store", 4 << 20) };
    executor::block_on(create(&disks, &create_options(SEGMENT_BYTES))).expect("the store is large enough");
    disks
}

fn copy(disks: &Disks<SimDisk>) -> Disks<SimDisk> {
    let copy = |disk: &SimDisk| disk.crash(0, Crash::Process);
    Disks { origin: copy(&disks.origin), store: copy(&disks.store) }
}

/// A volume is opened on a larger stack than loom gives its threads.
const STACK_WORDS: usize = 1 << 17;

fn hand_out(store: &Disks<SimDisk>, segments_each: usize) {
    let disks = Arc::new(copy(store));
    let options = open_options(LANES, LIMITS, &StateDirectory::default());
    let volume = executor::block_on(Volume::open(&disks, options)).expect("a new store can be opened");
    let take = move |volume: &Volume, disks: &Disks<SimDisk>, lane: u16| {
        Vec::from_iter((0..segments_each).map(|_| {
            let handed = super::block_on(volume.take_segment(disks, lane, || true));
            (handed.expect("the store is not full").segment, lane)
        }))
    };
    let (other, others_disks) = (volume.clone(), disks.clone());
    let thread = thread::Builder::new().stack_size(STACK_WORDS).spawn(move || take(&other, &others_disks, 1));
    let thread = thread.expect("loom has room for it");
    let mut taken = take(&volume, &disks, 0);
    taken.extend(thread.join().expect("the other lane ends"));

    let ledger = super::block_on(volume.ledger.lock());
    let mut owned = BTreeSet::new();
    for lane in 0..LANES {
        let reserve = volume.lanes[usize::from(lane)].reserve.lock().expect("nobody panics");
        taken.extend(reserve.iter().map(|handed| (handed.segment, lane)));
    }
    for (segment, lane) in taken {
        assert!(owned.insert(segment), "segment {segment} has two owners");
        let state = ledger.catalog.state().segments[segment as usize].state;
        assert!(matches!(state, SegmentState::Lane { lane: owner } if owner == lane), "the catalog knows the owner");
    }
    let total = ledger.catalog.state().segments.len();
    assert_eq!(owned.len() + ledger.free_count(), total, "no segment is lost");
}

#[test]
fn no_segment_has_two_owners_and_none_is_lost() {
    let store = Arc::new(new_store());
    explore("hand-out", move || {
        let store = store.clone();
        let model = thread::Builder::new().stack_size(STACK_WORDS).spawn(move || hand_out(&store, 2));
        model.expect("loom has room for it").join().expect("the model ends");
    });
}
