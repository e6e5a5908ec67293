//! How fast deltas are: a volume of 1 TiB of which 1 % changed, between neighbours and across 1,000 snapshots.
//!
//! The origin is a disk that forgets what is written; only bookmarks are left, so the store holds no images either. A
//! delta is asked for cold (its bitmaps are made from the index) and warm, and compared with a plain scan of the bitmaps
//! that it is made of.
//!
//!     cargo run --release -p cairn-benches --example delta_speed [SIZE_GIB [CHANGES]]
//!
//! Another size in GiB, and another number of changes of 64 KiB, can be given; scripts/compare-thin-delta does.

use cairn_benches::engine::memory_disk::MemoryDisk;
use cairn_engine::deadline::Deadline;
use cairn_engine::delta::{Bits, DeltaPoint, Extent};
use cairn_engine::disk::{aligned_buffer, Disks};
use cairn_engine::lane::Lane;
use cairn_engine::sim::block_on;
use cairn_engine::sim::rig::{create_options, open_options, snapshot_name, snapshot_options, StateDirectory};
use cairn_engine::volume::{create, Limits, Volume};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

const STORE_BYTES: u64 = 4 << 30;
const SNAPSHOTS: u64 = 1000;
/// Bytes of one change.
const CHANGE_BYTES: u64 = 64 << 10;
const REPETITIONS: u32 = 101;

/// How large the volume is, and how often it changes between the first snapshot and the last.
#[derive(Clone, Copy)]
struct Scale {
    volume_bytes: u64,
    changes: u64,
}

impl Scale {
    /// What the command line says; else 1 TiB of which 1 % changes.
    fn from_arguments() -> Scale {
        let number = |text: String| text.parse::<u64>().expect("a number");
        let mut arguments = std::env::args().skip(1).map(number);
        let volume_bytes = arguments.next().map_or(1 << 40, |gib| gib << 30);
        let changes = arguments.next().unwrap_or(volume_bytes / 100 / CHANGE_BYTES);
        assert!(volume_bytes >= 1 << 30, "the volume has 1 GiB or more");
        Scale { volume_bytes, changes }
    }

    /// Where the next change begins.
    fn place(&self, random: &mut fastrand::Rng) -> u64 {
        random.u64(64..self.volume_bytes / CHANGE_BYTES - 64) * CHANGE_BYTES
    }

    fn percent(&self) -> f64 {
        (self.changes * CHANGE_BYTES) as f64 * 100.0 / self.volume_bytes as f64
    }
}

