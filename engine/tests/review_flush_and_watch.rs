//! What failed flushes of the store lose, and what the watch on the origin does not see: found by a reviewer.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::ErrorKind;
use cairn_engine::sim::rig::{snapshot_name, snapshot_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::Limits;
use std::rc::Rc;

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

fn rig(seed: u64, store_has_fua: bool, origin_bytes: u64) -> Rig {
    let origin = SimDiskOptions { seed, ..SimDiskOptions::new("origin", origin_bytes) };
    let store = SimDiskOptions { seed, has_fua: store_has_fua, ..SimDiskOptions::new("store", 8 << 20) };
    Rig::new(origin, store, SEGMENT_BYTES, limits())
}

fn crashed(rig: &Rig, seed: u64, crash: Crash) -> Disks<SimDisk> {
    Disks { origin: rig.disks.origin.crash(seed, crash), store: rig.disks.store.crash(!seed, crash) }
}

#[test]
fn a_flush_that_failed_for_one_lane_is_not_trusted_by_another() {
    let mut wrong = Vec::new();
    for seed in 0..400 {
        let rig = Rc::new(rig(seed, false, 48 * 4096));
        rig.snapshot("a").expect("cut");
        rig.disks.store.inject(Fault::once(FaultTarget::Flush, seed % 3));
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        for lane in 0..2u64 {
            let writer = Rc::clone(&rig);
            scheduler.spawn(format!("writer {lane}"), async move {
                let lanes = [&writer.lane, &writer.control];
                let mut data = aligned_buffer(4096);
                data.fill(7);
                lanes[lane as usize].write((20 + lane) * 4096, &data, true).await.expect("write");
            });
        }
        scheduler.run_all();
        let disks = crashed(&rig, seed, Crash::Power);
        let Ok(rig) = Rig::attach(disks, limits(), StateDirectory::default()) else { continue };
        if block_on(rig.volume.snapshots()).iter().any(|snapshot| snapshot.broken.is_some()) {
            continue;
        }
        for block in 20..22 {
            match rig.read_snapshot("a", block * 4096, 4096) {
                Ok(content) if content[0] != 0 => wrong.push((seed, block)),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "(seed, block) that are silently wrong: {wrong:?}");
}

#[test]
fn content_that_a_killed_process_left_volatile_is_flushed_before_the_watch_relies_on_it() {
    for seed in 0..200 {
        let rig = rig(seed, true, 48 * 4096);
        rig.write(0, 4096, 1).expect("write");
        let rig = rig.recover(seed, Crash::Process).expect("attach after a kill");
        let attached = rig.recover(seed, Crash::Power);
        assert!(attached.is_ok(), "seed {seed}: nobody wrote the disk: {:?}", attached.err());
    }
}

/// Found by a history (seed 10003988): what had been there once before and came again fell out of a log that was
/// shortened at that moment.
#[test]
fn content_that_comes_again_while_the_log_is_shortened_stays_in_it() {
    const BEHIND_WATCHED: usize = 17;
    let rig = rig(1, true, 48 * 4096);
    for turn in 0..80u8 {
        // Block 0 holds something new each time, so the log gets long; block 16 holds one of two contents.
        let mut data = aligned_buffer(BEHIND_WATCHED * 4096);
        data.fill(1 + turn % 2);
        data[..4096].fill(turn + 1);
        block_on(rig.lane.write(0, &data, true)).expect("write");
        let attached = Rig::attach(crashed(&rig, 1, Crash::Power), limits(), StateDirectory::default());
        assert!(attached.is_ok(), "turn {turn}: nobody else wrote the disk: {:?}", attached.err());
    }
}

/// Found by a reviewer: what an attach passed over once it asked about at the next one.
#[test]
fn what_was_there_at_an_attach_with_a_failed_flush_is_there_at_the_next() {
    for seed in 0..40 {
        let rig = rig(seed, true, 48 * 4096);
        rig.write(0, 4096, 1).expect("write");
        rig.disks.store.inject(Fault::persistent(FaultTarget::Write, 0));
        rig.disks.origin.inject(Fault::once(FaultTarget::Flush, 0));
        rig.write(0, 4096, 2).expect("production goes on, unlogged");
        block_on(rig.lane.flush()).expect_err("the disk's flush fails");
        let rig = rig.recover(seed, Crash::Process).expect("the state directory says why block 0 is not as logged");
        rig.work().expect("no fault any more");
        // The store has it all now: what the state directory said is not needed any more.
        let again = Rig::attach(rig.crash(!seed, Crash::Process), limits(), StateDirectory::default());
        assert!(again.is_ok(), "seed {seed}: nobody else wrote the disk: {:?}", again.err());
    }
}

/// Found by a reviewer: the blocks that are compared after a clean end were sampled wherever they lay.
#[test]
fn what_was_discarded_may_read_as_something_else_after_a_clean_end() {
    let attach = |changed: std::ops::Range<u64>| {
        let rig = rig(1, true, 48 * 4096);
        rig.write(0, 48 * 4096, 1).expect("write");
        block_on(rig.lane.discard(20 * 4096, 10 * 4096)).expect("discard");
        block_on(rig.volume.close(&rig.disks, 0)).expect("detach");
        let disks = crashed(&rig, 1, Crash::Process);
        changed.for_each(|block| disks.origin.poke(block * 4096, &[7; 4096]));
        Rig::attach(disks, limits(), StateDirectory::default()).err().map(|error| error.kind())
    };
    assert_eq!(attach(20..30), None);
    assert_eq!(attach(30..40), Some(ErrorKind::OriginChanged));
}

#[test]
fn a_bare_write_to_a_filesystem_in_a_partition_is_noticed() {
    let rig = rig(1, true, 4 << 20);
    let disks = Rc::clone(&rig.disks);
    // One MBR partition from 1 MiB on, with an ext superblock in it.
    let mut table = vec![0; 4096];
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 12].copy_from_slice(&2048u32.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&6144u32.to_le_bytes());
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut superblock = vec![0; 4096];
    superblock[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
    for (offset, bytes) in [(0, &table), (1 << 20, &superblock)] {
        let mut data = aligned_buffer(4096);
        data.copy_from_slice(bytes);
        block_on(rig.lane.write(offset, &data, true)).expect("write");
    }
    rig.snapshot("a").expect("cut");
    for clean in [true, false] {
        let disks = if clean {
            let closing = Rig::attach(crashed(&rig, 1, Crash::Process), limits(), StateDirectory::default());
            let closing = closing.expect("attach");
            block_on(closing.volume.close(&closing.disks, 0)).expect("detach");
            crashed(&closing, 1, Crash::Process)
        } else {
            crashed(&rig, 1, Crash::Process)
        };
        // Somebody mounts the partition bare: its superblock says so.
        disks.origin.poke((1 << 20) + 1024 + 44, &[1; 8]);
        let kind = Rig::attach(disks, limits(), StateDirectory::default()).err().map(|error| error.kind());
        assert_eq!(kind, Some(ErrorKind::OriginChanged), "clean: {clean}");
    }
    drop(disks);
}

#[test]
fn a_failed_flush_is_latched_durably_before_its_error_is_reported() {
    for seed in 0..200 {
        let rig = Rc::new(rig(seed, true, 48 * 4096));
        rig.write(20 * 4096, 4096, 1).expect("write");
        rig.disks.origin.inject(Fault::once(FaultTarget::Flush, 0));
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        let flusher = Rc::clone(&rig);
        let flush = scheduler.spawn("flush", async move { flusher.lane.flush().await });
        let cutter = Rc::clone(&rig);
        scheduler.spawn("cut", async move {
            let deadline = Deadline::new();
            let _ = cutter.volume.snapshot(&cutter.disks, &snapshot_name("a"), snapshot_options(), &deadline).await;
        });
        if scheduler.run_until(&flush).is_ok() {
            scheduler.run_all();
            continue;
        }
        // Killed right after the error was reported.
        let disks = crashed(&rig, seed, Crash::Process);
        match Rig::attach(disks, limits(), StateDirectory::default()) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::FlushFailed, "seed {seed}"),
            Ok(rig) => {
                assert!(block_on(rig.lane.flush()).is_err(), "seed {seed}: the latch did not outlive the process")
            }
        }
        scheduler.kill();
    }
}
