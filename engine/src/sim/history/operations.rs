//! The operations of a history: each calls the engine and tells the model.
//!
//! Invariants:
//! - The model hears of an operation before the engine does, and of its end after the engine: what it allows is never
//!   less than what may happen.

use super::shared::Shared;
use crate::deadline::Deadline;
use crate::disk::{aligned_buffer, Disk, Disks};
use crate::error::{Error, ErrorKind};
use crate::holes::Holes;
use crate::lane::Lane;
use crate::signal::yield_now;
use crate::sim::oracle::{Change, Existence};
use crate::sim::picture::Picture;
use crate::sim::rig::{snapshot_name, snapshot_options};
use crate::sim::stamp::stamp;
use crate::sim::{FaultTarget, SimDisk};
use crate::snapshot::Snapshot;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};
use crate::volume::{CheckOptions, Volume};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

pub(super) const SECTOR: u64 = TEAR_BYTES as u64;

/// What an operation needs; lives until the next crash or detach.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) shared: Rc<Shared>,
    pub(super) volume: Arc<Volume>,
    pub(super) disks: Rc<Disks<SimDisk>>,
    /// The lanes of the plan, and behind them one for background work.
    pub(super) lanes: Rc<Vec<Lane<SimDisk>>>,
    pub(super) tight_store: bool,
}

/// How a change of the volume is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Write { durable: bool },
    Zeroes { durable: bool, may_unmap: bool },
    Discard,
}

/// What became of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestoreOutcome {
    /// The volume shows the snapshot.
    Begun,
    /// It does, but the store did not confirm it: a crash may take it back, as a whole.
    InDoubt,
    /// Nothing happened.
    Refused,
}

fn outcome(error: Option<&Error>) -> String {
    error.map_or("ok".to_owned(), |error| format!("{error:?}"))
}

impl Context {
    /// Writes, zeroes or discards sectors.
    pub(super) async fn change(self, lane: usize, sectors: Range<u64>, manner: Manner) {
        let number = self.shared.begin(&format!("lane {lane} {manner:?} sectors {sectors:?}"));
        let (offset_bytes, length_bytes) = (sectors.start * SECTOR, (sectors.end - sectors.start) * SECTOR);
        let (change, ticket) = {
            let mut oracle = self.shared.oracle.borrow_mut();
            let change = match manner {
                Manner::Write { .. } => Change::Stamp(oracle.next_write()),
                Manner::Zeroes { .. } => Change::Zero,
                Manner::Discard => Change::Discard,
            };
            (change, oracle.start_change(sectors.clone(), change))
        };
        let began = self.began();
        let lane = &self.lanes[lane];
        self.shared.production_begins();
        let result = match (manner, change) {
            (Manner::Write { durable }, Change::Stamp(write)) => {
                let mut data = aligned_buffer(length_bytes as usize);
                stamp(write, sectors.start, &mut data);
                // Some as a frontend does it that submits its writes itself where nothing is in their way.
                let asks_first = !durable && sectors.start.is_multiple_of(3);
                match asks_first.then(|| lane.way_for_write(offset_bytes, length_bytes)).flatten() {
                    Some(_passage) => self.disks.origin.write(offset_bytes, &data).await,
                    None => lane.write(offset_bytes, &data, durable).await,
                }
            }
            (Manner::Zeroes { durable, may_unmap }, _) => {
                lane.write_zeroes(offset_bytes, length_bytes, durable, may_unmap).await
            }
            _ => lane.discard(offset_bytes, length_bytes).await,
        };
        self.shared.production.set(self.shared.production.get() - 1);
        let durable = matches!(manner, Manner::Write { durable: true } | Manner::Zeroes { durable: true, .. });
        self.shared.oracle.borrow_mut().end_change(ticket, result.is_ok(), durable);
        let targets: &[FaultTarget] = match manner {
            Manner::Discard => &[FaultTarget::Discard],
            _ if durable => &[FaultTarget::Write, FaultTarget::Flush],
            _ => &[FaultTarget::Write],
        };
        self.judge_request("change", began, targets, &result);
        if durable && began.is_latched() && result.is_ok() {
            self.shared.fail("a durable write succeeded after a flush had failed".to_owned());
        }
        self.shared.end(number, &format!("{change:?} {}", outcome(result.as_ref().err())));
    }

