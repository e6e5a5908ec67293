//! What a crash at one moment may leave: the durable content, and any part of what is still volatile.
//!
//! Invariants:
//! - A completed flush makes its device's completed writes durable; a completed durable write is durable, alone.
//! - What became durable is not overtaken by what had completed before it; what is volatile lands in any order.
//! - All subsets of up to [`SUBSETS_OF_MAX`] volatile writes are listed; of more, a sample.

use super::pages::{Image, Pages};
use super::tape::{part_of, sector_count, Device, Event, Piece, Request};

/// Most volatile writes of which every subset is listed.
const SUBSETS_OF_MAX: usize = 8;
/// Subsets taken by chance where there are more.
const SUBSETS_SAMPLED: usize = 64;

/// A write that completed and is not known to be durable.
#[derive(Clone)]
pub(super) struct Volatile {
    device: Device,
    pieces: Vec<Piece>,
}

/// The disks at one moment.
#[derive(Clone)]
pub(super) struct Cut {
    /// What is there whatever happens.
    durable: Image,
    /// What a reader sees.
    pub(super) visible: Image,
    volatile: Vec<Volatile>,
}

fn apply(image: &mut Image, pages: &mut Pages, pieces: &[Piece]) {
    for piece in pieces {
        let index = piece.index as usize;
        let merged = pages.merge(image.get(index), piece.content, piece.mask);
        image.set(index, merged);
    }
}

fn overlap(first: &[Piece], second: &[Piece]) -> bool {
    let shares = |one: &Piece, other: &Piece| one.index == other.index && one.mask & other.mask != 0;
    first.iter().any(|one| second.iter().any(|other| shares(one, other)))
}

impl Cut {
    /// Everything is durable.
    pub(super) fn settled(image: &Image) -> Cut {
        Cut { durable: image.clone(), visible: image.clone(), volatile: Vec::new() }
    }

    /// The process died and left `visible`: what was volatile still is, and so is what landed of the last write.
    pub(super) fn after_process_crash(&self, visible: Image, landed: Option<(Device, Vec<Piece>)>) -> Cut {
        let mut after = Cut { visible, ..self.clone() };
        after.volatile.extend(landed.map(|(device, pieces)| Volatile { device, pieces }));
        after
    }

    /// A request completes.
    pub(super) fn complete(&mut self, pages: &mut Pages, event: &Event) {
        match &event.request {
            Request::Write { pieces, durable } => {
                apply(&mut self.visible, pages, pieces);
                if *durable {
                    self.supersede(event.device, pieces);
                    apply(&mut self.durable, pages, pieces);
                } else {
                    self.volatile.push(Volatile { device: event.device, pieces: pieces.clone() });
                }
            }
            Request::Flush => {
                let durable = &mut self.durable;
                self.volatile.retain(|write| {
                    let covered = write.device == event.device;
                    if covered {
                        apply(durable, pages, &write.pieces);
                    }
                    !covered
                });
            }
        }
    }

    /// Whatever had completed before can no longer land on top.
    fn supersede(&mut self, device: Device, newer: &[Piece]) {
        for older in self.volatile.iter_mut().filter(|older| older.device == device) {
            for piece in &mut older.pieces {
                let covered = newer.iter().filter(|newer| newer.index == piece.index);
                piece.mask &= covered.fold(u8::MAX, |left, newer| left & !newer.mask);
            }
            older.pieces.retain(|piece| piece.mask != 0);
        }
        self.volatile.retain(|write| !write.pieces.is_empty());
    }

    /// The subsets of the volatile writes that are looked at, as bits.
    fn subsets(&self, random: &mut fastrand::Rng) -> Vec<u64> {
        let count = self.volatile.len();
        if count <= SUBSETS_OF_MAX {
            return (0..1 << count).collect();
        }
        assert!(count < 64, "{count} volatile writes");
        let all = (1u64 << count) - 1;
        let mut subsets = vec![0, all];
        for write in 0..count {
            subsets.extend([1 << write, all & !(1 << write)]);
        }
        subsets.extend((0..SUBSETS_SAMPLED).map(|_| random.u64(0..=all)));
        subsets.sort_unstable();
        subsets.dedup();
        subsets
    }

