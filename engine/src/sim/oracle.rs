//! The reference model: which content is legal, for the volume and for every snapshot.
//!
//! Invariants:
//! - Each sector keeps the versions that may still be seen. A version gives way to one that was started after it was
//!   acknowledged and is itself acknowledged; after power loss, only to one that was flushed as well.
//! - A snapshot holds every write acknowledged before its creation began, none started after it returned, and of the
//!   rest a set that some single instant explains. Once read, it never changes.
//! - What was read after a crash is what is there: the model follows it.

use super::disk::Crash;
use super::picture::Picture;
use super::stamp::{read_stamp, Value, WriteId};
use crate::units::TEAR_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;

/// A point on the model's own clock; every call that starts or ends something is an instant of its own.
pub type Instant = u64;

/// What a change puts into its sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The stamps of this write.
    Stamp(WriteId),
    /// Zeroes.
    Zero,
    /// Anything: the sectors were discarded.
    Discard,
}

impl Change {
    fn value(self) -> Option<Value> {
        match self {
            Change::Stamp(write) => Some(Value::Write(write)),
            Change::Zero => Some(Value::Zero),
            Change::Discard => None,
        }
    }
}

/// One content that a sector had, has or may have.
#[derive(Clone, Copy, Debug)]
struct Version {
    /// None for anything at all.
    value: Option<Value>,
    started: Instant,
    acked: Option<Instant>,
    /// It is there, unless something newer is; else it may have failed or been cut off by a crash.
    certain: bool,
    flushed: bool,
}

impl Version {
    fn settled(value: Option<Value>, now: Instant, flushed: bool) -> Version {
        Version { value, started: now, acked: Some(now), certain: true, flushed }
    }

    /// When this version ceased to be visible because of `newer`, if it did.
    fn gives_way_to(&self, newer: &Version) -> Option<Instant> {
        let later = self.acked.is_some_and(|acked| acked < newer.started);
        newer.acked.filter(|_| later && newer.certain)
    }

    fn matches(&self, value: Value) -> bool {
        self.value.is_none_or(|own| own == value)
    }
}

/// What a snapshot's sector may hold, and between which instants the cut lies if it does.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    value: Option<Value>,
    after: Instant,
    before: Instant,
}

#[derive(Clone, Debug)]
enum Cell {
    Exactly(Value),
    OneOf(Vec<Candidate>),
}

impl Cell {
    /// All that it may be.
    fn candidates(&self) -> Vec<Candidate> {
        match self {
            Cell::Exactly(value) => vec![Candidate { value: Some(*value), after: 0, before: Instant::MAX }],
            Cell::OneOf(candidates) => candidates.clone(),
        }
    }
}

/// Whether a snapshot must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// It was created and not deleted.
    Sure,
    /// A crash or a failure came between; look, and tell the model.
    Doubtful,
}

/// What there is of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All of it.
    Snapshot,
    /// A bookmark: what it held can be told from what did not change since.
    Bookmark,
    /// A crash or a failure came between; look, and tell the model.
    Either,
}

impl Form {
    /// Whether a snapshot, or else a bookmark, may be there.
    pub fn permits(self, is_bookmark: bool) -> bool {
        self == Form::Either || (self == Form::Bookmark) == is_bookmark
    }
}

#[derive(Clone, Debug)]
struct SnapshotModel {
    existence: Existence,
    form: Form,
    cells: Vec<Cell>,
    /// Bounds of the instant of the cut, and the sectors that set them.
    after: (Instant, u64),
    before: (Instant, u64),
}

/// A change, flush, snapshot or deletion that was started and has not ended.
#[derive(Clone, Debug)]
pub struct Ticket {
    started: Instant,
    sectors: Range<u64>,
}

/// The model of one volume and its snapshots.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    now: Instant,
    sectors: Vec<Vec<Version>>,
    snapshots: BTreeMap<String, SnapshotModel>,
    underway: BTreeSet<Instant>,
    creating: BTreeMap<String, Instant>,
    next_write: WriteId,
}

impl Oracle {
    /// A model of a volume that holds `content`, durably.
    pub fn new(content: &[u8]) -> Oracle {
        let mut oracle = Oracle { next_write: 1, ..Oracle::default() };
        oracle.extend(content);
        oracle
    }

