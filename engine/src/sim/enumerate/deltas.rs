//! Deltas of what was found: what they leave out must be the same at both ends.
//!
//! Invariants:
//! - A bookmark is judged by what its deltas say that it held: what no delta tells is there still, in the newer end.

use super::machine::Machine;
use super::verdict::{Found, FoundSnapshot, TOLD};
use crate::sim::told::told;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};
use crate::volume::Volume;

/// A newer end: none is the volume as it is.
struct Newer {
    name: Option<String>,
    content: Vec<u8>,
}

impl Machine {
    /// Asks for the delta from each snapshot and bookmark to everything younger. Bookmarks learn what they held.
    pub(super) async fn compare_deltas(&self, volume: &Volume, found: &mut Found) -> Result<(), String> {
        let holes = volume.holes_now();
        let is_hole = |sector: usize| holes.contains((sector * TEAR_BYTES / BLOCK_BYTES) as u64);
        // What is not in use reads as zeroes, everywhere alike.
        let live = found.volume.iter().enumerate();
        let live = live.map(|(sector, number)| if is_hole(sector) { 0 } else { *number }).collect();
        let mut newer = vec![Newer { name: None, content: live }];
        for point in found.snapshots.iter_mut().rev() {
            for end in &newer {
                let sectors = told(volume, &self.disks, &point.name, end.name.as_deref()).await;
                let sectors = sectors.map_err(|error| format!("no delta from {}: {error:?}", point.name))?;
                point.learn(&sectors, &end.content).map_err(|message| format!("to {:?}: {message}", end.name))?;
            }
            if !point.is_bookmark {
                newer.push(Newer { name: Some(point.name.clone()), content: point.content.clone() });
            }
        }
        Ok(())
    }
}

impl FoundSnapshot {
    /// A younger one holds `content`, and the delta to it tells these sectors.
    fn learn(&mut self, told: &[bool], content: &[u8]) -> Result<(), String> {
        for (sector, number) in content.iter().enumerate().filter(|(sector, _)| !told[*sector]) {
            match self.content.get_mut(sector) {
                Some(own) if *own == TOLD => *own = *number,
                Some(own) if own == number => {}
                _ => return Err(format!("sector {sector} changed since {}; the delta does not say so", self.name)),
            }
        }
        Ok(())
    }
}
