//! Exhaustive enumeration: every small workload, every crash point, every part of what was volatile there.
//!
//! A workload is a few operations of [`Operation`] on two blocks of a small volume. It runs once, on disks that write
//! down every request. Then, for each moment of its last operation, every image that a crash may leave is built,
//! recovered and held against the reference model: power loss (any subset of the writes since the last flush of each
//! device, in any order where they overlap, and torn), and the end of the process (what completed is there). Some of
//! the states crash again while they recover, up to three deep; some are used further. Shorter workloads come first, so
//! the first failure is a short one.
//!
//! Invariants:
//! - Everything follows from the number of the workload and the settings; no thread, clock or file is used here.
//! - A failure names the state by a line from which [`replay`] makes it again.

mod alphabet;
mod course;
mod cut;
mod deltas;
mod explorer;
mod machine;
mod pages;
mod place;
mod tape;
mod usage;
mod verdict;

pub use alphabet::{Operation, Workload, ALPHABET_VERSION};
pub use explorer::{Counts, Failure};
pub use tape::Lie;

use explorer::Explorer;
use place::Place;

/// How much of what cannot be listed whole is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Ways in which a write in flight is torn, at most.
    pub tears: u32,
    /// States with all volatile writes torn at random, at each point.
    pub torn: u32,
    /// One state of so many crashes again at each moment of its recovery.
    pub again_one_in: u64,
    /// The volume of one state of so many is used further.
    pub used_one_in: u64,
    /// Disks that lie, to see that it is seen.
    pub lie: Option<Lie>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { tears: 64, torn: 8, again_one_in: 400, used_one_in: 500, lie: None }
    }
}

/// Explores workloads by their numbers.
pub struct Enumerator {
    length: u32,
    explorer: Explorer,
}

impl Enumerator {
    /// For workloads of this length.
    pub fn new(length: u32, settings: Settings) -> Enumerator {
        Enumerator { length, explorer: Explorer::new(settings) }
    }

    /// Explores the workload with this number; nothing where it is left out or comes to nothing.
    pub fn explore(&mut self, number: u64) -> Result<(), Failure> {
        match Workload::numbered(self.length, number) {
            Some(workload) => self.explorer.explore(&workload, None),
            None => Ok(()),
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.explorer.counts
    }
}

/// Explores all workloads up to `length`, the shortest first, until one fails or `states_max` states were judged.
pub fn enumerate(length: u32, states_max: u64, settings: Settings) -> Result<Counts, Failure> {
    let mut sum = Counts::default();
    for length in 1..=length {
        let mut enumerator = Enumerator::new(length, settings);
        for number in 0..Workload::count(length) {
            enumerator.explore(number)?;
            if sum.states + enumerator.counts().states >= states_max {
                break;
            }
        }
        sum.add(&enumerator.counts());
    }
    Ok(sum)
}

/// Makes one state again, by the line that a failure gave. Fails with what is wrong with it.
pub fn replay(line: &str) -> Result<(), String> {
    replay_noting(line).0
}

/// The same, with the requests that lead there.
pub fn replay_noting(line: &str) -> (Result<(), String>, Vec<String>) {
    let Place { workload, settings, path } = match Place::parse(line) {
        Ok(place) => place,
        Err(message) => return (Err(message), Vec::new()),
    };
    let mut explorer = Explorer::new(settings);
    let steps = path.len() as u64;
    let result = explorer.explore(&workload, Some(path)).map_err(|failure| failure.message);
    let result = result.and_then(|()| match explorer.counts.states {
        found if found == steps => Ok(()),
        found => Err(format!("there is no such state: {found} of {steps} crashes were found")),
    });
    (result, explorer.notes)
}
