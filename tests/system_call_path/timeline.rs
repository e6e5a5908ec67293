//! What happened in a run, and how far both logs had come whenever something did.
//!
//! Invariants:
//! - A step is noted before each request to a device starts, before each operation starts, and after each one ended.
//! - So between two steps no request starts: whatever the logs gained meanwhile was under way at the first of them, and
//!   any part of it, on either device, may have happened when the power went. That makes cutting the two logs
//!   independently sound, although nothing orders the entries of one log among those of the other.
//! - What a step says of a log includes every entry that somebody has heard of by then: an entry is in the log before
//!   its request is answered, and a log only grows at its end.

use cairn_engine::sim::oracle::{Change, Existence, Oracle, Ticket};
use cairn_engine::sim::picture::Picture;
use cairn_engine::sim::Crash;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// Nothing was changed.
    Refused,
    /// It failed; it may have happened nevertheless, in part or whole.
    Unclear,
}

/// What the model has to hear of.
#[derive(Clone, Debug)]
pub enum Event {
    ChangeStarted { number: u64, sectors: Range<u64>, change: Change },
    ChangeEnded { number: u64, outcome: Outcome, durable: bool },
    FlushStarted { number: u64 },
    FlushEnded { number: u64, outcome: Outcome },
    SnapshotStarted { number: u64, name: String },
    SnapshotEnded { number: u64, name: String, outcome: Outcome },
    SnapshotRead { name: String, content: Rc<[u8]> },
    DeleteStarted { name: String },
    DeleteEnded { name: String, outcome: Outcome },
    RestoreStarted { target: Rc<Picture> },
    RestoreEnded { outcome: Outcome },
}

/// The reference model, driven by events.
#[derive(Clone)]
pub struct Model {
    oracle: Oracle,
    tickets: BTreeMap<u64, Ticket>,
    restoring: Option<Rc<Picture>>,
}

impl Model {
    /// Of a volume that holds `content`, durably.
    pub fn new(content: &[u8]) -> Model {
        Model { oracle: Oracle::new(content), tickets: BTreeMap::new(), restoring: None }
    }

    /// The model hears of an event. Fails where what was read is not legal.
    pub fn hear(&mut self, event: &Event) -> Result<(), String> {
        match event.clone() {
            Event::ChangeStarted { number, sectors, change } => {
                let ticket = self.oracle.start_change(sectors, change);
                self.tickets.insert(number, ticket);
            }
            Event::ChangeEnded { number, outcome, durable } => {
                let ticket = self.ticket(number);
                self.oracle.end_change(ticket, outcome == Outcome::Done, durable);
            }
            Event::FlushStarted { number } => {
                let ticket = self.oracle.start_flush();
                self.tickets.insert(number, ticket);
            }
            Event::FlushEnded { number, outcome } => {
                let ticket = self.ticket(number);
                self.oracle.end_flush(ticket, outcome == Outcome::Done);
            }
            Event::SnapshotStarted { number, name } => {
                let ticket = self.oracle.start_snapshot(&name);
                self.tickets.insert(number, ticket);
            }
            Event::SnapshotEnded { number, name, outcome } => {
                let existence = match outcome {
                    Outcome::Done => Some(Existence::Sure),
                    Outcome::Refused => None,
                    Outcome::Unclear => Some(Existence::Doubtful),
                };
                let ticket = self.ticket(number);
                self.oracle.end_snapshot(&name, ticket, existence, true);
            }
            Event::SnapshotRead { name, content } => self.oracle.observe_snapshot(&name, 0, &content)?,
            Event::DeleteStarted { name } => self.oracle.set_existence(&name, Existence::Doubtful),
            Event::DeleteEnded { name, outcome: Outcome::Done } => self.oracle.remove_snapshot(&name),
            Event::DeleteEnded { name, outcome: Outcome::Refused } => self.oracle.set_existence(&name, Existence::Sure),
            Event::DeleteEnded { outcome: Outcome::Unclear, .. } => {}
            Event::RestoreStarted { target } => self.restoring = Some(target),
            Event::RestoreEnded { outcome: Outcome::Done } => {
                let target = self.restoring.take().expect("a restore ends once");
                self.oracle.replace_volume(&target);
            }
            Event::RestoreEnded { outcome: Outcome::Refused } => self.restoring = None,
            // It may have taken place; who looks will see.
            Event::RestoreEnded { outcome: Outcome::Unclear } => {}
        }
        Ok(())
    }

