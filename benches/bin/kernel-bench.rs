//! Plays one scene inside a test kernel: `kernel-bench DIRECTORY` reads `scene.json` there and leaves its results
//! beside it.

use anyhow::{Context, Result};
use std::path::PathBuf;

fn main() -> Result<()> {
    let directory: PathBuf = std::env::args_os().nth(1).context("which directory?")?.into();
    let scene = serde_json::from_slice(&std::fs::read(directory.join("scene.json"))?)?;
    cairn_benches::kernel::play::play(&scene, &directory)
}
