//! Stores that no engine wrote, with their checksums right: they are refused, or used, but nothing panics. Each was
//! found by the fuzzers in fuzz/, or is a sibling of what they found.

use cairn_engine::catalog::state::State;
use cairn_engine::catalog::Catalog;
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::entry::Entry;
use cairn_engine::error::{Error, ErrorKind};
use cairn_engine::format::checksum;
use cairn_engine::format::geometry::{Geometry, AREA_BYTES_MIN, SEGMENT_COUNT_MAX};
use cairn_engine::format::item::{Consistency, Item, RunRecord, SegmentState, SnapshotRecord, VolumeFacts};
use cairn_engine::format::record::{RecordEntry, RecordHeader};
use cairn_engine::format::superblock::{OriginIdentity, Superblock};
use cairn_engine::run::{Run, RunLayout, RunWriter};
use cairn_engine::sim::rig::{Rig, StateDirectory};
use cairn_engine::sim::{block_on, SimDisk, SimDiskOptions};
use cairn_engine::units::{Epoch, BLOCK_BYTES};
use cairn_engine::volume::Limits;

const ORIGIN_BYTES: u64 = 1 << 20;
const STORE_BYTES: u64 = 2 << 20;

fn facts(active_epoch: u64) -> Item {
    Item::Volume(VolumeFacts { size_bytes: ORIGIN_BYTES, active_epoch: Epoch(active_epoch), flush_failed: false })
}

fn snapshot(epoch: u64, name: &str) -> Item {
    Item::SnapshotPut(SnapshotRecord {
        epoch: Epoch(epoch),
        created_unix_ms: 0,
        size_bytes: ORIGIN_BYTES,
        flags: 0,
        consistency: Consistency::Crash,
        broken: None,
        name: name.to_owned(),
        reason: String::new(),
    })
}

fn run(run: u64, first_epoch: u64, last_epoch: u64, last_block: u64) -> Item {
    let (first_epoch, last_epoch) = (Epoch(first_epoch), Epoch(last_epoch));
    Item::RunPut(RunRecord {
        run,
        first_epoch,
        last_epoch,
        entries: 1,
        pages: 1,
        height: 1,
        first_block: 0,
        last_block,
    })
}

/// Disks with a store whose catalog says just this, and the geometry of the store.
fn store(items: &[Item]) -> (Disks<SimDisk>, Geometry) {
    let origin = SimDisk::new(SimDiskOptions::new("origin", ORIGIN_BYTES));
    let store = SimDisk::new(SimDiskOptions::new("store", STORE_BYTES));
    let geometry = Geometry::plan_with_area(STORE_BYTES, 64 << 10, AREA_BYTES_MIN).expect("it fits");
    let identity = OriginIdentity { size_bytes: ORIGIN_BYTES, sector_bytes: 512 };
    let mut superblock = Superblock::new([1; 16], [2; 16], geometry, identity);
    superblock.host_id = [4; 16];
    superblock.clean = false;
    block_on(Catalog::create(&store, superblock, items)).expect("the items are taken one by one");
    (Disks { origin, store }, geometry)
}

fn attach(disks: Disks<SimDisk>) -> Result<Rig, Error> {
    Rig::attach(disks, Limits::default(), StateDirectory::default())
}

#[test]
fn items_from_which_nothing_could_go_on_are_refused() {
    let lane = |incarnation| Item::Segments { first: 0, count: 1, state: SegmentState::Lane { lane: 0 }, incarnation };
    let hostile = [
        facts(u64::MAX),
        facts(u64::from(u32::MAX)),
        snapshot(1, "../../etc/passwd"),
        snapshot(1, "a\0b"),
        run(1, 1, u64::MAX, 1),
        run(1, 1, 1, u64::MAX),
        lane(u32::MAX),
        Item::LaneIndexed { lane: 0, sequence: u64::MAX },
        Item::Sample { block: u64::MAX, hash: 0 },
        Item::WatchAdd { block: u64::MAX, hashes: [0; 8] },
    ];
    for item in hostile {
        let mut state = State::new(4);
        state.apply(&facts(1)).expect("an item as the engine writes it");
        let before = state.clone();
        let error = state.apply(&item).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{item:?}");
        assert_eq!(state, before, "{item:?}");
    }
    State::new(4).apply(&lane(u32::MAX - 1)).expect("the last incarnation that may be there");
}

