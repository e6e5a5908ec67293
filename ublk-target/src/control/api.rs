//! The types of the control API, as they travel: shared by the target, the command and whatever comes later.
//!
//! Invariants:
//! - Sizes are integers of bytes (`_bytes`), durations say their unit (`_ms`, `_us`), instants are ISO-8601 UTC.
//! - Every key of an answer is always there; what does not apply is null. Keys are never renamed within a version.
//! - Requests refuse keys they do not know; answers may gain keys, so clients ignore those they do not know.

pub use super::timestamp::Timestamp;
use cairn_engine::snapshot::{self, Snapshot};
use serde::{Deserialize, Serialize};

/// Version of the API; the first part of every path, as in `/v1/volume`.
pub const API_VERSION: u32 = 1;
/// Largest request body taken.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// The most extents in one page of changes.
pub const CHANGES_MAX: usize = 65_536;
/// Extents in a page of changes where the request does not say.
pub const CHANGES_DEFAULT: usize = 4096;
/// The most bytes of a snapshot in one answer.
pub const DATA_BYTES_MAX: u64 = 1 << 20;
/// The longest a filesystem may be kept frozen for a snapshot.
pub const FREEZE_TIMEOUT_MS_MAX: u64 = 60_000;

/// GET /v1/version
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReport {
    /// Version of this API.
    pub api: u32,
    /// The program that answers.
    pub program: String,
    /// Its version.
    pub version: String,
}

/// How sound the volume is. The origin works in every one of these states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// Everything is as it should be.
    Whole,
    /// Production and at least some snapshots work; `state_reason` says what does not.
    Degraded,
    /// The store is given up: production works, snapshots do not.
    Broken,
}

/// What shows the volume to the outside for reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Frontend {
    /// A block device of this host.
    Ublk,
    /// A network block device.
    Nbd,
}

/// The real disk under the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginReport {
    /// Device or image file.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its logical sector: 512 or 4096.
    pub sector_bytes: u32,
}

/// Where before-images and metadata live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Device or file.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// Taken by before-images, indices and metadata.
    pub used_bytes: u64,
    /// Free for new before-images.
    pub free_bytes: u64,
}

/// How far a restore that still moves blocks back has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreProgress {
    /// The snapshot that the volume shows.
    pub snapshot: String,
    /// The automatic snapshot of the state before.
    pub before: String,
    /// Bytes examined, moved back where that was necessary.
    pub done_bytes: u64,
    /// Bytes to examine in all.
    pub total_bytes: u64,
}

/// What is done when a write has waited for the store until the save deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLate {
    /// It goes on waiting.
    Wait,
    /// The snapshots break, so that writes go on.
    Break,
}

/// How long writes may wait for the store, and whether they wait longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveDeadlineReport {
    /// From when on a write is late.
    pub deadline_ms: u64,
    /// What happens then.
    pub on_late: OnLate,
    /// How long the write that has waited longest has waited, where that is longer than the deadline.
    pub late_for_ms: Option<u64>,
    /// Why nothing is saved now and no snapshot can be taken; null while the store is used.
    pub given_up: Option<String>,
}

/// GET /v1/volume
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// Name of the volume.
    pub name: String,
    /// Identity of the volume, for ever: what deltas of it carry as their lineage.
    pub volume_id: String,
    /// Identity of its store.
    pub store_id: String,
    /// Its size as the frontend shows it.
    pub size_bytes: u64,
    /// The disk under it.
    pub origin: OriginReport,
    /// Where before-images are kept.
    pub store: StoreReport,
    /// How sound it is.
    pub state: VolumeState,
    /// A sentence for people where the state is not `whole`.
    pub state_reason: Option<String>,
    /// What serves it for reading and writing.
    pub frontend: Frontend,
    /// Device node for people, as in `/dev/cairn/VOL`; null without ublk.
    pub device: Option<String>,
    /// URI of the NBD export of the volume; null where NBD is not served.
    pub nbd_uri: Option<String>,
    /// How many NBD clients have the volume itself open.
    pub clients: u64,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// A restore under way.
    pub restore: Option<RestoreProgress>,
    /// How long writes may wait for the store; null in the answers of older targets only.
    #[serde(default)]
    pub save_deadline: Option<SaveDeadlineReport>,
    /// The process that serves it.
    pub process_id: u32,
    /// Since when that process serves it.
    pub attached_at: Timestamp,
}

/// What the content of a snapshot can be relied on for (mission A8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// As after a power cut.
    #[default]
    Crash,
    /// The filesystem was frozen.
    Filesystem,
    /// Applications were told as well.
    Application,
}

/// Whether a snapshot's content is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotState {
    /// Exact.
    Whole,
    /// Not to be relied on; `state_reason` says why.
    Broken,
}