    /// Reads sectors of the volume.
    pub(super) async fn read(self, lane: usize, sectors: Range<u64>) {
        let number = self.shared.begin(&format!("lane {lane} read sectors {sectors:?}"));
        let mut buffer = aligned_buffer(((sectors.end - sectors.start) * SECTOR) as usize);
        let ticket = self.shared.oracle.borrow_mut().start_read(sectors.clone());
        let began = self.began();
        let result = self.lanes[lane].read(sectors.start * SECTOR, &mut buffer).await;
        let content = result.is_ok().then_some(&buffer[..]);
        let verdict = self.shared.oracle.borrow_mut().end_read(ticket, content);
        self.shared.require(verdict);
        self.judge_request("read", began, &[FaultTarget::Read], &result);
        self.shared.end(number, &outcome(result.as_ref().err()));
    }

    /// Flushes.
    pub(super) async fn flush(self, lane: usize) {
        let number = self.shared.begin(&format!("lane {lane} flush"));
        let ticket = self.shared.oracle.borrow_mut().start_flush();
        let began = self.began();
        self.shared.production_begins();
        let result = self.lanes[lane].flush().await;
        self.shared.production.set(self.shared.production.get() - 1);
        self.judge_flush("flush", began, &result);
        // What an earlier failure dropped no flush brings back, not even where nobody knows of the failure any more.
        let kept = result.is_ok() && !self.shared.trouble.forsaken();
        self.shared.oracle.borrow_mut().end_flush(ticket, kept);
        self.shared.end(number, &outcome(result.as_ref().err()));
    }

    /// What a frontend does once a second.
    pub(super) async fn tick(self) {
        let number = self.shared.begin("tick");
        self.keep_time();
        for lane in self.lanes.iter() {
            let began = self.began();
            if let Err(error) = lane.tick().await {
                if !self.struck_since(began) && !self.excused(error.kind()) {
                    self.shared.fail(format!("tick failed without a fault: {error:?}"));
                }
            }
        }
        self.shared.ticked.notify();
        self.shared.end(number, "ok");
    }

    /// Takes a snapshot, unless the deadline comes first.
    pub(super) async fn snapshot(self, name: String, deadline: Deadline) {
        let number = self.shared.begin(&format!("snapshot {name}"));
        self.shared.busy.borrow_mut().insert(name.clone());
        let ticket = self.shared.oracle.borrow_mut().start_snapshot(&name);
        let options = snapshot_options();
        let result = self.volume.snapshot(&self.disks, &snapshot_name(&name), options, &deadline).await;
        self.end_snapshot(&name, ticket, result.as_ref().err());
        self.shared.busy.borrow_mut().remove(&name);
        if let Err(error) = &result {
            self.note_latch(error);
            let allowed = match error.kind() {
                ErrorKind::TimedOut => deadline.expired() || self.shared.trouble.store_ever(),
                ErrorKind::Busy => true,
                ErrorKind::FlushFailed => self.excused(ErrorKind::FlushFailed),
                kind => self.excused(kind),
            };
            if !allowed {
                self.shared.fail(format!("snapshot {name} failed: {error:?}"));
            }
            self.shared.reached("snapshot refused", 1);
        }
        self.shared.end(number, &outcome(result.as_ref().err()));
    }

