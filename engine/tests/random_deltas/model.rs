//! What a delta must say: which blocks were overwritten between which cuts.
//!
//! Invariants:
//! - Everything happens one after the other: the model knows exactly what was overwritten, and when.

use cairn_engine::delta::{Extent, ExtentKind};
use cairn_engine::holes::Holes;
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
    /// What was not in use; its sectors hold zeroes.
    pub holes: Holes,
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
    /// Blocks that may be free: discarded or grown by, and not written since.
    free: BTreeSet<u64>,
}

impl Model {
    pub fn new(content: &[u8]) -> Model {
        let (touched, points, free) = (vec![BTreeSet::new()], BTreeMap::new(), BTreeSet::new());
        Model { touched, points, content: sectors(content), free }
    }

    pub fn size_bytes(&self) -> u64 {
        self.content.len() as u64 * SECTOR
    }

    /// The volume holds this now. What it has grown by is free.
    pub fn follow(&mut self, content: &[u8]) {
        self.free.extend(self.size_bytes().div_ceil(BLOCK)..(content.len() as u64).div_ceil(BLOCK));
        self.content = sectors(content);
    }

    /// Sectors were discarded: blocks that lie there whole.
    pub fn discard(&mut self, range: Range<u64>) {
        let end_bytes = range.end * SECTOR;
        let end = if end_bytes == self.size_bytes() { end_bytes.div_ceil(BLOCK) } else { end_bytes / BLOCK };
        self.free.extend((range.start * SECTOR).div_ceil(BLOCK)..end);
    }

    /// An attach may have forgotten what was free, and never made up anything.
    pub fn follow_holes(&mut self, holes: &Holes) {
        self.assert_free(holes);
        self.free = holes.ranges().iter().cloned().flatten().collect();
    }

    /// Nothing that was written is a hole.
    pub fn assert_free(&self, holes: &Holes) {
        let mut blocks = holes.ranges().iter().cloned().flatten();
        let in_use = blocks.find(|block| !self.free.contains(block));
        assert_eq!(in_use, None, "a block that was written is not in use");
    }

    /// A content in which holes hold zeroes.
    pub fn without(content: &[u32], holes: &Holes) -> Vec<u32> {
        let zeroes = crc32c::crc32c(&[0; SECTOR as usize]);
        let is_hole = |sector: usize| holes.contains(sector as u64 * SECTOR / BLOCK);
        content.iter().enumerate().map(|(sector, sum)| if is_hole(sector) { zeroes } else { *sum }).collect()
    }

    /// A write of one value everywhere in a range of sectors.
    pub fn write(&mut self, range: Range<u64>, value: u8) {
        let sum = crc32c::crc32c(&[value; SECTOR as usize]);
        self.content[range.start as usize..range.end as usize].fill(sum);
        self.touch(range.start * SECTOR / BLOCK..(range.end * SECTOR).div_ceil(BLOCK));
    }

    pub fn touch(&mut self, blocks: impl IntoIterator<Item = u64>) {
        let touched = self.touched.last_mut().expect("there is an interval");
        for block in blocks {
            touched.insert(block);
            self.free.remove(&block);
        }
    }

    /// A cut, with the holes that the volume has.
    pub fn cut(&mut self, name: &str, holes: Holes) {
        self.assert_free(&holes);
        self.touched.push(BTreeSet::new());
        let (interval, content) = (self.touched.len() - 1, Model::without(&self.content, &holes));
        self.points.insert(name.to_owned(), Point { interval, content, holes, is_bookmark: false });
    }

    /// The volume shows what a point holds; `blocks` were moved for that.
    pub fn restore(&mut self, name: &str, blocks: BTreeSet<u64>) {
        self.touch(blocks);
        let target = &self.points[name];
        self.content = target.content.clone();
        self.free = target.holes.ranges().iter().cloned().flatten().collect();
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

    /// The delta, from a place on. `live` are the holes of the volume itself.
    pub fn delta(&self, older: Option<&str>, newer: Option<&str>, live: &Holes, offset_bytes: u64) -> Vec<Extent> {
        let end_bytes = newer.map_or(self.size_bytes(), |newer| self.points[newer].size_bytes());
        let holes = newer.map_or(live, |newer| &self.points[newer].holes);
        let mut extents: Vec<Extent> = Vec::new();
        let touched = older.map(|older| self.touched_between(older, newer));
        for block in 0..end_bytes.div_ceil(BLOCK) {
            let was_in_use = older.is_some_and(|older| !self.points[older].holes.contains(block));
            let is_new = older.is_some_and(|older| {
                let older_bytes = self.points[older].size_bytes();
                older_bytes < end_bytes && block >= older_bytes / BLOCK
            });
            let is_touched = touched.as_ref().is_none_or(|touched| touched.contains(&block));
            let kind = match holes.contains(block) {
                true if older.is_some() && (was_in_use || is_new) => ExtentKind::NotInUse,
                false if is_touched || !was_in_use || is_new => ExtentKind::Data,
                _ => continue,
            };
            let (start, end) = ((block * BLOCK).max(offset_bytes), ((block + 1) * BLOCK).min(end_bytes));
            let touches = |last: &&mut Extent| last.offset_bytes + last.length_bytes == start && last.kind == kind;
            match extents.last_mut().filter(touches) {
                _ if start >= end => {}
                Some(last) => last.length_bytes = end - last.offset_bytes,
                None => extents.push(Extent { offset_bytes: start, length_bytes: end - start, kind }),
            }
        }
        extents
    }
}

/// A checksum of each sector.
pub fn sectors(content: &[u8]) -> Vec<u32> {
    content.chunks_exact(SECTOR as usize).map(crc32c::crc32c).collect()
}