/// A snapshot shown as a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposeReport {
    /// Name of the snapshot.
    pub snapshot: String,
    /// Device node, as in `/dev/cairn/VOL@SNAP`; null without ublk.
    pub device: Option<String>,
    /// URI of its NBD export; null where NBD is not served.
    pub nbd_uri: Option<String>,
    /// Takes writes, which are thrown away when it is unexposed.
    pub scratch: bool,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Its name, without the volume's.
    pub name: String,
    /// The epoch it opened; grows from snapshot to snapshot.
    pub epoch: u64,
    /// When it was taken.
    pub created_at: Timestamp,
    /// Size of the volume then.
    pub size_bytes: u64,
    /// What its content can be relied on for.
    pub consistency: Consistency,
    /// Taken by Cairn itself, before a restore.
    pub automatic: bool,
    /// Whether its content is known.
    pub state: SnapshotState,
    /// A sentence for people where it is broken.
    pub state_reason: Option<String>,
    /// Where it is exposed; null where it is not.
    pub exposed: Option<ExposeReport>,
}

impl SnapshotReport {
    /// What the engine says of a snapshot, and where it is exposed.
    pub fn of(snapshot: &Snapshot, exposed: Option<ExposeReport>) -> SnapshotReport {
        let broken = snapshot.broken.as_ref();
        SnapshotReport {
            name: snapshot.name.to_string(),
            epoch: snapshot.epoch.0,
            created_at: Timestamp::from_unix_ms(snapshot.created_unix_ms),
            size_bytes: snapshot.size_bytes,
            consistency: match snapshot.consistency {
                snapshot::Consistency::Crash => Consistency::Crash,
                snapshot::Consistency::Filesystem => Consistency::Filesystem,
                snapshot::Consistency::Application => Consistency::Application,
            },
            automatic: snapshot.automatic,
            state: if broken.is_some() { SnapshotState::Broken } else { SnapshotState::Whole },
            state_reason: broken.map(|(_, sentence)| sentence.clone()),
            exposed,
        }
    }
}

/// GET /v1/snapshots, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotList {
    /// The volume they belong to.
    pub volume: String,
    /// Oldest first.
    pub snapshots: Vec<SnapshotReport>,
    /// Deleted snapshots that have left what changed since; oldest first.
    #[serde(default)]
    pub bookmarks: Vec<SnapshotReport>,
}

/// What became of a range of bytes between two points in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// In use, and possibly different.
    Data,
    /// Not in use any more; reads as zeroes.
    NotInUse,
}

/// A range of bytes that is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentReport {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
    /// What became of it.
    pub kind: ChangeKind,
}

/// GET /v1/changes: a page of what changed, ascending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesPage {
    /// The older point: a snapshot, or `#` and the name of a bookmark. Null: everything in use is listed.
    pub from: Option<String>,
    /// The younger point, a snapshot. Null: the volume as it is now.
    pub to: Option<String>,
    /// Size of the volume at the younger point.
    pub size_bytes: u64,
    /// Ascending, not touching where the kind is the same.
    pub extents: Vec<ExtentReport>,
    /// Where the next page begins; null where there is none.
    pub next_offset_bytes: Option<u64>,
}

/// The first line of the answer to GET /v1/snapshots/{name}/hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// The snapshot that is kept for as long as the connection stands.
    pub held: String,
}

/// POST /v1/snapshots; the answer is a [`SnapshotReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// Its name, without the volume's.
    pub name: String,
    /// What the caller has seen to; Cairn records it.
    #[serde(default)]
    pub consistency: Consistency,
    /// How long the caller can keep the filesystem frozen. The cut is abandoned, with `timed-out`, when it
    /// cannot be made within that time. Null: the target's own limit.
    #[serde(default)]
    pub freeze_timeout_ms: Option<u64>,
}

/// DELETE /v1/snapshots/{name}
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteReport {
    /// The snapshot that is gone. Its space is returned in the background.
    pub deleted: String,
    /// It has left a bookmark of its name.
    #[serde(default)]
    pub bookmark: bool,
}

/// POST /v1/snapshots/{name}/expose; the answer is an [`ExposeReport`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposeRequest {
    /// Take writes into a throw-away overlay.
    #[serde(default)]
    pub scratch: bool,
}

/// DELETE /v1/snapshots/{name}/expose
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnexposeReport {
    /// The snapshot that has no device any more.
    pub unexposed: String,
}

/// POST /v1/restore
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The snapshot the volume is to show.
    pub snapshot: String,
    /// Name for the automatic snapshot of the state before; null: the target chooses one.
    #[serde(default)]
    pub before: Option<String>,
}

/// The answer to POST /v1/restore: the volume shows the snapshot from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The snapshot that the volume shows.
    pub restored: String,
    /// The snapshot that undoes the restore.
    pub before: String,
}

/// POST /v1/grow: take up what the devices under the volume have gained.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowRequest {
    /// Grow the volume to the size its origin has now.
    #[serde(default)]
    pub volume: bool,
    /// Grow the store to this size; a file is extended first, a device must have it already.
    #[serde(default)]
    pub store_bytes: Option<u64>,
}

/// The answer to POST /v1/grow: sizes as they are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowReport {
    /// Size of the volume.
    pub size_bytes: u64,
    /// Size of the store.
    pub store_bytes: u64,
    /// A sentence for people where the frontend cannot show the new size yet; it says what to do.
    pub notice: Option<String>,
}