    /// A creation ended. Where a fault made it fail it may have been recorded all the same.
    fn end_snapshot(&self, name: &str, ticket: crate::sim::oracle::Ticket, error: Option<&Error>) {
        self.shared.trouble.absorb(&self.disks);
        let existence = match error.map(Error::kind) {
            None => Some(Existence::Sure),
            Some(ErrorKind::TimedOut | ErrorKind::Busy | ErrorKind::Exists) => None,
            Some(_) => self.shared.trouble.ever().then_some(Existence::Doubtful),
        };
        if existence == Some(Existence::Doubtful) {
            self.shared.in_doubt.borrow_mut().insert(name.to_owned());
        }
        let kept = !self.shared.trouble.forsaken();
        self.shared.oracle.borrow_mut().end_snapshot(name, ticket, existence, kept);
    }

    /// Lets a deadline pass after others had some turns.
    pub(super) async fn expire(deadline: Deadline, turns: usize) {
        for _ in 0..turns {
            yield_now().await;
        }
        deadline.expire();
    }

    /// Deletes a snapshot that the caller has marked as busy.
    pub(super) async fn delete(self, name: String) {
        let number = self.shared.begin(&format!("delete {name}"));
        let existed = self.shared.oracle.borrow().existence(&name);
        self.shared.oracle.borrow_mut().set_existence(&name, Existence::Doubtful);
        let result = self.volume.delete(&self.disks, &snapshot_name(&name)).await;
        self.shared.busy.borrow_mut().remove(&name);
        self.shared.deleting.set(self.shared.deleting.get() - 1);
        match &result {
            Err(error) if error.kind() == ErrorKind::NotFound && existed != Some(Existence::Sure) => {
                self.shared.oracle.borrow_mut().remove_snapshot(&name);
            }
            Ok(()) => self.shared.oracle.borrow_mut().remove_snapshot(&name),
            Err(error) if error.kind() == ErrorKind::Busy => {
                let existed = existed.unwrap_or(Existence::Doubtful);
                self.shared.oracle.borrow_mut().set_existence(&name, existed);
                self.shared.reached("delete refused", 1);
            }
            Err(error) if self.excused(error.kind()) => {
                // It is there, but a crash may show that it was deleted.
                self.shared.in_doubt.borrow_mut().insert(name.clone());
                self.shared.reached("delete in doubt", 1);
            }
            Err(error) => self.shared.fail(format!("delete of {name} failed: {error:?}")),
        }
        self.shared.end(number, &outcome(result.as_ref().err()));
    }

    /// Reads part of a snapshot; the model learns what it holds and holds it to that.
    pub(super) async fn read_snapshot(self, name: String, sectors: Range<u64>) {
        let number = self.shared.begin(&format!("read {name} sectors {sectors:?}"));
        let began = self.began();
        let result = self.read_snapshot_once(&name, sectors.clone()).await;
        if let Err(error) = &result {
            if !self.snapshot_error_excused(&name, began, sectors, error) {
                self.shared.fail(format!("read of snapshot {name} failed: {error:?}"));
            }
        }
        self.shared.end(number, &outcome(result.as_ref().err()));
    }

    async fn read_snapshot_once(&self, name: &str, sectors: Range<u64>) -> Result<(), Error> {
        let handle = self.volume.snapshot_handle(&self.disks, &snapshot_name(name)).await?;
        let expected = self.shared.oracle.borrow().snapshot_sectors(name);
        if expected.is_some_and(|expected| expected * SECTOR != handle.size_bytes()) {
            self.shared.fail(format!("snapshot {name} has {} bytes, not {expected:?} sectors", handle.size_bytes()));
        }
        let mut buffer = aligned_buffer(((sectors.end - sectors.start) * SECTOR) as usize);
        self.volume.read_snapshot(&self.disks, &handle, sectors.start * SECTOR, &mut buffer).await?;
        let verdict = self.shared.oracle.borrow_mut().observe_snapshot(name, sectors.start, &buffer);
        self.shared.require(verdict);
        Ok(())
    }

    /// All of a snapshot, for the model and for a restore.
    pub(super) async fn snapshot_picture(&self, name: &str) -> Result<Picture, Error> {
        let handle = self.volume.snapshot_handle(&self.disks, &snapshot_name(name)).await?;
        let mut buffer = aligned_buffer(handle.size_bytes() as usize);
        self.volume.read_snapshot(&self.disks, &handle, 0, &mut buffer).await?;
        let verdict = self.shared.oracle.borrow_mut().observe_snapshot(name, 0, &buffer);
        self.shared.require(verdict);
        Ok(Picture { content: buffer.to_vec(), holes: Holes::clone(handle.holes()) })
    }

