//! Faults that a simulated disk is told to have.
//!
//! Invariants:
//! - A fault fires by count or by place, never by chance: what was injected is known exactly.
//! - A failed write may have landed, in part or not at all; a failed flush may have lost what it should have kept.

use crate::error::ErrorKind;
use std::ops::Range;

/// The operations that a fault may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultTarget {
    /// Reads.
    Read,
    /// Writes, durable or not, and writes of zeroes.
    Write,
    /// Flushes.
    Flush,
    /// Discards.
    Discard,
    /// Any of them.
    Any,
}

/// One fault. It strikes matching operations from the `from`-th on (0 = the next one), `times` times.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which operations.
    pub target: FaultTarget,
    /// Only operations that touch these bytes; flushes touch none and match only without a range.
    pub range_bytes: Option<Range<u64>>,
    /// How many matching operations pass first.
    pub from: u64,
    /// How many are struck then; `u64::MAX` for all.
    pub times: u64,
    /// What they fail with.
    pub kind: ErrorKind,
}

impl Fault {
    /// The `from`-th matching operation fails, once, with an I/O error.
    pub fn once(target: FaultTarget, from: u64) -> Fault {
        let kind = if target == FaultTarget::Flush { ErrorKind::FlushFailed } else { ErrorKind::Io };
        Fault { target, range_bytes: None, from, times: 1, kind }
    }

    /// Every matching operation from the `from`-th on fails with an I/O error.
    pub fn persistent(target: FaultTarget, from: u64) -> Fault {
        Fault { times: u64::MAX, ..Fault::once(target, from) }
    }

    /// Writes fail for want of space from the `from`-th on.
    pub fn no_space(from: u64) -> Fault {
        Fault { kind: ErrorKind::NoSpace, ..Fault::persistent(FaultTarget::Write, from) }
    }

    /// Only operations that touch these bytes.
    pub fn within(mut self, range_bytes: Range<u64>) -> Fault {
        self.range_bytes = Some(range_bytes);
        self
    }

    fn matches(&self, target: FaultTarget, range_bytes: &Range<u64>) -> bool {
        let touches = match &self.range_bytes {
            Some(place) => place.start < range_bytes.end && range_bytes.start < place.end,
            None => true,
        };
        touches && (self.target == target || self.target == FaultTarget::Any)
    }
}

/// The faults of one device and what they did so far.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    active: Vec<Fault>,
    struck: u64,
}

impl Faults {
    /// Adds a fault; counting starts now.
    pub fn inject(&mut self, fault: Fault) {
        self.active.push(fault);
    }

    /// The device is repaired. What was struck stays counted.
    pub fn clear(&mut self) {
        self.active.clear();
    }

    /// How many operations were struck since the device was made.
    pub fn struck(&self) -> u64 {
        self.struck
    }

    /// Decides whether an operation fails. Called once for each.
    pub(super) fn strike(&mut self, target: FaultTarget, range_bytes: Range<u64>) -> Option<ErrorKind> {
        let mut verdict = None;
        for fault in &mut self.active {
            if !fault.matches(target, &range_bytes) {
                continue;
            }
            if fault.from > 0 {
                fault.from -= 1;
            } else if fault.times > 0 {
                fault.times = if fault.times == u64::MAX { u64::MAX } else { fault.times - 1 };
                verdict = verdict.or(Some(fault.kind));
            }
        }
        self.struck += u64::from(verdict.is_some());
        match (verdict, target) {
            // A flush reports its own kind whatever the fault was asked to report: that is what disks do.
            (Some(_), FaultTarget::Flush) => Some(ErrorKind::FlushFailed),
            (verdict, _) => verdict,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_where_when_and_as_often_as_asked() {
        let mut faults = Faults::default();
        faults.inject(Fault::once(FaultTarget::Write, 1).within(0..4096));
        assert_eq!(faults.strike(FaultTarget::Write, 0..512), None);
        assert_eq!(faults.strike(FaultTarget::Write, 4096..8192), None);
        assert_eq!(faults.strike(FaultTarget::Read, 0..512), None);
        assert_eq!(faults.strike(FaultTarget::Write, 0..512), Some(ErrorKind::Io));
        assert_eq!(faults.strike(FaultTarget::Write, 0..512), None);
        faults.inject(Fault::persistent(FaultTarget::Flush, 0));
        assert_eq!(faults.strike(FaultTarget::Flush, 0..0), Some(ErrorKind::FlushFailed));
        assert_eq!(faults.strike(FaultTarget::Flush, 0..0), Some(ErrorKind::FlushFailed));
        assert_eq!(faults.struck(), 3);
    }
}
