//! What can be said to `cairn`: options, verbs and their help.
//!
//! Invariants:
//! - Help, man pages, completions and the parser come from these types alone.
//! - Names are checked while parsing, so that no verb ever sees an illegal one.

mod deltas;

pub use deltas::{Audit, Diff, DiffFormat, Export, ExportFormat, Import, ImportFormat, Receive, Send};

use crate::names::{SnapshotPath, Target, VolumeName};
use crate::output::bytes::{parse_bytes, parse_granule_blocks, parse_segment_bytes};
use crate::points::Point;
use cairn_target::config::SAVE_DEADLINE_MS_RANGE;
use cairn_target::control::api::FREEZE_TIMEOUT_MS_MAX;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   failed (I/O error or another failure; the message says which)
  2   wrong usage
  3   no such volume, snapshot or device
  4   exists already
  5   busy: mounted, open, held by another program, or another operation is under way
  6   the volume is not attached
  7   timed out; nothing was changed
  8   damaged: `check` found something wrong, or what was asked for is broken
  9   refused: not agreed to, or not safe without a flag that the message names
  10  base missing: the older snapshot that was named is not kept any more, or the target is no copy of it
  11  target modified: the disk was written behind Cairn's back, or a copy since it was received
  12  store full
  13  locked: something depends on the snapshot

Files:
  /var/lib/cairn  configuration of volumes (--state-dir, CAIRN_STATE_DIR)
  /run/cairn      sockets and state of attached volumes (--run-dir, CAIRN_RUN_DIR)
  /dev/cairn      device nodes (--dev-dir, CAIRN_DEV_DIR)";

/// Copy-on-write snapshots for any Linux disk.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, after_help = EXIT_CODES, propagate_version = false)]
pub struct Arguments {
    /// Options every verb takes.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options every verb takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Print JSON: stable keys, bytes as integers, times in ISO 8601 UTC
    #[arg(long, global = true)]
    pub json: bool,
    /// Agree to whatever would be asked
    #[arg(long, short = 'y', global = true)]
    pub yes: bool,
    /// Where the configuration of volumes is kept [default: CAIRN_STATE_DIR, else /var/lib/cairn]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where sockets and the state of attached volumes are [default: CAIRN_RUN_DIR, else /run/cairn]
    #[arg(long, global = true, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where device nodes appear [default: CAIRN_DEV_DIR, else /dev/cairn]
    #[arg(long, global = true, value_name = "DIR")]
    pub dev_dir: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the disks of this machine, which of them are fit as origin or store, and why not
    Devices(Devices),
    /// Join an origin and a store to a volume; the origin is not written
    Create(Create),
    /// Start serving a volume as a block device
    Attach(Attach),
    /// Stop serving a volume; refused while it is mounted or open
    Detach(Detach),
    /// List volumes
    List(List),
    /// Show a volume with its snapshots, or one snapshot
    Show(Show),
    /// Take a snapshot
    Snapshot(Snapshot),
    /// Show a snapshot as a block device (without ublk: as an NBD export)
    Expose(Expose),
    /// End what expose began; the snapshot stays
    Unexpose(Unexpose),
    /// Take the volume back to a snapshot; the state before is kept as a snapshot
    Restore(Restore),
    /// Delete a snapshot or a bookmark
    Delete(Delete),
    /// Follow an origin or a store that has grown
    Grow(Grow),
    /// Show latencies, counts of saves, and cut pauses of an attached volume
    Stat(Stat),
    /// Check a store: everything that is wrong, not the first thing
    Check(Check),
    /// Show what the running kernel offers, and what is missing and why
    Features(Features),
    /// Forget a volume and erase its store's signature; the origin is never touched
    Destroy(Destroy),
    /// List what changed between two points in the life of a volume
    Diff(Diff),
    /// Write what changed, or all of a snapshot, as a stream to standard output
    Send(Send),
    /// Apply a stream from standard input to a volume, a disk or a file
    Receive(Receive),
    /// Write a snapshot, or what changed, into a file that other programs read
    Export(Export),
    /// Apply a file that holds a delta, or a raw image, to a volume, a disk or a file
    Import(Import),
    /// Prove by content that the deltas of a volume leave nothing out
    Audit(Audit),
    /// Show versions
    Version(Version),
    /// Write the manual pages into a directory
    Man(Man),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Freeze a filesystem, thaw it when told, at the time limit, or when the caller dies
    #[command(hide = true)]
    HoldFrozen(HoldFrozen),
}