/// Percentiles of a set of durations, in microseconds. All are 0 where `count` is 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// How many durations.
    pub count: u64,
    /// Shortest.
    pub min_us: u64,
    /// Mean.
    pub mean_us: f64,
    /// Half were at most this long.
    pub p50_us: u64,
    /// 90 per cent were at most this long.
    pub p90_us: u64,
    /// 99 per cent were at most this long.
    pub p99_us: u64,
    /// 99.9 per cent were at most this long.
    pub p999_us: u64,
    /// Longest.
    pub max_us: u64,
}

/// A kind of request that the frontends serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Read of the volume.
    Read,
    /// Write to the volume.
    Write,
    /// Write of zeroes to the volume.
    WriteZeroes,
    /// Discard on the volume.
    Discard,
    /// Flush of the volume.
    Flush,
    /// Read of a snapshot.
    SnapshotRead,
}

impl Operation {
    /// All of them, in the order of [`StatsReport::operations`].
    pub const ALL: [Operation; 6] = [
        Operation::Read,
        Operation::Write,
        Operation::WriteZeroes,
        Operation::Discard,
        Operation::Flush,
        Operation::SnapshotRead,
    ];
}

/// What one kind of request cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationReport {
    /// Which kind.
    pub operation: Operation,
    /// Requests that failed; they are not in `latency`.
    pub errors: u64,
    /// Bytes of the requests that succeeded.
    pub bytes: u64,
    /// From arrival to completion.
    pub latency: LatencyReport,
}

/// What the engine did since attach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineReport {
    /// Requests that had to save something before they could write.
    pub saves: u64,
    /// Blocks whose before-image was saved.
    pub saved_blocks: u64,
    /// Bytes of these blocks.
    pub saved_bytes: u64,
    /// Records written to the store; by group commit they are fewer than saves.
    pub records: u64,
    /// Snapshots taken.
    pub cuts: u64,
    /// Snapshots given up at their deadline.
    pub cuts_timed_out: u64,
    /// Index runs written.
    pub runs_written: u64,
    /// Merges of index runs.
    pub merges: u64,
    /// Segments of the store that became free again.
    pub segments_freed: u64,
    /// Blocks moved back by restores.
    pub restored_blocks: u64,
    /// Snapshots broken.
    pub snapshots_broken: u64,
    /// Blocks that need not be saved because no snapshot has anything there.
    pub forgone_blocks: u64,
    /// What is not in use now.
    pub not_in_use_bytes: u64,
    /// How often writes waited longer for the store than the save deadline.
    #[serde(default)]
    pub times_late: u64,
    /// The longest that a write was seen to wait for the store.
    #[serde(default)]
    pub longest_save_wait_ms: u64,
}

/// What an audit found: content against what the deltas say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// The volume.
    pub volume: String,
    /// When.
    pub at: Timestamp,
    /// The snapshot that was read.
    pub snapshot: String,
    /// The snapshot of the audit before; null where there was none to compare with.
    pub since: Option<String>,
    /// Bytes that no delta touched and whose content was compared.
    pub compared_bytes: u64,
    /// Bytes of which a hash is known now.
    pub known_bytes: u64,
    /// Extents whose content changed without being reported.
    pub wrong_extents: u64,
    /// Where the first of them begins; null where there is none.
    pub first_wrong_bytes: Option<u64>,
}

/// GET /v1/stats, since attach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatsReport {
    /// Name of the volume.
    pub volume: String,
    /// Since when.
    pub since: Timestamp,
    /// One for each [`Operation`].
    pub operations: Vec<OperationReport>,
    /// Saves and records.
    pub engine: EngineReport,
    /// For how long cuts held writes back.
    pub cut_pauses: LatencyReport,
    /// For how long of that they waited for the writes in flight.
    #[serde(default)]
    pub cut_drains: LatencyReport,
    /// What the last audit found, also one before the attach; null where there was none.
    pub audit: Option<AuditReport>,
}

/// POST /v1/check; an empty body is the default.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// Read every before-image and verify its checksum, too.
    #[serde(default)]
    pub data: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Redundancy was used or space is wasted; all content is known.
    Warning,
    /// Content of a snapshot is lost, or the store contradicts itself.
    Error,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingReport {
    /// How bad it is.
    pub severity: Severity,
    /// Where: a snapshot, a segment, a run, the catalog.
    pub subject: String,
    /// A sentence for people.
    pub message: String,
}

/// The answer to POST /v1/check: everything that is wrong, not the first thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Nothing was found.
    pub clean: bool,
    /// Whether before-images were read as well.
    pub data: bool,
    /// What was found.
    pub findings: Vec<FindingReport>,
}

/// The answer to POST /v1/detach: the volume is closed, and the process is about to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachReport {
    /// The volume that was closed.
    pub detached: String,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A stable word for programs, as [`super::error::kind_word`] gives it.
    pub kind: String,
    /// A sentence for people: what happened, to which device, what to do.
    pub message: String,
    /// The positive errno that fits best.
    pub errno: i32,
}
