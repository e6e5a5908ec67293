//! Ways in which a snapshot could become silently wrong: each test is one interleaving that a reviewer found.

use cairn_engine::disk::Disks;
use cairn_engine::error::ErrorKind;
use cairn_engine::lane::Lane;
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::{create, inspect, CreateOptions, Limits, Volume};
use std::ops::Range;
use std::rc::Rc;

const BLOCKS: u64 = 48;
const STORE_BYTES: u64 = 8 << 20;
const SEGMENT_BYTES: u32 = 64 << 10;

fn limits() -> Limits {
    Limits {
        spill_entries: 16,
        entries_max: 64,
        cache_pages: 8,
        reserve_segments: 4,
        restore_step_blocks: 8,
        ..Limits::default()
    }
}

fn rig(seed: u64) -> Rig {
    let origin = SimDiskOptions { seed, ..SimDiskOptions::new("origin", BLOCKS * 4096) };
    let store = SimDiskOptions { seed, ..SimDiskOptions::new("store", STORE_BYTES) };
    Rig::new(origin, store, SEGMENT_BYTES, limits())
}

fn attach(disks: Disks<SimDisk>) -> Rig {
    Rig::attach(disks, limits(), StateDirectory::default()).expect("attach")
}

fn is_broken(rig: &Rig, name: &str) -> bool {
    let snapshots = block_on(rig.volume.snapshots());
    let found = snapshots.iter().find(|snapshot| snapshot.name == snapshot_name(name));
    found.expect("the snapshot exists").broken.is_some()
}

/// Law 3: the block of the snapshot is `value` throughout, or the snapshot is broken, or the read fails.
fn assert_exact_or_broken(rig: &Rig, name: &str, block: u64, value: u8, what: &str) {
    if is_broken(rig, name) {
        return;
    }
    if let Ok(content) = rig.read_snapshot(name, block * 4096, 4096) {
        assert_eq!(content[0], value, "{what}: block {block} of {name} is silently wrong");
    }
}

/// All bytes of segments.
fn segments(disks: &Disks<SimDisk>) -> Range<u64> {
    let geometry = block_on(inspect(&disks.store)).expect("a store").superblock.geometry;
    geometry.segments_base_bytes..STORE_BYTES
}

#[test]
fn records_of_an_earlier_store_on_the_same_device_never_count() {
    let rig = rig(1);
    rig.snapshot("a").expect("cut");
    for block in 20..30 {
        rig.write(block * 4096, 4096, 1).expect("write");
    }
    let disks = rig.crash(1, Crash::Process);
    let again = CreateOptions {
        store_id: [11; 16],
        volume_id: [12; 16],
        sample_key: [13; 32],
        ..create_options(SEGMENT_BYTES)
    };
    block_on(create(&disks, &again)).expect("the device is made a store again");
    let rig = attach(disks);
    rig.snapshot("b").expect("cut");
    rig.write(40 * 4096, 4096, 9).expect("write");
    let rig = rig.recover(2, Crash::Process).expect("attach");
    assert!(!is_broken(&rig, "b"), "nothing was lost");
    for block in 20..30 {
        assert_exact_or_broken(&rig, "b", block, 1, "a store made again");
    }
}

#[test]
fn a_failed_confirmation_that_landed_never_hides_the_next_record() {
    for seed in 1..24 {
        let rig = rig(seed);
        rig.snapshot("a").expect("cut");
        rig.write(20 * 4096, 4096, 7).expect("write");
        rig.disks.store.inject(Fault::once(FaultTarget::Write, 0).within(segments(&rig.disks)));
        let _ = block_on(rig.lane.tick());
        assert_eq!(rig.disks.store.faults_struck(), 1, "the confirmation was struck");
        rig.write(21 * 4096, 4096, 7).expect("the store works again");
        let rig = rig.recover(seed, Crash::Process).expect("attach");
        assert_exact_or_broken(&rig, "a", 20, 0, &format!("seed {seed}"));
        assert_exact_or_broken(&rig, "a", 21, 0, &format!("seed {seed}"));
    }
}