#[test]
fn runs_whose_epochs_overlap_are_refused() {
    let segment =
        |run, first| Item::Segments { first, count: 1, state: SegmentState::Run { run, ordinal: 0 }, incarnation: 1 };
    let second = run(2, 3, 5, 9);
    let all = [facts(5), snapshot(2, "a"), run(1, 2, 4, 9), segment(1, 0), second, segment(2, 1)];
    let error = attach(store(&all).0).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[test]
fn a_record_of_a_block_that_no_volume_has_does_not_count() {
    let lane = Item::Segments { first: 0, count: 1, state: SegmentState::Lane { lane: 0 }, incarnation: 1 };
    for (block, sequence, epoch) in [(u64::MAX, 1, 2), (1 << 60, 1, 2), (0, u64::MAX, 2), (0, 1, u64::MAX)] {
        let (disks, geometry) = store(&[facts(2), snapshot(2, "a"), lane.clone()]);
        let image = vec![7; BLOCK_BYTES];
        let header = RecordHeader {
            lane: 0,
            session: 1,
            sequence,
            epoch: Epoch(epoch),
            attempt: 0,
            predecessor_attempt: 0,
            store: [1; 16],
            segment: 0,
            incarnation: 1,
            entries: vec![RecordEntry { block, checksum: checksum::image(&image), unreadable: false, is_mark: false }],
        };
        let (at, mut bytes) = (geometry.segment_offset_bytes(0), aligned_buffer(BLOCK_BYTES));
        header.encode(at, &mut bytes);
        disks.store.poke(at, &bytes);
        disks.store.poke(at + BLOCK_BYTES as u64, &image);
        let rig = attach(disks).expect("the record does not count");
        assert_eq!(rig.read_snapshot("a", 0, BLOCK_BYTES).expect("the snapshot is whole"), vec![0; BLOCK_BYTES]);
        rig.write(0, BLOCK_BYTES, 9).expect("production goes on");
        rig.work().expect("nothing is in the way");
        assert_eq!(rig.read_snapshot("a", 0, BLOCK_BYTES).expect("it was saved"), vec![0; BLOCK_BYTES]);
    }
}

#[test]
fn a_run_that_holds_more_than_the_catalog_says_is_corrupt() {
    let disk = SimDisk::new(SimDiskOptions::new("store", STORE_BYTES));
    let layout = RunLayout { segments: vec![0], segments_base_bytes: 1 << 20, segment_bytes: 64 << 10 };
    let mut writer = RunWriter::new(3, Epoch(5), layout, 10);
    for block in 0..10 {
        let entry = Entry { block, epoch: Epoch(5 + block % 2), address: 300 + block, checksum: 0 };
        block_on(writer.push(&disk, entry)).expect("the disk takes it");
    }
    let written = block_on(writer.finish(&disk)).expect("the disk takes it").run;
    let said = |change: fn(&mut cairn_engine::run::RunMeta)| {
        let mut meta = written.meta().clone();
        change(&mut meta);
        let run = std::sync::Arc::new(Run::open(meta, written.layout().clone()).expect("it makes sense"));
        let mut cursor = run.scan_all();
        loop {
            match block_on(cursor.next(&disk)) {
                Ok(Some(_)) => {}
                other => break other.map(|_| ()).map_err(|error| error.kind()),
            }
        }
    };
    assert_eq!(said(|_| {}), Ok(()));
    assert_eq!(said(|meta| meta.entries = 4), Err(ErrorKind::Corrupt));
    assert_eq!(said(|meta| meta.last_block = 5), Err(ErrorKind::Corrupt));
    assert_eq!(said(|meta| meta.last_epoch = Epoch(5)), Err(ErrorKind::Corrupt));
}

#[test]
fn a_store_with_more_segments_than_memory_should_hold_is_refused() {
    let mut geometry = Geometry::plan(1 << 45, 64 << 20).expect("32 TiB in large segments");
    assert!(geometry.segment_count <= SEGMENT_COUNT_MAX);
    geometry.segment_bytes = 64 << 10;
    geometry.segment_count = SEGMENT_COUNT_MAX + 1;
    assert_eq!(geometry.check(), Err("segment_count"));
    assert!(Geometry::plan(1 << 45, 64 << 10).is_err());
}
