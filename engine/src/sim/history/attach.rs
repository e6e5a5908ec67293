//! Crashes, detaches and attaches: the owner repairs what failed and accepts what has to be accepted, nothing more.
//!
//! Invariants:
//! - An attach fails only where a device failed during it, or for a reason that earlier faults explain.
//! - A failed flush that was reported is still latched after any end and every attach, until the owner clears it.

use super::evidence::Evidence;
use super::inject;
use super::machine::{Host, Machine, Recovery};
use super::restoring::Restoring;
use super::trouble::{Latch, Mark};
use super::History;
use crate::disk::Disks;
use crate::error::{Error, ErrorKind};
use crate::sim::{Crash, Effect, Fault, SimDisk};
use crate::volume::{Accept, Activity};

/// Attaches that may fail in a row.
const TRIES_MAX: u32 = 12;
/// Crashes during recovery, in a row.
const DEPTH_MAX: u32 = 3;

/// An attach that goes on until the volume is there.
struct Attaching {
    accept: Accept,
    tries: u32,
    depth: u32,
    last: Option<Crash>,
    mark: Mark,
}

impl History {
    /// The machine stops, unless that could hide a loss that nothing on the store speaks of.
    pub(super) fn crash_if_seen(&mut self) {
        match self.close_windows() {
            true => self.crash(None),
            false => self.shared.reached("crashes that would have hidden a loss", 1),
        }
    }

    /// The machine stops, and comes up again.
    pub(super) fn crash(&mut self, restoring: Option<Restoring>) {
        let Machine { host, context } = self.machine.take().expect("a machine runs between operations");
        context.count();
        self.count_crash(&context, restoring.is_some());
        drop(context);
        self.crash_host(host, restoring);
    }

    /// The same for a host without a volume.
    pub(super) fn crash_host(&mut self, host: Host, restoring: Option<Restoring>) {
        let (disks, crash) = self.stop(host, 0);
        self.come_up(disks, Some(crash), restoring);
    }

    fn count_crash(&self, context: &super::operations::Context, restoring: bool) {
        let during = match context.volume.background_activity() {
            Activity::Sealing => "crashes while sealing",
            Activity::Merging => "crashes while merging",
            Activity::Restoring => "crashes while moving blocks back",
            Activity::Idle => "crashes while the background is idle",
        };
        self.shared.reached(during, 1);
        self.shared.reached("crashes during a restore", u64::from(context.volume.restore_progress().is_some()));
        self.shared.reached("crashes while a restore begins", u64::from(restoring));
        self.shared.reached("crashes while deleting", u64::from(self.shared.deleting.get() > 0));
    }

    /// Crashes a host; gives what is found afterwards.
    fn stop(&mut self, host: Host, depth: u32) -> (Disks<SimDisk>, Crash) {
        let crash = if self.random.bool() { Crash::Process } else { Crash::Power };
        self.shared.note(format!("=== crash: {crash:?}, {depth} deep"));
        self.shared.reached(if crash == Crash::Power { "power cuts" } else { "process crashes" }, 1);
        self.shared.trouble.absorb(&host.disks);
        if crash == Crash::Power && self.shared.trouble.forsaken() {
            self.shared.oracle.borrow_mut().lose_forsaken();
        }
        self.shared.oracle.borrow_mut().crash(crash);
        self.shared.forget_underway();
        self.crashes += 1;
        let carried = self.carried_faults(&host.disks);
        self.session_ends(&host.disks, crash == Crash::Power);
        let (disks, events) = host.crash(self.random.u64(..), crash);
        self.shared.mix(events);
        self.shared.trouble.new_devices();
        for injection in carried {
            injection.apply(&disks);
        }
        (disks, crash)
    }

    /// A session has ended on these disks.
    fn session_ends(&self, disks: &Disks<SimDisk>, power_lost: bool) {
        let trouble = &self.shared.trouble;
        trouble.absorb(disks);
        trouble.session_ends(!self.shared.state.is_failing(), power_lost);
        trouble.session_begins();
    }

