//! Where the partitions of a disk lie, as far as its tables in MBR and GPT format tell.
//!
//! Invariants:
//! - Any bytes give an answer: what makes no sense is no partition; every loop is bounded.
//! - At most [`PARTITIONS_MAX`] partitions, all inside the disk.
//! - Checksums and copies of a table are not looked at: a table that is just being written counts as far as it is there.

use crate::disk::{AlignedBuffer, Disk};
use crate::units::{BlockIndex, BLOCK_BYTES};
use crate::watch::read_block;
use std::collections::BTreeSet;
use std::ops::Range;

/// Most partitions that are found, the first in the order of the table; and most links of extended ones.
pub(crate) const PARTITIONS_MAX: usize = 16;
/// Most blocks of a disk that are looked at: the first two, a GPT for either sector size, links.
pub(crate) const TABLE_BLOCKS_MAX: usize = 2 + 2 * (GPT_ENTRIES_BYTES_MAX as usize / BLOCK_BYTES + 1) + PARTITIONS_MAX;

/// What a table is made of, whatever the sectors of the disk.
const PART_BYTES: usize = 512;
const SIGNATURE: Range<usize> = 510..512;
const MBR_ENTRIES: Range<usize> = 446..510;
const MBR_ENTRY_BYTES: usize = 16;
const TYPE_GPT: u8 = 0xee;
const TYPES_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// What every GPT has room for, and hardly any has more: 128 entries of 128 bytes.
const GPT_ENTRIES_BYTES_MAX: u64 = 16 * 1024;
const GPT_ENTRY_BYTES_MIN: u64 = 128;

/// What the tables of a disk say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Partitions {
    /// The bytes of the disk that each of them covers.
    pub ranges: Vec<Range<u64>>,
    /// The blocks that were looked at: a write to one of them may change the answer.
    pub table: BTreeSet<BlockIndex>,
    /// Some block could not be read: there may be more.
    pub incomplete: bool,
}

/// Finds the partitions of a disk of which `size_bytes` are used. Tables made for sectors of another size than the
/// disk's count where those for its own say nothing: images move between disks.
pub(crate) async fn find_partitions<D: Disk>(disk: &D, size_bytes: u64) -> Partitions {
    let mut search = Search { disk, size_bytes, sector_bytes: 0, cached: None, found: Partitions::default() };
    let own_bytes = u64::from(disk.sector_bytes());
    for sector_bytes in [own_bytes, if own_bytes == 512 { 4096 } else { 512 }] {
        search.sector_bytes = sector_bytes;
        search.run().await;
        if !search.found.ranges.is_empty() {
            break;
        }
    }
    search.found
}

struct Search<'a, D> {
    disk: &'a D,
    size_bytes: u64,
    /// The unit of all addresses in the table.
    sector_bytes: u64,
    cached: Option<(BlockIndex, AlignedBuffer)>,
    found: Partitions,
}

