//! One measurement, as it stands in the JSON: what was done, by whom, how fast, and what it cost the devices below.
//!
//! Invariants:
//! - Samples of one round were taken one right after the other; only those are compared with each other.

use serde::{Deserialize, Serialize};

/// What a contender was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Random writes, each the first to its block since the snapshots were taken.
    FirstWrite,
    /// Random writes to blocks that no snapshot needs (any more).
    Rewrite,
    /// Random reads.
    Read,
    /// Sequential writes to blocks that snapshots need.
    SequentialFirstWrite,
    /// Sequential writes to blocks that no snapshot needs.
    SequentialWrite,
    /// Sequential reads.
    SequentialRead,
    /// 70 % random reads, 30 % random writes.
    Mixed,
    /// Random writes, each followed by a flush.
    SyncWrite,
    /// Random reads of the oldest snapshot.
    ReadOldest,
    /// Random reads of the youngest snapshot.
    ReadYoungest,
    /// Random reads of the oldest snapshot, just after an attach.
    ColdReadOldest,
    /// Random reads of the youngest snapshot, just after an attach.
    ColdReadYoungest,
    /// Sequential reads of the oldest snapshot.
    SequentialReadOldest,
    /// Sequential reads of the youngest snapshot.
    SequentialReadYoungest,
}

/// How much at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes of a request.
    pub block_bytes: u64,
    /// Requests in flight, of each job.
    pub depth: u32,
    /// Jobs at the same time.
    pub jobs: u32,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Contender {
    /// What it is, as `dm-snapshot`.
    pub name: String,
    /// How many snapshots it had.
    pub snapshots: u32,
}

impl Contender {
    /// Has no snapshots, and is not the disk that everybody is compared with.
    pub fn has_none_to_save_for(&self) -> bool {
        self.snapshots == 0 && self.name != "raw"
    }
}

impl std::fmt::Display for Contender {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.snapshots {
            0 => formatter.write_str(&self.name),
            snapshots => write!(formatter, "{}, {snapshots}", self.name),
        }
    }
}

/// What devices did meanwhile, by /proc/diskstats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCounts {
    /// Completed reads.
    pub reads: u64,
    /// Bytes they read.
    pub read_bytes: u64,
    /// Completed writes.
    pub writes: u64,
    /// Bytes they wrote.
    pub written_bytes: u64,
    /// Completed flushes.
    pub flushes: u64,
}

impl DeviceCounts {
    /// What happened between `before` and this.
    pub fn since(&self, before: &DeviceCounts) -> DeviceCounts {
        DeviceCounts {
            reads: self.reads - before.reads,
            read_bytes: self.read_bytes - before.read_bytes,
            writes: self.writes - before.writes,
            written_bytes: self.written_bytes - before.written_bytes,
            flushes: self.flushes - before.flushes,
        }
    }

    /// Both together.
    pub fn plus(&self, other: &DeviceCounts) -> DeviceCounts {
        DeviceCounts {
            reads: self.reads + other.reads,
            read_bytes: self.read_bytes + other.read_bytes,
            writes: self.writes + other.writes,
            written_bytes: self.written_bytes + other.written_bytes,
            flushes: self.flushes + other.flushes,
        }
    }
}

/// What the user of the device saw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Requests done.
    pub requests: u64,
    /// Requests a second.
    pub requests_per_s: f64,
    /// Bytes a second.
    pub bytes_per_s: f64,
    /// Mean latency.
    pub latency_mean_us: f64,
    /// Half took at most this long.
    pub latency_p50_us: f64,
    /// 99 per cent took at most this long.
    pub latency_p99_us: f64,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The scene it belongs to, as `latency-first`.
    pub scene: String,
    /// Counts the turns of a scene.
    pub round: u32,
    /// Who.
    pub contender: Contender,
    /// What.
    pub work: Work,
    /// How much at a time.
    pub shape: Shape,
    /// How fast.
    pub speed: Speed,
    /// What the device under the volume did; nothing where devices are not counted.
    pub origin: Option<DeviceCounts>,
    /// What the devices that keep what snapshots need did.
    pub store: Option<DeviceCounts>,
    /// Time on a CPU of the process that serves the device, where there is one.
    pub target_cpu_us: Option<u64>,
}

/// What is compared: all rounds of the same thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The scene.
    pub scene: String,
    /// What.
    pub work: Work,
    /// How much at a time.
    pub shape: Shape,
    /// Who.
    pub contender: Contender,
}

impl Sample {
    /// What it is a round of.
    pub fn key(&self) -> Key {
        let (scene, contender) = (self.scene.clone(), self.contender.clone());
        Key { scene, work: self.work, shape: self.shape, contender }
    }
}