/// Arguments of `devices`.
#[derive(Debug, Args)]
pub struct Devices {
    /// Only these devices
    #[arg(value_name = "DEV")]
    pub devices: Vec<PathBuf>,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Name of the new volume
    #[arg(value_name = "VOL")]
    pub volume: VolumeName,
    /// The disk, partition, logical volume or image file whose content the volume shows
    #[arg(long, value_name = "DEV")]
    pub origin: PathBuf,
    /// Where before-images are kept: a block device or a file
    #[arg(long, value_name = "DEV|FILE")]
    pub store: PathBuf,
    /// Create the store file with this size, preallocated (as 20G, 512M, 1T; powers of 1024)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub store_size: Option<u64>,
    /// Size of a segment, the piece in which the store is handed out
    #[arg(long, value_name = "SIZE", value_parser = parse_segment_bytes)]
    pub segment_size: Option<u32>,
    /// What one bit of the in-use map stands for, from 4K to 256K; larger takes less memory
    #[arg(long, value_name = "SIZE", value_parser = parse_granule_blocks, default_value = "4K")]
    pub in_use_granule: u32,
    /// How long a write may wait for the store.
    #[command(flatten)]
    pub save_deadline: SaveDeadline,
    /// Overwrite whatever the store holds
    #[arg(long)]
    pub force: bool,
}

/// How long a write may wait for the store, and what happens then.
#[derive(Debug, Args)]
pub struct SaveDeadline {
    /// How long a write may wait for the store before that is an alarm, and --on-late says what happens [default:
    /// 30000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(SAVE_DEADLINE_MS_RANGE))]
    pub save_deadline_ms: Option<u64>,
    /// What happens when a write has waited for the store that long [default: wait]
    #[arg(long, value_enum)]
    pub on_late: Option<OnLate>,
}

/// What happens when a write has waited too long for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnLate {
    /// It goes on waiting
    Wait,
    /// All snapshots break, so that writes go on
    Break,
}

/// What shows the volume to the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Frontend {
    /// ublk where the kernel has it, else NBD
    Auto,
    /// A block device of the kernel
    Ublk,
    /// A Network Block Device server on a Unix socket
    Nbd,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// The volume
    #[arg(value_name = "VOL")]
    pub volume: VolumeName,
    /// Stay in the foreground, and detach on SIGTERM or Ctrl-C
    #[arg(long)]
    pub foreground: bool,
    /// What shows the volume
    #[arg(long, value_enum, default_value = "auto")]
    pub frontend: Frontend,
    /// Queues of the block device (default: one a CPU)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=128))]
    pub queues: Option<u16>,
    /// Requests in flight a queue
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub depth: Option<u16>,
    /// Serve NBD over TCP, too, at this address and port; beyond the loopback interface it takes --tls-creds
    #[arg(long, value_name = "ADDR:PORT")]
    pub nbd_listen: Option<SocketAddr>,
    /// Directory with ca-cert.pem, server-cert.pem and server-key.pem (and ca-crl.pem); TCP clients then need TLS and a
    /// certificate of that authority
    #[arg(long, value_name = "DIR", requires = "nbd_listen")]
    pub tls_creds: Option<PathBuf>,
    /// How long a write may wait for the store.
    #[command(flatten)]
    pub save_deadline: SaveDeadline,
    /// Go on with an origin that was written while Cairn was away; older snapshots are marked broken
    #[arg(long)]
    pub accept_changed_origin: bool,
    /// Go on with a store that another host used last and did not detach cleanly
    #[arg(long)]
    pub accept_other_host: bool,
    /// Go on after a failed flush, having checked the filesystem
    #[arg(long)]
    pub clear_failed_flush: bool,
    /// Give up an unfinished restore whose snapshot breaks; the volume is then partly restored
    #[arg(long)]
    pub abandon_restore: bool,
    /// How long to wait until the volume is served, in seconds
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub wait_s: u64,
}

