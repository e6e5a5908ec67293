//! Segments that nothing names any more, but that a reader of an older view may still read.
//!
//! Invariants:
//! - Views are replaced one after another; what a replacement retired is handed out again only after every view
//!   up to the replaced one is gone.
//! - The catalog on the store already says "free": after a crash there are no readers.

use super::ledger::Ledger;
use super::Volume;
use crate::signal::Signal;
use crate::units::SegmentIndex;
use crate::view::View;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// What one replacement of the view left behind.
pub(crate) struct Retired {
    view: Weak<View>,
    segments: Vec<SegmentIndex>,
}

/// A reader's hold on a view. When it goes, whoever waits for segments looks again.
pub(crate) struct ViewGuard<'a> {
    view: Option<Arc<View>>,
    left: &'a Signal,
}

impl Deref for ViewGuard<'_> {
    type Target = View;

    fn deref(&self) -> &View {
        self.view.as_ref().expect("the view goes with the guard")
    }
}

impl Drop for ViewGuard<'_> {
    fn drop(&mut self) {
        self.view = None;
        self.left.notify();
    }
}

impl Volume {
    /// The view as it is now. Held for as long as what it names is read, and never while waiting for anything else
    /// than reads of the disks: writers may wait for its end.
    pub(crate) fn view_now(&self) -> ViewGuard<'_> {
        let view = self.view.read().expect("no holder of this lock panics").clone();
        ViewGuard { view: Some(view), left: &self.views_left }
    }

    /// Looks at the view without holding it.
    pub(crate) fn with_view<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read().expect("no holder of this lock panics"))
    }

    /// Segments that are free once readers have left.
    pub(crate) fn retired_count(&self) -> usize {
        self.retired.lock().expect("no holder of this lock panics").iter().map(|retired| retired.segments.len()).sum()
    }

    /// Replaces the view. `segments` are those that only older views name.
    pub(crate) fn replace_view(&self, segments: Vec<SegmentIndex>, change: impl FnOnce(&mut View)) {
        let mut slot = self.view.write().expect("no holder of this lock panics");
        let mut next = View::clone(&slot);
        change(&mut next);
        next.check_order();
        let replaced = std::mem::replace(&mut *slot, Arc::new(next));
        let mut retired = self.retired.lock().expect("no holder of this lock panics");
        retired.push_back(Retired { view: Arc::downgrade(&replaced), segments });
    }

    /// Hands retired segments back to the free ones, oldest first, as far as readers have left. True if it did.
    pub(crate) fn release_retired(&self, ledger: &mut Ledger) -> bool {
        let mut released = false;
        let mut retired = self.retired.lock().expect("no holder of this lock panics");
        let has_left = |front: &Retired| front.view.strong_count() == 0 || planted!("segment-freed-under-reader");
        while retired.front().is_some_and(has_left) {
            let front = retired.pop_front().expect("there is a front");
            released |= !front.segments.is_empty();
            self.stats.segments_freed.add(front.segments.len() as u64);
            ledger.give_back(front.segments);
        }
        if released {
            // Whoever still lacks room says so again.
            self.room_wanted.store(false, Ordering::Relaxed);
        }
        released
    }
}
