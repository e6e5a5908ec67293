//! Which errors the engine may give, after what was done to its devices.
//!
//! Invariants:
//! - Requests of production fail only by a strike on the origin while they ran, by the latch of a failed flush or,
//!   during a restore, on a store that is full or has failed at some time.
//! - A snapshot that is not broken gives an error only while a device fails, where a block was unreadable when it was
//!   to be saved, or where the store was damaged.

use super::operations::{Context, SECTOR};
use super::trouble::{Latch, Mark};
use crate::error::{Error, ErrorKind};
use crate::sim::oracle::{Existence, Form, Oracle};
use crate::sim::FaultTarget;
use crate::snapshot::BrokenReason;
use crate::units::BLOCK_BYTES;
use std::ops::Range;

/// When an operation began.
#[derive(Clone, Copy)]
pub(super) struct Began {
    mark: Mark,
    restoring: bool,
    latched: bool,
}

impl Began {
    /// A failed flush had been reported before.
    pub(super) fn is_latched(self) -> bool {
        self.latched
    }
}

impl Context {
    /// To be called when an operation begins.
    pub(super) fn began(&self) -> Began {
        let mark = self.shared.trouble.mark(&self.disks);
        let restoring = self.volume.restore_progress().is_some();
        Began { mark, restoring, latched: self.shared.trouble.latch() == Latch::Sure }
    }

    /// Whether a device failed since then.
    pub(super) fn struck_since(&self, began: Began) -> bool {
        self.shared.trouble.absorb(&self.disks);
        self.shared.trouble.struck_since(&self.disks, began.mark)
    }

    /// A request of production has ended.
    pub(super) fn judge_request(&self, what: &str, began: Began, targets: &[FaultTarget], result: &Result<(), Error>) {
        let trouble = &self.shared.trouble;
        trouble.absorb(&self.disks);
        let Err(error) = result else { return };
        let restoring = began.restoring || self.volume.restore_progress().is_some();
        let excused = match error.kind() {
            ErrorKind::FlushFailed if trouble.latch() != Latch::Clear => true,
            _ if restoring && trouble.ever() => true,
            // What the restore needs cannot give way to what a first write would have to save.
            ErrorKind::NoSpace => restoring && self.tight_store,
            ErrorKind::Io => trouble.origin_struck_since(&self.disks, began.mark, targets),
            _ => false,
        };
        if !excused {
            self.shared.fail(format!("{what} failed without a fault of the origin: {error:?}"));
        }
        self.note_latch(error);
        self.shared.reached("requests that failed with the origin", 1);
    }

    /// A flush, or what promises one, has ended.
    pub(super) fn judge_flush(&self, what: &str, began: Began, result: &Result<(), Error>) {
        self.judge_request(what, began, &[FaultTarget::Flush], result);
        if began.latched && result.is_ok() {
            self.shared.fail(format!("{what} succeeded after a flush had failed"));
        }
    }

    /// The engine reports a failed flush: from now on it must.
    pub(super) fn note_latch(&self, error: &Error) {
        let trouble = &self.shared.trouble;
        if error.kind() == ErrorKind::FlushFailed && trouble.latch() == Latch::Doubtful {
            trouble.set_latch(Latch::Sure);
            self.shared.reached("latch set", 1);
        }
    }

    /// Whether a control operation may fail like this.
    pub(super) fn excused(&self, kind: ErrorKind) -> bool {
        self.shared.trouble.absorb(&self.disks);
        // A store that is full refuses, or breaks what is just being looked at.
        let is_of_full_store = matches!(kind, ErrorKind::NoSpace | ErrorKind::Broken);
        (self.tight_store && is_of_full_store) || self.shared.trouble.ever()
    }

    /// Whether a snapshot may be broken for this reason.
    pub(super) fn may_be_broken(&self, reason: BrokenReason) -> bool {
        let trouble = &self.shared.trouble;
        trouble.absorb(&self.disks);
        match reason {
            BrokenReason::StoreFull => self.tight_store || trouble.store_ever(),
            BrokenReason::StoreFailed | BrokenReason::RecordLost => trouble.store_ever(),
            BrokenReason::OriginChanged => trouble.changed_origin_accepted(),
            BrokenReason::OtherHost | BrokenReason::Other => false,
        }
    }

    /// Counts why a snapshot is broken.
    pub(super) fn count_broken(&self, reason: BrokenReason) {
        let trouble = &self.shared.trouble;
        self.shared.reached("snapshot broken", 1);
        match reason {
            BrokenReason::StoreFailed => self.shared.reached("broken by a failing store", 1),
            BrokenReason::StoreFull if trouble.store_was_full() => self.shared.reached("broken by ENOSPC", 1),
            BrokenReason::StoreFull => self.shared.reached("broken by a full store", 1),
            BrokenReason::RecordLost => self.shared.reached("broken by a lost record", 1),
            _ => {}
        }
    }

    /// A read of a snapshot failed. True where that is right.
    pub(super) fn snapshot_error_excused(&self, name: &str, began: Began, sectors: Range<u64>, error: &Error) -> bool {
        let trouble = &self.shared.trouble;
        let is_there = |oracle: &Oracle| {
            oracle.existence(name) == Some(Existence::Sure) && oracle.form(name) == Some(Form::Snapshot)
        };
        let sure = is_there(&self.shared.oracle.borrow());
        let block_sectors = BLOCK_BYTES as u64 / SECTOR;
        let blocks = sectors.start / block_sectors..sectors.end.div_ceil(block_sectors);
        let struck = self.struck_since(began);
        match error.kind() {
            ErrorKind::NotFound => !sure,
            ErrorKind::Broken => self.tight_store || trouble.store_ever() || trouble.changed_origin_accepted(),
            ErrorKind::Io => struck || trouble.unreadable_in(blocks),
            ErrorKind::Corrupt => {
                self.shared.reached("damaged blocks noticed", u64::from(trouble.damaged()));
                trouble.damaged()
            }
            _ => struck,
        }
    }

    /// A read of the volume failed while it was being looked at. True where that is right.
    pub(super) fn volume_error_excused(&self, began: Began, error: &Error) -> bool {
        let restoring = began.restoring || self.volume.restore_progress().is_some();
        self.shared.trouble.absorb(&self.disks);
        (restoring && self.shared.trouble.ever())
            || (error.kind() == ErrorKind::Io && self.shared.trouble.struck_since(&self.disks, began.mark))
    }
}
