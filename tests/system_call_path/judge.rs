//! Recovery of two images in this process, and what must then be true.
//!
//! Invariants:
//! - What was flushed is there; every snapshot that was reported is there; each shows exactly what the model allows.
//! - A second crash right after the recovery changes nothing.

use super::machine::LIMITS;
use super::timeline::Model;
use super::workload::SECTORS;
use super::SECTOR_BYTES;
use cairn_engine::disk::Disks;
use cairn_engine::error::ErrorKind;
use cairn_engine::sim::executor::block_on;
use cairn_engine::sim::rig::{open_options, Rig, StateDirectory};
use cairn_engine::sim::{Crash, SimDisk};
use cairn_engine::volume::{Accept, CheckOptions, OpenOptions, Volume};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// What may be found.
#[derive(Clone)]
pub struct Terms {
    /// How the machine stopped.
    pub crash: Crash,
    /// A device failed: snapshots may be broken, with a reason.
    pub may_be_broken: bool,
    /// What the machine's state directory holds.
    pub state: StateDirectory,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Snapshots that were whole, and compared.
    pub whole: usize,
    /// Snapshots that were broken, with a reason.
    pub broken: usize,
}

/// Recovers, and says what is wrong, if anything.
pub fn judge(disks: Disks<SimDisk>, model: &Model, terms: &Terms) -> Result<Found, String> {
    let judged = catch_unwind(AssertUnwindSafe(|| recover_twice(disks, model, terms)));
    judged.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or(panic.downcast_ref::<&str>().copied());
        Err(format!("recovery panicked: {}", message.unwrap_or("with something that is no text")))
    })
}

fn recover_twice(disks: Disks<SimDisk>, model: &Model, terms: &Terms) -> Result<Found, String> {
    let mut model = model.clone();
    model.crash(terms.crash);
    if terms.may_be_broken {
        accept_changed_origin(&disks, &terms.state)?;
    }
    let rig = Rig::attach(disks, LIMITS, terms.state.clone()).map_err(|error| format!("attach failed: {error}"))?;
    let found = look(&rig, &mut model, terms)?;
    model.crash(Crash::Power);
    let rig = rig.recover(1, Crash::Power).map_err(|error| format!("the second attach failed: {error}"))?;
    let second = Terms { crash: Crash::Power, ..terms.clone() };
    let again = look(&rig, &mut model, &second).map_err(|error| format!("after a second crash: {error}"))?;
    if again != found {
        return Err(format!("after a second crash there is {again:?} instead of {found:?}"));
    }
    Ok(found)
}

/// A store that failed may not have taken what the watch on the origin logs. Then the owner is asked, and says yes.
fn accept_changed_origin(disks: &Disks<SimDisk>, state: &StateDirectory) -> Result<(), String> {
    let attach =
        |accept| block_on(Volume::open(disks, OpenOptions { accept, ..open_options(2, LIMITS, state) })).map(drop);
    match attach(Accept::default()) {
        Err(error) if error.kind() == ErrorKind::OriginChanged => {
            let accepted = attach(Accept { changed_origin: true, ..Accept::default() });
            accepted.map_err(|error| format!("attach failed, accepting a changed origin: {error}"))
        }
        other => other.map_err(|error| format!("attach failed: {error}")),
    }
}

fn look(rig: &Rig, model: &mut Model, terms: &Terms) -> Result<Found, String> {
    let said = |error: cairn_engine::error::Error| error.to_string();
    let content = rig.read(0, SECTORS as usize * SECTOR_BYTES).map_err(said)?;
    model.observe_volume(&content, terms.crash == Crash::Power)?;
    let snapshots = block_on(rig.volume.snapshots());
    model.observe_names(&snapshots.iter().map(|snapshot| snapshot.name.to_string()).collect::<Vec<_>>())?;
    let mut found = Found::default();
    for snapshot in &snapshots {
        let name = snapshot.name.as_str();
        match &snapshot.broken {
            None => {
                let content = rig.read_snapshot(name, 0, snapshot.size_bytes as usize);
                let content = content.map_err(|error| format!("snapshot {name} cannot be read: {error}"))?;
                model.observe_snapshot(name, &content)?;
                found.whole += 1;
            }
            Some((_, reason)) if terms.may_be_broken && !reason.is_empty() => found.broken += 1,
            Some(reason) => return Err(format!("snapshot {name} is broken although no device failed: {reason:?}")),
        }
    }
    let findings = block_on(rig.volume.check(&rig.disks.store, CheckOptions { data: true })).map_err(said)?;
    let serious = findings.iter().filter(|finding| finding.serious).count();
    if serious > found.broken {
        return Err(format!("check finds what no read found: {findings:?}"));
    }
    Ok(found)
}
