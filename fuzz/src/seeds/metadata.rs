//! Seeds for the readers of superblocks, catalogs and segments.

use super::Seeds;
use crate::bytes::Script;
use crate::superblock::FIELDS_BYTES;
use cairn_engine::catalog::record::encode_items;
use cairn_engine::format::item::{
    BrokenReason, Consistency, Item, RunRecord, SegmentState, SnapshotRecord, VolumeFacts,
};
use cairn_engine::units::Epoch;

/// Flags: sealed and begun from a superblock that makes sense, on a device of 4 MiB.
const WHOLE: u8 = 0x3f;

/// A superblock as it is, and one with each of its numbers changed.
pub fn superblock() -> Seeds {
    let numbers = [
        ("version", 12),
        ("incompatible", 16),
        ("read-only", 24),
        ("sequence", 47),
        ("store-bytes", 83),
        ("segments-base", 90),
        ("segment-count", 98),
        ("segment-bytes", 102),
        ("area-0-offset", 106),
        ("area-1-length", 131),
        ("area-current", 136),
        ("generation", 146),
        ("generation-reserved", 158),
        ("checkpoint-records", 160),
        ("checkpoint-bytes", 169),
        ("records-min", 176),
        ("previous-generation", 184),
        ("records-found", 296),
        ("session", 239),
        ("origin-bytes", 250),
        ("origin-sector", 257),
    ];
    let mut seeds = vec![("whole".to_owned(), vec![WHOLE]), ("no-store".to_owned(), vec![0x30])];
    for (name, at) in numbers {
        let mut fields = vec![0; FIELDS_BYTES];
        fields[at] = 0x81;
        seeds.push((name.to_owned(), Script::default().u8(WHOLE).raw(&fields).finish()));
    }
    seeds
}

fn snapshot(epoch: u64, name: &str) -> Item {
    Item::SnapshotPut(SnapshotRecord {
        epoch: Epoch(epoch),
        created_unix_ms: 1_795_262_400_000,
        size_bytes: 1 << 20,
        flags: 0,
        consistency: Consistency::Filesystem,
        broken: (epoch == 2).then_some(BrokenReason::StoreFull),
        name: name.to_owned(),
        reason: if epoch == 2 { "the store was full".to_owned() } else { String::new() },
    })
}

fn volume(active_epoch: u64) -> Item {
    Item::Volume(VolumeFacts { size_bytes: 1 << 20, active_epoch: Epoch(active_epoch), flush_failed: false })
}

fn run(run: u64) -> Item {
    Item::RunPut(RunRecord {
        run,
        first_epoch: Epoch(2),
        last_epoch: Epoch(3),
        entries: 5,
        pages: 1,
        height: 1,
        first_block: 1,
        last_block: 9,
    })
}

/// One item of every kind, in an order that makes sense.
pub(super) fn every_item() -> Vec<Item> {
    vec![
        volume(3),
        snapshot(2, "monday"),
        snapshot(3, "tuesday"),
        Item::Segments { first: 0, count: 2, state: SegmentState::Lane { lane: 1 }, incarnation: 1 },
        Item::Segments { first: 0, count: 1, state: SegmentState::Data { epoch: Epoch(2) }, incarnation: 1 },
        Item::Segments { first: 5, count: 3, state: SegmentState::Run { run: 7, ordinal: 0 }, incarnation: 2 },
        run(7),
        run(8),
        Item::RunDelete { run: 8 },
        Item::RunFloor { run: 11 },
        Item::LaneIndexed { lane: 1, sequence: 4 },
        Item::RestorePut { target_epoch: Epoch(2), before_epoch: Epoch(3), cursor_block: 4 },
        Item::RestoreMoved { start_block: 9, count_blocks: 2 },
        Item::WatchAdd { block: 1, hashes: [3; 8] },
        Item::Sample { block: 3, hash: 5 },
        Item::WatchReset,
        Item::SampleReset,
        Item::RestoreEnd,
        Item::SnapshotDelete { epoch: Epoch(2) },
    ]
}