    /// The volume grew; its new part holds `content`, durably.
    pub fn extend(&mut self, content: &[u8]) {
        let now = self.tick();
        for content in content.chunks_exact(TEAR_BYTES) {
            let value = read_stamp(self.sectors.len() as u64, content);
            self.sectors.push(vec![Version::settled(Some(value), now, true)]);
        }
    }

    /// Sectors of 512 bytes in the volume.
    pub fn sectors(&self) -> u64 {
        self.sectors.len() as u64
    }

    /// A number that no write has had.
    pub fn next_write(&mut self) -> WriteId {
        self.next_write += 1;
        self.next_write - 1
    }

    fn tick(&mut self) -> Instant {
        self.now += 1;
        self.now
    }

    fn start(&mut self, sectors: Range<u64>) -> Ticket {
        let started = self.tick();
        self.underway.insert(started);
        Ticket { started, sectors }
    }

    fn end(&mut self, ticket: &Ticket) -> Instant {
        assert!(self.underway.remove(&ticket.started), "a ticket ends once");
        self.tick()
    }

    /// A write, write of zeroes or discard begins.
    pub fn start_change(&mut self, sectors: Range<u64>, change: Change) -> Ticket {
        let ticket = self.start(sectors);
        let started = ticket.started;
        for versions in &mut self.sectors[ticket.sectors.start as usize..ticket.sectors.end as usize] {
            let value = change.value();
            versions.push(Version { value, started, acked: None, certain: false, flushed: false });
        }
        ticket
    }

    /// It ended: acknowledged (durably or not), or failed, in which case it may have happened in part.
    pub fn end_change(&mut self, ticket: Ticket, acknowledged: bool, durable: bool) {
        let now = self.end(&ticket);
        for sector in ticket.sectors.clone() {
            let versions = &mut self.sectors[sector as usize];
            let own = versions.iter_mut().find(|version| version.started == ticket.started);
            let own = own.expect("a version stays while its change is under way");
            own.acked = Some(now);
            own.certain = acknowledged;
            own.flushed = acknowledged && durable;
            self.prune(sector);
        }
    }

    /// A read begins.
    pub fn start_read(&mut self, sectors: Range<u64>) -> Ticket {
        self.start(sectors)
    }

    /// A read gave `content`.
    pub fn end_read(&mut self, ticket: Ticket, content: Option<&[u8]>) -> Result<(), String> {
        let now = self.end(&ticket);
        let Some(content) = content else { return Ok(()) };
        for (sector, content) in ticket.sectors.clone().zip(content.chunks_exact(TEAR_BYTES)) {
            let value = read_stamp(sector, content);
            let legal = self.visible(sector, ticket.started, now);
            if !legal.iter().any(|version| version.matches(value)) {
                return Err(self.explain("the volume", sector, value, &legal));
            }
        }
        Ok(())
    }

    /// A flush begins.
    pub fn start_flush(&mut self) -> Ticket {
        self.start(0..0)
    }

    /// A flush ended; only a successful one promises anything.
    pub fn end_flush(&mut self, ticket: Ticket, succeeded: bool) {
        self.end(&ticket);
        if succeeded {
            self.flushed_since(ticket.started);
        }
    }

    fn flushed_since(&mut self, started: Instant) {
        for sector in 0..self.sectors() {
            for version in &mut self.sectors[sector as usize] {
                version.flushed |= version.certain && version.acked.is_some_and(|acked| acked < started);
            }
            self.prune(sector);
        }
    }

    /// Forgets versions that nobody can see any more, not even a reader that began long ago.
    fn prune(&mut self, sector: u64) {
        let horizon = self.underway.first().copied().unwrap_or(self.now + 1);
        let versions = &mut self.sectors[sector as usize];
        if versions.len() == 1 {
            return;
        }
        let all = versions.clone();
        versions.retain(|version| {
            let gone =
                |newer: &Version| newer.flushed && version.gives_way_to(newer).is_some_and(|since| since < horizon);
            !all.iter().any(gone)
        });
    }

    /// What a reader may see who began and ended at these instants.
    fn visible(&self, sector: u64, began: Instant, ended: Instant) -> Vec<Version> {
        let all = &self.sectors[sector as usize];
        let gone =
            |version: &Version| all.iter().any(|newer| version.gives_way_to(newer).is_some_and(|since| since < began));
        all.iter().filter(|version| version.started < ended && !gone(version)).copied().collect()
    }