    /// A device that fails goes on failing after a crash, or does not; or begins to.
    fn carried_faults(&mut self, disks: &Disks<SimDisk>) -> Vec<inject::Injection> {
        let mut carried = Vec::new();
        for (device, faults) in
            [(inject::Device::Origin, disks.origin.faults()), (inject::Device::Store, disks.store.faults())]
        {
            // Nobody tells an attach that waits for ever from one that takes long.
            let is_loud = |fault: &Fault| !fault.effect.is_silent() && fault.effect != Effect::Stall;
            let loud = faults.into_iter().filter(is_loud);
            carried.extend(loud.map(|fault| inject::Injection { device, fault }));
        }
        if self.random.bool() {
            carried.clear();
        }
        if !self.quiet && self.random.u8(0..4) == 0 {
            let kind = inject::choose_kind(&self.plan, &mut self.random);
            let new = kind.and_then(|kind| inject::choose(kind, &self.plan, &mut self.random));
            carried.extend(new.filter(|injection| !injection.fault.effect.is_silent()));
        }
        carried
    }

    /// Attaches until the volume is there, and sees that everything is.
    pub(super) fn come_up(&mut self, disks: Disks<SimDisk>, last: Option<Crash>, restoring: Option<Restoring>) {
        let mut attaching = Attaching { accept: Accept::default(), tries: 0, depth: 0, last, mark: Mark::default() };
        let mut disks = disks;
        let machine = loop {
            match self.try_attach(disks, &mut attaching) {
                Ok(machine) => break machine,
                Err(next) => disks = next,
            }
        };
        self.machine = Some(machine);
        self.attached(&attaching);
        let last = attaching.last;
        self.follow_size();
        if attaching.accept.abandoned_restore {
            self.follow_mixture(restoring);
        } else {
            self.settle_doubt();
            self.settle_restore(restoring);
        }
        self.observe(last == Some(Crash::Power));
        self.inspect_after_attach();
    }

    /// One try. Gives the disks for the next one where it did not succeed.
    fn try_attach(&mut self, disks: Disks<SimDisk>, attaching: &mut Attaching) -> Result<Machine, Disks<SimDisk>> {
        let trouble = &self.shared.trouble;
        if trouble.latch() != Latch::Clear && !trouble.forsaken() && self.random.u8(0..3) == 0 {
            // The owner has looked at the disk after the power was off: what is there is what is there.
            attaching.accept.failed_flush = true;
        }
        attaching.mark = trouble.mark(&disks);
        if self.plan.has_silent_faults() {
            disks.store.keep_journal();
        }
        let may_crash = attaching.last.is_some() && attaching.depth < DEPTH_MAX && self.random.u8(0..3) == 0;
        let stop_after = may_crash.then(|| self.random.u64(0..200));
        let host = Host::boot(disks, self.random.u64(..));
        match Machine::recover(&self.plan, &self.shared, host, attaching.accept, stop_after) {
            Recovery::Done(machine) => Ok(machine),
            Recovery::Stopped(host) => {
                attaching.depth += 1;
                self.shared.reached("crashes during recovery", 1);
                let (disks, crash) = self.stop(host, attaching.depth);
                // What a power cut left volatile was read before; a later kill does not change that it is durable.
                attaching.last = Some(crash);
                Err(disks)
            }
            Recovery::Failed(mut host, error) => {
                self.judge_attach(&mut host, &error, attaching);
                let (disks, events) = host.shut_down();
                self.shared.mix(events);
                Err(disks)
            }
        }
    }

    /// Whether the attach had to fail; repairs what failed, accepts what is asked.
    fn judge_attach(&mut self, host: &mut Host, error: &Error, attaching: &mut Attaching) {
        self.shared.note(format!("=== attach failed: {error:?}"));
        self.shared.reached("attach failed", 1);
        attaching.tries += 1;
        let trouble = &self.shared.trouble;
        trouble.absorb(&host.disks);
        let struck = trouble.struck_since(&host.disks, attaching.mark);
        match error.kind() {
            _ if attaching.tries > TRIES_MAX => self.give_up(format!("attach fails again and again: {error:?}")),
            // With a failed flush the log of the watched blocks may have been cut short: then an attach asks without need.
            ErrorKind::OriginChanged if trouble.store_ever() || trouble.latch() != Latch::Clear => {
                attaching.accept.changed_origin = true;
                trouble.accept_changed_origin();
                self.shared.reached("changed origin accepted", 1);
            }
            // Who accepts that the disk was changed gives up its snapshots, that of the restore among them.
            ErrorKind::Broken if trouble.store_ever() || attaching.accept.changed_origin => {
                attaching.accept.abandoned_restore = true;
                self.shared.reached("restore abandoned", 1);
            }
            ErrorKind::Corrupt | ErrorKind::NotAStore if trouble.lied() => self.make_store_anew(host, attaching),
            _ if struck => {
                if attaching.tries > 2 || self.random.bool() {
                    host.disks.origin.clear_faults();
                    host.disks.store.clear_faults();
                }
                self.shared.reached("attach failed by a fault and tried again", 1);
            }
            _ => self.give_up(format!("attach failed without a cause: {error:?}")),
        }
    }

