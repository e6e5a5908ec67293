//! One workload from the beginning to the end: what it asked of the disks, and what its user knew meanwhile.
//!
//! Invariants:
//! - The model hears of an operation before the engine does, and of its end after the engine.
//! - An operation that finds nothing to act on makes no workload: the same one without it is another.

use super::alphabet::{Operation, Workload, BLOCK_A, VOLUME_BLOCKS};
use super::machine::{Attached, Machine};
use super::pages::Image;
use super::tape::Event;
use super::verdict::Verdict;
use crate::deadline::Deadline;
use crate::disk::aligned_buffer;
use crate::error::Error;
use crate::sim::executor::block_on;
use crate::sim::oracle::{Change, Existence, Form, Oracle};
use crate::sim::rig::{snapshot_name, snapshot_options};
use crate::sim::stamp::stamp;
use crate::sim::Crash;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};
use std::ops::Range;

const SECTORS_PER_BLOCK: u64 = 8;

/// What happened.
pub(super) struct Course {
    /// What the disks held at first, durably.
    pub(super) initial: Image,
    /// Every request.
    pub(super) events: Vec<Event>,
    /// Where the requests of the last operation begin.
    pub(super) last_from: usize,
    /// What the models allow in each phase of the last operation; the last phase is its end.
    pub(super) phases: Vec<Vec<Oracle>>,
}

/// How an operation ended.
enum End {
    Done,
    NothingToActOn,
}

struct Runner<'a> {
    machine: &'a Machine,
    attached: Option<Attached>,
    oracle: Oracle,
    /// Snapshots so far, those before a restore counted.
    snapshots: usize,
    is_last: bool,
    phases: Vec<Vec<Oracle>>,
}

/// Runs a workload on a store made just now; none where some operation has nothing to act on.
pub(super) fn run(machine: &Machine, initial: &Image, workload: &Workload) -> Result<Option<Course>, String> {
    {
        let mut tape = machine.tape.borrow_mut();
        tape.load(initial);
        tape.events = Some(Vec::new());
        tape.has_fua = workload.has_fua;
        tape.origin_size_pages = VOLUME_BLOCKS as usize;
    }
    let mut runner = Runner {
        machine,
        attached: None,
        oracle: Oracle::new(&Machine::initial_content()),
        snapshots: 0,
        is_last: false,
        phases: Vec::new(),
    };
    runner.attach()?;
    let mut last_from = 0;
    for (position, operation) in workload.operations.iter().enumerate() {
        runner.is_last = position + 1 == workload.operations.len();
        last_from = machine.tape.borrow().events.as_ref().map_or(0, Vec::len);
        match runner.perform(*operation).map_err(|error| format!("operation {position}, {operation}: {error}"))? {
            End::Done => {}
            End::NothingToActOn => return Ok(None),
        }
    }
    runner.enter_phase();
    runner.look()?;
    let events = machine.tape.borrow_mut().events.take().expect("the tape was recording");
    Ok(Some(Course { initial: initial.clone(), events, last_from, phases: runner.phases }))
}

fn failed(error: Error) -> String {
    format!("failed without a fault: {error:?}")
}