    /// What may be there after power was lost now.
    fn survivors(&self, sector: u64) -> Vec<Version> {
        let all = &self.sectors[sector as usize];
        let gone = |version: &Version| all.iter().any(|newer| newer.flushed && version.gives_way_to(newer).is_some());
        all.iter().filter(|version| !gone(version)).copied().collect()
    }

    /// Creation of a snapshot begins.
    pub fn start_snapshot(&mut self, name: &str) -> Ticket {
        let ticket = self.start(0..self.sectors());
        let earlier = self.creating.insert(name.to_owned(), ticket.started);
        assert!(earlier.is_none(), "the caller serialises operations on one name");
        ticket
    }

    /// It ended. A failed one may yet appear, exact, after the next crash; none is expected before. `kept`: whether the
    /// flush in a sure one kept what was written before it, as all do unless an earlier one failed unheard.
    pub fn end_snapshot(&mut self, name: &str, ticket: Ticket, existence: Option<Existence>, kept: bool) {
        let now = self.end(&ticket);
        self.creating.remove(name);
        let Some(existence) = existence else { return };
        self.snapshots.insert(name.to_owned(), self.cut(ticket.started, now, existence));
        if existence == Existence::Sure && kept {
            // All of a snapshot is durable at its cut.
            self.flushed_since(ticket.started);
        }
    }

    fn cut(&self, began: Instant, ended: Instant, existence: Existence) -> SnapshotModel {
        let cell = |sector: u64| {
            let versions = self.visible(sector, began, ended);
            if let [Version { value: Some(value), certain: true, .. }] = versions[..] {
                return Cell::Exactly(value);
            }
            let candidate = |version: &Version| {
                let all = &self.sectors[sector as usize];
                let gone = all.iter().filter_map(|newer| version.gives_way_to(newer)).min();
                Candidate {
                    value: version.value,
                    after: version.started.max(began),
                    before: gone.unwrap_or(ended).min(ended),
                }
            };
            Cell::OneOf(versions.iter().map(candidate).collect())
        };
        let cells = (0..self.sectors()).map(cell).collect();
        SnapshotModel { existence, form: Form::Snapshot, cells, after: (began, 0), before: (ended, 0) }
    }

    /// The snapshot is gone, or was never there.
    pub fn remove_snapshot(&mut self, name: &str) {
        self.snapshots.remove(name);
    }

    /// Says whether a snapshot must exist.
    pub fn set_existence(&mut self, name: &str, existence: Existence) {
        if let Some(snapshot) = self.snapshots.get_mut(name) {
            snapshot.existence = existence;
        }
    }

    /// Says what there is of a snapshot.
    pub fn set_form(&mut self, name: &str, form: Form) {
        if let Some(snapshot) = self.snapshots.get_mut(name) {
            snapshot.form = form;
        }
    }

    /// What there is of a snapshot; none if the model does not know it.
    pub fn form(&self, name: &str) -> Option<Form> {
        self.snapshots.get(name).map(|snapshot| snapshot.form)
    }

    /// The snapshots and bookmarks the model knows, by name.
    pub fn snapshots(&self) -> impl Iterator<Item = (&str, Existence)> {
        self.snapshots.iter().map(|(name, snapshot)| (name.as_str(), snapshot.existence))
    }

    /// Whether a snapshot must exist; none if the model does not know it.
    pub fn existence(&self, name: &str) -> Option<Existence> {
        self.snapshots.get(name).map(|snapshot| snapshot.existence)
    }

    /// Sectors of 512 bytes in a snapshot; none if the model does not know it.
    pub fn snapshot_sectors(&self, name: &str) -> Option<u64> {
        self.snapshots.get(name).map(|snapshot| snapshot.cells.len() as u64)
    }

    /// A snapshot gave `content` from `first_sector`; from now on it must give the same for ever.
    pub fn observe_snapshot(&mut self, name: &str, first_sector: u64, content: &[u8]) -> Result<(), String> {
        let Some(snapshot) = self.snapshots.get_mut(name) else { return Ok(()) };
        for (sector, content) in (first_sector..).zip(content.chunks_exact(TEAR_BYTES)) {
            let value = read_stamp(sector, content);
            snapshot.observe(sector, value).map_err(|message| format!("snapshot {name}: {message}"))?;
        }
        Ok(())
    }

