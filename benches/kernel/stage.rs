//! Sets up the contenders of a scene, each on its own disks.

use super::cairn::Cairn;
use super::contender::Bare;
use super::device_mapper::{DmSnapshot, DmThin};
use super::disk::Disk;
use super::loop_target::LoopTarget;
use super::scene::Scene;
use crate::sample::Contender;
use crate::turns::{Player, Stack};
use anyhow::{bail, Result};

/// Metadata of a thin pool is small.
const THIN_METADATA_MIB: u64 = 64;
/// What the exceptions of dm-snapshot take besides the chunks themselves.
const EXCEPTIONS_MIB: u64 = 16;

/// Builds one contender of a scene.
pub fn set_up(scene: &Scene, index: usize, contender: &Contender) -> Result<Player> {
    let size_mib = scene.volume_mib;
    let disk = |role: &str, size_mib| Disk::new(&format!("c{index}{role}"), size_mib, scene.model);
    let name = format!("c{index}");
    let snapshots = contender.snapshots;
    let stack: Box<dyn Stack> = match contender.name.as_str() {
        "raw" => Box::new(Bare::new(disk("o", size_mib)?)),
        "loop" => Box::new(LoopTarget::start(disk("o", size_mib)?)?),
        "dm-snapshot" => {
            let store = |number| disk(&format!("s{number}"), size_mib + EXCEPTIONS_MIB);
            let stores = (0..snapshots).map(store).collect::<Result<Vec<_>>>()?;
            Box::new(DmSnapshot::new(&name, size_mib, disk("o", size_mib)?, stores)?)
        }
        "dm-thin" => {
            let (data, metadata) = (disk("o", size_mib * 3)?, disk("s", THIN_METADATA_MIB)?);
            Box::new(DmThin::new(&name, size_mib, data, metadata, snapshots)?)
        }
        "cairn" | "cairn one queue" => {
            let queues = if contender.name == "cairn" { 2 } else { 1 };
            let (origin, store) = (disk("o", size_mib)?, disk("s", scene.store_mib)?);
            Box::new(Cairn::new(&name, size_mib, [origin, store], queues, snapshots)?)
        }
        other => bail!("nobody is called {other}"),
    };
    Ok(Player { contender: contender.clone(), stack, settled: false })
}
