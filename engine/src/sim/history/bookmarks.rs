//! Bookmarks in histories with faults and crashes: they may break, but are never wrong.
//!
//! Invariants:
//! - What a delta since a bookmark does not tell is there still, in its newer end: it must be what the snapshot held.

use super::operations::Context;
use crate::error::{Error, ErrorKind};
use crate::sim::oracle::{Existence, Form};
use crate::sim::rig::snapshot_name;
use crate::sim::told::told;
use crate::snapshot::Snapshot;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};

const SECTORS_PER_BLOCK: usize = BLOCK_BYTES / TEAR_BYTES;

impl Context {
    /// Deletes a snapshot that the caller has marked as busy, but leaves a bookmark.
    pub(super) async fn bookmark(self, name: String) {
        let number = self.shared.begin(&format!("bookmark {name}"));
        let (existed, was) = {
            let mut oracle = self.shared.oracle.borrow_mut();
            let before = (oracle.existence(&name), oracle.form(&name).unwrap_or(Form::Either));
            oracle.set_form(&name, Form::Either);
            before
        };
        let result = self.volume.bookmark(&self.disks, &snapshot_name(&name)).await;
        self.shared.busy.borrow_mut().remove(&name);
        let said = result.as_ref().map_or_else(|error| format!("{error:?}"), |_| "ok".to_owned());
        match result {
            Ok(_) => {
                self.shared.oracle.borrow_mut().set_form(&name, Form::Bookmark);
                self.shared.reached("bookmarks", 1);
            }
            Err(error) => self.judge_bookmark(&name, existed, was, &error),
        }
        self.shared.end(number, &said);
    }

    fn judge_bookmark(&self, name: &str, existed: Option<Existence>, was: Form, error: &Error) {
        let mut oracle = self.shared.oracle.borrow_mut();
        match error.kind() {
            ErrorKind::NotFound if existed != Some(Existence::Sure) => oracle.remove_snapshot(name),
            ErrorKind::Exists if was != Form::Snapshot => oracle.set_form(name, Form::Bookmark),
            // It was broken in between, for a reason that is judged where it is looked at.
            ErrorKind::Busy | ErrorKind::Broken => oracle.set_form(name, was),
            kind if self.excused(kind) => {
                // It is a snapshot, but a crash may show that it was made a bookmark.
                self.shared.in_doubt.borrow_mut().insert(name.to_owned());
                self.shared.reached("bookmarks in doubt", 1);
            }
            _ => self.shared.fail(format!("bookmark of {name} failed: {error:?}")),
        }
    }

    /// What is there must be allowed to be there, as a snapshot or as a bookmark.
    pub(super) fn inspect_form(&self, found: &Snapshot) {
        let name = found.name.as_str();
        let mut oracle = self.shared.oracle.borrow_mut();
        if oracle.form(name).is_some_and(|form| !form.permits(found.bookmark)) {
            self.shared.fail(format!("{name} is a bookmark: {}, and should not be", found.bookmark));
        }
        if !self.shared.in_doubt.borrow().contains(name) {
            oracle.set_existence(name, Existence::Sure);
            oracle.set_form(name, if found.bookmark { Form::Bookmark } else { Form::Snapshot });
        }
        self.shared.reached("broken bookmarks", u64::from(found.bookmark && found.broken.is_some()));
    }

    /// Judges a whole bookmark by its deltas to what is younger: `points` are in order.
    pub(super) async fn inspect_bookmark(&self, name: &str, points: &[Snapshot]) {
        let younger = points.iter().skip_while(|point| point.name.as_str() != name);
        for point in younger.filter(|point| !point.bookmark && point.broken.is_none()) {
            let newer = point.name.as_str();
            let Ok(content) = self.whole_content(newer).await else { continue };
            let blocks: Vec<Option<Vec<u8>>> = content.chunks(BLOCK_BYTES).map(|block| Some(block.to_vec())).collect();
            self.learn_from(name, Some(newer), &blocks).await;
        }
        let holes = self.volume.holes_now();
        let mut blocks = self.volume_content().await;
        for (index, block) in blocks.iter_mut().enumerate() {
            // What is not in use reads as zeroes, everywhere alike.
            block.iter_mut().filter(|_| holes.contains(index as u64)).for_each(|block| block.fill(0));
        }
        self.learn_from(name, None, &blocks).await;
    }

    /// The model learns what a bookmark held: whatever the delta to a younger end of this content does not tell.
    async fn learn_from(&self, name: &str, newer: Option<&str>, blocks: &[Option<Vec<u8>>]) {
        let began = self.began();
        let told = match told(&self.volume, &self.disks, name, newer).await {
            Ok(told) => told,
            Err(error) => {
                if !self.struck_since(began) && !self.shared.trouble.ever() && !self.excused(error.kind()) {
                    self.shared.fail(format!("the delta from bookmark {name} to {newer:?} failed: {error:?}"));
                }
                return;
            }
        };
        self.shared.reached("deltas since bookmarks", 1);
        let size = self.shared.oracle.borrow().snapshot_sectors(name).unwrap_or(0);
        for sector in (0..told.len()).filter(|sector| !told[*sector]) {
            let Some(Some(block)) = blocks.get(sector / SECTORS_PER_BLOCK) else { continue };
            if sector as u64 >= size {
                self.shared
                    .fail(format!("sector {sector} is new since {name}; the delta to {newer:?} does not say so"));
                return;
            }
            let content = &block[sector % SECTORS_PER_BLOCK * TEAR_BYTES..][..TEAR_BYTES];
            let verdict = self.shared.oracle.borrow_mut().observe_snapshot(name, sector as u64, content);
            self.shared.require(verdict.map_err(|message| format!("by its delta to {newer:?}: {message}")));
        }
        self.shared.reached("sectors that bookmarks spoke of", told.iter().filter(|told| !**told).count() as u64);
    }
}
