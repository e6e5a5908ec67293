//! What may be found after a crash, in a form that is compared quickly, and what was found.
//!
//! Invariants:
//! - A verdict allows exactly what the reference model allows at that moment, in at least one of its worlds.

use crate::sim::oracle::{Existence, Form, Oracle};
use crate::sim::stamp::{read_stamp, Value};
use crate::sim::Crash;
use crate::units::TEAR_BYTES;

/// Contents of a sector, one bit each: zeroes, the writes of a workload, and anything else.
type Contents = u64;

const ANYTHING: Contents = u64::MAX;
/// Stands for whatever no write of the workload put there.
const FOREIGN: u8 = 63;
/// Of a bookmark: every delta tells the sector, so nobody knows what it held.
pub(super) const TOLD: u8 = 62;

fn number_of(value: Value) -> u8 {
    match value {
        Value::Zero => 0,
        Value::Write(write) if write < 61 => 1 + write as u8,
        _ => FOREIGN,
    }
}

fn contents_of(values: Option<Vec<Value>>) -> Contents {
    values.map_or(ANYTHING, |values| values.into_iter().map(number_of).fold(0, |set, number| set | 1 << number))
}

/// Contents in numbers, sector by sector.
pub(super) fn numbers(content: &[u8]) -> Vec<u8> {
    let number = |(sector, content): (u64, &[u8])| number_of(read_stamp(sector, content));
    (0..).zip(content.chunks_exact(TEAR_BYTES)).map(number).collect()
}

/// A snapshot or bookmark as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FoundSnapshot {
    pub(super) name: String,
    pub(super) is_bookmark: bool,
    /// Of a bookmark: what its deltas say that it held.
    pub(super) content: Vec<u8>,
}

/// What an attach found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Found {
    pub(super) volume: Vec<u8>,
    /// The oldest first, bookmarks among them.
    pub(super) snapshots: Vec<FoundSnapshot>,
}

impl Found {
    /// The same, but that more may have changed since a bookmark.
    pub(super) fn is_as(&self, earlier: &Found) -> bool {
        let is_as = |(own, earlier): (&FoundSnapshot, &FoundSnapshot)| {
            let mut sectors = own.content.iter().zip(&earlier.content);
            (&own.name, own.is_bookmark, own.content.len())
                == (&earlier.name, earlier.is_bookmark, earlier.content.len())
                && sectors.all(|(own, earlier)| own == earlier || *own == TOLD)
        };
        self.volume == earlier.volume
            && self.snapshots.len() == earlier.snapshots.len()
            && self.snapshots.iter().zip(&earlier.snapshots).all(is_as)
    }
}

struct AllowedSnapshot {
    name: String,
    must_exist: bool,
    form: Form,
    content: Vec<Contents>,
}

/// One course that things may have taken.
struct World {
    volume: Vec<Contents>,
    snapshots: Vec<AllowedSnapshot>,
}

/// What may be found.
pub(super) struct Verdict {
    worlds: Vec<World>,
}

fn differs(found: &[u8], allowed: &[Contents]) -> Option<usize> {
    if found.len() != allowed.len() {
        return Some(found.len().min(allowed.len()));
    }
    found.iter().zip(allowed).position(|(number, contents)| *number != TOLD && contents & (1 << number) == 0)
}

fn describe(number: u8) -> String {
    match number {
        0 => "zeroes".to_owned(),
        FOREIGN => "bytes that nobody wrote there".to_owned(),
        TOLD => "what nobody knows".to_owned(),
        number => format!("write {}", number - 1),
    }
}

fn describe_all(contents: Contents) -> String {
    if contents == ANYTHING {
        return "anything".to_owned();
    }
    let names: Vec<String> = (0..FOREIGN).filter(|number| contents & (1 << number) != 0).map(describe).collect();
    names.join(" or ")
}

impl World {
    fn of(oracle: &Oracle, crash: Crash) -> World {
        let mut oracle = oracle.clone();
        oracle.crash(crash);
        let volume = (0..oracle.sectors()).map(|sector| contents_of(oracle.legal(sector))).collect();
        let known: Vec<(String, Existence)> =
            oracle.snapshots().map(|(name, existence)| (name.to_owned(), existence)).collect();
        let snapshot = |(name, existence): (String, Existence)| {
            let sectors = oracle.snapshot_sectors(&name).expect("the model just named it");
            let content = (0..sectors).map(|sector| contents_of(oracle.snapshot_legal(&name, sector))).collect();
            let form = oracle.form(&name).expect("the model just named it");
            AllowedSnapshot { name, must_exist: existence == Existence::Sure, form, content }
        };
        World { volume, snapshots: known.into_iter().map(snapshot).collect() }
    }

    fn objection(&self, found: &Found) -> Option<String> {
        if let Some(sector) = differs(&found.volume, &self.volume) {
            return Some(explain("the volume", sector, &found.volume, &self.volume));
        }
        for snapshot in &found.snapshots {
            let Some(allowed) = self.snapshots.iter().find(|allowed| allowed.name == snapshot.name) else {
                return Some(format!("snapshot {} exists and must not", snapshot.name));
            };
            if !allowed.form.permits(snapshot.is_bookmark) {
                return Some(format!("{} is a bookmark: {}", snapshot.name, snapshot.is_bookmark));
            }
            if let Some(sector) = differs(&snapshot.content, &allowed.content) {
                let whose = format!("snapshot {}", snapshot.name);
                return Some(explain(&whose, sector, &snapshot.content, &allowed.content));
            }
        }
        let missing = |allowed: &&AllowedSnapshot| {
            allowed.must_exist && !found.snapshots.iter().any(|snapshot| snapshot.name == allowed.name)
        };
        self.snapshots.iter().find(missing).map(|allowed| format!("snapshot {} is lost", allowed.name))
    }
}

fn explain(whose: &str, sector: usize, found: &[u8], allowed: &[Contents]) -> String {
    match (found.get(sector), allowed.get(sector)) {
        (Some(number), Some(contents)) => {
            format!("{whose}: sector {sector} holds {}, allowed is {}", describe(*number), describe_all(*contents))
        }
        _ => format!("{whose} has {} sectors, allowed are {}", found.len(), allowed.len()),
    }
}

impl Verdict {
    /// What the models allow after such a crash; each of them is a course that things may have taken.
    pub(super) fn of(models: &[Oracle], crash: Crash) -> Verdict {
        Verdict { worlds: models.iter().map(|model| World::of(model, crash)).collect() }
    }

    /// Why this must not be; none where it may.
    pub(super) fn objection(&self, found: &Found) -> Option<String> {
        let mut objections = Vec::new();
        for world in &self.worlds {
            objections.push(world.objection(found)?);
        }
        Some(objections.join("; else "))
    }
}
