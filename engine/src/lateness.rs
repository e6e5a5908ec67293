//! Saves that wait too long for the store: the time, the deadline, and what was decided (mission X11).
//!
//! Invariants:
//! - The engine has no clock. It is told the time, and believes at most a quarter of the deadline at once: a process
//!   that was stopped for an hour does not hold that against the store.
//! - The store is not blamed for the disk. No time passes while somebody waits for the disk whom others wait for: who
//!   has the ledger, or what frees memory.
//! - From when the store is given up until it is taken back no write waits for it, and none records or saves anything
//!   on it. It is taken back with the gate closed and drained. A wait that begins in that time is over at once.
//! - Giving up, taking back, switching the epoch and setting the horizons exclude each other: who holds `decided` finds
//!   the others done, or not begun.
//! - Nothing is awaited under `decided`, and no file is written: what is decided is recorded before, while nobody else
//!   may decide. Epochs are switched meanwhile, and then it is recorded anew.
//!
//! Memory orders: to give up is, in this order, to record durably that the snapshots are broken, to raise the horizons
//! (sequentially consistent), to stop the needed map, and to set `given_up` and count it (all release). A writer that
//! finds any of these (acquire) therefore comes after the record and the horizons; what it then puts on the
//! origin, a reader gets from the origin only after that, and looks at the horizon once more when it has it. The model
//! is in `models/late.rs`.

use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{BrokenReason, Snapshot};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::units::Epoch;
use crate::waits::{Wait, Waits};
use std::future::{poll_fn, Future};
use std::pin::pin;
use std::task::{Poll, Waker};

/// What is done when a write has waited for the store until the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLate {
    /// It goes on waiting, and says so.
    #[default]
    Wait,
    /// The snapshots break, so that writes go on without the store.
    Break,
}

/// How long a write may wait for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveDeadline {
    /// From when on it is late. The caller tells the time at least four times as often.
    pub deadline_ms: u64,
    /// What happens then.
    pub on_late: OnLate,
}

impl Default for SaveDeadline {
    fn default() -> SaveDeadline {
        SaveDeadline { deadline_ms: 30_000, on_late: OnLate::Wait }
    }
}

/// How late saves are, and were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatenessReport {
    /// How long the write that has waited longest has waited, where that is longer than the deadline.
    pub late_for_ms: Option<u64>,
    /// How often waits grew longer than the deadline.
    pub times_late: u64,
    /// The longest wait seen.
    pub longest_wait_ms: u64,
    /// The store was given up for that, and not all of the way back is gone yet: no snapshot can be taken. Why, for
    /// people.
    pub given_up: Option<String>,
}

/// See the file's head.
pub(crate) struct Lateness {
    pub(crate) deadline: SaveDeadline,
    now_ms: AtomicU64,
    longest_ms: AtomicU64,
    times_late: AtomicU64,
    given_up: AtomicBool,
    /// How often it was: whoever began to wait before the last time does not wait on, even if it was taken back since.
    times_given_up: AtomicU64,
    decided: Mutex<Decided>,
    /// How many wait for the disk whom others wait for.
    disk_waits: AtomicU32,
    /// Of operations that hold writes back while they wait for the store.
    pub(crate) operations: Waits,
}

/// What is decided under one lock.
#[derive(Default)]
pub(crate) struct Decided {
    told_ms: Option<u64>,
    late_for_ms: Option<u64>,
    /// Snapshots and bookmarks up to here are broken, whatever the catalog says so far. 0: none.
    through: Epoch,
    reason: String,
    /// The state directory says so, still.
    marked: bool,
    /// The state directory is being written for that: nobody else decides anything, and no restore begins.
    is_recording: bool,
    /// It may say that snapshots are broken although that was not decided: no restore begins.
    is_in_doubt: bool,
    /// When that is to be put right again.
    retract_ms: u64,
    /// Why writes wait was said since the first of them was late.
    was_said: bool,
    /// Restores that are about to begin: no snapshot may break for lateness until they have, or have not.
    restores_beginning: u32,
}

impl Decided {
    /// The oldest epoch whose snapshot may be whole.
    pub(crate) fn floor(&self) -> Epoch {
        if self.through == Epoch(0) {
            return Epoch(0);
        }
        self.through.next()
    }

