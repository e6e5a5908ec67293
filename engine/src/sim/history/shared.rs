//! What the operations of a history share: the model, the journal of what was done, and what went wrong.

use super::evidence::Evidence;
use super::trouble::Trouble;
use crate::error::ErrorKind;
use crate::signal::Signal;
use crate::sim::rig::StateDirectory;
use crate::sim::Oracle;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

const JOURNAL_LINES_MAX: usize = 400;

/// How often each interesting thing was reached.
pub type Reach = BTreeMap<&'static str, u64>;

/// Shared by all tasks of a history; outlives crashes.
pub(super) struct Shared {
    pub(super) oracle: RefCell<Oracle>,
    pub(super) reach: RefCell<Reach>,
    /// What faults did.
    pub(super) trouble: Trouble,
    /// Which logs end in a record that nothing confirms.
    pub(super) evidence: RefCell<Evidence>,
    /// The machine's state directory.
    pub(super) state: StateDirectory,
    /// Whenever a second has passed.
    pub(super) ticked: Signal,
    /// Snapshots whose creation or deletion failed: whether they are there now or not, a crash may show the opposite.
    pub(super) in_doubt: RefCell<BTreeSet<String>>,
    /// Names of snapshots that an operation is creating or deleting.
    pub(super) busy: RefCell<BTreeSet<String>>,
    /// Deletions under way.
    pub(super) deleting: Cell<usize>,
    /// Operations that were launched and have not ended.
    pub(super) underway: Cell<usize>,
    /// Requests of production under way.
    pub(super) production: Cell<usize>,
    /// How many there were so far.
    pub(super) production_begun: Cell<u64>,
    /// The time that the volume was told last.
    pub(super) told_ms: Cell<u64>,
    /// Operations that were launched and have ended.
    pub(super) ended: Cell<u64>,
    /// How background work last failed, if it has done nothing since.
    pub(super) background_failure: Cell<Option<ErrorKind>>,
    journal: RefCell<VecDeque<String>>,
    failure: RefCell<Option<String>>,
    events: RefCell<DefaultHasher>,
    operations: Cell<u64>,
}

impl Shared {
    pub(super) fn new(oracle: Oracle, state: StateDirectory) -> Shared {
        Shared {
            oracle: RefCell::new(oracle),
            reach: RefCell::default(),
            trouble: Trouble::default(),
            evidence: RefCell::default(),
            state,
            ticked: Signal::default(),
            in_doubt: RefCell::default(),
            busy: RefCell::default(),
            deleting: Cell::new(0),
            underway: Cell::new(0),
            production: Cell::new(0),
            production_begun: Cell::new(0),
            told_ms: Cell::new(0),
            ended: Cell::new(0),
            background_failure: Cell::new(None),
            journal: RefCell::default(),
            failure: RefCell::default(),
            events: RefCell::new(DefaultHasher::new()),
            operations: Cell::new(0),
        }
    }

    /// Counts something worth reaching.
    pub(super) fn reached(&self, what: &'static str, times: u64) {
        *self.reach.borrow_mut().entry(what).or_default() += times;
    }

    /// Writes a line into the journal.
    pub(super) fn note(&self, line: String) {
        line.hash(&mut *self.events.borrow_mut());
        let mut journal = self.journal.borrow_mut();
        if journal.len() == JOURNAL_LINES_MAX {
            journal.pop_front();
        }
        journal.push_back(line);
    }

    /// An operation begins; gives its number.
    pub(super) fn begin(&self, what: &str) -> u64 {
        self.operations.set(self.operations.get() + 1);
        self.note(format!("{}: {what}", self.operations.get()));
        self.operations.get()
    }

    /// A request of production begins.
    pub(super) fn production_begins(&self) {
        self.production.set(self.production.get() + 1);
        self.production_begun.set(self.production_begun.get() + 1);
    }

    /// It ended.
    pub(super) fn end(&self, number: u64, result: &str) {
        self.note(format!("   {number} -> {result}"));
    }

    /// A crash took every operation with it.
    pub(super) fn forget_underway(&self) {
        self.underway.set(0);
        self.deleting.set(0);
        self.production.set(0);
        self.busy.borrow_mut().clear();
    }

    /// Something is wrong; the first report counts.
    pub(super) fn fail(&self, message: String) {
        self.note(format!("FAILED: {message}"));
        self.failure.borrow_mut().get_or_insert(message);
    }

    pub(super) fn require(&self, result: Result<(), String>) {
        if let Err(message) = result {
            self.fail(message);
        }
    }

    /// Adds a number to what two runs of one seed must have in common.
    pub(super) fn mix(&self, number: u64) {
        number.hash(&mut *self.events.borrow_mut());
    }

    pub(super) fn event_hash(&self) -> u64 {
        self.events.borrow().finish()
    }

    /// Panics if anything was wrong, telling all.
    pub(super) fn assert_right(&self, seed: u64) {
        if let Some(failure) = self.failure.borrow().as_ref() {
            panic!("seed {seed}: {failure}\n{}", self.story());
        }
    }

    /// The last lines of the journal.
    pub(super) fn story(&self) -> String {
        let journal = self.journal.borrow();
        let lines: Vec<&str> = journal.iter().map(String::as_str).collect();
        format!("the last operations:\n{}", lines.join("\n"))
    }
}
