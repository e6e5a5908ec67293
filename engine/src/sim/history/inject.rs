//! Giving faults to the devices of a history.
//!
//! Invariants:
//! - Which fault comes, where and when, follows from the seed alone.
//! - Origins never lie: what they do to current content nobody could notice.
//! - Between two attaches at most one silent fault hits the superblocks or the catalog: each keeps two copies, no more.
//! - No bit rots in the last record of a lane, which nothing confirms: see docs/DURABILITY.md, "The last record".

use super::plan::{FaultKind, Plan};
use super::History;
use crate::disk::Disks;
use crate::format::geometry::{Geometry, SUPERBLOCK_B_BYTES};
use crate::sim::{Effect, Fault, FaultTarget, SimDisk};
use std::ops::Range;

/// A device that gets a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    Origin,
    Store,
}

/// A fault, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Injection {
    pub(super) device: Device,
    pub(super) fault: Fault,
}

impl Injection {
    pub(super) fn apply(&self, disks: &Disks<SimDisk>) {
        match self.device {
            Device::Origin => disks.origin.inject(self.fault.clone()),
            Device::Store => disks.store.inject(self.fault.clone()),
        }
    }
}

/// The next kind of fault of a history, if it has any.
pub(super) fn choose_kind(plan: &Plan, random: &mut fastrand::Rng) -> Option<FaultKind> {
    random.choice(&plan.faults).copied()
}

/// A fault of this kind; none where it is no fault of requests, but of what the device holds.
pub(super) fn choose(kind: FaultKind, plan: &Plan, random: &mut fastrand::Rng) -> Option<Injection> {
    let (device, target) = match kind {
        FaultKind::StoreRead => (Device::Store, FaultTarget::Read),
        FaultKind::StoreWrite | FaultKind::StoreFull => (Device::Store, FaultTarget::Write),
        FaultKind::StoreFlush => (Device::Store, FaultTarget::Flush),
        FaultKind::OriginRead => (Device::Origin, FaultTarget::Read),
        FaultKind::OriginWrite => (Device::Origin, FaultTarget::Write),
        FaultKind::OriginFlush => (Device::Origin, FaultTarget::Flush),
        FaultKind::OriginDiscard => (Device::Origin, FaultTarget::Discard),
        FaultKind::Slow => return Some(slow(random)),
        FaultKind::LostWrite | FaultKind::MisdirectedWrite => return Some(silent(kind, plan, random)),
        FaultKind::Rot => return None,
    };
    let from = if random.bool() { random.u64(0..8) } else { random.u64(0..80) };
    let times = *random.choice(&[1, 1, 1, 2, 3, 9, u64::MAX]).expect("not empty");
    let fault = match kind {
        FaultKind::StoreFull => Fault { times, ..Fault::no_space(from) },
        _ => Fault { times, ..Fault::once(target, from) },
    };
    let fault = match random.u8(0..3) {
        0 if target != FaultTarget::Flush => fault.within(place(plan, device, random)),
        _ => fault,
    };
    Some(Injection { device, fault })
}

fn slow(random: &mut fastrand::Rng) -> Injection {
    let device = if random.bool() { Device::Origin } else { Device::Store };
    let effect = Effect::Delay(random.u32(1..40));
    let times = *random.choice(&[1, 5, 50]).expect("not empty");
    let fault = Fault { times, effect, ..Fault::once(FaultTarget::Any, random.u64(0..20)) };
    Injection { device, fault }
}

fn silent(kind: FaultKind, plan: &Plan, random: &mut fastrand::Rng) -> Injection {
    let landing = region(plan, random);
    let effect = match kind {
        FaultKind::LostWrite => Effect::Lose,
        _ => Effect::Misdirect(random.u64(landing) / 4096 * 4096),
    };
    let fault = Fault::silent(effect, random.u64(0..30));
    let fault = if random.bool() { fault.within(region(plan, random)) } else { fault };
    Injection { device: Device::Store, fault }
}