    /// Whether a restore is about to begin.
    pub(crate) fn restore_begins(&self) -> bool {
        self.restores_beginning > 0
    }

    /// True for who may write the state directory for a decision, and then is the only one until
    /// [`Decided::has_recorded`].
    pub(crate) fn may_record(&mut self) -> bool {
        !std::mem::replace(&mut self.is_recording, true)
    }

    /// The state directory says what was decided.
    pub(crate) fn has_recorded(&mut self) {
        self.is_recording = false;
        self.is_in_doubt = false;
    }

    /// The state directory could not be written, or not all that it takes: nothing is decided. True where that is worth
    /// saying.
    pub(crate) fn recording_failed(&mut self) -> bool {
        self.is_recording = false;
        self.is_in_doubt = true;
        self.is_worth_saying()
    }

    /// True once for each time that writes grow late.
    pub(crate) fn is_worth_saying(&mut self) -> bool {
        !std::mem::replace(&mut self.was_said, true)
    }
}

/// A wait, and how often the store had been given up when it began.
pub(crate) struct Waiting<'a> {
    wait: Wait<'a>,
    generation: u64,
}

impl Waiting<'_> {
    /// Whom to wake when the store is given up. Before looking whether it was.
    pub(crate) fn register(&self, waker: &Waker) {
        self.wait.register(waker);
    }
}

/// While it exists snapshots do not break for lateness.
pub(crate) struct RestoreBegins<'a>(&'a Lateness);

impl Drop for RestoreBegins<'_> {
    fn drop(&mut self) {
        self.0.decided().restores_beginning -= 1;
    }
}

/// Somebody waits for the disk.
struct DiskWait<'a>(&'a AtomicU32);

impl DiskWait<'_> {
    fn begin(waits: &AtomicU32) -> DiskWait<'_> {
        waits.fetch_add(1, Ordering::Relaxed);
        DiskWait(waits)
    }
}

impl Drop for DiskWait<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lateness {
    pub(crate) fn new(deadline: SaveDeadline) -> Lateness {
        Lateness {
            deadline,
            now_ms: AtomicU64::new(0),
            longest_ms: AtomicU64::new(0),
            times_late: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
            times_given_up: AtomicU64::new(0),
            decided: Mutex::default(),
            disk_waits: AtomicU32::new(0),
            operations: Waits::default(),
        }
    }

