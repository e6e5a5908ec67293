//! Giving faults to the devices of a history.
//!
//! Invariants:
//! - Which fault comes, where and when, follows from the seed alone.
//! - Origins never lie: what they do to current content nobody could notice.

use super::plan::{FaultKind, Plan};
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

/// The next fault of a history; none where it has no faults that make requests fail.
pub(super) fn choose(plan: &Plan, random: &mut fastrand::Rng) -> Option<Injection> {
    let kind = *random.choice(&plan.faults)?;
    let (device, target) = match kind {
        FaultKind::StoreRead => (Device::Store, FaultTarget::Read),
        FaultKind::StoreWrite | FaultKind::StoreFull => (Device::Store, FaultTarget::Write),
        FaultKind::StoreFlush => (Device::Store, FaultTarget::Flush),
        FaultKind::OriginRead => (Device::Origin, FaultTarget::Read),
        FaultKind::OriginWrite => (Device::Origin, FaultTarget::Write),
        FaultKind::OriginFlush => (Device::Origin, FaultTarget::Flush),
        FaultKind::OriginDiscard => (Device::Origin, FaultTarget::Discard),
        FaultKind::Slow => return Some(slow(random)),
        FaultKind::Rot | FaultKind::LostWrite | FaultKind::MisdirectedWrite => return None,
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
    let geometry = Geometry::plan(plan.store.size_bytes, plan.segment_bytes).expect("the plan's store is large enough");
    let segments_start = geometry.segments_base_bytes;
    match random.u8(0..6) {
        0 => 0..SUPERBLOCK_B_BYTES + 4096,
        1 => geometry.areas[0].offset_bytes..segments_start,
        _ => segments_start..plan.store.size_bytes.min(segments_start + 64 * u64::from(plan.segment_bytes)),
    }
}
