//! Merging runs: the entries of several, in one order, and a rule for which of them live on.
//!
//! Invariants:
//! - State: one entry and one cursor window (256 KiB) per source. A step is bounded: one entry, at most one read a
//!   source.
//! - For one (block, epoch) the first source that has it wins: the first record wins.
//! - Every entry of every source is reported once, kept or dropped, so that the caller can account for its image;
//!   except one that lists the winner's image again, which is no loss.

use crate::disk::Disk;
use crate::entry::Entry;
use crate::error::Result;
use crate::run::cursor::Cursor;

/// Several runs read as one. The number of sources is small (the fan-out of merging): they are searched one by one.
pub struct Merge {
    sources: Vec<Source>,
    /// The entry that won the key reported last, kept or not.
    winner: Option<Entry>,
    /// The entry kept last.
    kept: Option<Entry>,
}

struct Source {
    cursor: Cursor,
    head: Option<Entry>,
    ended: bool,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It goes into the new run.
    Kept(Entry),
    /// It does not: the rule said so, or an earlier source has the same (block, epoch) with another image.
    Dropped(Entry),
}

impl Merge {
    /// A merge of `sources`, the one that wins first.
    pub fn new(sources: Vec<Cursor>) -> Merge {
        let source = |cursor| Source { cursor, head: None, ended: false };
        Merge { sources: sources.into_iter().map(source).collect(), winner: None, kept: None }
    }

    /// What becomes of the next entry, in ascending order of keys; `None` at the end. `keep` is asked about each
    /// (block, epoch) once, in order, with the entry of the same block that was kept before it.
    pub async fn next<D: Disk>(
        &mut self,
        disk: &D,
        keep: &mut impl FnMut(Option<&Entry>, &Entry) -> bool,
    ) -> Result<Option<Merged>> {
        loop {
            let Some(entry) = self.take_least(disk).await? else { return Ok(None) };
            if let Some(winner) = self.winner.filter(|winner| winner.key() == entry.key()) {
                if winner.address == entry.address {
                    continue;
                }
                return Ok(Some(Merged::Dropped(entry)));
            }
            self.winner = Some(entry);
            let before = self.kept.filter(|kept| kept.block == entry.block);
            if !keep(before.as_ref(), &entry) {
                return Ok(Some(Merged::Dropped(entry)));
            }
            self.kept = Some(entry);
            return Ok(Some(Merged::Kept(entry)));
        }
    }

    /// Takes the entry with the smallest key; of equal ones that of the first source.
    async fn take_least<D: Disk>(&mut self, disk: &D) -> Result<Option<Entry>> {
        for source in &mut self.sources {
            if source.head.is_none() && !source.ended {
                source.head = source.cursor.next(disk).await?;
                source.ended = source.head.is_none();
            }
        }
        // `min_by_key` gives the first of several equal ones.
        let live = self.sources.iter_mut().filter(|source| source.head.is_some());
        Ok(live.min_by_key(|source| source.head.map(|entry| entry.key())).and_then(|source| source.head.take()))
    }
}
