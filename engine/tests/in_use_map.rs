//! In-use maps (mission A4): what is not in use is not saved, whatever snapshots there are, and reads as zeroes.

use cairn_engine::disk::Disks;
use cairn_engine::error::ErrorKind;
use cairn_engine::sim::rig::{create_options, snapshot_name, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, SimDisk, SimDiskOptions};
use cairn_engine::volume::{create, CreateOptions, Limits};
use fastrand::Rng;
use std::collections::BTreeSet;
use std::ops::Range;

const VOLUME_BYTES: u64 = 64 << 20;
const VOLUME_BLOCKS: u64 = VOLUME_BYTES / BLOCK;
const STORE_BYTES: u64 = 256 << 20;
const SEGMENT_BYTES: u32 = 256 << 10;
const BLOCK: u64 = 4096;
/// Far from the places of superblocks and partition tables: those are in use for good.
const SOME: Range<u64> = 100..400;

fn rig() -> Rig {
    let store = SimDiskOptions { has_fua: true, ..SimDiskOptions::new("store", STORE_BYTES) };
    Rig::new(SimDiskOptions::new("origin", VOLUME_BYTES), store, SEGMENT_BYTES, Limits::default())
}

fn discard(rig: &Rig, blocks: Range<u64>) {
    let length_bytes = (blocks.end - blocks.start) * BLOCK;
    block_on(rig.lane.discard(blocks.start * BLOCK, length_bytes)).expect("no fault");
}

fn write(rig: &Rig, blocks: Range<u64>, value: u8) {
    let length_bytes = (blocks.end - blocks.start) * BLOCK;
    rig.write(blocks.start * BLOCK, length_bytes as usize, value).expect("no fault");
}

fn reattach(rig: Rig) -> Rig {
    rig.work().expect("no fault");
    block_on(rig.volume.close(&rig.disks, 0)).expect("no fault");
    rig.recover(1, Crash::Process).expect("it was detached")
}

fn saved(rig: &Rig) -> u64 {
    block_on(rig.volume.stats()).blocks_saved
}

fn shows(rig: &Rig, name: &str, block: u64, value: u8) {
    let content = rig.read_snapshot(name, block * BLOCK, BLOCK as usize).expect("whole");
    assert!(content.iter().all(|byte| *byte == value), "block {block} of {name} holds {}, not {value}", content[0]);
}

fn holes(rig: &Rig) -> Vec<Range<u64>> {
    rig.volume.holes_now().ranges().to_vec()
}

#[test]
fn overwriting_free_space_saves_nothing_and_costs_one_record_a_region() {
    let rig = rig();
    write(&rig, SOME, 1);
    discard(&rig, SOME);
    rig.snapshot("a").expect("no fault");
    rig.work().expect("no fault");
    rig.reset_counts();
    SOME.for_each(|block| write(&rig, block..block + 1, 2));
    assert_eq!(saved(&rig), 0);
    let (origin, store) = (rig.disks.origin.counts(), rig.disks.store.counts());
    assert_eq!((origin.reads, origin.writes), (0, SOME.end - SOME.start));
    // Write-ahead of the region that is not trusted any more: one record of the catalog, both copies in one write.
    assert_eq!((store.reads, store.writes, store.durable_writes), (0, 0, 1));
    assert_eq!(block_on(rig.volume.stats()).regions_untrusted, 1);
    SOME.for_each(|block| shows(&rig, "a", block, 0));
    write(&rig, SOME.end..SOME.end + 1, 3);
    assert_eq!(saved(&rig), 1, "what was in use is saved");
}

#[test]
fn what_an_older_snapshot_has_is_saved_also_when_the_youngest_has_nothing_there() {
    let rig = rig();
    write(&rig, SOME, 1);
    rig.snapshot("full").expect("no fault");
    discard(&rig, SOME);
    rig.snapshot("empty").expect("no fault");
    write(&rig, SOME, 2);
    assert_eq!(saved(&rig), SOME.end - SOME.start);
    shows(&rig, "full", SOME.start, 1);
    shows(&rig, "empty", SOME.start, 0);
    rig.snapshot("again").expect("no fault");
    shows(&rig, "again", SOME.start, 2);
}

#[test]
fn a_write_of_zeroes_is_a_write() {
    let rig = rig();
    write(&rig, SOME, 1);
    rig.snapshot("a").expect("no fault");
    let length_bytes = (SOME.end - SOME.start) * BLOCK;
    block_on(rig.lane.write_zeroes(SOME.start * BLOCK, length_bytes, false, true)).expect("no fault");
    assert!(holes(&rig).is_empty());
    shows(&rig, "a", SOME.start, 1);
}

