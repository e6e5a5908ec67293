//! A recovered volume is used further: it takes writes and snapshots, keeps what it had, and passes its own check.

use super::alphabet::BLOCK_A;
use super::machine::Machine;
use super::pages::Image;
use super::verdict::{numbers, Found, FoundSnapshot};
use crate::deadline::Deadline;
use crate::disk::aligned_buffer;
use crate::error::Error;
use crate::sim::executor::block_on;
use crate::sim::rig::{snapshot_name, snapshot_options};
use crate::sim::stamp::stamp;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};
use crate::volume::CheckOptions;

/// The writes made here have numbers that no workload reaches.
const FIRST_WRITE: u64 = 50;
const SECTORS_PER_BLOCK: usize = BLOCK_BYTES / TEAR_BYTES;
const NAME: &str = "used";

/// Attaches an image and works with the volume.
pub(super) fn use_further(machine: &Machine, image: &Image) -> Result<(), String> {
    let (mut expected, volume) = machine.recover(image, false)?;
    let attached = machine.with_lanes(volume);
    let failed = |error: Error| format!("used after recovery: {error:?}");
    for write in 0..2 {
        let first_sector = BLOCK_A as usize * SECTORS_PER_BLOCK + write * SECTORS_PER_BLOCK / 2;
        let mut data = aligned_buffer(BLOCK_BYTES);
        stamp(FIRST_WRITE + write as u64, first_sector as u64, &mut data);
        block_on(attached.lane.write((first_sector * TEAR_BYTES) as u64, &data, false)).map_err(failed)?;
        let mut image = vec![0; expected.volume.len() * TEAR_BYTES];
        image[first_sector * TEAR_BYTES..][..BLOCK_BYTES].copy_from_slice(&data);
        let written = first_sector..first_sector + SECTORS_PER_BLOCK;
        expected.volume[written.clone()].copy_from_slice(&numbers(&image)[written]);
        if write == 0 && attached.volume.restore_progress().is_none() {
            let (name, options) = (snapshot_name(NAME), snapshot_options());
            let holes = attached.volume.holes_now();
            let taken = block_on(attached.volume.snapshot(&machine.disks, &name, options, &Deadline::new()));
            taken.map_err(failed)?;
            let block_of = |sector: usize| (sector / SECTORS_PER_BLOCK) as u64;
            let shown = |(sector, number): (usize, &u8)| if holes.contains(block_of(sector)) { 0 } else { *number };
            let content = expected.volume.iter().enumerate().map(shown).collect();
            expected.snapshots.push(FoundSnapshot { name: NAME.to_owned(), is_bookmark: false, content });
        }
    }
    compare(&expected, &machine.look(&attached.volume)?)?;
    while block_on(attached.volume.background_step(&attached.control)).map_err(failed)? {}
    compare(&expected, &machine.look(&attached.volume)?)?;
    let findings = block_on(attached.volume.check(&machine.disks.store, CheckOptions { data: true }));
    match findings {
        Ok(findings) if findings.iter().all(|finding| !finding.serious) => Ok(()),
        findings => Err(format!("used after recovery: the check finds {findings:?}")),
    }
}

fn compare(expected: &Found, found: &Found) -> Result<(), String> {
    if found.is_as(expected) {
        return Ok(());
    }
    Err(format!("used after recovery: expected {expected:?}, found {found:?}"))
}
