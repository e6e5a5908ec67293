//! Restores: whole or not at all, whatever comes between.
//!
//! Invariants:
//! - The model takes a restore over only when the engine has begun it.
//! - What was in the volume before is kept until the restore has ended: a crash may take one back that the store did not
//!   confirm, and an owner may give one up.

use super::operations::{Manner, RestoreOutcome};
use super::History;
use crate::error::ErrorKind;
use crate::holes::Holes;
use crate::sim::picture::Picture;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};

/// Ticks that may pass before a restore that makes no progress is given up: every sixty ticks of its lanes it tries again
/// what it could not move.
const RESTORE_TICKS_MAX: u32 = 70;

/// A restore that a crash may cut off.
pub(super) struct Restoring {
    /// The snapshot.
    pub(super) target: Picture,
    /// An earlier one had not moved all its blocks.
    pub(super) follows_another: bool,
}

impl History {
    pub(super) fn restore(&mut self) {
        self.drain();
        let Some(name) = self.pick_snapshot() else { return };
        let before = self.fresh_name("before");
        let context = self.context();
        let size = self.shared.oracle.borrow().snapshot_sectors(&name);
        if size != Some(self.shared.oracle.borrow().sectors()) {
            return;
        }
        let reader = context.clone();
        let target = name.clone();
        let handle = self.machine().host.scheduler.spawn("read", async move { reader.snapshot_picture(&target).await });
        let Ok(picture) = self.wait(&handle) else { return };
        let Some(before_restore) = self.readable_volume() else { return };
        let follows_another = context.volume.restore_progress().is_some();
        if !follows_another {
            self.before_restore = Some(before_restore);
        }
        let done = self.launch("restore", context.restore(name, before));
        let cut_off = self.random.u8(0..3) == 0;
        if cut_off {
            let steps = self.random.usize(0..300);
            self.advance(steps);
        }
        if !cut_off || done.is_finished() || !self.close_windows() {
            self.drain();
        }
        match done.take() {
            Some(RestoreOutcome::Refused) => {}
            Some(outcome) => {
                self.shared.oracle.borrow_mut().replace_volume(&picture);
                self.restore_in_doubt = outcome == RestoreOutcome::InDoubt;
                self.shared.reached("restores", 1);
                self.shared.reached("restores in doubt", u64::from(self.restore_in_doubt));
            }
            None => self.crash(Some(Restoring { target: picture, follows_another })),
        }
    }

    /// A restore that was cut off by the crash took place as a whole, or not at all.
    pub(super) fn settle_restore(&mut self, restoring: Option<Restoring>) {
        let Some(restoring) = restoring else { return };
        let content = self.whole_volume();
        let blocks = || content.iter().enumerate().filter_map(|(index, block)| Some((index, block.as_ref()?)));
        let untouched = {
            let oracle = self.shared.oracle.borrow();
            blocks().all(|(index, block)| {
                let sectors = (index as u64 * 8..).zip(block.chunks_exact(TEAR_BYTES));
                sectors.into_iter().all(|(sector, content)| oracle.permits_sector(sector, content))
            })
        };
        let begun = self.context().volume.restore_progress().is_some() && !restoring.follows_another;
        if untouched && !begun {
            return;
        }
        let is_restored = |(index, block): (usize, &Vec<u8>)| {
            let sectors = (index as u64 * 8..).zip(block.chunks_exact(TEAR_BYTES));
            sectors.into_iter().all(|(sector, content)| restoring.target.permits(sector, content))
        };
        if !blocks().all(is_restored) {
            self.shared.fail("after a restore was cut off the volume is neither what it was nor the snapshot".into());
        }
        self.shared.reached("restores cut off", 1);
        self.shared.oracle.borrow_mut().replace_volume(&restoring.target);
    }

    /// A restore that the store did not confirm is there after a crash, or nothing of it is.
    pub(super) fn settle_doubt(&mut self) {
        if !std::mem::take(&mut self.restore_in_doubt) || self.context().volume.restore_progress().is_some() {
            return;
        }
        let Some(before) = self.before_restore.take() else { return };
        if self.readable_volume().is_some_and(|now| before.permits_all(&now.content)) {
            self.shared.reached("restores in doubt that a crash took back", 1);
            self.shared.oracle.borrow_mut().replace_volume(&before);
        }
    }