    /// The volume is there. Is a failed flush still known?
    fn attached(&mut self, attaching: &Attaching) {
        self.metadata_damaged = false;
        *self.shared.evidence.borrow_mut() = Evidence::default();
        self.gather_evidence();
        self.shared.in_doubt.borrow_mut().clear();
        let disks = self.context().disks;
        self.shared.trouble.absorb(&disks);
        if attaching.accept.failed_flush && self.shared.trouble.latch() != Latch::Clear && !self.flush_struck(attaching)
        {
            self.shared.trouble.set_latch(Latch::Clear);
            self.shared.reached("latch cleared by the owner", 1);
        }
        if self.shared.trouble.latch() == Latch::Clear {
            return;
        }
        let was = self.shared.trouble.latch();
        let context = self.context();
        let flush = self.launch("flush after attach", context.flush(0));
        self.wait(&flush);
        self.shared.assert_right(self.seed);
        match (was, self.shared.trouble.latch()) {
            (Latch::Sure, Latch::Sure) => self.shared.reached("latch survived an attach", 1),
            // It succeeded, which is right only where nobody had been told.
            (Latch::Doubtful, Latch::Doubtful) => self.shared.trouble.set_latch(Latch::Clear),
            _ => {}
        }
    }

    fn flush_struck(&self, attaching: &Attaching) -> bool {
        let disks = self.context().disks;
        self.shared.trouble.origin_struck_since(&disks, attaching.mark, &[crate::sim::FaultTarget::Flush])
    }

    /// A clean end, and the next attach.
    pub(super) fn reattach(&mut self) {
        if !self.finish_restore() || !self.close_windows() {
            return self.crash_if_seen();
        }
        self.shared.note("=== detach and attach".into());
        let machine = self.machine.take().expect("a machine runs between operations");
        machine.context.count();
        let (shared, disks) = (std::rc::Rc::clone(&self.shared), machine.context.disks.clone());
        let mark = shared.trouble.mark(&disks);
        // A detach that fails ends like a crash, and no tick could confirm what it lost.
        disks.store.clear_silent_faults();
        // A detach promises what a flush promises.
        let ticket = shared.oracle.borrow_mut().start_flush();
        let latched = shared.trouble.latch();
        let (host, result) = machine.detach();
        shared.trouble.absorb(&disks);
        let kept = result.is_ok() && shared.trouble.latch() == Latch::Clear && latched == Latch::Clear;
        shared.oracle.borrow_mut().end_flush(ticket, kept && !shared.trouble.forsaken());
        if let Err(error) = result {
            if !shared.trouble.struck_since(&disks, mark) && !shared.trouble.ever() {
                self.give_up(format!("detach failed: {error:?}"));
            }
            shared.reached("detach failed", 1);
            shared.note(format!("=== detach failed: {error:?}"));
            drop(disks);
            return self.crash_host(host, None);
        }
        drop(disks);
        self.session_ends(&host.disks, false);
        let (disks, events) = host.shut_down();
        shared.mix(events);
        self.come_up(disks, None, None);
        self.shared.reached("detached", 1);
    }

    /// The store is of no use any more: the owner makes a new one, and the snapshots are gone. The origin is whole.
    fn make_store_anew(&self, host: &mut Host, attaching: &mut Attaching) {
        self.shared.reached("stores made anew after lost or misdirected writes", 1);
        self.shared.note("=== a new store".into());
        host.disks.origin.clear_faults();
        host.disks.store.clear_faults();
        host.create_again(&self.plan);
        self.shared.state.clear();
        let names: Vec<String> = self.shared.oracle.borrow().snapshots().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            self.shared.oracle.borrow_mut().remove_snapshot(&name);
        }
        // The new store knows of no failed flush, and of no restore.
        if self.shared.trouble.latch() == Latch::Sure {
            self.shared.trouble.set_latch(Latch::Doubtful);
        }
        attaching.accept.abandoned_restore |= self.before_restore.is_some();
    }
}