impl Runner<'_> {
    fn attached(&self) -> &Attached {
        self.attached.as_ref().expect("a volume is attached between operations")
    }

    fn attach(&mut self) -> Result<(), String> {
        let volume = self.machine.attach()?;
        self.attached = Some(self.machine.with_lanes(volume));
        Ok(())
    }

    /// From now on the model is what it is now.
    fn enter_phase(&mut self) {
        self.enter_phase_of(vec![self.oracle.clone()]);
    }

    fn enter_phase_of(&mut self, models: Vec<Oracle>) {
        if self.is_last {
            self.machine.tape.borrow_mut().phase = self.phases.len();
            self.phases.push(models);
        }
    }

    fn perform(&mut self, operation: Operation) -> Result<End, String> {
        use Operation::*;
        let a = BLOCK_A * SECTORS_PER_BLOCK;
        let b = a + SECTORS_PER_BLOCK;
        match operation {
            WriteA => self.write(a..b, false),
            WriteB => self.write(b..b + SECTORS_PER_BLOCK, false),
            WriteHead => self.write(a..a + 3, false),
            WriteTail => self.write(b - 5..b, false),
            WriteAcross => self.write(b - 3..b + 5, false),
            WriteWatched => self.write(a - 2..a + 2, false),
            DurableA => self.write(a..b, true),
            DurableBoth => self.write(a..b + SECTORS_PER_BLOCK, true),
            ZeroesA => self.zeroes(a..b, false),
            ZeroesAcross => self.zeroes(b - 3..b + 5, true),
            Discard => self.discard(a..b + SECTORS_PER_BLOCK),
            Flush => self.flush(),
            Snapshot => self.snapshot(),
            DeleteOldest => self.delete(false),
            DeleteYoungest => self.delete(true),
            Bookmark => self.bookmark(),
            Read => self.read(),
            Restore => self.restore(),
            Reattach => self.reattach(),
            Kill => self.kill(),
            Work => self.work(usize::MAX),
            Step => self.work(1),
            Tick => self.tick(),
            Grow => self.grow(),
            GrowStore => self.grow_store(),
        }
    }

    fn write(&mut self, sectors: Range<u64>, durable: bool) -> Result<End, String> {
        let write = self.oracle.next_write();
        let mut data = aligned_buffer((sectors.end - sectors.start) as usize * TEAR_BYTES);
        stamp(write, sectors.start, &mut data);
        self.change(sectors.clone(), Change::Stamp(write), durable, |attached| {
            block_on(attached.lane.write(sectors.start * TEAR_BYTES as u64, &data, durable))
        })
    }

    fn zeroes(&mut self, sectors: Range<u64>, durable: bool) -> Result<End, String> {
        let (offset, length) = bytes(&sectors);
        self.change(sectors, Change::Zero, durable, |attached| {
            block_on(attached.lane.write_zeroes(offset, length, durable, true))
        })
    }

    fn discard(&mut self, sectors: Range<u64>) -> Result<End, String> {
        let (offset, length) = bytes(&sectors);
        self.change(sectors, Change::Discard, false, |attached| block_on(attached.lane.discard(offset, length)))
    }

    fn change(
        &mut self,
        sectors: Range<u64>,
        change: Change,
        durable: bool,
        act: impl FnOnce(&Attached) -> Result<(), Error>,
    ) -> Result<End, String> {
        let ticket = self.oracle.start_change(sectors, change);
        self.enter_phase();
        act(self.attached()).map_err(failed)?;
        self.oracle.end_change(ticket, true, durable);
        Ok(End::Done)
    }

    fn flush(&mut self) -> Result<End, String> {
        let ticket = self.oracle.start_flush();
        self.enter_phase();
        block_on(self.attached().lane.flush()).map_err(failed)?;
        self.oracle.end_flush(ticket, true);
        Ok(End::Done)
    }

    /// During a restore several operations are refused.
    fn is_restoring(&self) -> bool {
        self.attached().volume.restore_progress().is_some()
    }

    fn next_name(&mut self) -> String {
        self.snapshots += 1;
        format!("s{}", self.snapshots)
    }

    fn snapshot(&mut self) -> Result<End, String> {
        if self.is_restoring() {
            return Ok(End::NothingToActOn);
        }
        self.take_snapshot()?;
        Ok(End::Done)
    }

    /// Its name.
    fn take_snapshot(&mut self) -> Result<String, String> {
        let name = self.next_name();
        let ticket = self.oracle.start_snapshot(&name);
        self.enter_phase();
        let options = snapshot_options();
        let volume = &self.attached().volume;
        let taken = block_on(volume.snapshot(&self.machine.disks, &snapshot_name(&name), options, &Deadline::new()));
        taken.map_err(failed)?;
        self.oracle.end_snapshot(&name, ticket, Some(Existence::Sure), true);
        Ok(name)
    }

    fn bookmark(&mut self) -> Result<End, String> {
        if self.is_restoring() {
            return Ok(End::NothingToActOn);
        }
        let name = match self.snapshots_to_read().into_iter().next() {
            Some(name) => name,
            None => self.take_snapshot()?,
        };
        // Nobody reads it afterwards: what it holds is learnt now.
        let target = snapshot_name(&name);
        let volume = &self.attached().volume;
        let picture = block_on(self.machine.snapshot_picture(volume, &target)).map_err(failed)?;
        self.oracle.observe_snapshot(&name, 0, &picture.content)?;
        self.oracle.set_form(&name, Form::Either);
        self.enter_phase();
        block_on(self.attached().volume.bookmark(&self.machine.disks, &target)).map_err(failed)?;
        self.oracle.set_form(&name, Form::Bookmark);
        Ok(End::Done)
    }

    fn snapshots_by_age(&self) -> Vec<String> {
        let mut names: Vec<String> = self.oracle.snapshots().map(|(name, _)| name.to_owned()).collect();
        names.sort_by_key(|name| name.trim_start_matches('s').parse::<usize>().expect("names end in a number"));
        names
    }

    /// The oldest first, without bookmarks.
    fn snapshots_to_read(&self) -> Vec<String> {
        let mut names = self.snapshots_by_age();
        names.retain(|name| self.oracle.form(name) == Some(Form::Snapshot));
        names
    }

    fn delete(&mut self, youngest: bool) -> Result<End, String> {
        let names = self.snapshots_by_age();
        // Where there is one snapshot, it is the oldest.
        let victim = if youngest { names.get(1..).and_then(|rest| rest.last()) } else { names.first() };
        let Some(victim) = victim.filter(|_| !self.is_restoring()) else { return Ok(End::NothingToActOn) };
        self.oracle.set_existence(victim, Existence::Doubtful);
        self.enter_phase();
        let deleted = block_on(self.attached().volume.delete(&self.machine.disks, &snapshot_name(victim)));
        deleted.map_err(failed)?;
        self.oracle.remove_snapshot(victim);
        Ok(End::Done)
    }

    fn read(&mut self) -> Result<End, String> {
        self.enter_phase();
        self.look()?;
        Ok(End::Done)
    }

    /// The volume and its snapshots must be as the model says, without a crash.
    fn look(&self) -> Result<(), String> {
        let found = self.machine.look(&self.attached().volume)?;
        match Verdict::of(std::slice::from_ref(&self.oracle), Crash::Process).objection(&found) {
            Some(objection) => Err(format!("before any crash: {objection}")),
            None => Ok(()),
        }
    }

    fn restore(&mut self) -> Result<End, String> {
        let names = self.snapshots_to_read();
        // What the volume had before it grew is not restored, but exported.
        let fits = |name: &&String| self.oracle.snapshot_sectors(name) == Some(self.oracle.sectors());
        let Some(target) = names.first().filter(fits).filter(|_| !self.is_restoring()).cloned() else {
            return Ok(End::NothingToActOn);
        };
        let (target, before) = (snapshot_name(&target), self.next_name());
        let volume = &self.attached().volume;
        let picture = block_on(self.machine.snapshot_picture(volume, &target)).map_err(failed)?;
        let ticket = self.oracle.start_snapshot(&before);
        let mut restored = self.oracle.clone();
        restored.end_snapshot(&before, ticket, Some(Existence::Sure), true);
        restored.replace_volume(&picture);
        self.enter_phase_of(vec![self.oracle.clone(), restored.clone()]);
        let options = snapshot_options();
        let volume = &self.attached().volume;
        let begun =
            block_on(volume.restore(&self.machine.disks, &target, &snapshot_name(&before), options, &Deadline::new()));
        begun.map_err(failed)?;
        self.oracle = restored;
        Ok(End::Done)
    }

    fn reattach(&mut self) -> Result<End, String> {
        if self.is_restoring() {
            return Ok(End::NothingToActOn);
        }
        let ticket = self.oracle.start_flush();
        self.enter_phase();
        let Attached { volume, lane, control } = self.attached.take().expect("a volume is attached");
        drop((lane, control));
        block_on(volume.close(&self.machine.disks, 0)).map_err(failed)?;
        // A detach promises what a flush promises.
        self.oracle.end_flush(ticket, true);
        self.enter_phase();
        self.attach()?;
        Ok(End::Done)
    }

    fn kill(&mut self) -> Result<End, String> {
        self.enter_phase();
        self.attached = None;
        self.attach()?;
        Ok(End::Done)
    }

    fn work(&mut self, steps: usize) -> Result<End, String> {
        self.enter_phase();
        let attached = self.attached();
        for step in 0..steps {
            if !block_on(attached.volume.background_step(&attached.control)).map_err(failed)? {
                return Ok(if step == 0 { End::NothingToActOn } else { End::Done });
            }
        }
        Ok(End::Done)
    }

    fn grow(&mut self) -> Result<End, String> {
        {
            let mut tape = self.machine.tape.borrow_mut();
            if self.is_restoring() || tape.origin_size_pages == tape.shape.origin_pages {
                return Ok(End::NothingToActOn);
            }
            tape.origin_size_pages += 1;
        }
        let mut grown = self.oracle.clone();
        grown.extend(&[0; BLOCK_BYTES]);
        self.enter_phase_of(vec![self.oracle.clone(), grown.clone()]);
        block_on(self.attached().volume.grow(&self.attached().control)).map_err(failed)?;
        self.oracle = grown;
        Ok(End::Done)
    }

    fn grow_store(&mut self) -> Result<End, String> {
        self.enter_phase();
        let attached = self.attached();
        let segments = || block_on(attached.volume.stats()).segments_total;
        let before = segments();
        block_on(attached.volume.grow_store(&self.machine.disks)).map_err(failed)?;
        Ok(if segments() == before { End::NothingToActOn } else { End::Done })
    }

    fn tick(&mut self) -> Result<End, String> {
        self.enter_phase();
        let attached = self.attached();
        block_on(attached.lane.tick()).map_err(failed)?;
        block_on(attached.control.tick()).map_err(failed)?;
        Ok(End::Done)
    }
}

fn bytes(sectors: &Range<u64>) -> (u64, u64) {
    (sectors.start * TEAR_BYTES as u64, (sectors.end - sectors.start) * TEAR_BYTES as u64)
}
