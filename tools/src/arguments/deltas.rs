//! What can be said of deltas: listing, sending, receiving, writing to files, auditing.
//!
//! Invariants:
//! - As of all verbs: help, man pages, completions and the parser come from these types alone.

use crate::names::{SnapshotPath, VolumeName};
use crate::output::bytes::parse_bytes;
use crate::points::{Older, Point};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// How `diff` lists extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    /// A table with totals
    Table,
    /// One JSON object a line
    Ndjson,
    /// As `rbd diff` prints them
    Rbd,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The older point: VOL@SNAP or VOL#BOOKMARK
    #[arg(value_name = "OLDER")]
    pub from: Point,
    /// The younger point: VOL@SNAP, or VOL for the volume as it is
    #[arg(value_name = "YOUNGER")]
    pub to: Point,
    /// How extents are listed
    #[arg(long, value_enum, default_value = "table")]
    pub format: DiffFormat,
    /// One JSON object a line, as --format ndjson
    #[arg(long, conflicts_with = "format")]
    pub ndjson: bool,
    /// Write a picture of where the disk changed (.svg or .png)
    #[arg(long, value_name = "FILE")]
    pub whole_device_map: Option<PathBuf>,
    /// Compare the content of both, two snapshots, where the delta says that nothing changed
    #[arg(long)]
    pub verify: bool,
}

/// Arguments of `send`.
#[derive(Debug, Args)]
pub struct Send {
    /// The snapshot to send
    #[arg(value_name = "VOL@SNAP")]
    pub snapshot: SnapshotPath,
    /// Send only what changed since this older snapshot or bookmark
    #[arg(short, long, value_name = "SNAP|#BOOKMARK")]
    pub incremental: Option<Older>,
    /// Send nothing; print how long the stream would be, to the byte (without --compress)
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Say on standard error what is sent and how far it is
    #[arg(short, long)]
    pub verbose: bool,
    /// With -n: print for programs, a line each with tabs in between
    #[arg(short = 'P', long)]
    pub parsable: bool,
    /// Compress frames, with this level of zstd
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, default_missing_value = "3", require_equals = true,
        value_parser = clap::value_parser!(i32).range(1..=19))]
    pub compress: Option<i32>,
    /// Send at most so many bytes a second
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub limit_rate: Option<u64>,
    /// Go on where a receiver stopped: what `cairn receive TARGET --token` prints there
    #[arg(short = 't', long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Read all of the base once, so that its fingerprint is known where it is not yet
    #[arg(long)]
    pub fingerprint: bool,
    /// Do without fingerprints: the old content of what changed is not read
    #[arg(long, conflicts_with = "fingerprint")]
    pub no_fingerprint: bool,
}

/// Arguments of `receive`.
#[derive(Debug, Args)]
pub struct Receive {
    /// An attached volume by name, a disk, or a file; a full stream makes a file that does not exist
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Where a stream breaks off, keep what came, so that it can go on there, instead of rolling back
    #[arg(short = 's', long)]
    pub resumable: bool,
    /// Take back the last receive, finished or not
    #[arg(long, conflicts_with_all = ["resumable", "token"])]
    pub undo: bool,
    /// Print where an interrupted receive goes on: the token for `cairn send -t`
    #[arg(long, conflicts_with = "resumable")]
    pub token: bool,
    /// Keep the old content of what is overwritten in this file [default: in the state directory]
    #[arg(long, value_name = "FILE")]
    pub undo_file: Option<PathBuf>,
    /// Believe what was recorded of a disk at its last receive, instead of reading all of it first
    #[arg(long)]
    pub trust_identity: bool,
    /// Say on standard error what comes and how far it is
    #[arg(short, long)]
    pub verbose: bool,
}

/// The forms of a file that `export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// The bytes of the disk, with holes where there are zeroes
    Raw,
    /// A disk image of QEMU; with --base and --backing-file an overlay
    Qcow2,
    /// A disk image of Hyper-V
    Vhdx,
    /// Ceph's `rbd export-diff`
    Rbd,
    /// Ceph's diff as it stands in version 2 exports
    RbdV2,
    /// What `cairn send` writes
    Native,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// The snapshot
    #[arg(value_name = "VOL@SNAP")]
    pub snapshot: SnapshotPath,
    /// The file; it appears when it is whole
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What kind of file
    #[arg(long, value_enum, default_value = "raw")]
    pub format: ExportFormat,
    /// Only what changed since this older snapshot or bookmark
    #[arg(long, value_name = "SNAP|#BOOKMARK")]
    pub base: Option<Older>,
    /// With --format qcow2 and --base: the image of the base, on which the new one lies
    #[arg(long, value_name = "FILE", requires = "base")]
    pub backing_file: Option<PathBuf>,
    /// Overwrite a file that exists
    #[arg(long)]
    pub force: bool,
}

/// The forms of a file that `import` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// Look at its first bytes
    Auto,
    /// The bytes of a disk
    Raw,
    /// Ceph's diff, version 1 or 2
    Rbd,
    /// What `cairn send` writes
    Native,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// An attached volume by name, a disk, or a file
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// What kind of file
    #[arg(long, value_enum, default_value = "auto")]
    pub format: ImportFormat,
    /// Believe what was recorded of a disk at its last receive, instead of reading all of it first
    #[arg(long)]
    pub trust_identity: bool,
}

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// The volume
    #[arg(value_name = "VOL")]
    pub volume: VolumeName,
    /// Look at so many per cent of the disk, other ones each time
    #[arg(long, value_name = "N", default_value_t = 5, conflicts_with = "full",
        value_parser = clap::value_parser!(u8).range(1..=100))]
    pub sample: u8,
    /// Look at all of the disk
    #[arg(long)]
    pub full: bool,
    /// Read at most so many bytes a second
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub rate: Option<u64>,
}