    /// The lock of all decisions: held for a moment.
    pub(crate) fn decided(&self) -> MutexGuard<'_, Decided> {
        self.decided.lock().expect("no holder of this lock panics")
    }

    /// A wait for the store begins.
    pub(crate) fn begin<'a>(&self, waits: &'a Waits) -> Waiting<'a> {
        // Relaxed: a time, exact to a tick.
        let wait = waits.begin(Some(self.now_ms.load(Ordering::Relaxed)));
        Waiting { wait, generation: self.generation() }
    }

    /// A wait begins for somebody whose own waits for the store are counted, and who may wait for the disk as well.
    pub(crate) fn begin_uncounted<'a>(&self, waits: &'a Waits) -> Waiting<'a> {
        Waiting { wait: waits.begin(None), generation: self.generation() }
    }

    /// What `future` gives, by which somebody waits for the disk whom others wait for.
    pub(crate) async fn for_disk<T>(&self, future: impl Future<Output = T>) -> T {
        let _waits = DiskWait::begin(&self.disk_waits);
        future.await
    }

    /// Whether the store was given up for lateness, and not taken back yet.
    pub(crate) fn gave_up(&self) -> bool {
        // Pairs with `give_up`: see the head.
        self.given_up.load(Ordering::Acquire)
    }

    /// What `future` gives, if the store is not given up before. The future is one that may be dropped, or is polled
    /// on.
    pub(crate) async fn in_time<T>(&self, wait: &Waiting<'_>, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|context| {
            // Registered first, looked at second.
            wait.register(context.waker());
            match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if self.is_over(wait) && !planted!("late-store-never-late") => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Whether the store is given up, or was since this wait began, even if it was taken back meanwhile.
    pub(crate) fn is_over(&self, wait: &Waiting<'_>) -> bool {
        self.gave_up() || wait.generation != self.generation()
    }

    /// The time is `told_ms`, of whatever clock.
    pub(crate) fn advance(&self, told_ms: u64) {
        let mut decided = self.decided();
        let passed_ms = decided.told_ms.map_or(0, |before_ms| told_ms.saturating_sub(before_ms));
        decided.told_ms = Some(told_ms);
        // Relaxed: a tick more or less.
        if self.disk_waits.load(Ordering::Relaxed) > 0 {
            return;
        }
        self.now_ms.fetch_add(passed_ms.min((self.deadline.deadline_ms / 4).max(1)), Ordering::Relaxed);
    }

    /// The longest wait began then; whether that is too long.
    pub(crate) fn judge(&self, oldest_ms: Option<u64>) -> bool {
        let waited_ms = oldest_ms.map_or(0, |begun_ms| self.now_ms.load(Ordering::Relaxed).saturating_sub(begun_ms));
        self.longest_ms.fetch_max(waited_ms, Ordering::Relaxed);
        let is_late = oldest_ms.is_some() && waited_ms >= self.deadline.deadline_ms;
        let was_late = {
            let mut decided = self.decided();
            decided.was_said &= is_late;
            std::mem::replace(&mut decided.late_for_ms, is_late.then_some(waited_ms)).is_some()
        };
        if is_late && !was_late {
            self.times_late.fetch_add(1, Ordering::Relaxed);
            tracing::error!(waited_ms, "the store does not answer within the save deadline; writes wait for it");
        } else if !is_late && was_late {
            tracing::info!("no write waits longer for the store than it may any more");
        }
        is_late
    }

    /// How late saves are, and were.
    pub(crate) fn report(&self) -> LatenessReport {
        let decided = self.decided();
        LatenessReport {
            late_for_ms: decided.late_for_ms,
            times_late: self.times_late.load(Ordering::Relaxed),
            longest_wait_ms: self.longest_ms.load(Ordering::Relaxed),
            given_up: decided.marked.then(|| decided.reason.clone()),
        }
    }

    /// From now on the snapshots up to `through` are broken, and no write waits. They are recorded as broken, and
    /// readers are refused.
    pub(crate) fn give_up(&self, decided: &mut Decided, through: Epoch, reason: String) {
        decided.through = decided.through.max(through);
        decided.reason = reason;
        decided.marked = true;
        self.given_up.store(true, Ordering::Release);
        self.times_given_up.fetch_add(1, Ordering::Release);
    }

    /// The store is used again. The gate is closed and drained.
    pub(crate) fn take_back(&self) {
        let _decided = self.decided();
        self.given_up.store(false, Ordering::Release);
    }

    /// Whether the state directory is to be written because it may say what was not decided. Not more often than once a
    /// deadline: it may be what fails. Then nobody else decides anything until [`Lateness::has_retracted`].
    pub(crate) fn may_retract(&self) -> bool {
        let mut decided = self.decided();
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        if !decided.is_in_doubt || now_ms < decided.retract_ms || !decided.may_record() {
            return false;
        }
        decided.retract_ms = now_ms + self.deadline.deadline_ms;
        true
    }

    /// The state directory says again what it said before, if `retracted`.
    pub(crate) fn has_retracted(&self, retracted: bool) {
        let mut decided = self.decided();
        decided.is_recording = false;
        decided.is_in_doubt = !retracted;
    }

    /// How often the store was given up so far.
    pub(crate) fn generation(&self) -> u64 {
        // Pairs with `give_up`: see the head.
        self.times_given_up.load(Ordering::Acquire)
    }

    /// Whether the state directory has a mark that the store has made unnecessary, or is about to.
    pub(crate) fn is_marked(&self) -> bool {
        self.decided().marked
    }

    /// Clears the mark by `clear`, which may block, unless the store was given up since that generation, or is about to
    /// be.
    pub(crate) fn unmark(&self, generation: u64, clear: impl FnOnce()) {
        {
            let mut decided = self.decided();
            if self.generation() != generation || self.gave_up() || !decided.may_record() {
                return;
            }
        }
        clear();
        let mut decided = self.decided();
        decided.marked = false;
        decided.has_recorded();
    }

    /// The youngest epoch whose snapshot broke for lateness; 0 where none did.
    pub(crate) fn through(&self) -> Epoch {
        self.decided().through
    }

    /// A snapshot as it is, whatever the catalog says of it so far.
    pub(crate) fn as_decided(&self, mut snapshot: Snapshot) -> Snapshot {
        let decided = self.decided();
        if snapshot.broken.is_none() && snapshot.epoch <= decided.through {
            snapshot.broken = Some((BrokenReason::StoreFailed, decided.reason.clone()));
        }
        snapshot
    }

    /// Refuses what needs the store where that was given up; of a snapshot also where it broke for that.
    pub(crate) fn refuse(&self, operation: &'static str, epoch: Epoch) -> Result<()> {
        if !self.gave_up() && epoch > self.through() {
            return Ok(());
        }
        Err(Lateness::refusal(operation))
    }

    /// Refuses a snapshot where the store was given up, until the catalog has everything that the state directory was
    /// to stand for: what it lacks would be held against the snapshot after a crash.
    pub(crate) fn refuse_cut(&self) -> Result<()> {
        if self.is_marked() {
            return Err(Lateness::refusal("snapshot"));
        }
        Ok(())
    }

    /// What an operation fails with that needs the store, where that was given up.
    pub(crate) fn refusal(operation: &'static str) -> Error {
        let message = "the store does not answer in time, so nothing is saved; try again when it works";
        Error::new(ErrorKind::TimedOut, operation, "store").saying(message)
    }

    /// A restore of the snapshot of `target` begins. Refused where that broke, or nothing is saved.
    pub(crate) fn restore_begins(&self, target: Epoch) -> Result<RestoreBegins<'_>> {
        let mut decided = self.decided();
        decided.restores_beginning += 1;
        let is_in_doubt = decided.is_recording || decided.is_in_doubt;
        drop(decided);
        let begins = RestoreBegins(self);
        if is_in_doubt {
            // What breaks every snapshot may stand in the state directory by now.
            let message = "the state directory may say that snapshots are broken; try again when it can be written";
            return Err(Error::new(ErrorKind::TimedOut, "restore", "state directory").saying(message));
        }
        self.refuse("restore", target)?;
        Ok(begins)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn lateness(deadline_ms: u64) -> Lateness {
        Lateness::new(SaveDeadline { deadline_ms, on_late: OnLate::Break })
    }

    #[test]
    fn a_wait_is_late_at_the_deadline_and_not_before() {
        let (lateness, waits) = (lateness(400), Waits::default());
        lateness.advance(1_000);
        let wait = lateness.begin(&waits);
        for told_ms in [1_100, 1_200, 1_300] {
            lateness.advance(told_ms);
            assert!(!lateness.judge(waits.oldest_ms()), "{told_ms}");
        }
        lateness.advance(1_400);
        assert!(lateness.judge(waits.oldest_ms()));
        assert_eq!(lateness.report().late_for_ms, Some(400));
        drop(wait);
        assert!(!lateness.judge(waits.oldest_ms()));
        let expected = LatenessReport { times_late: 1, longest_wait_ms: 400, ..LatenessReport::default() };
        assert_eq!(lateness.report(), expected);
    }

    #[test]
    fn a_wait_that_begins_when_the_store_was_given_up_is_over() {
        let (lateness, waits) = (lateness(400), Waits::default());
        let before = lateness.begin(&waits);
        lateness.give_up(&mut lateness.decided(), Epoch(1), "it is late".to_owned());
        assert!(lateness.is_over(&before) && lateness.is_over(&lateness.begin(&waits)));
        lateness.take_back();
        assert!(lateness.is_over(&before) && !lateness.is_over(&lateness.begin(&waits)));
    }

    #[test]
    fn a_process_that_was_stopped_does_not_blame_the_store() {
        let (lateness, waits) = (lateness(400), Waits::default());
        lateness.advance(0);
        let _wait = lateness.begin(&waits);
        lateness.advance(3_600_000);
        assert!(!lateness.judge(waits.oldest_ms()), "an hour in one step counts as a quarter of the deadline");
        lateness.advance(3_599_000);
        assert!(!lateness.judge(waits.oldest_ms()), "nor does a clock that goes back count");
    }
}