impl<D: Disk> Search<'_, D> {
    async fn run(&mut self) {
        let Some(entries) = self.mbr_at(0).await else { return };
        if entries.iter().any(|entry| entry.kind == TYPE_GPT) {
            return self.run_gpt().await;
        }
        for entry in entries {
            match TYPES_EXTENDED.contains(&entry.kind) {
                true => self.run_extended(entry.start).await,
                false => self.add(entry.start, entry.count),
            }
        }
    }

    /// The logical partitions: each is described by a sector of its own, which links to the next.
    async fn run_extended(&mut self, base: u64) {
        let mut at = base;
        for _ in 0..PARTITIONS_MAX {
            let Some(entries) = self.mbr_at(at).await else { return };
            let is_link = |entry: &&MbrEntry| TYPES_EXTENDED.contains(&entry.kind);
            for entry in entries.iter().filter(|entry| !is_link(entry)) {
                self.add(at + entry.start, entry.count);
            }
            let Some(link) = entries.iter().find(is_link) else { return };
            at = base + link.start;
        }
    }

    async fn run_gpt(&mut self) {
        let Some(part) = self.part(self.sector_bytes).await else { return };
        let Some(header) = GptHeader::parse(&part) else { return };
        let Some(entries_bytes) = header.entries_lba.checked_mul(self.sector_bytes) else { return };
        for index in 0..header.entries.min(GPT_ENTRIES_BYTES_MAX / header.entry_bytes) {
            if self.found.ranges.len() == PARTITIONS_MAX {
                return;
            }
            let Some(entry_bytes) = entries_bytes.checked_add(index * header.entry_bytes) else { return };
            let within = (entry_bytes % PART_BYTES as u64) as usize;
            let Some(part) = self.part(entry_bytes - within as u64).await else { return };
            let is_used = part[within..within + 16].iter().any(|&byte| byte != 0);
            let (first, last) = (u64_at(&part, within + 32), u64_at(&part, within + 40));
            if let (true, Some(count)) = (is_used, last.checked_sub(first)) {
                self.add(first, count.saturating_add(1));
            }
        }
    }

    /// Adds a partition, cut off where the disk ends.
    fn add(&mut self, start: u64, count: u64) {
        let end_bytes = start.saturating_add(count).saturating_mul(self.sector_bytes).min(self.size_bytes);
        let start_bytes = start.saturating_mul(self.sector_bytes);
        if start_bytes < end_bytes && self.found.ranges.len() < PARTITIONS_MAX {
            self.found.ranges.push(start_bytes..end_bytes);
        }
    }

    async fn mbr_at(&mut self, sector: u64) -> Option<[MbrEntry; 4]> {
        parse_mbr(&self.part(sector.checked_mul(self.sector_bytes)?).await?)
    }

    /// 512 bytes of the disk; `None` behind its end and where it cannot be read.
    async fn part(&mut self, offset_bytes: u64) -> Option<[u8; PART_BYTES]> {
        if offset_bytes.checked_add(PART_BYTES as u64)? > self.size_bytes {
            return None;
        }
        let block = offset_bytes / BLOCK_BYTES as u64;
        self.found.table.insert(block);
        if self.cached.as_ref().is_none_or(|(cached, _)| *cached != block) {
            match read_block(self.disk, block, self.size_bytes).await {
                Ok(image) => self.cached = Some((block, image)),
                Err(error) => {
                    tracing::warn!(%error, block, "a block of the partition table cannot be read");
                    self.found.incomplete = true;
                    return None;
                }
            }
        }
        let (_, image) = self.cached.as_ref()?;
        let within = (offset_bytes % BLOCK_BYTES as u64) as usize;
        image[within..].first_chunk().copied()
    }
}

#[derive(Clone, Copy)]
struct MbrEntry {
    kind: u8,
    start: u64,
    count: u64,
}

/// The four entries; `None` where this is no table but, say, the boot sector of a FAT, which has the same signature.
fn parse_mbr(part: &[u8; PART_BYTES]) -> Option<[MbrEntry; 4]> {
    let entries = &part[MBR_ENTRIES];
    let is_table = part[SIGNATURE] == [0x55, 0xaa] && entries.chunks(MBR_ENTRY_BYTES).all(|entry| entry[0] & 0x7f == 0);
    is_table.then(|| {
        std::array::from_fn(|index| {
            let entry = &entries[index * MBR_ENTRY_BYTES..][..MBR_ENTRY_BYTES];
            let (start, count) = (u64::from(u32_at(entry, 8)), u64::from(u32_at(entry, 12)));
            // A type of 0 means that the entry is unused.
            MbrEntry { kind: entry[4], start, count: if entry[4] == 0 { 0 } else { count } }
        })
    })
}

struct GptHeader {
    entries_lba: u64,
    entries: u64,
    entry_bytes: u64,
}

impl GptHeader {
    fn parse(part: &[u8; PART_BYTES]) -> Option<GptHeader> {
        let (entries_lba, entries) = (u64_at(part, 72), u64::from(u32_at(part, 80)));
        let entry_bytes = u64::from(u32_at(part, 84));
        let is_header = part.starts_with(b"EFI PART");
        let is_legal = entry_bytes >= GPT_ENTRY_BYTES_MIN && entry_bytes.is_multiple_of(GPT_ENTRY_BYTES_MIN);
        (is_header && is_legal).then_some(GptHeader { entries_lba, entries, entry_bytes })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{block_on, Fault, FaultTarget, SimDisk, SimDiskOptions};

    const DISK_BYTES: u64 = 256 << 20;

    fn empty_disk(sector_bytes: u32) -> SimDisk {
        SimDisk::new(SimDiskOptions { sector_bytes, ..SimDiskOptions::new("disk", DISK_BYTES) })
    }

    /// A disk with one of the tables in engine/tests/partition_tables.
    fn disk(table: &str, sector_bytes: u32) -> SimDisk {
        let disk = empty_disk(sector_bytes);
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let (offset, digits) = line.split_once(' ').expect("offset and bytes");
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
            let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
            disk.poke(u64::from_str_radix(offset, 16).expect("hexadecimal"), &bytes);
        }
        disk
    }