    /// A flush failed and nobody heard of it, and now the power goes: where a snapshot shows what the origin holds, and
    /// that was not durable, it may show what was there before.
    pub fn lose_forsaken(&mut self) {
        for sector in 0..self.sectors() {
            let survivors = self.survivors(sector);
            let anywhere = |version: &Version| Candidate { value: version.value, after: 0, before: Instant::MAX };
            for snapshot in self.snapshots.values_mut().filter(|snapshot| sector < snapshot.cells.len() as u64) {
                let cell = &mut snapshot.cells[sector as usize];
                let shown = cell.candidates();
                let is_shown = |version: &&Version| {
                    !version.flushed && shown.iter().any(|one| one.value.is_none() || one.value == version.value)
                };
                if survivors.iter().any(|version| is_shown(&version)) {
                    *cell = Cell::OneOf(shown.into_iter().chain(survivors.iter().map(anywhere)).collect());
                }
            }
        }
    }

    /// The machine stops. Snapshots under way may exist afterwards; writes under way may have happened.
    pub fn crash(&mut self, crash: Crash) {
        let now = self.tick();
        for (name, began) in std::mem::take(&mut self.creating) {
            let snapshot = self.cut(began, now, Existence::Doubtful);
            self.snapshots.insert(name, snapshot);
        }
        for sector in 0..self.sectors() {
            if crash == Crash::Power {
                self.sectors[sector as usize] = self.survivors(sector);
            }
            for version in &mut self.sectors[sector as usize] {
                version.acked = version.acked.or(Some(now));
                // Power loss may bring back any survivor, so none of them gives way to another.
                version.certain &= crash == Crash::Process || version.flushed;
            }
        }
        self.underway.clear();
    }

    /// The whole volume gave `content` while nothing was under way: that is what is there. `durable` after power loss.
    pub fn observe_volume(&mut self, content: &[u8], durable: bool) -> Result<(), String> {
        assert_eq!(content.len(), self.sectors.len() * TEAR_BYTES);
        self.observe_sectors(0, content, durable)
    }

    /// The same of a part of the volume, for where the rest cannot be read.
    pub fn observe_sectors(&mut self, first_sector: u64, content: &[u8], durable: bool) -> Result<(), String> {
        assert!(self.underway.is_empty());
        let now = self.tick();
        for (sector, content) in (first_sector..).zip(content.chunks_exact(TEAR_BYTES)) {
            let value = read_stamp(sector, content);
            let legal = self.visible(sector, now, now);
            if !legal.iter().any(|version| version.matches(value)) {
                return Err(self.explain("the volume", sector, value, &legal));
            }
            // What was discarded may still be anything: a look at it settles nothing, and a snapshot may show zeroes.
            if legal.iter().all(|version| version.value.is_some()) {
                self.sectors[sector as usize].push(Version::settled(Some(value), now, durable));
                self.prune(sector);
            }
        }
        Ok(())
    }

    /// The volume shows the picture, durably, whatever it held before: a restore took place.
    pub fn replace_volume(&mut self, picture: &Picture) {
        let now = self.tick();
        for (sector, content) in (0..).zip(picture.content.chunks_exact(TEAR_BYTES)) {
            let value = (!picture.is_hole(sector)).then(|| read_stamp(sector, content));
            self.sectors[sector as usize] = vec![Version::settled(value, now, true)];
        }
    }

    /// Whether all of `content` is legal for the volume now, without following it.
    pub fn permits(&self, content: &[u8]) -> bool {
        (0..).zip(content.chunks_exact(TEAR_BYTES)).all(|(sector, content)| self.permits_sector(sector, content))
    }

    /// Whether this content of one sector is legal for the volume now, without following it.
    pub fn permits_sector(&self, sector: u64, content: &[u8]) -> bool {
        let value = read_stamp(sector, content);
        self.visible(sector, self.now + 1, self.now + 1).iter().any(|version| version.matches(value))
    }

    /// Whether a sector of the volume was discarded, so that every look at it may show something else.
    pub fn may_be_anything(&self, sector: u64) -> bool {
        sector < self.sectors() && self.legal(sector).is_none()
    }

