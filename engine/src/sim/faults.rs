//! Faults that a simulated disk is told to have.
//!
//! Invariants:
//! - A fault fires by count or by place, never by chance: what was injected is known exactly.
//! - A failed write may have landed, in part or not at all; a failed flush may have lost what it should have kept.
//! - A write that is lost or goes astray is reported as done: nobody hears of it.

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

/// What happens to an operation that is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It fails with this.
    Fail(ErrorKind),
    /// A write is reported as done and was not.
    Lose,
    /// A write is reported as done, but landed at this byte.
    Misdirect(u64),
    /// It is passed over so many times before it completes.
    Delay(u32),
    /// It neither completes nor fails until the device is released.
    Stall,
}

impl Effect {
    /// Whether nobody is told.
    pub fn is_silent(self) -> bool {
        matches!(self, Effect::Lose | Effect::Misdirect(_))
    }
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
    /// What becomes of them.
    pub effect: Effect,
}

impl Fault {
    /// The `from`-th matching operation fails, once, with an I/O error.
    pub fn once(target: FaultTarget, from: u64) -> Fault {
        let kind = if target == FaultTarget::Flush { ErrorKind::FlushFailed } else { ErrorKind::Io };
        Fault { target, range_bytes: None, from, times: 1, effect: Effect::Fail(kind) }
    }

    /// Every matching operation from the `from`-th on fails with an I/O error.
    pub fn persistent(target: FaultTarget, from: u64) -> Fault {
        Fault { times: u64::MAX, ..Fault::once(target, from) }
    }

    /// Writes fail for want of space from the `from`-th on.
    pub fn no_space(from: u64) -> Fault {
        Fault { effect: Effect::Fail(ErrorKind::NoSpace), ..Fault::persistent(FaultTarget::Write, from) }
    }

    /// The `from`-th write is lost or goes astray.
    pub fn silent(effect: Effect, from: u64) -> Fault {
        assert!(effect.is_silent());
        Fault { effect, ..Fault::once(FaultTarget::Write, from) }
    }

    /// Every matching operation from the `from`-th on hangs until the device is released.
    pub fn stall(target: FaultTarget, from: u64) -> Fault {
        Fault { effect: Effect::Stall, ..Fault::persistent(target, from) }
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

    fn is_spent(&self) -> bool {
        self.times == 0
    }
}

/// An operation that was struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What it was.
    pub target: FaultTarget,
    /// The bytes it was about.
    pub range_bytes: Range<u64>,
    /// What became of it.
    pub effect: Effect,
}

/// The faults of one device and what they did so far.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    active: Vec<Fault>,
    strikes: Vec<Strike>,
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

    /// From now on no write is lost or goes astray.
    pub fn clear_silent(&mut self) {
        self.active.retain(|fault| !fault.effect.is_silent());
    }

    /// From now on nothing hangs.
    pub fn clear_stalls(&mut self) {
        self.active.retain(|fault| fault.effect != Effect::Stall);
    }

    /// The faults that may still strike.
    pub fn active(&self) -> &[Fault] {
        &self.active
    }

    /// What was struck since the device was made; delays are not counted.
    pub fn strikes(&self) -> &[Strike] {
        &self.strikes
    }

    /// How many operations were struck since the device was made.
    pub fn struck(&self) -> u64 {
        self.strikes.len() as u64
    }

    /// Decides what becomes of an operation; `None` where nothing is wrong. Called once for each.
    pub(super) fn strike(&mut self, target: FaultTarget, range_bytes: Range<u64>) -> Option<Effect> {
        let mut verdict = None;
        for fault in &mut self.active {
            if !fault.matches(target, &range_bytes) {
                continue;
            }
            if fault.from > 0 {
                fault.from -= 1;
            } else if fault.times > 0 {
                fault.times = if fault.times == u64::MAX { u64::MAX } else { fault.times - 1 };
                verdict = verdict.or(Some(fault.effect));
            }
        }
        self.active.retain(|fault| !fault.is_spent());
        let effect = match (verdict?, target) {
            // A flush reports its own kind whatever the fault was asked to report: that is what disks do.
            (Effect::Fail(_), FaultTarget::Flush) => Effect::Fail(ErrorKind::FlushFailed),
            (effect, _) => effect,
        };
        assert!(!effect.is_silent() || target == FaultTarget::Write, "only writes are lost or go astray");
        if !matches!(effect, Effect::Delay(_)) {
            self.strikes.push(Strike { target, range_bytes, effect });
        }
        Some(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_where_when_and_as_often_as_asked() {
        const IO: Option<Effect> = Some(Effect::Fail(ErrorKind::Io));
        const FLUSH_FAILED: Option<Effect> = Some(Effect::Fail(ErrorKind::FlushFailed));
        let mut faults = Faults::default();
        faults.inject(Fault::once(FaultTarget::Write, 1).within(0..4096));
        assert_eq!(faults.strike(FaultTarget::Write, 0..512), None);
        assert_eq!(faults.strike(FaultTarget::Write, 4096..8192), None);
        assert_eq!(faults.strike(FaultTarget::Read, 0..512), None);
        assert_eq!(faults.strike(FaultTarget::Write, 0..512), IO);
        assert_eq!(faults.strike(FaultTarget::Write, 0..512), None);
        assert!(faults.active().is_empty());
        faults.inject(Fault::persistent(FaultTarget::Flush, 0));
        assert_eq!(faults.strike(FaultTarget::Flush, 0..0), FLUSH_FAILED);
        assert_eq!(faults.strike(FaultTarget::Flush, 0..0), FLUSH_FAILED);
        assert_eq!(faults.struck(), 3);
    }
}