#[test]
fn a_failed_record_that_landed_and_went_stale_never_hides_the_next_one() {
    for seed in 1..400 {
        let rig = Rc::new(rig(seed));
        rig.snapshot("a").expect("cut");
        rig.disks.store.inject(Fault::once(FaultTarget::Write, 0).within(segments(&rig.disks)));
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        let writer = Rc::clone(&rig);
        scheduler.spawn("write", async move {
            let mut data = cairn_engine::disk::aligned_buffer(4096);
            data.fill(7);
            writer.lane.write(20 * 4096, &data, false).await.expect("write");
        });
        let cutter = Rc::clone(&rig);
        scheduler.spawn("cut", async move {
            let options = cairn_engine::sim::rig::snapshot_options();
            let deadline = cairn_engine::deadline::Deadline::new();
            cutter.volume.snapshot(&cutter.disks, &snapshot_name("b"), options, &deadline).await.expect("cut");
        });
        scheduler.run_all();
        // Which of the two came first shows in the snapshot as it is before the crash.
        let reader = Rc::clone(&rig);
        let read = scheduler.spawn("read", async move {
            let handle = reader.volume.snapshot_handle(&reader.disks, &snapshot_name("b")).await.expect("whole");
            let mut buffer = cairn_engine::disk::aligned_buffer(4096);
            reader.volume.read_snapshot(&reader.disks, &handle, 20 * 4096, &mut buffer).await.expect("read");
            buffer[0]
        });
        let before = scheduler.run_until(&read);
        let disks = Disks {
            origin: rig.disks.origin.crash(seed, Crash::Process),
            store: rig.disks.store.crash(seed, Crash::Process),
        };
        let rig = attach(disks);
        assert_exact_or_broken(&rig, "a", 20, 0, &format!("seed {seed}"));
        assert_exact_or_broken(&rig, "b", 20, before, &format!("seed {seed}"));
    }
}

#[test]
fn a_read_error_at_the_last_record_is_never_the_end_of_the_log() {
    let rig = rig(1);
    rig.snapshot("a").expect("cut");
    rig.write(20 * 4096, 4096, 7).expect("write");
    let disks = rig.crash(1, Crash::Process);
    let image = segments(&disks).start + 4096;
    // The scan reads it, then the look at the last record's images fails, once.
    disks.store.inject(Fault::once(FaultTarget::Read, 1).within(image..image + 4096));
    let Ok(rig) = Rig::attach(disks, limits(), StateDirectory::default()) else { return };
    assert_eq!(rig.disks.store.faults_struck(), 1, "the image was read");
    assert_exact_or_broken(&rig, "a", 20, 0, "a read error during recovery");
}

#[test]
fn an_attach_that_fails_half_way_forgets_no_reason_to_break_snapshots() {
    let rig = rig(1);
    rig.snapshot("a").expect("cut");
    rig.write(20 * 4096, 4096, 7).expect("write");
    let disks = rig.crash(1, Crash::Process);
    let options = |accept| {
        let mut options = open_options(2, limits(), &StateDirectory::default());
        options.host_id = [99; 16];
        options.accept.other_host = accept;
        options
    };
    let refused = block_on(Volume::open(&disks, options(false))).err().expect("another host's").kind();
    assert_eq!(refused, ErrorKind::OtherHost);
    // The superblock can be written, the catalog not.
    disks.store.inject(Fault::persistent(FaultTarget::Write, 0).within(128 << 10..STORE_BYTES));
    block_on(Volume::open(&disks, options(true))).err().expect("the store fails");
    disks.store.clear_faults();
    match block_on(Volume::open(&disks, options(false))) {
        Err(error) => assert_eq!(error.kind(), ErrorKind::OtherHost),
        Ok(volume) => {
            let broken = block_on(volume.snapshots()).iter().all(|snapshot| snapshot.broken.is_some());
            assert!(broken, "another host used the volume, and its snapshot passes for whole");
        }
    }
}

#[test]
fn a_restore_whose_target_breaks_never_leaves_a_mixture_silently() {
    let rig = rig(1);
    for block in 20..40 {
        rig.write(block * 4096, 4096, 1).expect("write");
    }
    rig.snapshot("a").expect("cut");
    for block in 20..40 {
        rig.write(block * 4096, 4096, 2).expect("write");
    }
    block_on(async {
        let (a, before) = (snapshot_name("a"), snapshot_name("before"));
        let deadline = cairn_engine::deadline::Deadline::new();
        let options = cairn_engine::sim::rig::snapshot_options();
        rig.volume.restore(&rig.disks, &a, &before, options, &deadline).await.expect("restore");
        while rig.volume.restore_progress().expect("under way").cursor_block < 24 {
            rig.volume.background_step(&rig.control).await.expect("background");
        }
    });
    let disks = Rc::new(rig.crash(1, Crash::Process));
    let mut options = open_options(2, limits(), &StateDirectory::default());
    options.host_id = [99; 16];
    options.accept.other_host = true;
    // Refusing is right, and so is anything that shows one state or an error.
    let Ok(volume) = block_on(Volume::open(&disks, options)) else { return };
    let lane = Lane::new(volume.clone(), 0, Rc::clone(&disks));
    let control = Lane::new(volume, 1, Rc::clone(&disks));
    let mut content = cairn_engine::disk::aligned_buffer(20 * 4096);
    let read = block_on(async {
        for _ in 0..100 {
            if !lane.volume().background_step(&control).await.unwrap_or(false) {
                break;
            }
        }
        lane.read(20 * 4096, &mut content).await
    });
    if read.is_ok() {
        let values: Vec<u8> = content.chunks(4096).map(|block| block[0]).collect();
        assert!(values.iter().all(|value| *value == values[0]), "half restored and silent: {values:?}");
    }
}