    /// What a sector of the volume may hold while nothing is under way; none for anything.
    pub fn legal(&self, sector: u64) -> Option<Vec<Value>> {
        self.visible(sector, self.now + 1, self.now + 1).iter().map(|version| version.value).collect()
    }

    /// What a sector of a snapshot may hold; none for anything. Which instant explains all of them is not asked.
    pub fn snapshot_legal(&self, name: &str, sector: u64) -> Option<Vec<Value>> {
        let snapshot = self.snapshots.get(name)?;
        match &snapshot.cells[sector as usize] {
            Cell::Exactly(value) => Some(vec![*value]),
            Cell::OneOf(candidates) => candidates.iter().map(|candidate| candidate.value).collect(),
        }
    }

    fn explain(&self, whose: &str, sector: u64, value: Value, legal: &[Version]) -> String {
        let mut message = format!("{whose}: sector {sector} holds {value}; legal at {}:", self.now);
        for version in legal {
            describe(&mut message, version);
        }
        message.push_str("\n  all versions known:");
        for version in &self.sectors[sector as usize] {
            describe(&mut message, version);
        }
        message
    }
}

fn describe(message: &mut String, version: &Version) {
    let value = version.value.map_or("anything (discarded)".to_owned(), |value| value.to_string());
    let acked = version.acked.map_or("under way".to_owned(), |acked| format!("ended {acked}"));
    let certain = if version.certain { "" } else { ", uncertain" };
    let flushed = if version.flushed { ", flushed" } else { "" };
    let started = version.started;
    write!(message, "\n    {value}: started {started}, {acked}{certain}{flushed}").expect("a string takes text");
}

