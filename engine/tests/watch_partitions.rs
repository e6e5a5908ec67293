//! The watch sees what lives in partitions: a bare write there is noticed, and nothing else is taken for one.

use cairn_engine::catalog::Catalog;
use cairn_engine::disk::{aligned_buffer, Disk, Disks};
use cairn_engine::error::ErrorKind;
use cairn_engine::sim::rig::{create_options, Rig, StateDirectory};
use cairn_engine::sim::{block_on, Crash, Fault, FaultTarget, Scheduler, SimDisk, SimDiskOptions};
use cairn_engine::volume::{self, Limits};
use std::rc::Rc;

const SEGMENT_BYTES: u32 = 64 << 10;
const MBR: &str = include_str!("partition_tables/mbr.txt");
const GPT_OF_512: &str = include_str!("partition_tables/gpt-512.txt");
const GPT_OF_4096: &str = include_str!("partition_tables/gpt-4096.txt");

/// A table, the sector size of its disk, and bytes inside superblocks of its partitions: the first and the second
/// block, 64 KiB and 64 MiB behind the start, and the end.
const TABLES: [(&str, u32, &[u64]); 3] = [
    (
        MBR,
        512,
        &[2048 * 512 + 1080, 32528 * 512 + 600, 43008 * 512 + (64 << 10) + 64, 200_001 * 512, 200_001 * 512 + 8],
    ),
    (GPT_OF_512, 512, &[2048 * 512, 4096 * 512 + (64 << 20) + 70, 208_903 * 512 + 4096, 208_903 * 512 + 8191]),
    (GPT_OF_4096, 4096, &[1 << 20, 512 * 4096 + 5000, 60_511 * 4096 + 4000]),
];

fn limits() -> Limits {
    Limits {
        spill_entries: 64,
        entries_max: 256,
        cache_pages: 8,
        reserve_segments: 4,
        restore_step_blocks: 8,
        ..Limits::default()
    }
}

fn empty_disks(seed: u64, sector_bytes: u32) -> Disks<SimDisk> {
    let origin = SimDiskOptions { seed, sector_bytes, ..SimDiskOptions::new("origin", 256 << 20) };
    Disks { origin: SimDisk::new(origin), store: SimDisk::new(SimDiskOptions::new("store", 16 << 20)) }
}

/// Offsets and bytes that make up a table.
fn parts(table: &str) -> Vec<(u64, Vec<u8>)> {
    let part = |line: &str| {
        let (offset, digits) = line.split_once(' ').expect("offset and bytes");
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
        let bytes = (0..digits.len()).step_by(2).map(byte).collect();
        (u64::from_str_radix(offset, 16).expect("hexadecimal"), bytes)
    };
    table.lines().filter(|line| !line.starts_with('#')).map(part).collect()
}

/// A volume, just attached, on a disk that has this table already.
fn partitioned(table: &str, sector_bytes: u32) -> Rig {
    let disks = empty_disks(1, sector_bytes);
    parts(table).iter().for_each(|(offset, bytes)| disks.origin.poke(*offset, bytes));
    attached(disks)
}

fn attached(disks: Disks<SimDisk>) -> Rig {
    block_on(volume::create(&disks, &create_options(SEGMENT_BYTES))).expect("the store is large enough");
    Rig::attach(disks, limits(), StateDirectory::default()).expect("a new store can be attached")
}

/// Writes bytes through the volume, as a page cache would: whole blocks, read before.
fn write_bytes(rig: &Rig, offset: u64, bytes: &[u8]) {
    let block = offset / 4096 * 4096;
    let mut data = aligned_buffer(4096);
    data.copy_from_slice(&rig.read(block, 4096).expect("read"));
    data[(offset - block) as usize..][..bytes.len()].copy_from_slice(bytes);
    block_on(rig.lane.write(block, &data, false)).expect("write");
}

fn attach_fails_with(disks: &Disks<SimDisk>, crash: Crash) -> Option<ErrorKind> {
    let disks = Disks { origin: disks.origin.crash(1, crash), store: disks.store.crash(2, crash) };
    Rig::attach(disks, limits(), StateDirectory::default()).err().map(|error| error.kind())
}