    fn chosen(&self, subset: u64) -> Vec<&Volatile> {
        let chosen = self.volatile.iter().enumerate().filter(|(index, _)| subset & (1 << index) != 0);
        chosen.map(|(_, write)| write).collect()
    }

    /// The durable content with these writes on top, in this order.
    fn landed<'a>(&self, pages: &mut Pages, writes: impl Iterator<Item = &'a Volatile>) -> Image {
        let mut image = self.durable.clone();
        writes.for_each(|write| apply(&mut image, pages, &write.pieces));
        image
    }

    /// Every image that power loss may leave now: each subset of what is volatile, in the order of completion and,
    /// where writes overlap, in other orders.
    pub(super) fn images(&self, pages: &mut Pages, random: &mut fastrand::Rng) -> Vec<Image> {
        let mut images = Vec::new();
        for subset in self.subsets(random) {
            let chosen = self.chosen(subset);
            let in_order = self.landed(pages, chosen.iter().copied());
            let first = images.len();
            images.push(in_order);
            let mut orders = Vec::new();
            for (index, write) in chosen.iter().enumerate() {
                if chosen[index + 1..].iter().any(|later| overlap(&write.pieces, &later.pieces)) {
                    // This one lands last.
                    let mut order = chosen.clone();
                    let last = order.remove(index);
                    order.push(last);
                    orders.push(order);
                }
            }
            if orders.len() > 1 {
                orders.push(chosen.iter().rev().copied().collect());
            }
            for order in orders {
                let image = self.landed(pages, order.into_iter());
                if images[first..].iter().all(|other| *other != image) {
                    images.push(image);
                }
            }
        }
        images
    }

    /// Images in which some sectors of each volatile write are there and others are not.
    pub(super) fn torn_images(&self, pages: &mut Pages, random: &mut fastrand::Rng, count: u32) -> Vec<Image> {
        if self.volatile.is_empty() {
            return Vec::new();
        }
        let torn = |_| {
            let mut image = self.durable.clone();
            for write in &self.volatile {
                let odds = random.u32(1..8);
                apply(&mut image, pages, &part_of(&write.pieces, |_| random.u32(0..8) < odds));
            }
            image
        };
        (0..count).map(torn).collect()
    }

    /// Images in which `pieces`, in flight now, are torn: upon nothing of what is volatile, and upon all of it.
    pub(super) fn images_with_part(&self, pages: &mut Pages, part: &[Piece]) -> Vec<Image> {
        let mut images = vec![self.durable.clone()];
        if !self.volatile.is_empty() {
            images.push(self.landed(pages, self.volatile.iter()));
        }
        images.iter_mut().for_each(|image| apply(image, pages, part));
        images
    }

    /// What a reader sees where this much of a write in flight landed.
    pub(super) fn visible_with_part(&self, pages: &mut Pages, part: &[Piece]) -> Image {
        let mut image = self.visible.clone();
        apply(&mut image, pages, part);
        image
    }
}

/// Ways in which a write may be torn: up to a sector, from a sector on, all but one, only one, any; at most `limit`.
pub(super) fn tears(pieces: &[Piece], random: &mut fastrand::Rng, limit: usize) -> Vec<Vec<Piece>> {
    let sectors = sector_count(pieces);
    if sectors < 2 {
        return Vec::new();
    }
    let mut tears = Vec::new();
    for at in 1..sectors {
        tears.push(part_of(pieces, |sector| sector < at));
        tears.push(part_of(pieces, |sector| sector >= at));
    }
    for at in 1..sectors.max(3) - 1 {
        tears.push(part_of(pieces, |sector| sector != at));
        tears.push(part_of(pieces, |sector| sector == at));
    }
    random.shuffle(&mut tears);
    tears.truncate(limit - limit / 4);
    while tears.len() < limit {
        tears.push(part_of(pieces, |_| random.bool()));
    }
    tears
}
