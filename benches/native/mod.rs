//! NBD servers of this machine against each other, without a kernel in between: Cairn, qemu-storage-daemon, nbdkit.
//!
//! Invariants:
//! - Every server has the same kind of files below it, opened past the page cache where it can be told to.

mod cairn;
pub mod memory;
mod others;
mod server;

use crate::fio::Extent;
use crate::kernel::disk::Model;
use crate::kernel::scene::{Scene, Turn};
use crate::results::Results;
use crate::sample::{Contender, Shape, Work};
use crate::turns::{play_rounds, Player, Stack};
use anyhow::{Context, Result};
use std::path::Path;
use tempfile::TempDir;

/// What is played.
pub fn scene(quick: bool) -> Scene {
    let turn = |work, depth, extent| Turn { work, shape: Shape { block_bytes: 4096, depth, jobs: 1 }, extent };
    let (first, lasting) = (Extent::Once { requests_max: 32768, time_max_ms: 700 }, Extent::For { time_ms: 400 });
    let contenders = [
        ("raw", 0),
        ("cairn", 1),
        ("qemu copy-before-write", 1),
        ("qemu qcow2 overlay", 1),
        ("nbdkit cow", 1),
        ("qemu raw", 0),
    ];
    Scene {
        name: "native".to_owned(),
        model: Model::Files,
        volume_mib: 128,
        store_mib: 1024,
        contenders: contenders.map(|(name, snapshots)| Contender { name: name.to_owned(), snapshots }).into(),
        turns: vec![
            turn(Work::FirstWrite, 1, first),
            turn(Work::FirstWrite, 32, first),
            turn(Work::Rewrite, 1, lasting),
            turn(Work::Rewrite, 32, lasting),
            turn(Work::Read, 32, lasting),
        ],
        rounds: if quick { 1 } else { 9 },
        cuts: None,
        counted: Vec::new(),
        memory: String::new(),
        seconds_max: 600,
    }
}

/// Plays it; `binaries` is where Cairn's programs are.
pub fn play(scene: &Scene, binaries: &Path, results: &mut Results) -> Result<()> {
    let directory = in_memory()?;
    let mut players = Vec::new();
    for (index, contender) in scene.contenders.iter().enumerate() {
        let own = directory.path().join(index.to_string());
        std::fs::create_dir(&own)?;
        let stack = set_up(scene, &contender.name, &own, binaries);
        let stack = stack.with_context(|| format!("{contender} cannot be set up"))?;
        players.push(Player { contender: contender.clone(), stack, settled: false });
    }
    play_rounds(scene, &mut players, &mut |sample| {
        results.samples.push(sample.clone());
        Ok(())
    })
}

/// A directory in memory, where there is such a thing.
fn in_memory() -> Result<TempDir> {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    Ok(tempfile::Builder::new().prefix("cairn-bench-").tempdir_in(parent)?)
}

fn set_up(scene: &Scene, name: &str, directory: &Path, binaries: &Path) -> Result<Box<dyn Stack>> {
    let size_bytes = scene.volume_mib << 20;
    server::full_file(&directory.join("origin"), size_bytes)?;
    Ok(match name {
        "cairn" => Box::new(cairn::Volume::attach(directory, binaries, scene.store_mib << 20)?),
        _ => Box::new(others::Other::start(name, directory, size_bytes)?),
    })
}