#[test]
fn a_discard_of_parts_of_blocks_frees_only_whole_ones_and_watched_blocks_never() {
    let rig = rig();
    block_on(rig.lane.discard(SOME.start * BLOCK + 512, 3 * BLOCK)).expect("no fault");
    assert_eq!(holes(&rig), std::slice::from_ref(&(SOME.start + 1..SOME.start + 3)));
    discard(&rig, 0..VOLUME_BLOCKS);
    // The first two blocks, the one at 64 KiB, and the last three.
    assert_eq!(holes(&rig), [2..16, 17..VOLUME_BLOCKS - 3]);
}

#[test]
fn a_discard_of_part_of_a_granule_is_forgotten_until_one_discards_all_of_it() {
    let rig = rig_with_granules_of(16);
    // Together they are granule 7; neither of them is.
    discard(&rig, 112..120);
    discard(&rig, 120..128);
    assert_eq!(holes(&rig), []);
    // As fstrim says it again: the whole free range at once.
    discard(&rig, 110..130);
    assert_eq!(holes(&rig), std::slice::from_ref(&(112..128)));
}

#[test]
fn a_cut_of_a_large_volume_forgoes_all_of_its_holes() {
    let bytes = 3 << 30;
    let (origin, store) = (SimDiskOptions::new("origin", bytes), SimDiskOptions::new("store", STORE_BYTES));
    let rig = Rig::new(origin, store, SEGMENT_BYTES, Limits::default());
    discard(&rig, 0..bytes / BLOCK);
    rig.snapshot("a").expect("no fault");
    let free: u64 = holes(&rig).iter().map(|hole| hole.end - hole.start).sum();
    assert!(free > bytes / BLOCK - 100);
    assert_eq!(block_on(rig.volume.stats()).blocks_forgone, free);
    for block in [1000, free / 2, free - 1000] {
        write(&rig, block..block + 1, 1);
    }
    assert_eq!(saved(&rig), 0);
}

/// A volume with so many blocks to a bit of its in-use map.
fn rig_with_granules_of(granule_blocks: u32) -> Rig {
    let disks = Disks {
        origin: SimDisk::new(SimDiskOptions::new("origin", VOLUME_BYTES)),
        store: SimDisk::new(SimDiskOptions::new("store", STORE_BYTES)),
    };
    let options = CreateOptions { granule_blocks, ..create_options(SEGMENT_BYTES) };
    block_on(create(&disks, &options)).expect("large enough");
    Rig::attach(disks, Limits::default(), StateDirectory::default()).expect("new")
}

