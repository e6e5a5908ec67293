//! Disks of the test kernel: null_blk with memory behind it, as fast as the model says.

use crate::sample::DeviceCounts;
use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// What limits a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// Nothing but memory and CPU.
    Ram,
    /// Every request takes so long.
    Latency { us: u64 },
    /// Every disk moves at most so much, reads and writes together.
    Bandwidth { mib_per_s: u64 },
    /// No disk at all: files in the memory of this machine.
    Files,
}

impl std::fmt::Display for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Model::Ram => formatter.write_str("memory"),
            Model::Latency { us } => write!(formatter, "every request takes {us} us"),
            Model::Bandwidth { mib_per_s } => write!(formatter, "at most {mib_per_s} MiB/s a disk"),
            Model::Files => formatter.write_str("files in memory, on the host itself"),
        }
    }
}

/// A null_blk disk. It stays for as long as the kernel runs.
#[derive(Clone, Debug)]
pub struct Disk {
    name: String,
}

impl Disk {
    /// A new disk of this name.
    pub fn new(name: &str, size_mib: u64, model: Model) -> Result<Disk> {
        let directory = Path::new("/sys/kernel/config/nullb").join(name);
        fs::create_dir(&directory).with_context(|| format!("no null_blk disk {name}"))?;
        let set = |attribute: &str, value: u64| {
            fs::write(directory.join(attribute), value.to_string())
                .with_context(|| format!("null_blk does not take {attribute} = {value}"))
        };
        set("size", size_mib)?;
        set("blocksize", 4096)?;
        set("memory_backed", 1)?;
        set("submit_queues", 2)?;
        set("hw_queue_depth", 128)?;
        match model {
            Model::Ram => set("irqmode", 0)?,
            Model::Latency { us } => {
                set("irqmode", 2)?;
                set("completion_nsec", us * 1000)?;
            }
            Model::Bandwidth { mib_per_s } => {
                set("irqmode", 0)?;
                set("mbps", mib_per_s)?;
            }
            Model::Files => bail!("files are no null_blk disks"),
        }
        set("power", 1)?;
        Ok(Disk { name: name.to_owned() })
    }

    /// Its device node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// What it did so far.
    pub fn counts(&self) -> Result<DeviceCounts> {
        let path = format!("/sys/block/{}/stat", self.name);
        let text = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
        let fields: Vec<u64> = text
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{path}: {text}"))?;
        let field = |index: usize| fields.get(index).copied().with_context(|| format!("{path} has no field {index}"));
        Ok(DeviceCounts {
            reads: field(0)?,
            read_bytes: field(2)? * 512,
            writes: field(4)?,
            written_bytes: field(6)? * 512,
            flushes: field(15)?,
        })
    }
}

/// What several disks did together.
pub fn counts_of(disks: &[Disk]) -> Result<DeviceCounts> {
    disks.iter().try_fold(DeviceCounts::default(), |sum, disk| Ok(sum.plus(&disk.counts()?)))
}
