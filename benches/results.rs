//! Everything one run of `scripts/bench` measured: what stands in its JSON.

use crate::engine::count::Cost;
use crate::engine::locked::Locked;
use crate::engine::saved::Saved;
use crate::kernel::play::{CutPauses, TargetCost};
use crate::kernel::scene::Scene;
use crate::native::memory::Resident;
use crate::sample::Sample;
use serde::{Deserialize, Serialize};

/// The machine it ran on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its processor, and how many of it.
    pub processor: String,
    /// The kernel below everything.
    pub host_kernel: String,
    /// The kernel of the comparisons.
    pub test_kernel: String,
    /// Versions of what was compared.
    pub programs: Vec<String>,
    /// When, in ISO 8601.
    pub date: String,
    /// The state of the source.
    pub commit: String,
    /// Load of the machine when the run began: what else it did.
    pub load_before: f64,
}

/// All of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// Fewer rounds than figures for the record need.
    pub quick: bool,
    /// What was played.
    pub scenes: Vec<Scene>,
    /// Every measurement.
    pub samples: Vec<Sample>,
    /// Pauses of cuts.
    pub cuts: Vec<CutPauses>,
    /// What requests cost the processes that serve devices.
    #[serde(default)]
    pub target_costs: Vec<TargetCost>,
    /// What processes hold in memory.
    #[serde(default)]
    pub memory: Vec<Resident>,
    /// What the engine's own work costs.
    #[serde(default)]
    pub costs: Vec<Cost>,
    /// What 100 GiB saved cost.
    #[serde(default)]
    pub saved: Option<Saved>,
    /// Locked instructions of a write that passes through; none where that was not looked at.
    #[serde(default)]
    pub locked: Option<Vec<Locked>>,
    /// Instruction counts that have grown, in a sentence each.
    #[serde(default)]
    pub regressions: Vec<String>,
    /// Parts that did not run, and why.
    pub skipped: Vec<String>,
}
