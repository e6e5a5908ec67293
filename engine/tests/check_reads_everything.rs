//! A check with data reads every before-image that a snapshot needs, wherever its entry lies.

use cairn_engine::sim::rig::Rig;
use cairn_engine::sim::{block_on, SimDiskOptions};
use cairn_engine::volume::{CheckOptions, Finding, Limits};

const STORE_BYTES: u64 = 16 << 20;

/// A snapshot, block 5 overwritten after it; `sealed`: by a second cut, so that a run holds the entry.
fn rig(sealed: bool) -> Rig {
    let (origin, store) = (SimDiskOptions::new("origin", 64 * 4096), SimDiskOptions::new("store", STORE_BYTES));
    let limits = Limits {
        spill_entries: 16,
        entries_max: 64,
        cache_pages: 8,
        reserve_segments: 2,
        restore_step_blocks: 8,
        ..Limits::default()
    };
    let rig = Rig::new(origin, store, 64 << 10, limits);
    rig.write(5 * 4096, 4096, 0x5a).expect("write");
    rig.snapshot("a").expect("cut");
    rig.write(5 * 4096, 4096, 0xa5).expect("write");
    if sealed {
        rig.snapshot("b").expect("cut");
        rig.work().expect("background");
    }
    rig
}

fn findings(rig: &Rig) -> Vec<Finding> {
    block_on(rig.volume.check(&rig.disks.store, CheckOptions { data: true })).expect("check")
}

#[test]
fn a_damaged_before_image_is_found_whether_a_run_holds_it_or_not() {
    for sealed in [false, true] {
        let rig = rig(sealed);
        assert_eq!(findings(&rig), vec![], "sealed: {sealed}");
        let mut addresses = (0..STORE_BYTES).step_by(4096);
        let image = addresses.find(|address| rig.disks.store.peek(*address, 4096) == [0x5a; 4096]);
        let image = image.expect("the before-image is on the store");
        rig.disks.store.flip(image + 100, 1);
        rig.read_snapshot("a", 5 * 4096, 4096).expect_err("damaged");
        let found = findings(&rig);
        assert!(found.iter().any(|finding| finding.serious), "sealed: {sealed}: {found:?}");
    }
}