    fn ticket(&mut self, number: u64) -> Ticket {
        self.tickets.remove(&number).expect("an operation ends once")
    }

    /// The machine or the process stops.
    pub fn crash(&mut self, crash: Crash) {
        self.oracle.crash(crash);
        self.tickets.clear();
    }

    /// The volume was read while nothing was under way.
    pub fn observe_volume(&mut self, content: &[u8], is_durable: bool) -> Result<(), String> {
        if let Some(target) = self.restoring.take() {
            // A restore that was cut off took place as a whole, or not at all.
            if !self.oracle.permits(content) && target.permits_all(content) {
                self.oracle.replace_volume(&target);
            }
        }
        self.oracle.observe_volume(content, is_durable)
    }

    /// A snapshot was found whole, and read.
    pub fn observe_snapshot(&mut self, name: &str, content: &[u8]) -> Result<(), String> {
        let sectors = self.oracle.snapshot_sectors(name).ok_or(format!("snapshot {name} exists and should not"))?;
        if sectors as usize * super::SECTOR_BYTES != content.len() {
            return Err(format!("snapshot {name} has {} bytes, not {sectors} sectors", content.len()));
        }
        self.oracle.observe_snapshot(name, 0, content)
    }

    /// These snapshots are there, and no others.
    pub fn observe_names(&mut self, found: &[String]) -> Result<(), String> {
        let known = self.snapshots();
        for (name, existence) in known {
            let is_there = found.contains(&name);
            match (is_there, existence) {
                (false, Existence::Sure) => return Err(format!("snapshot {name} was reported as taken and is lost")),
                (false, Existence::Doubtful) => self.oracle.remove_snapshot(&name),
                (true, _) => self.oracle.set_existence(&name, Existence::Sure),
            }
        }
        Ok(())
    }

    /// The snapshots that are there or may be.
    pub fn snapshots(&self) -> Vec<(String, Existence)> {
        self.oracle.snapshots().map(|(name, existence)| (name.to_owned(), existence)).collect()
    }
}

/// A moment of a run.
#[derive(Clone, Debug)]
pub struct Step {
    /// How long the origin's log was.
    pub origin_log_bytes: u64,
    /// How long the store's log was.
    pub store_log_bytes: u64,
    /// What happened, if it was more than the start of a request.
    pub event: Option<Event>,
}

/// The steps of a run so far, and the model of it.
pub struct Timeline {
    logs: Option<[File; 2]>,
    steps: RefCell<Vec<Step>>,
    model: RefCell<Model>,
    numbers: Cell<u64>,
}

impl Timeline {
    /// Of a volume that holds `content`. `logs`: of the origin and of the store, where they keep any.
    pub fn new(content: &[u8], logs: Option<[PathBuf; 2]>) -> Rc<Timeline> {
        let logs = logs.map(|paths| paths.map(|path| File::open(path).expect("a log")));
        let model = RefCell::new(Model::new(content));
        Rc::new(Timeline { logs, steps: RefCell::default(), model, numbers: Cell::new(0) })
    }

    /// A number that no operation has had.
    pub fn next_number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// A request is about to start.
    pub fn request(&self) {
        self.note(None);
    }

    /// Something happened. Panics where the model does not allow it.
    pub fn event(&self, event: Event) {
        let verdict = self.model.borrow_mut().hear(&event);
        self.note(Some(event));
        verdict.expect("what is read while nothing has failed is right");
    }

    fn note(&self, event: Option<Event>) {
        let length = |log: &File| log.metadata().expect("the length of a log").len();
        let lengths = self.logs.as_ref().map(|[origin, store]| [length(origin), length(store)]);
        let [origin_log_bytes, store_log_bytes] = lengths.unwrap_or_default();
        self.steps.borrow_mut().push(Step { origin_log_bytes, store_log_bytes, event });
    }

    /// How many steps there are.
    pub fn len(&self) -> usize {
        self.steps.borrow().len()
    }

    /// The model, as things are now.
    pub fn model(&self) -> Model {
        self.model.borrow().clone()
    }

    /// The steps; none are left.
    pub fn take_steps(&self) -> Vec<Step> {
        self.steps.take()
    }
}