#[test]
fn a_granule_is_free_when_all_its_blocks_are() {
    let rig = rig_with_granules_of(16);
    discard(&rig, SOME.start..SOME.end);
    assert_eq!(holes(&rig), std::slice::from_ref(&(112..400)));
    write(&rig, 200..201, 1);
    assert_eq!(holes(&rig), [112..192, 208..400]);
    let wrong = CreateOptions { granule_blocks: 12, ..create_options(SEGMENT_BYTES) };
    let error = block_on(create(&rig.disks, &wrong)).expect_err("no power of two");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn the_map_survives_a_detach_and_after_a_crash_untrusted_regions_are_in_use() {
    let mut rig = rig();
    let far = 5000..6000;
    discard(&rig, SOME);
    discard(&rig, far.clone());
    rig = reattach(rig);
    assert_eq!(holes(&rig), [SOME, far.clone()]);
    write(&rig, SOME.start..SOME.start + 1, 1);
    discard(&rig, 7000..7100);
    rig = rig.recover(2, Crash::Power).expect("recovered");
    // The first region (4,096 blocks) was written, and a discard is not remembered across a crash.
    assert_eq!(holes(&rig), std::slice::from_ref(&far));
    rig = reattach(rig);
    assert_eq!(holes(&rig), [far]);
}

#[test]
fn after_an_attach_what_is_a_hole_in_every_snapshot_is_forgone_again() {
    let mut rig = rig();
    discard(&rig, SOME);
    rig.snapshot("a").expect("no fault");
    write(&rig, 120..130, 1);
    rig.snapshot("b").expect("no fault");
    rig = reattach(rig);
    rig.work().expect("no fault");
    write(&rig, SOME, 2);
    assert_eq!(saved(&rig), 10, "ten blocks were in use in b");
    shows(&rig, "b", 120, 1);
    shows(&rig, "b", 130, 0);
    shows(&rig, "a", 120, 0);
}

#[test]
fn a_restore_brings_the_map_back() {
    let rig = rig();
    write(&rig, SOME, 1);
    discard(&rig, 200..300);
    rig.snapshot("a").expect("no fault");
    write(&rig, 200..300, 2);
    discard(&rig, 100..150);
    let (target, before) = (snapshot_name("a"), snapshot_name("before"));
    let options = cairn_engine::sim::rig::snapshot_options();
    let deadline = cairn_engine::deadline::Deadline::new();
    block_on(rig.volume.restore(&rig.disks, &target, &before, options, &deadline)).expect("no fault");
    assert_eq!(holes(&rig), std::slice::from_ref(&(200..300)));
    rig.work().expect("no fault");
    assert_eq!(holes(&rig), std::slice::from_ref(&(200..300)));
    shows(&rig, "before", 250, 2);
    shows(&rig, "before", 100, 0);
    let rig = rig.recover(3, Crash::Power).expect("recovered");
    assert_eq!(holes(&rig), std::slice::from_ref(&(200..300)));
}

#[test]
fn a_map_that_nobody_refers_to_gives_its_room_back() {
    let rig = rig();
    let free_before = block_on(rig.volume.stats()).segments_free;
    for round in 0..20 {
        discard(&rig, 700 * round + 100..700 * round + 200);
        rig.snapshot(&format!("s{round}")).expect("no fault");
    }
    for round in 0..20 {
        block_on(rig.volume.delete(&rig.disks, &snapshot_name(&format!("s{round}")))).expect("no fault");
    }
    rig.work().expect("no fault");
    let free_after = block_on(rig.volume.stats()).segments_free;
    // The volume's own map, and what is in the hands of two lanes.
    assert!(
        free_before - free_after <= 1 + 2 * Limits::default().reserve_segments as u64,
        "{free_before} {free_after}"
    );
}

#[test]
fn snapshots_without_changes_in_between_share_a_map() {
    let rig = rig();
    discard(&rig, SOME);
    rig.snapshot("a").expect("no fault");
    rig.work().expect("no fault");
    let free_before = block_on(rig.volume.stats()).segments_free;
    for round in 0..5 {
        rig.snapshot(&format!("s{round}")).expect("no fault");
        rig.work().expect("no fault");
        shows(&rig, &format!("s{round}"), SOME.start, 0);
    }
    assert_eq!(block_on(rig.volume.stats()).segments_free, free_before);
}

/// One epoch of the reference: what was in use when it began, and what was saved in it.
struct ModelEpoch {
    in_use: Vec<bool>,
    saved: BTreeSet<u64>,
}

/// Fig. 41: whether the old content of a block has to be saved, asked from the tail towards the head.
fn walk(epochs: &[ModelEpoch], block: u64) -> bool {
    for epoch in epochs.iter().rev() {
        if epoch.saved.contains(&block) {
            return false;
        }
        if epoch.in_use[block as usize] {
            return true;
        }
    }
    false
}

#[test]
fn the_needed_map_says_what_the_walk_of_fig_41_says() {
    for seed in 0..40 {
        let mut random = Rng::with_seed(seed);
        let rig = rig();
        let blocks = 64..256u64;
        let mut in_use = vec![true; VOLUME_BLOCKS as usize];
        let mut epochs: Vec<ModelEpoch> = Vec::new();
        let mut deleted = false;
        for step in 0..120 {
            let start = random.u64(blocks.clone());
            let range = start..(start + random.u64(1..20)).min(blocks.end);
            match random.u32(0..10) {
                0 => {
                    rig.snapshot(&format!("s{step}")).expect("no fault");
                    epochs.push(ModelEpoch { in_use: in_use.clone(), saved: BTreeSet::new() });
                }
                1 if random.u32(0..3) == 0 => {
                    let names = block_on(rig.volume.snapshots());
                    if let Some(snapshot) = random.choice(&names) {
                        block_on(rig.volume.delete(&rig.disks, &snapshot.name)).expect("no fault");
                        let at = names.iter().position(|other| other == snapshot).expect("it was chosen");
                        // What was saved in its epoch counts for the ones before it.
                        let gone = epochs.remove(at);
                        if let Some(before) = at.checked_sub(1).map(|at| &mut epochs[at]) {
                            before.saved.extend(gone.saved);
                        }
                        deleted = true;
                    }
                }
                2..=5 => {
                    discard(&rig, range.clone());
                    range.for_each(|block| in_use[block as usize] = false);
                }
                6 => rig.work().expect("no fault"),
                _ => {
                    for block in range.clone() {
                        if walk(&epochs, block) {
                            epochs.last_mut().expect("somebody needs it").saved.insert(block);
                        }
                        in_use[block as usize] = true;
                    }
                    write(&rig, range, random.u8(1..));
                }
            }
            for block in blocks.clone() {
                let (needed, walked) = (rig.volume.needs(block), walk(&epochs, block));
                // Deleting takes needs away that the map keeps until the block is saved.
                assert!(needed == walked || (deleted && needed), "seed {seed} step {step} block {block}: {needed}");
                assert_eq!(rig.volume.holes_now().contains(block), !in_use[block as usize], "seed {seed} step {step}");
            }
        }
    }
}