/// What an attach says after a bare write of one byte there.
fn after_a_bare_write(disks: &Disks<SimDisk>, at: u64) -> Option<ErrorKind> {
    let disks = Disks { origin: disks.origin.crash(1, Crash::Process), store: disks.store.crash(2, Crash::Process) };
    disks.origin.flip(at, 0x40);
    Rig::attach(disks, limits(), StateDirectory::default()).err().map(|error| error.kind())
}

#[test]
fn a_bare_write_is_noticed_in_every_partition_of_every_kind_of_table() {
    for (table, sector_bytes, places) in TABLES {
        let rig = partitioned(table, sector_bytes);
        rig.snapshot("a").expect("cut");
        for clean in [false, true] {
            if clean {
                block_on(rig.volume.close(&rig.disks, 0)).expect("detach");
            }
            assert_eq!(attach_fails_with(&rig.disks, Crash::Process), None);
            for &at in places {
                let noticed = after_a_bare_write(&rig.disks, at);
                assert_eq!(noticed, Some(ErrorKind::OriginChanged), "byte {at}, clean: {clean}");
            }
        }
        // Between the places nothing is watched, and in these the writes of the volume itself are known.
        let rig = partitioned(table, sector_bytes);
        rig.snapshot("a").expect("cut");
        assert_eq!(after_a_bare_write(&rig.disks, 3 << 20), None);
        for &at in places {
            write_bytes(&rig, at, &[7]);
            assert_eq!(attach_fails_with(&rig.disks, Crash::Power), None, "byte {at}");
        }
    }
}

#[test]
fn partitions_made_while_attached_are_watched_whatever_of_the_table_is_written_first() {
    for (table, sector_bytes, places) in TABLES {
        for backwards in [false, true] {
            let rig = attached(empty_disks(1, sector_bytes));
            let mut parts = parts(table);
            if backwards {
                parts.reverse();
            }
            parts.iter().for_each(|(offset, bytes)| write_bytes(&rig, *offset, bytes));
            rig.snapshot("a").expect("cut");
            for &at in places {
                assert_eq!(after_a_bare_write(&rig.disks, at), Some(ErrorKind::OriginChanged), "byte {at}");
                write_bytes(&rig, at, &[7]);
                assert_eq!(after_a_bare_write(&rig.disks, at), Some(ErrorKind::OriginChanged), "byte {at}");
            }
            assert_eq!(attach_fails_with(&rig.disks, Crash::Power), None);
        }
    }
}

#[test]
fn partitions_that_are_gone_are_watched_no_longer() {
    let (table, sector_bytes, places) = TABLES[1];
    let rig = partitioned(table, sector_bytes);
    rig.snapshot("a").expect("cut");
    rig.write(0, 16384, 0).expect("write");
    block_on(rig.lane.flush()).expect("flush");
    for &at in places {
        assert_eq!(after_a_bare_write(&rig.disks, at), None, "byte {at}");
    }
    assert_eq!(after_a_bare_write(&rig.disks, 4096), Some(ErrorKind::OriginChanged));
}