/// How verbs treat a restore that still moves blocks back.
#[derive(Debug, Args)]
pub struct Wait {
    /// Fail at once where a restore is under way, instead of waiting until it is done
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct Detach {
    /// The volume
    #[arg(value_name = "VOL")]
    pub volume: VolumeName,
    /// Whether to wait for a restore.
    #[command(flatten)]
    pub wait: Wait,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct List {}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The volume, or one of its snapshots
    #[arg(value_name = "VOL[@SNAP]")]
    pub target: Target,
}

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub struct Snapshot {
    /// The snapshot to take
    #[arg(value_name = "VOL@SNAP")]
    pub snapshot: SnapshotPath,
    /// Freeze the filesystem mounted on the volume during the cut, or the one mounted at MOUNTPOINT
    #[arg(long, value_name = "MOUNTPOINT", num_args = 0..=1, require_equals = true)]
    pub freeze: Option<Option<PathBuf>>,
    /// The filesystem is thawed after this time whatever happens; the snapshot then fails
    #[arg(long, value_name = "MS", default_value_t = 10_000, requires = "freeze",
        value_parser = clap::value_parser!(u64).range(100..=FREEZE_TIMEOUT_MS_MAX))]
    pub freeze_timeout_ms: u64,
}

/// Arguments of `expose`.
#[derive(Debug, Args)]
pub struct Expose {
    /// The snapshot
    #[arg(value_name = "VOL@SNAP")]
    pub snapshot: SnapshotPath,
    /// Take writes into a throw-away overlay; the snapshot itself never changes
    #[arg(long)]
    pub scratch: bool,
}

/// Arguments of `unexpose`.
#[derive(Debug, Args)]
pub struct Unexpose {
    /// The snapshot
    #[arg(value_name = "VOL@SNAP")]
    pub snapshot: SnapshotPath,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The snapshot to go back to
    #[arg(value_name = "VOL@SNAP")]
    pub snapshot: SnapshotPath,
    /// Name of the snapshot that keeps the state before (default: before-restore-TIME)
    #[arg(long, value_name = "NAME")]
    pub before: Option<String>,
    /// Whether to wait for an earlier restore.
    #[command(flatten)]
    pub wait: Wait,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The snapshot, or a bookmark
    #[arg(value_name = "VOL@SNAP|VOL#BOOKMARK")]
    pub snapshot: Point,
    /// Leave a bookmark: what changed since the snapshot stays known, what it held does not
    #[arg(long)]
    pub keep_bookmark: bool,
    /// Whether to wait for a restore.
    #[command(flatten)]
    pub wait: Wait,
}

/// Arguments of `grow`.
#[derive(Debug, Args)]
pub struct Grow {
    /// The volume
    #[arg(value_name = "VOL")]
    pub volume: VolumeName,
    /// Grow the store: a store file to this size, a store device to what it has now
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub store_size: Option<u64>,
}

/// Arguments of `stat`.
#[derive(Debug, Args)]
pub struct Stat {
    /// The volume
    #[arg(value_name = "VOL")]
    pub volume: VolumeName,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The volume, attached or not
    #[arg(value_name = "VOL", required_unless_present = "store")]
    pub volume: Option<VolumeName>,
    /// A store that no volume here is configured for
    #[arg(long, value_name = "PATH", conflicts_with = "volume")]
    pub store: Option<PathBuf>,
    /// Read every before-image too and compare its checksum
    #[arg(long)]
    pub data: bool,
}

/// Arguments of `features`.
#[derive(Debug, Args)]
pub struct Features {}

/// Arguments of `destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    /// The volume
    #[arg(value_name = "VOL")]
    pub volume: VolumeName,
    /// Forget the volume even where its store is lost or belongs to something else
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `version`.
#[derive(Debug, Args)]
pub struct Version {}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: clap_complete::Shell,
}

/// Arguments of `hold-frozen`.
#[derive(Debug, Args)]
pub struct HoldFrozen {
    /// Where the filesystem is mounted
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// It is thawed after this time whatever happens
    #[arg(long, value_name = "MS")]
    pub timeout_ms: u64,
}