    /// The owner gave a restore up: each block is as it was before or as after it, and the model follows.
    pub(super) fn follow_mixture(&mut self, restoring: Option<Restoring>) {
        self.repair();
        let before = self.before_restore.take().unwrap_or_default();
        let after = restoring.map(|restoring| restoring.target).unwrap_or_default();
        let (mut content, mut anything) = (Vec::new(), Vec::new());
        let size_bytes = self.shared.oracle.borrow().sectors() as usize * TEAR_BYTES;
        for (index, block) in self.whole_volume().into_iter().enumerate() {
            let Some(block) = block else {
                // What failed before went well this time: the restore is still there, and where its snapshot is damaged.
                if self.context().volume.restore_progress().is_none() || !self.shared.trouble.damaged() {
                    self.give_up("a mixture cannot be read".to_owned());
                }
                anything.push(index as u64..index as u64 + 1);
                content.resize(size_bytes.min(content.len() + BLOCK_BYTES), 0);
                continue;
            };
            // A block that was being moved when the power went is a mixture itself, sector by sector.
            let oracle = self.shared.oracle.borrow();
            let legal = (index as u64 * 8..).zip(block.chunks_exact(TEAR_BYTES)).all(|(sector, content)| {
                let matches = |picture: &Picture| picture.permits(sector, content);
                oracle.permits_sector(sector, content) || matches(&before) || matches(&after)
            });
            // What the restored snapshot did not use may change at every look, as long as it is not moved.
            let block_number = index as u64;
            if (block_number * 8..block_number * 8 + 8).any(|sector| oracle.may_be_anything(sector)) {
                anything.push(block_number..block_number + 1);
            }
            drop(oracle);
            if !legal {
                self.shared.fail(format!("block {index} is neither as before the restore nor as after it"));
            }
            content.extend(block);
        }
        let either = before.holes.ranges().iter().chain(after.holes.ranges());
        let mut holes: Vec<_> = either.cloned().chain(anything).collect();
        holes.sort_by_key(|hole| hole.start);
        let everything = Holes::of(std::iter::once(0..u64::MAX));
        let holes = everything.without(everything.without(holes).ranges().iter().cloned());
        self.shared.oracle.borrow_mut().replace_volume(&Picture { content, holes });
    }

    /// Lets a restore move all its blocks: before that there is no detaching. False where it cannot.
    pub(super) fn finish_restore(&mut self) -> bool {
        self.drain();
        let mut ticks = 0;
        while self.context().volume.restore_progress().is_some() {
            if self.machine().host.scheduler.step() {
                continue;
            }
            ticks += 1;
            if ticks > RESTORE_TICKS_MAX {
                if !self.shared.trouble.ever() {
                    self.give_up("a restore does not end".to_owned());
                }
                return false;
            }
            let context = self.context();
            self.machine().host.scheduler.spawn("rescuing tick", context.tick());
        }
        (self.before_restore, self.restore_in_doubt) = (None, false);
        true
    }

    /// A store that is full of what a restore has to keep lets nothing go: the owner does as the error says, and enlarges
    /// it. False where that is not what holds the restore up.
    pub(super) fn enlarge_full_store(&mut self) -> bool {
        if self.shared.background_failure.get() != Some(ErrorKind::NoSpace) {
            return false;
        }
        self.plan.store.size_bytes *= 2;
        let store_bytes = self.plan.store.size_bytes;
        self.machine().host.disks.store.resize(store_bytes);
        let context = self.context();
        let grown = self.launch("grow the store", async move { context.volume.grow_store(&context.disks).await });
        if let Err(error) = self.wait(&grown) {
            self.give_up(format!("a full store cannot be enlarged: {error:?}"));
        }
        self.shared.reached("stores enlarged for a restore", 1);
        true
    }

    /// Blocks that a restore cannot move are put right by writing all of them.
    pub(super) fn write_what_cannot_be_restored(&mut self) {
        if self.context().volume.restore_progress().is_none() {
            return;
        }
        let unreadable: Vec<u64> = {
            let content = self.whole_volume();
            (0..).zip(&content).filter(|(_, block)| block.is_none()).map(|(index, _)| index).collect()
        };
        let size = self.shared.oracle.borrow().sectors();
        for block in unreadable {
            let context = self.context();
            let sectors = block * 8..size.min(block * 8 + 8);
            let name = format!("write of block {block}, which cannot be restored");
            let write = self.launch(name, context.change(0, sectors, Manner::Write { durable: false }));
            self.wait(&write);
            self.shared.reached("unrestorable blocks written", 1);
        }
    }
}