    /// All of the volume; none for the blocks that cannot be read.
    pub(super) async fn volume_content(&self) -> Vec<Option<Vec<u8>>> {
        let (size_bytes, began) = (self.volume.size_bytes() as usize, self.began());
        let mut buffer = aligned_buffer(size_bytes);
        if self.lanes[0].read(0, &mut buffer).await.is_ok() {
            return buffer.chunks(BLOCK_BYTES).map(|block| Some(block.to_vec())).collect();
        }
        let mut content = Vec::new();
        for offset in (0..size_bytes).step_by(BLOCK_BYTES) {
            let block = &mut buffer[..BLOCK_BYTES.min(size_bytes - offset)];
            match self.lanes[0].read(offset as u64, block).await {
                Ok(()) => content.push(Some(block.to_vec())),
                Err(error) => {
                    if !self.volume_error_excused(began, &error) {
                        self.shared.fail(format!("the volume cannot be read: {error:?}"));
                    }
                    content.push(None);
                }
            }
        }
        content
    }

    /// Compares the snapshots that are there with those that must be, and their content where `thorough`.
    pub(super) async fn inspect_snapshots(&self, thorough: bool) {
        let mut found = [self.volume.snapshots().await, self.volume.bookmarks().await].concat();
        found.sort_by_key(|point| point.epoch);
        let known: Vec<(String, Existence)> =
            self.shared.oracle.borrow().snapshots().map(|(name, existence)| (name.to_owned(), existence)).collect();
        for snapshot in &found {
            let name = snapshot.name.as_str();
            if !known.iter().any(|(own, _)| own == name) {
                self.shared.fail(format!("snapshot {name} exists and should not"));
            }
            self.inspect_form(snapshot);
            match &snapshot.broken {
                None if thorough && snapshot.bookmark => self.inspect_bookmark(name, &found).await,
                None if thorough => self.inspect_content(name).await,
                None => {}
                Some((reason, _)) if self.may_be_broken(*reason) => self.count_broken(*reason),
                Some(reason) => self.shared.fail(format!("snapshot {name} is broken without a cause: {reason:?}")),
            }
        }
        let is_whole = |one: &&Snapshot| thorough && one.broken.is_none() && !one.bookmark;
        let whole: Vec<&str> = found.iter().filter(is_whole).map(|one| one.name.as_str()).collect();
        if let [older, newer] | [older, .., newer] = whole[..] {
            self.inspect_delta(older, newer).await;
        }
        for (name, existence) in known {
            if found.iter().any(|snapshot| snapshot.name.as_str() == name) {
                continue;
            }
            if existence == Existence::Sure {
                self.shared.fail(format!("snapshot {name} is lost"));
            }
            if !self.shared.in_doubt.borrow().contains(&name) {
                self.shared.oracle.borrow_mut().remove_snapshot(&name);
            }
        }
    }

    /// Reads all of a snapshot: at once, or block by block where that fails, so that one bad block hides no other.
    async fn inspect_content(&self, name: &str) {
        if self.snapshot_picture(name).await.is_ok() {
            return;
        }
        let size = self.shared.oracle.borrow().snapshot_sectors(name).unwrap_or(0);
        for start in (0..size).step_by(BLOCK_BYTES / TEAR_BYTES) {
            let (sectors, began) = (start..size.min(start + 8), self.began());
            if let Err(error) = self.read_snapshot_once(name, sectors.clone()).await {
                if !self.snapshot_error_excused(name, began, sectors, &error) {
                    self.shared.fail(format!("snapshot {name} cannot be read: {error:?}"));
                }
                self.shared.reached("unreadable blocks in snapshots", 1);
            }
        }
    }

