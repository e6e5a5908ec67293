//! Seeds for damaged images of whole stores, and for histories.

use super::metadata::every_item;
use super::Seeds;
use crate::bytes::Script;
use crate::damage::operation::*;
use crate::scenario::scenarios;
use crate::seal::{kind_of, BLOCK_BYTES};
use cairn_engine::catalog::record::encode_items;
use cairn_engine::format::checksum::{self, Kind};
use cairn_engine::format::item::{Item, SegmentState, VolumeFacts};
use cairn_engine::units::Epoch;

/// The first block of a scenario that is of this kind.
fn block_of(scenario: usize, kind: Kind) -> Option<u16> {
    let scenario = &scenarios()[scenario];
    let store = scenario.disks().store;
    let is_wanted = |address: &&u64| kind_of(&store.peek(**address, BLOCK_BYTES)) == Some(kind);
    let address = scenario.blocks.iter().find(is_wanted)?;
    scenario.blocks.iter().position(|block| block == address).map(|index| index as u16)
}

fn begin(scenario: usize) -> Script {
    Script::default().u8(scenario as u8).u8(0).raw(&[1, 0x11, 6, 0x22, 23, 0x33])
}

/// Every scenario as it is, and every kind of damage to every kind of block.
pub fn store_image() -> Seeds {
    let mut seeds = Seeds::new();
    for scenario in 0..scenarios().len() {
        seeds.push((format!("{scenario}-whole"), begin(scenario).finish()));
        seeds.push((format!("{scenario}-accept-all"), begin(scenario).finish()));
        seeds.last_mut().expect("one was just added").1[1] = 15;
        seeds.push((format!("{scenario}-superblock-copied"), {
            begin(scenario).u8(COPY).u16(0).u16(0).u16(1).u16(0).u16(0).finish()
        }));
        let kinds = [Kind::Superblock, Kind::CatalogRecord, Kind::SegmentRecord, Kind::RunPage];
        for (name, kind) in ["superblock", "catalog", "record", "page"].into_iter().zip(kinds) {
            let Some(block) = block_of(scenario, kind) else { continue };
            let script = || begin(scenario);
            seeds.extend([
                (format!("{scenario}-{name}-flip"), script().u8(FLIP).u16(block).u16(70).u8(4).finish()),
                (format!("{scenario}-{name}-zero"), script().u8(FILL).u16(block).u16(0).u16(0).u8(0).finish()),
                (format!("{scenario}-{name}-eio"), script().u8(UNREADABLE).u16(block).u16(0).u16(0).finish()),
                (format!("{scenario}-{name}-shift"), {
                    script().u8(SHIFT).u16(block).u16(80).u8(3).u64(1 << 40).finish()
                }),
                (format!("{scenario}-{name}-forge"), {
                    script().u8(FORGE).u16(block).u16(130).piece(&[0xff; 6]).finish()
                }),
            ]);
        }
    }
    for (index, item) in every_item().iter().chain(&hostile_items()).enumerate() {
        let items = encode_items(std::slice::from_ref(item));
        seeds.push((format!("append-{index:02}"), begin(1).u8(APPEND).piece(&items).finish()));
    }
    seeds
}

/// Items that an engine never writes.
fn hostile_items() -> Vec<Item> {
    let facts = |active_epoch| VolumeFacts { size_bytes: 512, active_epoch: Epoch(active_epoch), flush_failed: true };
    vec![
        Item::Volume(facts(u64::MAX)),
        Item::Volume(facts(100)),
        Item::RunFloor { run: u64::MAX },
        Item::Segments { first: 0, count: 9, state: SegmentState::Free, incarnation: u32::MAX },
        Item::Segments { first: 9, count: 1, state: SegmentState::Run { run: 99, ordinal: 0 }, incarnation: 9 },
        Item::LaneIndexed { lane: u16::MAX, sequence: u64::MAX },
        Item::RestorePut { target_epoch: Epoch(77), before_epoch: Epoch(78), cursor_block: u64::MAX },
        Item::Sample { block: u64::MAX, hash: 0 },
        Item::WatchAdd { block: u64::MAX, hashes: [0; 8] },
    ]
}

/// What the judge must see: the first image of every record in the second scenario is another one, and its checksum is
/// right.
pub fn wrong_content() -> Vec<u8> {
    let scenario = &scenarios()[1];
    let store = scenario.disks().store;
    let mut script = begin(1);
    for (index, address) in scenario.blocks.iter().enumerate() {
        let header = store.peek(*address, BLOCK_BYTES);
        let entries = u16::from_le_bytes([header[12], header[13]]);
        if kind_of(&header) != Some(Kind::SegmentRecord) || entries == 0 {
            continue;
        }
        let mut image = store.peek(address + BLOCK_BYTES, BLOCK_BYTES);
        image[9] ^= 1;
        let (block, checksum) = (index as u16, checksum::image(&image).to_le_bytes());
        script = script.u8(FLIP).u16(block + 1).u16(9).u8(1);
        script = script.u8(FORGE).u16(block).u16(FIRST_CHECKSUM).piece(&checksum);
    }
    script.finish()
}

/// Where in a record's header the checksum of its first image lies.
const FIRST_CHECKSUM: u16 = 128 + 8;

/// Histories in several worlds, mostly writes, with snapshots and crashes between.
pub fn ops_crash() -> Seeds {
    let history = |world: u16| {
        let mut random = fastrand::Rng::with_seed(u64::from(world));
        let step = |script: Script, _| match random.u8(0..4) {
            0 => script.u8(random.u8(..)).u16(random.u16(..)),
            1 => script.u8(5).u16(random.u16(..)),
            _ => script.u8(0).u16(random.u16(..)),
        };
        (0..30).fold(Script::default().u16(world), step).finish()
    };
    (1..=24).map(|world| (format!("history-{world:02}"), history(world))).collect()
}
