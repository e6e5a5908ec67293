//! Comparisons on a real kernel: what a scene is, and what plays in it.
//!
//! Invariants:
//! - Every contender has devices of its own, all of the same model; the kernel counts what they do.
//! - A contender is what its makers ship: the kernel's own device-mapper targets, libublk's own example.

pub mod cairn;
pub mod contender;
pub mod device_mapper;
pub mod disk;
pub mod drive;
pub mod loop_target;
pub mod play;
pub mod profile;
pub mod scene;
pub mod stage;
pub mod steps;

use anyhow::{ensure, Context, Result};
use std::process::Command;

/// Runs a command that must succeed; gives what it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("{program} cannot be started"))?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {}: {}{complained}{said}", arguments.join(" "), output.status);
    Ok(said.into_owned())
}