    fn mbr() -> SimDisk {
        disk(include_str!("../tests/partition_tables/mbr.txt"), 512)
    }

    fn gpt_of_512() -> SimDisk {
        disk(include_str!("../tests/partition_tables/gpt-512.txt"), 512)
    }

    fn gpt_of_4096(sector_bytes: u32) -> SimDisk {
        disk(include_str!("../tests/partition_tables/gpt-4096.txt"), sector_bytes)
    }

    fn found(disk: &SimDisk, size_bytes: u64) -> Partitions {
        let found = block_on(find_partitions(disk, size_bytes));
        assert!(found.ranges.len() <= PARTITIONS_MAX && found.table.len() <= TABLE_BLOCKS_MAX);
        assert!(found.ranges.iter().all(|range| range.start < range.end && range.end <= size_bytes));
        found
    }

    fn sectors(start: u64, count: u64, sector_bytes: u64) -> Range<u64> {
        start * sector_bytes..(start + count) * sector_bytes
    }

    #[test]
    fn primary_and_logical_partitions_are_found() {
        let found = found(&mbr(), DISK_BYTES);
        let expected = [(2048, 20480), (22528, 10001), (43008, 20480), (65536, 100_000), (200_001, 63)];
        assert_eq!(found.ranges, expected.map(|(start, count)| sectors(start, count, 512)));
        assert_eq!(Vec::from_iter(found.table), [0, 40960 / 8, 63488 / 8, 197_953 / 8]);
    }

    #[test]
    fn the_partitions_of_a_gpt_are_found_for_either_sector_size() {
        let expected = [(2048, 2048), (4096, 204_800), (208_903, 313_344)];
        let small = found(&gpt_of_512(), DISK_BYTES);
        assert_eq!(small.ranges, expected.map(|(start, count)| sectors(start, count, 512)));
        assert_eq!(Vec::from_iter(small.table), [0, 1, 2, 3, 4]);
        for sector_bytes in [4096, 512] {
            let large = found(&gpt_of_4096(sector_bytes), DISK_BYTES);
            assert_eq!(large.ranges, [sectors(256, 256, 4096), sectors(512, 60_000, 4096)]);
            assert_eq!(Vec::from_iter(large.table), [0, 1, 2, 3, 4, 5]);
        }
    }

    #[test]
    fn partitions_end_where_the_disk_ends() {
        let found = found(&gpt_of_512(), 64 << 20);
        assert_eq!(found.ranges, [sectors(2048, 2048, 512), 4096 * 512..64 << 20]);
    }

    #[test]
    fn a_disk_without_a_table_costs_one_read_and_a_boot_sector_is_no_table() {
        let disk = empty_disk(512);
        disk.poke(510, &[0x55, 0xaa]);
        disk.poke(446, b"this is a program of a boot sector");
        assert_eq!(found(&disk, DISK_BYTES), Partitions { table: BTreeSet::from([0]), ..Partitions::default() });
        assert_eq!(disk.counts().reads, 1);
    }

    #[test]
    fn links_that_go_round_end() {
        let disk = mbr();
        // The second logical partition links back to the first.
        disk.poke(0x1f0_01d6, &[0; 4]);
        assert_eq!(found(&disk, DISK_BYTES).ranges.len(), PARTITIONS_MAX);
    }

    #[test]
    fn a_table_that_cannot_be_read_is_told_from_none() {
        for reads in 0..4 {
            let disk = mbr();
            disk.inject(Fault::once(FaultTarget::Read, reads));
            assert!(found(&disk, DISK_BYTES).incomplete);
        }
    }

    #[test]
    fn any_bytes_give_partitions_inside_the_disk_or_none() {
        let mut random = fastrand::Rng::with_seed(1);
        for round in 0..3000 {
            let disk = [mbr, gpt_of_512, || gpt_of_4096(4096)][round % 3]();
            let places = [446..512, 512..604, 1024..1408, 4096..4188, 8192..8448, 0x140_01be..0x140_0200];
            for place in places {
                for _ in 0..random.usize(..6) {
                    disk.poke(random.u64(place.clone()), &[[0, 0xff, random.u8(..)][random.usize(..3)]]);
                }
            }
            found(&disk, [DISK_BYTES, 4096, random.u64(1..DISK_BYTES / 4096) * 4096][random.usize(..3)]);
        }
    }
}
