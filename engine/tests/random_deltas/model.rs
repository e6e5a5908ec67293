//! What a delta must say: which blocks were overwritten between which cuts.
//!
//! Invariants:
//! - Everything happens one after the other: the model knows exactly what was overwritten, and when.

use cairn_engine::delta::{Extent, ExtentKind};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

pub const BLOCK: u64 = 4096;
pub const SECTOR: u64 = 512;

/// A snapshot or a bookmark.
pub struct Point {
    /// The interval that its cut began.
    pub interval: usize,
    /// What each sector held.
    pub content: Vec<u32>,
    pub is_bookmark: bool,
}

impl Point {
    pub fn size_bytes(&self) -> u64 {
        self.content.len() as u64 * SECTOR
    }
}

/// One volume, its snapshots and its bookmarks.
pub struct Model {
    /// Blocks overwritten between one cut and the next.
    touched: Vec<BTreeSet<u64>>,
    pub points: BTreeMap<String, Point>,
    /// What each sector holds now.
    pub content: Vec<u32>,
}

impl Model {
    pub fn new(content: &[u8]) -> Model {
        Model { touched: vec![BTreeSet::new()], points: BTreeMap::new(), content: sectors(content) }
    }

    pub fn size_bytes(&self) -> u64 {
        self.content.len() as u64 * SECTOR
    }

    /// The volume holds this now.
    pub fn follow(&mut self, content: &[u8]) {
        self.content = sectors(content);
    }

    /// A write of one value everywhere in a range of sectors.
    pub fn write(&mut self, range: Range<u64>, value: u8) {
        let sum = crc32c::crc32c(&[value; SECTOR as usize]);
        self.content[range.start as usize..range.end as usize].fill(sum);
        self.touch(range.start * SECTOR / BLOCK..(range.end * SECTOR).div_ceil(BLOCK));
    }

    pub fn touch(&mut self, blocks: impl IntoIterator<Item = u64>) {
        self.touched.last_mut().expect("there is an interval").extend(blocks);
    }

    /// A cut; gives what the point holds.
    pub fn cut(&mut self, name: &str) {
        self.touched.push(BTreeSet::new());
        let (interval, content) = (self.touched.len() - 1, self.content.clone());
        self.points.insert(name.to_owned(), Point { interval, content, is_bookmark: false });
    }

    /// The points, oldest first.
    pub fn in_order(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.points.keys().map(String::as_str).collect();
        names.sort_by_key(|name| self.points[*name].interval);
        names
    }

    /// Blocks overwritten from the cut of one point up to that of another, or until now.
    pub fn touched_between(&self, older: &str, newer: Option<&str>) -> BTreeSet<u64> {
        let end = newer.map_or(self.touched.len(), |newer| self.points[newer].interval);
        self.touched[self.points[older].interval..end].iter().flatten().copied().collect()
    }

    /// The delta, from a place on.
    pub fn delta(&self, older: Option<&str>, newer: Option<&str>, offset_bytes: u64) -> Vec<Extent> {
        let end_bytes = newer.map_or(self.size_bytes(), |newer| self.points[newer].size_bytes());
        let mut blocks = match older {
            None => (0..end_bytes.div_ceil(BLOCK)).collect(),
            Some(older) => self.touched_between(older, newer),
        };
        if let Some(older_bytes) = older.map(|older| self.points[older].size_bytes()) {
            if older_bytes < end_bytes {
                blocks.extend(older_bytes / BLOCK..end_bytes.div_ceil(BLOCK));
            }
        }
        let mut extents: Vec<Extent> = Vec::new();
        for block in blocks {
            let (start, end) = ((block * BLOCK).max(offset_bytes), ((block + 1) * BLOCK).min(end_bytes));
            match extents.last_mut().filter(|last| last.offset_bytes + last.length_bytes == start) {
                _ if start >= end => {}
                Some(last) => last.length_bytes = end - last.offset_bytes,
                None => {
                    let length_bytes = end - start;
                    extents.push(Extent { offset_bytes: start, length_bytes, kind: ExtentKind::Data });
                }
            }
        }
        extents
    }
}

/// A checksum of each sector.
pub fn sectors(content: &[u8]) -> Vec<u32> {
    content.chunks_exact(SECTOR as usize).map(crc32c::crc32c).collect()
}
