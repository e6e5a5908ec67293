//! A crash at every step of operations that random histories do not cut off: detach, growing the store, an attach.

use cairn_engine::disk::Disks;
use cairn_engine::sim::rig::{create_options, open_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::{create, CheckOptions, CreateOptions, Limits, Volume};
use std::future::Future;
use std::rc::Rc;

const SEGMENT_BYTES: u32 = 64 << 10;

fn limits() -> Limits {
    Limits {
        spill_entries: 16,
        entries_max: 64,
        cache_pages: 8,
        reserve_segments: 2,
        restore_step_blocks: 8,
        ..Limits::default()
    }
}

/// Two snapshots, blocks 20..60 changed after each.
fn rig(seed: u64) -> Rig {
    let origin = SimDisk::new(SimDiskOptions { seed, ..SimDiskOptions::new("origin", 96 * 4096) });
    let store = SimDisk::new(SimDiskOptions { seed, ..SimDiskOptions::new("store", 16 << 20) });
    let disks = Disks { origin, store };
    let options = CreateOptions { store_bytes: Some(8 << 20), ..create_options(SEGMENT_BYTES) };
    block_on(create(&disks, &options)).expect("create");
    let rig = Rig::attach(disks, limits(), StateDirectory::default()).expect("attach");
    for (value, name) in [(1, "a"), (2, "b")] {
        rig.snapshot(name).expect("cut");
        for block in 20..60 {
            rig.write(block * 4096, 4096, value).expect("write");
        }
        rig.work().expect("background");
    }
    rig
}

fn verify(rig: &Rig, what: &str) {
    for (name, value) in [("a", 0), ("b", 1)] {
        for block in [20, 35, 59, 70] {
            let expected = if block == 70 { 0 } else { value };
            let content = rig.read_snapshot(name, block * 4096, 4096);
            let content = content.unwrap_or_else(|error| panic!("{what}: {name}: {error:?}"));
            assert_eq!(content[0], expected, "{what}: block {block} of {name}");
        }
    }
    let mut findings = block_on(rig.volume.check(&rig.disks.store, CheckOptions { data: true })).expect("check");
    findings.retain(|finding| finding.serious);
    assert_eq!(findings, vec![], "{what}");
}

/// Cuts the operation off after every number of steps, until it is done.
fn cut_off<F: Future<Output = ()> + 'static>(operation: impl Fn(Rc<Rig>) -> F) {
    for steps in 0.. {
        let mut finished = true;
        for (seed, crash) in [(1, Crash::Process), (2, Crash::Power), (3, Crash::Power), (4, Crash::Power)] {
            let rig = Rc::new(rig(seed));
            let mut scheduler = Scheduler::new(seed);
            scheduler.drive(&rig.disks.origin);
            scheduler.drive(&rig.disks.store);
            let handle = scheduler.spawn("operation", operation(Rc::clone(&rig)));
            for _ in 0..steps {
                scheduler.step();
            }
            finished &= handle.is_finished();
            let origin = rig.disks.origin.crash(seed + steps, crash);
            let store = rig.disks.store.crash(!(seed + steps), crash);
            scheduler.kill();
            let what = format!("{crash:?} {seed} after {steps} steps");
            let after = Rig::attach(Disks { origin, store }, limits(), StateDirectory::default());
            let after = after.unwrap_or_else(|error| panic!("{what}: {error:?}"));
            verify(&after, &what);
            after.write(70 * 4096, 4096, 9).expect("write");
            after.work().expect("background");
            verify(&after, &what);
        }
        if finished {
            println!("{steps} steps");
            return;
        }
    }
}

#[test]
fn a_detach_cut_off_anywhere_loses_nothing() {
    cut_off(|rig| async move { rig.volume.close(&rig.disks, 7).await.expect("detach") });
}

#[test]
fn growing_the_store_cut_off_anywhere_loses_nothing() {
    cut_off(|rig| async move {
        rig.volume.grow_store(&rig.disks).await.expect("grow");
        let mut data = cairn_engine::disk::aligned_buffer(4096);
        data.fill(3);
        for block in 60..69 {
            rig.lane.write(block * 4096, &data, false).await.expect("write");
        }
    });
}

#[test]
fn an_attach_cut_off_anywhere_can_be_repeated() {
    cut_off(|rig| async move {
        // The volume that is open is not used any more: its process is gone.
        let options = open_options(2, limits(), &StateDirectory::default());
        Volume::open(&rig.disks, options).await.map(drop).expect("attach");
    });
}