#[test]
fn a_superblock_that_is_being_written_while_its_partition_is_made_is_no_bare_write() {
    for seed in 0..150 {
        let rig = Rc::new(attached(empty_disks(seed, 512)));
        rig.snapshot("a").expect("cut");
        let mut scheduler = Scheduler::new(seed);
        scheduler.drive(&rig.disks.origin);
        scheduler.drive(&rig.disks.store);
        let table = parts(MBR)[0].clone();
        let maker = Rc::clone(&rig);
        let maker = scheduler.spawn("table", async move {
            let mut data = aligned_buffer(4096);
            data[table.0 as usize..][..table.1.len()].copy_from_slice(&table.1);
            for (offset, bytes) in &parts(MBR)[1..3] {
                data[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            maker.lane.write(0, &data, false).await.expect("write");
        });
        for value in 1..4 {
            let writer = Rc::clone(&rig);
            scheduler.spawn(format!("writer {value}"), async move {
                let mut data = aligned_buffer(4096);
                data.fill(value);
                writer.control.write((2048 * 512) + (u64::from(value) % 2) * 4096, &data, false).await.expect("write");
            });
        }
        match seed % 2 {
            0 => scheduler.run_until(&maker),
            _ => scheduler.run_all(),
        }
        let crash = if seed % 4 < 2 { Crash::Power } else { Crash::Process };
        assert_eq!(attach_fails_with(&rig.disks, crash), None, "seed {seed}");
        let noticed = after_a_bare_write(&rig.disks, 2048 * 512 + 4096 * 2 - 1);
        assert_eq!(noticed, Some(ErrorKind::OriginChanged), "seed {seed}");
        scheduler.kill();
    }
}

#[test]
fn the_log_of_many_partitions_stays_short_and_complete() {
    let rig = partitioned(MBR, 512);
    let watched = |disk: &SimDisk| block_on(Catalog::open(disk)).expect("open").state().watch.clone();
    let blocks: Vec<u64> = watched(&rig.disks.store).keys().copied().collect();
    assert!(blocks.len() > 30);
    for round in 0..20u8 {
        for &block in &blocks {
            // The table itself stays as it is.
            if ![0, 40960 / 8, 63488 / 8, 197_953 / 8].contains(&block) {
                rig.write(block * 4096, 4096, round).expect("write");
            }
        }
        let contents: usize = watched(&rig.disks.store).values().map(Vec::len).sum();
        assert!(contents < blocks.len() + 300, "{contents} contents of {} blocks", blocks.len());
        assert_eq!(attach_fails_with(&rig.disks, Crash::Power), None, "round {round}");
    }
}

#[test]
fn the_places_of_a_partition_follow_a_disk_that_grows() {
    // A partition that reaches behind the end of a disk with a partial last block.
    let bytes = (200 << 20) + 512;
    let disks = empty_disks(1, 512);
    disks.origin.resize(bytes);
    parts(GPT_OF_512).iter().filter(|(offset, _)| *offset < 4096).for_each(|(at, part)| disks.origin.poke(*at, part));
    let rig = attached(disks);
    rig.snapshot("a").expect("cut");
    rig.disks.origin.resize(256 << 20);
    block_on(rig.volume.grow(&rig.control)).expect("grow");
    let end = (208_903 + 313_344) * 512;
    for at in [end - 1, bytes / 4096 * 4096 + 600, 208_903 * 512] {
        assert_eq!(attach_fails_with(&rig.disks, Crash::Power), None, "byte {at}");
        let expected = (at != bytes / 4096 * 4096 + 600).then_some(ErrorKind::OriginChanged);
        assert_eq!(after_a_bare_write(&rig.disks, at), expected, "byte {at}");
        write_bytes(&rig, at, &[9]);
    }
    assert_eq!(rig.disks.origin.size_bytes(), rig.volume.size_bytes());
    assert_eq!(attach_fails_with(&rig.disks, Crash::Power), None);
}

/// Found by a reviewer: the watch took a growth that failed for one that had happened.
#[test]
fn the_end_of_a_volume_that_could_not_grow_stays_watched() {
    let disks = empty_disks(1, 512);
    let bytes = disks.origin.size_bytes();
    let rig = attached(disks);
    rig.snapshot("a").expect("cut");
    rig.disks.origin.resize(2 * bytes);
    rig.disks.store.inject(Fault::persistent(FaultTarget::Write, 0));
    block_on(rig.volume.grow(&rig.control)).expect_err("the store does not take it");
    rig.disks.store.clear_faults();
    // The place of a partition table: the watch looks for partitions, and where else it has to watch.
    write_bytes(&rig, 0, &[1]);
    assert_eq!(rig.volume.size_bytes(), bytes);
    assert_eq!(after_a_bare_write(&rig.disks, bytes - 1), Some(ErrorKind::OriginChanged));
}