/// The shortest and the median time of two things, done in turns, in milliseconds.
fn times_ms(mut what: [&mut dyn FnMut(); 2]) -> [[f64; 2]; 2] {
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..REPETITIONS {
        for (what, times) in what.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            what();
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.map(|mut times| {
        times.sort_unstable_by(f64::total_cmp);
        [times[0], times[times.len() / 2]]
    })
}

async fn open(disks: &Rc<Disks<MemoryDisk>>) -> (Arc<Volume>, Lane<MemoryDisk>) {
    let limits = Limits { entries_max: 4 << 20, bitmap_bytes: 256 << 20, ..Limits::default() };
    let options = open_options(1, limits, &StateDirectory::default());
    let volume = Volume::open(disks, options).await.expect("open");
    let lane = Lane::new(volume.clone(), 0, disks.clone());
    (volume, lane)
}

/// Where changes began.
type Changes = BTreeSet<u64>;

/// Cuts, leaves a bookmark, and changes some of the volume, a thousand times; then as much at once. Gives both.
async fn fill(disks: &Rc<Disks<MemoryDisk>>, scale: Scale) -> [Changes; 2] {
    let (mut spread, mut at_once) = (Changes::new(), Changes::new());
    let (volume, lane) = open(disks).await;
    let mut random = fastrand::Rng::with_seed(1);
    let data = aligned_buffer(CHANGE_BYTES as usize);
    for number in 0..=SNAPSHOTS {
        let name = snapshot_name(&format!("s{number}"));
        volume.snapshot(disks, &name, snapshot_options(), &Deadline::new()).await.expect("snapshot");
        volume.bookmark(disks, &name).await.expect("bookmark");
        for _ in 0..if number < SNAPSHOTS { scale.changes / SNAPSHOTS } else { 0 } {
            let offset = scale.place(&mut random);
            spread.insert(offset);
            lane.write(offset, &data, false).await.expect("write");
        }
        if number % 50 == 0 {
            while volume.background_step(&lane).await.expect("background") {}
        }
    }
    for _ in 0..scale.changes {
        let offset = scale.place(&mut random);
        at_once.insert(offset);
        lane.write(offset, &data, false).await.expect("write");
    }
    let last = snapshot_name("last");
    volume.snapshot(disks, &last, snapshot_options(), &Deadline::new()).await.expect("snapshot");
    while volume.background_step(&lane).await.expect("background") {}
    drop(lane);
    volume.close(disks, 0).await.expect("close");
    [spread, at_once]
}

/// What was found is what was changed.
fn assert_exact(found: &[Extent], changes: &Changes) {
    let of_extent =
        |one: &Extent| (one.offset_bytes..one.offset_bytes + one.length_bytes).step_by(CHANGE_BYTES as usize);
    assert!(found.iter().flat_map(of_extent).eq(changes.iter().copied()), "the delta is not what was changed");
    assert_eq!(found.iter().map(|one| one.length_bytes).sum::<u64>(), changes.len() as u64 * CHANGE_BYTES);
}

/// Asks for one delta, cold and warm, and tells how that compares with scans of the same bytes.
async fn measure(disks: &Rc<Disks<MemoryDisk>>, what: &str, [older, newer]: [&str; 2], changes: Option<&Changes>) {
    let (volume, _lane) = open(disks).await;
    let older = volume.delta_point(disks, &snapshot_name(older)).await.expect("whole");
    let newer: DeltaPoint = volume.delta_point(disks, &snapshot_name(newer)).await.expect("whole");
    let begun = Instant::now();
    let found = volume.changes(disks, Some(&older), &newer, 0, usize::MAX).await.expect("a delta");
    let cold = begun.elapsed();
    changes.inspect(|changes| assert_exact(&found, changes));
    let bitmaps = volume.bitmaps_in_memory();
    let [warm, scan] = times_ms([
        &mut || {
            let changes = volume.changes(disks, Some(&older), &newer, 0, usize::MAX);
            assert_eq!(black_box(block_on(changes)).expect("a delta").len(), found.len());
        },
        &mut || drop(black_box(scan_of(&bitmaps))),
    ]);
    let words: usize = bitmaps.iter().map(|bits| bits.words().count()).sum();
    let changed: u64 = found.iter().map(|extent| extent.length_bytes).sum();
    println!(
        "{what}: {} extents, {} MiB changed; {} bitmaps of {} KiB; cold {:.1} ms\n  warm: shortest {:.3} ms, median {:.3} \
         ms; plain scan of the same bitmaps: shortest {:.3} ms, median {:.3} ms; ratio {:.2} and {:.2}",
        found.len(),
        changed >> 20,
        bitmaps.len(),
        words >> 7,
        cold.as_secs_f64() * 1e3,
        warm[0],
        warm[1],
        scan[0],
        scan[1],
        warm[0] / scan[0],
        warm[1] / scan[1]
    );
}

/// What a plain scan of bitmaps does: word by word, all ranges of ones into a list, one bitmap after the other.
fn scan_of(bitmaps: &[Arc<Bits>]) -> Vec<[u64; 2]> {
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    for bits in bitmaps {
        for (at, mut word) in (0..).step_by(64).zip(bits.words()) {
            while word != 0 {
                let start = word.trailing_zeros();
                let length = (word >> start).trailing_ones();
                word &= !((u64::MAX >> (64 - length)) << start);
                let first = at + u64::from(start);
                match ranges.last_mut() {
                    Some([_, end]) if *end == first => *end += u64::from(length),
                    _ => ranges.push([first, first + u64::from(length)]),
                }
            }
        }
    }
    ranges
}

fn main() {
    let scale = Scale::from_arguments();
    let percent = scale.percent();
    block_on(async {
        let origin = MemoryDisk::forgetful(scale.volume_bytes);
        let disks = Rc::new(Disks { origin, store: MemoryDisk::keeping(STORE_BYTES, false) });
        create(&disks, &create_options(1 << 20)).await.expect("create");
        let begun = Instant::now();
        let [spread, at_once] = fill(&disks, scale).await;
        println!("{SNAPSHOTS} snapshots made in {:.1} s", begun.elapsed().as_secs_f64());
        let thousandth = format!("s{SNAPSHOTS}");
        let neighbours = format!("adjacent, {percent:.2} % changed");
        measure(&disks, &neighbours, [&thousandth, "last"], Some(&at_once)).await;
        let across = format!("across {SNAPSHOTS} snapshots, {percent:.2} % changed");
        measure(&disks, &across, ["s0", &thousandth], Some(&spread)).await;
        measure(&disks, "adjacent, a thousandth of that changed", ["s500", "s501"], None).await;
    });
}
