//! The main job on simulated disks, step by step: what a newcomer reads first.

use cairn_engine::deadline::Deadline;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::error::ErrorKind;
use cairn_engine::lane::Lane;
use cairn_engine::sim::disk::{SimDisk, SimDiskOptions};
use cairn_engine::sim::executor::block_on;
use cairn_engine::snapshot::{SnapshotName, SnapshotOptions};
use cairn_engine::volume::{create, BrokenElsewhere, BrokenLog, CreateOptions, Limits, OpenOptions, Volume};
use std::rc::Rc;
use std::sync::Arc;

struct NoLog;

impl BrokenLog for NoLog {
    fn record(&self, _elsewhere: &BrokenElsewhere) -> bool {
        false
    }

    fn clear(&self) {}
}

fn disks() -> Rc<Disks<SimDisk>> {
    Rc::new(Disks {
        origin: SimDisk::new(SimDiskOptions::new("origin", 1 << 20)),
        store: SimDisk::new(SimDiskOptions::new("store", 64 << 20)),
    })
}

async fn create_volume(disks: &Disks<SimDisk>) {
    let options = CreateOptions {
        granule_blocks: 1,
        store_id: [1; 16],
        volume_id: [2; 16],
        sample_key: [3; 32],
        segment_bytes: None,
        store_bytes: None,
        host_id: [4; 16],
        now_unix_ms: 0,
    };
    create(disks, &options).await.expect("create");
}

async fn open_volume(disks: &Rc<Disks<SimDisk>>) -> (Arc<Volume>, Lane<SimDisk>) {
    let options = OpenOptions {
        host_id: [4; 16],
        boot_id: [5; 16],
        now_unix_ms: 0,
        lanes: 1,
        accept: Default::default(),
        broken_elsewhere: None,
        broken_log: Box::new(NoLog),
        save_deadline: Default::default(),
        limits: Limits::default(),
    };
    let volume = Volume::open(disks, options).await.expect("open");
    let lane = Lane::new(volume.clone(), 0, disks.clone());
    (volume, lane)
}

fn name(text: &str) -> SnapshotName {
    SnapshotName::new(text).expect("a legal name")
}

async fn snapshot(volume: &Volume, disks: &Disks<SimDisk>, text: &str) {
    let options = SnapshotOptions { now_unix_ms: 1, consistency: Default::default() };
    volume.snapshot(disks, &name(text), options, &Deadline::new()).await.expect("snapshot");
}

async fn write(lane: &Lane<SimDisk>, block: u64, value: u8) {
    let mut data = aligned_buffer(4096);
    data.fill(value);
    lane.write(block * 4096, &data, false).await.expect("write");
}

async fn read(lane: &Lane<SimDisk>, block: u64) -> u8 {
    let mut data = aligned_buffer(4096);
    lane.read(block * 4096, &mut data).await.expect("read");
    assert!(data.iter().all(|byte| *byte == data[0]));
    data[0]
}

async fn read_snapshot(volume: &Volume, disks: &Disks<SimDisk>, text: &str, block: u64) -> u8 {
    let handle = volume.snapshot_handle(disks, &name(text)).await.expect("a whole snapshot");
    let mut data = aligned_buffer(4096);
    volume.read_snapshot(disks, &handle, block * 4096, &mut data).await.expect("read");
    assert!(data.iter().all(|byte| *byte == data[0]));
    data[0]
}

#[test]
fn a_snapshot_keeps_what_was_there_and_the_volume_goes_on() {
    block_on(async {
        let disks = disks();
        create_volume(&disks).await;
        let (volume, lane) = open_volume(&disks).await;
        write(&lane, 7, 1).await;
        snapshot(&volume, &disks, "a").await;
        write(&lane, 7, 2).await;
        snapshot(&volume, &disks, "b").await;
        write(&lane, 7, 3).await;
        write(&lane, 8, 9).await;
        assert_eq!(read(&lane, 7).await, 3);
        assert_eq!(read_snapshot(&volume, &disks, "a", 7).await, 1);
        assert_eq!(read_snapshot(&volume, &disks, "b", 7).await, 2);
        assert_eq!(read_snapshot(&volume, &disks, "a", 8).await, 0);
        while volume.background_step(&lane).await.expect("background") {}
        assert_eq!(read_snapshot(&volume, &disks, "a", 7).await, 1);
        drop(lane);
        volume.close(&disks, 2).await.expect("close");
        let (volume, lane) = open_volume(&disks).await;
        assert_eq!(read(&lane, 7).await, 3);
        assert_eq!(read_snapshot(&volume, &disks, "a", 7).await, 1);
        assert_eq!(read_snapshot(&volume, &disks, "b", 7).await, 2);
        assert_eq!(volume.check(&disks.store, Default::default()).await.expect("check"), vec![]);
    });
}

#[test]
fn a_restore_shows_the_snapshot_at_once_and_can_be_undone() {
    block_on(async {
        let disks = disks();
        create_volume(&disks).await;
        let (volume, lane) = open_volume(&disks).await;
        for block in 20..60 {
            write(&lane, block, 1).await;
        }
        snapshot(&volume, &disks, "a").await;
        for block in 20..60 {
            write(&lane, block, 2).await;
        }
        let options = SnapshotOptions { now_unix_ms: 1, consistency: Default::default() };
        volume.restore(&disks, &name("a"), &name("before"), options, &Deadline::new()).await.expect("restore");
        assert_eq!(read(&lane, 20).await, 1);
        write(&lane, 40, 5).await;
        let refused = volume.delete(&disks, &name("a")).await.expect_err("a restore is under way");
        assert_eq!(refused.kind(), ErrorKind::Busy);
        while volume.background_step(&lane).await.expect("background") {}
        assert_eq!(volume.restore_progress(), None);
        assert_eq!(read(&lane, 40).await, 5);
        assert_eq!(read(&lane, 59).await, 1);
        assert_eq!(read_snapshot(&volume, &disks, "before", 40).await, 2);
        assert_eq!(disks.origin.peek(59 * 4096, 1), vec![1]);
    });
}

#[test]
fn deleting_any_snapshot_gives_space_back_and_leaves_the_others_exact() {
    block_on(async {
        let disks = disks();
        create_volume(&disks).await;
        let (volume, lane) = open_volume(&disks).await;
        let free_before = volume.stats().await.segments_free;
        for round in 1..=4u8 {
            snapshot(&volume, &disks, &format!("s{round}")).await;
            for block in 20..200 {
                write(&lane, block, round).await;
            }
        }
        while volume.background_step(&lane).await.expect("background") {}
        for (gone, left) in [("s2", vec![("s1", 0), ("s3", 2), ("s4", 3)]), ("s1", vec![("s3", 2), ("s4", 3)])] {
            volume.delete(&disks, &name(gone)).await.expect("delete");
            let free = volume.stats().await.segments_free;
            while volume.background_step(&lane).await.expect("background") {}
            assert!(volume.stats().await.segments_free > free, "deleting {gone} gave nothing back");
            for (snapshot, value) in left {
                assert_eq!(read_snapshot(&volume, &disks, snapshot, 100).await, value);
            }
        }
        for gone in ["s3", "s4"] {
            volume.delete(&disks, &name(gone)).await.expect("delete");
            while volume.background_step(&lane).await.expect("background") {}
        }
        let free_after = volume.stats().await.segments_free;
        // The lane keeps the segments it was handed and the one it has open.
        assert!(free_after + 10 >= free_before, "{free_before} before, {free_after} after");
    });
}
