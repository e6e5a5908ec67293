//! The views that readers hold, and the segments that nothing names any more but older views.
//!
//! Invariants:
//! - Views are replaced one after another; what a replacement retired is handed out again only after every view
//!   up to the replaced one is gone.
//! - The catalog on the store already says "free": after a crash there are no readers.

use super::ledger::Ledger;
use super::Volume;
use crate::signal::{Listener, Signal};
use crate::sync::atomic::{fence, Ordering};
use crate::sync::counted::{Arc, Weak};
use crate::sync::{Mutex, RwLock};
use crate::units::SegmentIndex;
use crate::view::View;
use std::collections::VecDeque;
use std::ops::Deref;

/// What one replacement of the view left behind.
struct Retired {
    view: Weak<View>,
    segments: Vec<SegmentIndex>,
}

/// The view as it is now, and those of before that somebody may still hold.
pub(crate) struct Views {
    current: RwLock<Arc<View>>,
    retired: Mutex<VecDeque<Retired>>,
    /// Notified when a reader lets go of a view.
    left: Signal,
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

impl Views {
    /// Begins with this view.
    pub(crate) fn new(first: View) -> Views {
        Views { current: RwLock::new(Arc::new(first)), retired: Mutex::default(), left: Signal::default() }
    }

    /// See [`Volume::view_now`].
    pub(crate) fn now(&self) -> ViewGuard<'_> {
        let view = self.current.read().expect("no holder of this lock panics").clone();
        ViewGuard { view: Some(view), left: &self.left }
    }

    /// See [`Volume::with_view`].
    pub(crate) fn with<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.current.read().expect("no holder of this lock panics"))
    }

    /// Resolves when a reader has let go of a view. Take it before looking whether readers are in the way.
    pub(crate) fn left(&self) -> Listener<'_> {
        self.left.listen()
    }

    /// See [`Volume::replace_view`].
    pub(crate) fn replace(&self, segments: Vec<SegmentIndex>, change: impl FnOnce(&mut View)) {
        let mut slot = self.current.write().expect("no holder of this lock panics");
        let mut next = View::clone(&slot);
        change(&mut next);
        assert!(next.is_ordered(), "runs and maps stay ordered by epoch");
        let replaced = std::mem::replace(&mut *slot, Arc::new(next));
        let mut retired = self.retired.lock().expect("no holder of this lock panics");
        retired.push_back(Retired { view: Arc::downgrade(&replaced), segments });
    }

    /// Segments that are free once readers have left.
    pub(crate) fn retired_count(&self) -> usize {
        self.retired.lock().expect("no holder of this lock panics").iter().map(|retired| retired.segments.len()).sum()
    }

    /// Takes the retired segments that no reader can read any more, oldest first.
    pub(crate) fn take_unread(&self) -> Vec<SegmentIndex> {
        let mut unread = Vec::new();
        let mut retired = self.retired.lock().expect("no holder of this lock panics");
        let has_left = |front: &Retired| front.view.strong_count() == 0 || planted!("segment-freed-under-reader");
        while retired.front().is_some_and(has_left) {
            unread.append(&mut retired.pop_front().expect("there is a front").segments);
        }
        // The count is read relaxed. Each reader let go with release; with this fence all that they read comes before
        // whatever is done to the segments.
        fence(Ordering::Acquire);
        unread
    }
}

impl Volume {
    /// The view as it is now. Held for as long as what it names is read, and never while waiting for anything else
    /// than reads of the disks: writers may wait for its end.
    pub(crate) fn view_now(&self) -> ViewGuard<'_> {
        self.views.now()
    }

    /// Whether somebody waits for segments that an older view than the present one keeps, as `view` may.
    pub(crate) fn is_in_the_way(&self, view: &View) -> bool {
        self.room_wanted.load(Ordering::Relaxed) && !self.with_view(|current| std::ptr::eq(current, view))
    }

    /// Looks at the view without holding it.
    pub(crate) fn with_view<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        self.views.with(look)
    }

    /// Replaces the view. `segments` are those that only older views name.
    pub(crate) fn replace_view(&self, segments: Vec<SegmentIndex>, change: impl FnOnce(&mut View)) {
        self.views.replace(segments, change);
    }

    /// Hands retired segments back to the free ones, as far as readers have left. True if it did.
    pub(crate) fn release_retired(&self, ledger: &mut Ledger) -> bool {
        let segments = self.views.take_unread();
        if segments.is_empty() {
            return false;
        }
        self.stats.segments_freed.add(segments.len() as u64);
        ledger.give_back(segments);
        // Whoever still lacks room says so again.
        self.room_wanted.store(false, Ordering::Relaxed);
        true
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_may_still_read_is_not_handed_out_again() {
        let views = Views::new(View::default());
        views.replace(vec![1], |_| {});
        assert_eq!(views.take_unread(), [1], "nobody reads the first view");
        let reader = views.now();
        views.replace(vec![2], |_| {});
        views.replace(vec![3], |_| {});
        assert!(views.take_unread().is_empty(), "a reader holds a view that names both");
        drop(reader);
        assert_eq!(views.take_unread(), [2, 3]);
    }
}