impl SnapshotModel {
    fn observe(&mut self, sector: u64, value: Value) -> Result<(), String> {
        let candidates = match &self.cells[sector as usize] {
            Cell::Exactly(exactly) if *exactly == value => return Ok(()),
            Cell::Exactly(exactly) => return Err(format!("sector {sector} holds {value} and must hold {exactly}")),
            Cell::OneOf(candidates) => candidates,
        };
        let matches = |candidate: &&Candidate| candidate.value.is_none_or(|own| own == value);
        let matching: Vec<&Candidate> = candidates.iter().filter(matches).collect();
        let after = matching.iter().map(|candidate| candidate.after).min();
        let before = matching.iter().map(|candidate| candidate.before).max();
        let (Some(after), Some(before)) = (after, before) else {
            return Err(format!("sector {sector} holds {value} and may hold only {candidates:?}"));
        };
        if after > self.after.0 {
            self.after = (after, sector);
        }
        if before < self.before.0 {
            self.before = (before, sector);
        }
        self.cells[sector as usize] = Cell::Exactly(value);
        if self.after.0 >= self.before.0 {
            return Err(format!(
                "no instant explains it: sector {} was written after {}, sector {} was overwritten before {}",
                self.after.1, self.after.0, self.before.1, self.before.0
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::stamp::stamp;
    use super::*;

    const SECTOR: usize = TEAR_BYTES;

    fn stamped(write: WriteId, sector: u64) -> Vec<u8> {
        let mut content = vec![0; SECTOR];
        stamp(write, sector, &mut content);
        content
    }

    fn written(oracle: &mut Oracle, sector: u64) -> Vec<u8> {
        let write = oracle.next_write();
        let ticket = oracle.start_change(sector..sector + 1, Change::Stamp(write));
        oracle.end_change(ticket, true, false);
        stamped(write, sector)
    }

    #[test]
    fn a_flushed_write_may_not_be_lost_and_an_unflushed_one_may() {
        let mut oracle = Oracle::new(&[0; SECTOR]);
        let first = written(&mut oracle, 0);
        let flush = oracle.start_flush();
        oracle.end_flush(flush, true);
        let second = written(&mut oracle, 0);
        for (content, legal) in [(vec![0; SECTOR], false), (first, true), (second, true)] {
            let mut crashed = oracle.clone();
            crashed.crash(Crash::Power);
            assert_eq!(crashed.observe_volume(&content, true).is_ok(), legal);
        }
    }

    #[test]
    fn only_what_a_failed_flush_dropped_may_be_missing_in_a_snapshot_of_the_origin() {
        for kept in [true, false] {
            let mut oracle = Oracle::new(&[0; SECTOR]);
            let content = written(&mut oracle, 0);
            let ticket = oracle.start_snapshot("a");
            oracle.end_snapshot("a", ticket, Some(Existence::Sure), kept);
            oracle.lose_forsaken();
            oracle.crash(Crash::Power);
            assert!(oracle.clone().observe_snapshot("a", 0, &content).is_ok());
            assert_eq!(oracle.clone().observe_snapshot("a", 0, &[0; SECTOR]).is_ok(), !kept);
            let other = stamped(77, 0);
            assert!(oracle.observe_snapshot("a", 0, &other).is_err());
        }
    }

    #[test]
    fn a_process_crash_loses_no_acknowledged_write() {
        let mut oracle = Oracle::new(&[0; SECTOR]);
        let acknowledged = written(&mut oracle, 0);
        let write = oracle.next_write();
        oracle.start_change(0..1, Change::Stamp(write));
        for (content, legal) in [(vec![0; SECTOR], false), (acknowledged, true), (stamped(write, 0), true)] {
            let mut crashed = oracle.clone();
            crashed.crash(Crash::Process);
            assert_eq!(crashed.observe_volume(&content, false).is_ok(), legal);
        }
    }

    #[test]
    fn a_read_sees_the_last_acknowledged_write_or_one_under_way() {
        let mut oracle = Oracle::new(&[0; SECTOR]);
        let read = oracle.start_read(0..1);
        let first = written(&mut oracle, 0);
        assert!(oracle.clone().end_read(read.clone(), Some(&[0; SECTOR])).is_ok());
        assert!(oracle.end_read(read, Some(&first)).is_ok());
        let read = oracle.start_read(0..1);
        assert!(oracle.end_read(read, Some(&[0; SECTOR])).is_err());
    }

    #[test]
    fn a_snapshot_has_what_came_before_it_and_nothing_that_came_after() {
        let mut oracle = Oracle::new(&[0; SECTOR]);
        let before = written(&mut oracle, 0);
        let ticket = oracle.start_snapshot("a");
        oracle.end_snapshot("a", ticket, Some(Existence::Sure), true);
        let after = written(&mut oracle, 0);
        for (content, legal) in [(vec![0; SECTOR], false), (before, true), (after, false)] {
            assert_eq!(oracle.clone().observe_snapshot("a", 0, &content).is_ok(), legal);
        }
    }

    #[test]
    fn a_snapshot_of_concurrent_writes_is_a_single_instant_and_stays_what_it_was() {
        let mut oracle = Oracle::new(&[0; 2 * SECTOR]);
        let ticket = oracle.start_snapshot("a");
        let first = written(&mut oracle, 0);
        let second = written(&mut oracle, 1);
        oracle.end_snapshot("a", ticket, Some(Existence::Sure), true);
        let zero = vec![0; SECTOR];
        for (left, right, legal) in
            [(&zero, &zero, true), (&first, &zero, true), (&first, &second, true), (&zero, &second, false)]
        {
            let mut oracle = oracle.clone();
            assert_eq!(oracle.observe_snapshot("a", 0, &[&left[..], &right[..]].concat()).is_ok(), legal);
        }
        oracle.observe_snapshot("a", 0, &first).unwrap();
        assert!(oracle.observe_snapshot("a", 0, &zero).is_err());
    }

    #[test]
    fn a_snapshot_under_way_at_a_crash_may_exist_and_is_exact_if_it_does() {
        let mut oracle = Oracle::new(&[0; SECTOR]);
        let before = written(&mut oracle, 0);
        oracle.start_snapshot("a");
        oracle.crash(Crash::Power);
        assert_eq!(oracle.snapshots().collect::<Vec<_>>(), [("a", Existence::Doubtful)]);
        assert!(oracle.clone().observe_snapshot("a", 0, &[0; SECTOR]).is_err());
        assert!(oracle.observe_snapshot("a", 0, &before).is_ok());
    }

    #[test]
    fn discarded_sectors_hold_anything_until_written() {
        let mut oracle = Oracle::new(&[0; SECTOR]);
        let ticket = oracle.start_change(0..1, Change::Discard);
        oracle.end_change(ticket, true, false);
        assert!(oracle.permits(&[7; SECTOR]));
        written(&mut oracle, 0);
        assert!(!oracle.permits(&[7; SECTOR]));
    }
}
