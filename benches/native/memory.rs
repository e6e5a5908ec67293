//! What the process that serves a volume holds in memory, on volumes far larger than this machine's disks.

use super::cairn::Volume;
use super::in_memory;
use crate::kernel::run;
use crate::turns::Stack;
use anyhow::{Context, Result};
use cairn_engine::needed::PAGE_BLOCKS;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::Path;

const TIB: u64 = 1 << 40;
const BLOCK_BYTES: u64 = 4096;
/// Enough for the block of each page that is saved.
const STORE_BYTES: u64 = 2 << 30;

/// When it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// 16 TiB, attached, one snapshot, a thousand first writes all over it.
    Sparse,
    /// 1 TiB, attached, one snapshot.
    OneTib,
    /// How much more it is when every page of the needed map and of the in-use map has been touched.
    WorstPerTib,
}

impl std::fmt::Display for Held {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Held::Sparse => "16 TiB attached, one snapshot, a thousand first writes all over it",
            Held::OneTib => "1 TiB attached, one snapshot",
            Held::WorstPerTib => "more of that TiB when every page of its maps has been written and discarded in",
        })
    }
}

/// One look.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resident {
    /// When.
    pub what: Held,
    /// Resident bytes.
    pub bytes: u64,
}

/// Resident memory of a process.
fn resident_bytes(volume: &Volume) -> Result<u64> {
    let process_id = volume.process_id().context("nobody serves it")?;
    let status = fs::read_to_string(format!("/proc/{process_id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

fn attach(directory: &Path, binaries: &Path, size_bytes: u64) -> Result<Volume> {
    File::create(directory.join("origin"))?.set_len(size_bytes)?;
    Volume::attach(directory, binaries, STORE_BYTES)
}

/// Requests of one block, with so many bytes between one and the next.
fn touch(volume: &Volume, kind: &str, size_bytes: u64, stride_bytes: u64) -> Result<()> {
    let target = volume.target();
    let pattern = format!("--rw={kind}:{}", stride_bytes - BLOCK_BYTES);
    let size = format!("--size={size_bytes}");
    let moved = format!("--io_size={}", size_bytes / stride_bytes * BLOCK_BYTES);
    let mut arguments = vec!["--name=touch", "--bs=4096", "--iodepth=32", "--output-format=terse"];
    arguments.extend([pattern.as_str(), &size, &moved]);
    arguments.extend(target.iter().map(String::as_str));
    run("fio", &arguments).map(drop)
}

/// Looks at everything; `quick` touches a part of the TiB and says what that comes to.
pub fn measure(binaries: &Path, quick: bool) -> Result<Vec<Resident>> {
    let sparse = {
        let directory = in_memory()?;
        let volume = attach(directory.path(), binaries, 16 * TIB)?;
        touch(&volume, "write", 16 * TIB, 16 * TIB / 1024)?;
        resident_bytes(&volume)?
    };
    let directory = in_memory()?;
    let volume = attach(directory.path(), binaries, TIB)?;
    let one = resident_bytes(&volume)?;
    let parts = if quick { 16 } else { 1 };
    for kind in ["write", "trim"] {
        touch(&volume, kind, TIB / parts, PAGE_BLOCKS * BLOCK_BYTES)?;
    }
    let more = resident_bytes(&volume)?.saturating_sub(one) * parts;
    println!("memory: {} MiB of 16 TiB, {} MiB more per TiB", sparse >> 20, more >> 20);
    let resident = |what, bytes| Resident { what, bytes };
    Ok(vec![resident(Held::Sparse, sparse), resident(Held::OneTib, one), resident(Held::WorstPerTib, more)])
}
