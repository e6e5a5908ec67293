//! Readers that hold views, against whoever frees the segments that only older views name.

use super::{block_on, explore, Place};
use crate::saved::SavedMap;
use crate::units::Epoch;
use crate::view::View;
use crate::volume::views::Views;
use ::loom::thread;
use std::sync::Arc;

const SEGMENT: u32 = 7;

struct Model {
    views: Views,
    /// The segment. A view with a map names it, as a view with a run would.
    segment: Place,
}

impl Model {
    fn new() -> Arc<Model> {
        let maps = vec![Arc::new(SavedMap::new(Epoch(1)))];
        Arc::new(Model { views: Views::new(View { runs: Vec::new(), maps }), segment: Place::new(0) })
    }

    fn read(&self) {
        let view = self.views.now();
        if !view.maps.is_empty() {
            assert_eq!(self.segment.read(), 0, "a segment that a view names keeps its content");
        }
    }

    /// As whoever needs room does: see `Volume::take_segment`.
    fn free_and_reuse(&self, waits: bool) {
        self.views.replace(vec![SEGMENT], |view| view.maps.clear());
        loop {
            let left = self.views.left();
            let unread = self.views.take_unread();
            if unread == [SEGMENT] || !waits {
                break;
            }
            block_on(left);
        }
        self.segment.write(1);
    }
}

fn readers_and_reuse(readers: usize, waits: bool) {
    let model = Model::new();
    let threads = Vec::from_iter((0..readers).map(|_| {
        let model = model.clone();
        thread::spawn(move || model.read())
    }));
    model.free_and_reuse(waits);
    for thread in threads {
        thread.join().expect("a reader ends");
    }
}

#[test]
fn a_segment_is_reused_only_after_its_last_reader_has_left() {
    explore("views-reader", || readers_and_reuse(1, true));
}

#[test]
fn a_segment_with_two_readers_is_reused_after_both_have_left() {
    explore("views-two-readers", || readers_and_reuse(2, true));
}

#[test]
#[should_panic]
fn a_segment_that_is_reused_at_once_is_noticed() {
    explore("views-planted", || readers_and_reuse(1, false));
}
