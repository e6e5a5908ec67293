//! The view: the immutable list of runs and maps that a reader searches.
//!
//! Invariants:
//! - A view never changes; a new one replaces it. Who holds an old one may go on reading what it names: segments it
//!   names are handed out again only after it is gone (`volume/views.rs`).
//! - Runs are ordered by epoch, do not overlap but in one epoch, and hold no epoch younger than any map.
//! - Maps are ordered by epoch; the active epoch's is the last.

use crate::disk::Disk;
use crate::entry::Entry;
use crate::error::Result;
use crate::run::{PageCache, Run};
use crate::saved::SavedMap;
use crate::sync::Arc;
use crate::units::{BlockIndex, Epoch};
use std::ops::Range;

/// What exists at one moment, for readers.
#[derive(Clone, Default)]
pub struct View {
    /// The sealed part of the index.
    pub runs: Vec<Arc<Run>>,
    /// What no run holds yet.
    pub maps: Vec<Arc<SavedMap>>,
}

impl View {
    /// For each block of the range, the entry of the smallest epoch >= `min_epoch` that saved it (mission A3).
    /// `out` has one slot a block; slots that are filled already stay.
    pub async fn find_range<D: Disk>(
        &self,
        store: &D,
        cache: &PageCache,
        range: Range<BlockIndex>,
        min_epoch: Epoch,
        out: &mut [Option<Entry>],
    ) -> Result<()> {
        assert_eq!((range.end - range.start) as usize, out.len());
        planted!("second-save-wins", mistakes::find_in_map_of_last_run(self, range.clone(), out));
        for run in self.runs.iter().filter(|run| run.may_hold(&range, min_epoch)) {
            run.lookup_range(store, cache, range.clone(), min_epoch, out).await?;
        }
        for map in self.maps.iter().filter(|map| map.epoch() >= min_epoch) {
            map.find_range(range.clone(), out);
        }
        Ok(())
    }

    /// Whether runs and maps are in the order that searching relies on.
    pub fn is_ordered(&self) -> bool {
        let runs = self.runs.windows(2).all(|pair| pair[0].meta().last_epoch <= pair[1].meta().first_epoch);
        let maps = self.maps.windows(2).all(|pair| pair[0].epoch() <= pair[1].epoch());
        let both = match (self.runs.last(), self.maps.first()) {
            (Some(run), Some(map)) => run.meta().last_epoch <= map.epoch(),
            _ => true,
        };
        runs && maps && both
    }
}
