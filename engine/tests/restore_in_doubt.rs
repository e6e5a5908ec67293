//! A restore that the store did not confirm, or whose index is damaged: the volume is what it was, or what it was taken
//! back to, or the owner has said that a mixture will do.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::{ErrorKind, Result};
use cairn_engine::format::geometry::Geometry;
use cairn_engine::lane::Lane;
use cairn_engine::sim::rig::{open_options, snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, SimDisk, SimDiskOptions};
use cairn_engine::snapshot::Snapshot;
use cairn_engine::volume::{Limits, Volume};
use std::rc::Rc;
use std::sync::Arc;

const BLOCKS: u64 = 64;
const STORE_BYTES: u64 = 8 << 20;
const SEGMENT_BYTES: u32 = 64 << 10;

fn limits() -> Limits {
    Limits {
        spill_entries: 8,
        entries_max: 64,
        cache_pages: 8,
        reserve_segments: 2,
        restore_step_blocks: 8,
        ..Limits::default()
    }
}

/// A volume that holds 2 everywhere, and a snapshot `a` of when it held 1.
fn rig() -> Rig {
    let (origin, store) = (SimDiskOptions::new("origin", BLOCKS * 4096), SimDiskOptions::new("store", STORE_BYTES));
    let rig = Rig::new(origin, store, SEGMENT_BYTES, limits());
    rig.write(0, (BLOCKS * 4096) as usize, 1).expect("no fault yet");
    rig.snapshot("a").expect("no fault yet");
    rig.write(0, (BLOCKS * 4096) as usize, 2).expect("no fault yet");
    rig.work().expect("no fault yet");
    rig
}

fn restore(rig: &Rig) -> Result<Snapshot> {
    let (target, before, deadline) = (snapshot_name("a"), snapshot_name("before"), Deadline::new());
    block_on(rig.volume.restore(&rig.disks, &target, &before, snapshot_options(), &deadline))
}

#[test]
fn a_restore_that_the_store_did_not_confirm_moves_nothing_before_it_does() {
    let catalog = 0..Geometry::plan(STORE_BYTES, SEGMENT_BYTES).expect("it fits").segments_base_bytes;
    let mut in_doubt = 0;
    for from in 0.. {
        let rig = rig();
        rig.disks.store.inject(Fault::persistent(FaultTarget::Write, from).within(catalog.clone()));
        let result = restore(&rig);
        in_doubt += u32::from(result.is_err() && rig.volume.restore_progress().is_some());
        // The background tries, whatever comes of it.
        for _ in 0..20 {
            let _ = block_on(rig.volume.background_step(&rig.control));
        }
        for crash in [Crash::Process, Crash::Power] {
            let disks =
                Disks { origin: rig.disks.origin.crash(from, crash), store: rig.disks.store.crash(!from, crash) };
            let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("the store works again");
            let content = rig.read(0, (BLOCKS * 4096) as usize).expect("the store works again");
            let same = content.iter().all(|byte| *byte == content[0]);
            assert!(same && content[0] != 0, "a mixture after {crash:?}, with writes failing from {from}");
        }
        if result.is_ok() {
            break;
        }
    }
    assert!(in_doubt > 0, "no restore was in doubt");
}

/// Attaches, giving up a restore if need be.
fn attach(disks: Disks<SimDisk>, abandon: bool) -> Result<(Arc<Volume>, Rc<Disks<SimDisk>>)> {
    let disks = Rc::new(disks);
    let mut options = open_options(2, limits(), &StateDirectory::default());
    options.accept.abandoned_restore = abandon;
    Ok((block_on(Volume::open(&disks, options))?, disks))
}

#[test]
fn whatever_page_of_the_index_is_damaged_the_owner_can_attach_by_giving_the_restore_up() {
    let mut refused = 0;
    for steps in 1..14 {
        let rig = rig();
        restore(&rig).expect("no fault yet");
        for _ in 0..steps {
            block_on(rig.volume.background_step(&rig.control)).expect("no fault yet");
        }
        let store = &rig.disks.store;
        let pages: Vec<u64> = (0..STORE_BYTES).step_by(4096).filter(|at| store.peek(*at, 4) == b"CrnR").collect();
        for page in pages {
            let disks = || {
                let (origin, store) = (rig.disks.origin.crash(1, Crash::Process), store.crash(1, Crash::Process));
                store.flip(page + 100, 4);
                Disks { origin, store }
            };
            if let Err(error) = attach(disks(), false) {
                assert_eq!(error.kind(), ErrorKind::Broken, "{error:?}");
                refused += 1;
                let (volume, disks) = attach(disks(), true).expect("the owner gives the restore up");
                assert!(volume.restore_progress().is_none());
                let lane = Lane::new(volume, 0, Rc::clone(&disks));
                block_on(lane.read(0, &mut aligned_buffer((BLOCKS * 4096) as usize))).expect("the origin works");
            }
        }
    }
    assert!(refused > 0, "no damage stood in the way of a restore");
}
