//! Mistakes that take more than a line.

use crate::catalog::Catalog;
use crate::disk::{Disk, Disks};
use crate::entry::Entry;
use crate::error::Result;
use crate::needed::NeededMap;
use crate::units::BlockIndex;
use crate::view::View;
use std::ops::Range;

/// Lets writes through to blocks that nobody saved.
pub(crate) fn settle_unsaved(needed: &NeededMap, claimed: &[Range<BlockIndex>]) -> Result<()> {
    claimed.iter().cloned().flatten().for_each(|block| needed.settle(block));
    Ok(())
}

/// Asks the map of the epoch that the last run is of, before that run is asked.
pub(crate) fn find_in_map_of_last_run(view: &View, range: Range<BlockIndex>, out: &mut [Option<Entry>]) {
    let Some(run) = view.runs.last() else { return };
    for map in view.maps.iter().filter(|map| map.epoch() == run.meta().last_epoch) {
        map.find_range(range.clone(), out);
    }
}

/// Says whose the store is.
pub(crate) async fn record_host<D: Disk>(catalog: &mut Catalog, disks: &Disks<D>, host_id: [u8; 16]) -> Result<()> {
    catalog.superblock_update(&disks.store, |superblock| superblock.host_id = host_id).await
}