/// Where bits rot: a byte that was written, in the superblocks, in the catalog or in a segment; and which bits. With
/// `metadata` false only in segments.
pub(super) fn choose_rot(
    plan: &Plan,
    store: &SimDisk,
    metadata: bool,
    random: &mut fastrand::Rng,
) -> Option<(u64, u8)> {
    let segments_start = geometry(plan).segments_base_bytes;
    for _ in 0..64 {
        let within = region(plan, random);
        let block = random.u64(within) / 4096 * 4096;
        let is_written = store.peek(block, 4096).iter().any(|byte| *byte != 0);
        if is_written && (metadata || block >= segments_start) {
            return Some((block + random.u64(0..4096), 1 << random.u8(0..8)));
        }
    }
    None
}

/// Whether a byte of the store belongs to the superblocks or the catalog.
pub(super) fn is_metadata(plan: &Plan, offset_bytes: u64) -> bool {
    offset_bytes < geometry(plan).segments_base_bytes
}

fn geometry(plan: &Plan) -> Geometry {
    Geometry::plan(plan.store.size_bytes, plan.segment_bytes).expect("the plan's store is large enough")
}

/// A part of a device.
fn place(plan: &Plan, device: Device, random: &mut fastrand::Rng) -> Range<u64> {
    let within = match device {
        Device::Origin => 0..plan.origin.size_bytes,
        Device::Store => region(plan, random),
    };
    let start = random.u64(within.clone()) / 4096 * 4096;
    let length_bytes = 4096 << random.u8(0..10);
    start..within.end.min(start + length_bytes)
}

/// The superblocks, the catalog, or some of the segments that a small history uses.
fn region(plan: &Plan, random: &mut fastrand::Rng) -> Range<u64> {
    let geometry = geometry(plan);
    let segments_start = geometry.segments_base_bytes;
    match random.u8(0..6) {
        0 => 0..SUPERBLOCK_B_BYTES + 4096,
        1 => geometry.areas[0].offset_bytes..segments_start,
        _ => segments_start..plan.store.size_bytes.min(segments_start + 64 * u64::from(plan.segment_bytes)),
    }
}

impl History {
    /// A device gets a fault.
    pub(super) fn inject(&mut self) {
        if self.plan.stalls && self.random.bool() {
            return self.stall();
        }
        let Some(kind) = choose_kind(&self.plan, &mut self.random) else { return };
        if kind == FaultKind::Rot {
            return self.rot();
        }
        let Some(injection) = choose(kind, &self.plan, &mut self.random) else { return };
        self.shared.note(format!("=== fault: {injection:?}"));
        injection.apply(&self.context().disks);
    }

    /// Bits rot on the store.
    pub(super) fn rot(&mut self) {
        let store = self.context().disks.store.clone();
        let Some((offset_bytes, mask)) = choose_rot(&self.plan, &store, !self.metadata_damaged, &mut self.random)
        else {
            return;
        };
        self.gather_evidence();
        if self.shared.evidence.borrow().is_in_last_record(offset_bytes) {
            return;
        }
        self.metadata_damaged |= is_metadata(&self.plan, offset_bytes);
        self.shared.note(format!("=== rot: byte {offset_bytes}, bits {mask:#x}"));
        self.shared.reached("bits flipped", 1);
        self.shared.trouble.damage();
        store.flip(offset_bytes, mask);
    }

    /// Looks at what the store reported as done.
    pub(super) fn gather_evidence(&self) {
        let disks = self.context().disks;
        let store = &disks.store;
        self.shared.evidence.borrow_mut().absorb(store.take_journal(), |id| store.is_volatile(id));
    }

    /// Makes sure that a crash can hide no loss: ticks confirm the last record of each lane. False where they do not.
    pub(super) fn close_windows(&mut self) -> bool {
        for _ in 0..4 {
            self.gather_evidence();
            if !self.shared.evidence.borrow().is_window_open() {
                return true;
            }
            self.shared.reached("windows of a silent loss", 1);
            let context = self.context();
            let tick = self.launch("confirming tick", context.tick());
            self.wait(&tick);
        }
        false
    }

    /// The owner repairs both devices.
    pub(super) fn repair(&mut self) {
        self.shared.note("=== repair".into());
        let disks = self.context().disks;
        disks.origin.clear_faults();
        disks.store.clear_faults();
        disks.store.release();
    }
}