/// Logs of records: one of each kind, damaged copies, a checkpoint of several records, one that stands in for another.
pub fn catalog() -> Seeds {
    let all = encode_items(&every_item());
    let first = encode_items(&[volume(1)]);
    let more = encode_items(&[volume(2), snapshot(2, "a")]);
    let log = |flags: u8, records: &[(u8, &[u8])]| {
        let script = Script::default().u8(flags);
        records.iter().fold(script, |script, (manner, items)| script.u8(*manner).piece(items)).finish()
    };
    let mut seeds = vec![
        ("every-item".to_owned(), log(1, &[(2, &all)])),
        ("appended".to_owned(), log(1, &[(2, &first), (0, &more), (0, &all[..28])])),
        ("first-copy-damaged".to_owned(), log(1, &[(2, &first), (4, &more)])),
        ("second-copy-damaged".to_owned(), log(1, &[(10, &first), (8, &more)])),
        ("record-lost".to_owned(), log(0, &[(2, &first), (12, &more), (0, &first)])),
        ("sequence-skipped".to_owned(), log(0, &[(2, &first), (32, &more)])),
        ("long-checkpoint".to_owned(), log(0, &[(1, &first), (1, &more), (2, &all[28..])])),
        ("stands-in".to_owned(), log(2, &[(18, &first), (16, &more), (14, &more)])),
        ("another-session".to_owned(), log(8, &[(2, &first), (0, &more), (64, &all[28..])])),
        ("session-before".to_owned(), log(0, &[(2, &first), (64, &more)])),
        ("wrong-end".to_owned(), log(4, &[(1, &first), (2, &more)])),
        ("raw-block".to_owned(), log(0, &[(2, &first), (3, b"CnCt"), (0, &more)])),
    ];
    for (index, item) in every_item().iter().enumerate() {
        let items = encode_items(&[volume(3), snapshot(2, "a"), item.clone()]);
        seeds.push((format!("item-{index:02}"), log(1, &[(2, &first), (0, &items)])));
    }
    seeds
}

/// A record as [`crate::segment`] reads it.
fn record(segment: u8, at: u8, sequence: u8, epoch: u8, flags: u8, blocks: &[u16]) -> Script {
    let script = Script::default().u8(segment).u8(at).u8(1).u8(sequence).u8(epoch).u8(0).u8(flags);
    blocks.iter().fold(script.u8(blocks.len() as u8), |script, block| script.u16(*block))
}

/// Headers, runs and records, whole and damaged.
pub fn segment() -> Seeds {
    let header = [b"CairnRec\0\0\0\0\x01\0\0\0".as_slice(), &[0; 24], &[1; 16], &[3, 0, 0, 0, 2, 0, 0, 0]].concat();
    let mut seeds = vec![("header".to_owned(), Script::default().u8(0).u8(1).u8(9).raw(&header).finish())];
    for (name, count, field, value) in [
        ("run", 500, 0, 0),
        ("run-of-one", 0, 0, 0),
        ("run-of-more-entries", 300, 4, 420),
        ("run-of-fewer-pages", 300, 5, 2),
        ("run-of-another-block", 300, 8, 400),
        ("run-of-later-epochs", 300, 2, 12),
    ] {
        seeds.push((name.to_owned(), Script::default().u8(1).u16(count).u8(0).u8(field).u64(value).finish()));
    }
    for (name, place, piece) in [
        ("page-count", 28, &[0xff, 0xff][..]),
        ("page-level", 30, &[1]),
        ("page-order", 32, &[0xff; 6]),
        ("page-epoch", 44, &[0xff; 4]),
        ("page-first-epoch", 16, &[0xff; 8]),
    ] {
        for flags in [0, 1] {
            let script = Script::default().u8(1).u16(400).u8(0).u8(0).u64(0);
            let script = script.u8(2).u8(flags).u16(place).piece(piece);
            seeds.push((format!("{name}-{flags}"), script.finish()));
        }
    }
    let records = |all: &[Script]| {
        all.iter().fold(Script::default().u8(2), |script, one| script.raw(&one.clone().finish())).finish()
    };
    let (one, two) = (record(0, 0, 1, 4, 0, &[1, 2, 3]), record(0, 4, 2, 4, 0, &[5]));
    let empty = record(0, 6, 3, 4, 0, &[]);
    seeds.extend([
        ("records".to_owned(), records(&[one.clone(), two.clone(), empty.clone()])),
        ("record-torn".to_owned(), records(&[one.clone(), record(0, 4, 2, 4, 1, &[5])])),
        ("record-damaged".to_owned(), records(&[record(0, 0, 1, 4, 1, &[1, 2]), two.clone()])),
        ("record-lost".to_owned(), records(&[one.clone(), empty.clone()])),
        ("header-damaged".to_owned(), records(&[one.clone(), record(0, 4, 2, 4, 2, &[5]), empty])),
        ("block-beyond-all".to_owned(), records(&[record(1, 0, 1, 4, 4, &[1, 2])])),
        ("epoch-of-the-future".to_owned(), records(&[record(1, 0, 1, 200, 0, &[1, 2])])),
        ("unreadable".to_owned(), records(&[record(2, 0, 1, 3, 8, &[1, 2])])),
        ("two-lanes".to_owned(), records(&[one, record(1, 0, 1, 4, 0, &[2, 7]), two])),
    ]);
    seeds
}