    /// Reads everything while nothing else runs, and lets the engine check its store.
    pub(super) async fn inspect(self) {
        let number = self.shared.begin("inspect");
        self.inspect_snapshots(true).await;
        let began = self.began();
        match self.volume.check(&self.disks.store, CheckOptions { data: true }).await {
            Ok(findings) => {
                // A power cut may tear one copy of the catalog's last record. Snapshots that broke were judged above.
                let names_one = |sentence: &str| sentence.starts_with("snapshot ") || sentence.starts_with("bookmark ");
                let broken = |sentence: &str| names_one(sentence) && sentence.contains(" is broken: ");
                let mut faults = findings.iter().filter(|finding| finding.serious && !broken(&finding.sentence));
                if let Some(finding) = faults.next() {
                    self.shared.trouble.absorb(&self.disks);
                    if !self.shared.trouble.damaged() && !self.struck_since(began) {
                        self.shared.fail(format!("check finds a fault where there is none: {}", finding.sentence));
                    }
                }
            }
            Err(error) => self.shared.fail(format!("the store cannot be checked: {error:?}")),
        }
        self.shared.end(number, "ok");
    }

    /// Takes the volume back to a snapshot; `before` will name what it was.
    pub(super) async fn restore(self, name: String, before: String) -> RestoreOutcome {
        let number = self.shared.begin(&format!("restore {name}, keeping {before}"));
        let ticket = self.shared.oracle.borrow_mut().start_snapshot(&before);
        let options = snapshot_options();
        let (target, kept) = (snapshot_name(&name), snapshot_name(&before));
        let result = self.volume.restore(&self.disks, &target, &kept, options, &Deadline::new()).await;
        self.end_snapshot(&before, ticket, result.as_ref().err());
        if let Err(error) = &result {
            self.note_latch(error);
            if error.kind() != ErrorKind::Busy && !self.excused(error.kind()) {
                self.shared.fail(format!("restore of {name} failed: {error:?}"));
            }
        }
        self.shared.end(number, &outcome(result.as_ref().err()));
        match result {
            Ok(_) => RestoreOutcome::Begun,
            Err(error) if error.kind() != ErrorKind::Busy && self.volume.restore_progress().is_some() => {
                RestoreOutcome::InDoubt
            }
            Err(_) => RestoreOutcome::Refused,
        }
    }

    /// Makes the volume as large as its origin.
    pub(super) async fn grow(self) {
        let number = self.shared.begin("grow");
        let result = self.volume.grow(self.lanes.last().expect("the last is the background's")).await;
        result.as_ref().err().inspect(|error| self.note_latch(error));
        let kind = result.as_ref().err().map(Error::kind);
        if kind.is_some_and(|kind| kind != ErrorKind::Busy && !self.excused(kind)) {
            self.shared.fail(format!("grow failed: {:?}", result.as_ref().err()));
        }
        self.shared.end(number, &outcome(result.as_ref().err()));
    }

    /// Adds up what the engine counted since it was opened.
    pub(super) fn count(&self) {
        let stats = self.volume.stats.snapshot();
        let shared = &self.shared;
        shared.reached("saves", stats.saves);
        shared.reached("records", stats.records);
        shared.reached("blocks saved", stats.blocks_saved);
        shared.reached("cuts", stats.cuts);
        shared.reached("cuts timed out", stats.cuts_timed_out);
        shared.reached("runs written", stats.runs_written);
        shared.reached("merges", stats.merges);
        shared.reached("segments freed", stats.segments_freed);
        shared.reached("blocks restored", stats.blocks_restored);
        shared.reached("snapshots broken", stats.snapshots_broken);
        shared.reached("records taken at a later try", stats.records_retried);
        shared.reached("waits for another's claim", stats.claim_waits);
        shared.reached("free blocks not saved", stats.blocks_forgone);
        shared.reached("untrusted regions", stats.regions_untrusted);
        shared.reached("torn records ended a log", stats.records_torn);
        shared.reached("lost records noticed", stats.records_lost);
    }
}
