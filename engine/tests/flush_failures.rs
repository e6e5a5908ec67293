//! Law 4: a failed flush is known to everybody whose data it may have lost, and at once.

use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::ErrorKind;
use cairn_engine::lane::Lane;
use cairn_engine::sim::disk::{Crash, SimDisk, SimDiskOptions};
use cairn_engine::sim::executor::{block_on, Scheduler};
use cairn_engine::sim::faults::{Fault, FaultTarget};
use cairn_engine::sim::rig::{create_options, open_options, StateDirectory};
use cairn_engine::volume::{create, Limits, Volume};
use std::rc::Rc;
use std::sync::Arc;

const OFFSET_BYTES: u64 = 40 << 12;

/// One lane writes, then two lanes flush at the same time and the disk fails one of the flushes. Tells whether the other
/// lane was told that its flush went well, and the origin.
fn flush_twice(seed: u64) -> (bool, SimDisk) {
    let disk = |name, size_bytes| SimDisk::new(SimDiskOptions { seed, ..SimDiskOptions::new(name, size_bytes) });
    let disks = Rc::new(Disks { origin: disk("origin", 1 << 20), store: disk("store", 8 << 20) });
    block_on(create(&disks, &create_options(64 << 10))).expect("the store is large enough");
    let options = open_options(2, Limits::default(), &StateDirectory::default());
    let volume = block_on(Volume::open(&disks, options)).expect("a new store can be opened");
    let lanes = [0, 1].map(|index| Lane::new(Arc::clone(&volume), index, Rc::clone(&disks)));
    let mut page = aligned_buffer(4096);
    page.fill(1);
    block_on(lanes[0].write(OFFSET_BYTES, &page, false)).expect("the disk works");

    disks.origin.inject(Fault::once(FaultTarget::Flush, 0));
    let mut scheduler = Scheduler::new(seed);
    scheduler.drive(&disks.origin);
    scheduler.drive(&disks.store);
    let flushes = lanes.map(|lane| scheduler.spawn("flush", async move { lane.flush().await }));
    scheduler.run_all();
    let results = flushes.map(|flush| flush.take().expect("all tasks have ended"));
    let failed = results.iter().filter_map(|result| result.as_ref().err());
    assert!(failed.clone().count() > 0 && failed.into_iter().all(|error| error.kind() == ErrorKind::FlushFailed));
    (results.iter().any(|result| result.is_ok()), disks.origin.clone())
}

#[test]
fn a_flush_that_another_lanes_failed_flush_emptied_is_not_reported_as_done() {
    let mut lost = 0;
    for seed in 0..200 {
        let (reported, origin) = flush_twice(seed);
        let is_there = (0..20).all(|crash| origin.crash(crash, Crash::Power).peek(OFFSET_BYTES, 1) == [1]);
        assert!(
            is_there || !reported,
            "seed {seed}: a flush was reported as done, and what was written before is lost"
        );
        lost += usize::from(!is_there);
    }
    assert!(lost > 0, "a failed flush loses something");
}
