//! Every crash of one workload: the states that it may leave, each recovered and judged.
//!
//! Invariants:
//! - Each (workload, crash point, part of what was volatile) is one state, counted once and judged by what the user
//!   knew at that point.
//! - Recovery is deterministic, so an image that was recovered before is not recovered again, but judged again.
//! - Which states are crashed again during recovery, or used further, follows from their place alone.

use super::alphabet::Workload;
use super::course::{self, Course};
use super::cut::{tears, Cut};
use super::machine::Machine;
use super::pages::{mix, Image, MixMap};
use super::place::{Place, Step};
use super::tape::{sector_count, Device, Event, Lie, Piece, Request};
use super::usage;
use super::verdict::{Found, Verdict};
use super::Settings;
use crate::sim::oracle::Oracle;
use crate::sim::Crash;
use std::collections::HashSet;
use std::rc::Rc;

/// Crashes within crashes: the first, and so many during recovery.
const DEPTH_MAX: usize = 3;
/// Each crash more within crashes is so many times rarer.
const DEEPER_RARER: u64 = 16;
/// Contents kept before the next workload starts with none.
const PAGES_MAX: usize = 50_000;
/// Images remembered before they are forgotten.
const RECOVERED_MAX: usize = 16 << 20;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Workloads run.
    pub workloads: u64,
    /// States judged.
    pub states: u64,
    /// Of these, states after a crash during recovery.
    pub again: u64,
    /// Different images recovered.
    pub distinct: u64,
    /// States whose volume was used further.
    pub used: u64,
}

/// A state that must not be.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Where: a line for [`super::replay`].
    pub place: String,
    /// What is wrong.
    pub message: String,
}

/// Explores workloads, one after the other.
pub(super) struct Explorer {
    machine: Machine,
    lie: Option<Lie>,
    initial: Image,
    /// By the hash of the image.
    recovered: MixMap<u64, Rc<Found>>,
    /// Everything that was found, once.
    found: HashSet<Rc<Found>>,
    settings: Settings,
    pub(super) counts: Counts,
    /// Where the state that is looked at lies.
    path: Vec<Step>,
    /// Only this state is looked at.
    only: Option<Vec<Step>>,
    /// What was asked of the disks, where only one state is looked at.
    pub(super) notes: Vec<String>,
    seed: u64,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: &Counts) {
        self.workloads += other.workloads;
        self.states += other.states;
        self.again += other.again;
        self.distinct += other.distinct;
        self.used += other.used;
    }
}

/// What is legal in a phase.
#[derive(Clone, Copy)]
struct Phase<'a> {
    power: &'a Verdict,
    process: &'a Verdict,
}

/// What is to be judged at a crash during recovery: what the volume's user knew does not change any more.
struct Walk<'a> {
    /// By the phases of the events.
    phases: &'a [Phase<'a>],
    /// What every state after the last event must show; none where something may still be lost.
    settled: Option<&'a Found>,
}

impl Explorer {
    pub(super) fn new(settings: Settings) -> Explorer {
        let machine = Machine::new(settings.lie);
        let initial = machine.create();
        Explorer {
            machine,
            lie: settings.lie,
            initial,
            recovered: MixMap::default(),
            found: HashSet::new(),
            settings,
            counts: Counts::default(),
            path: Vec::new(),
            only: None,
            notes: Vec::new(),
            seed: 0,
        }
    }

    /// Forgets contents and images where they have become many.
    fn tidy(&mut self) {
        if self.machine.tape.borrow().pages.count() > PAGES_MAX {
            self.machine = Machine::new(self.lie);
            self.initial = self.machine.create();
        }
        if self.recovered.len() > RECOVERED_MAX {
            self.recovered.clear();
            self.found.clear();
        }
    }

    /// Looks at every state of a workload, or only at one.
    pub(super) fn explore(&mut self, workload: &Workload, only: Option<Vec<Step>>) -> Result<(), Failure> {
        self.tidy();
        self.only = only;
        self.path.clear();
        self.seed = workload
            .operations
            .iter()
            .fold(u64::from(workload.has_fua), |sum, operation| mix(sum.wrapping_mul(31) ^ (*operation as u64 + 1)));
        let result = match course::run(&self.machine, &self.initial, workload) {
            Ok(None) => return Ok(()),
            Ok(Some(course)) => self.explore_course(&course),
            Err(message) => Err(message),
        };
        self.counts.workloads += 1;
        result.map_err(|message| {
            let place = Place { workload: workload.clone(), settings: self.settings, path: self.path.clone() };
            Failure { place: place.to_string(), message }
        })
    }

    fn explore_course(&mut self, course: &Course) -> Result<(), String> {
        let mut cut = Cut::settled(&course.initial);
        for event in &course.events[..course.last_from] {
            cut.complete(&mut self.machine.tape.borrow_mut().pages, event);
        }
        let both = |models: &Vec<Oracle>| [Crash::Power, Crash::Process].map(|crash| Verdict::of(models, crash));
        let verdicts: Vec<[Verdict; 2]> = course.phases.iter().map(both).collect();
        let phases: Vec<Phase<'_>> = verdicts.iter().map(|[power, process]| Phase { power, process }).collect();
        let walk = Walk { phases: &phases, settled: None };
        self.walk(cut, &course.events[course.last_from..], &walk)
    }

    fn random(&self, point: usize) -> fastrand::Rng {
        let place = self.path.iter().fold(self.seed, |sum, step| mix(sum ^ step.number()));
        fastrand::Rng::with_seed(mix(place ^ point as u64))
    }

    /// Crashes at every event and at the end.
    fn walk(&mut self, mut cut: Cut, events: &[Event], walk: &Walk<'_>) -> Result<(), String> {
        self.note_requests(events);
        // All requests of a recovery are of one phase, whatever the tape says.
        let phase_of = |event: &Event| event.phase.min(walk.phases.len() - 1);
        let mut point = 0;
        for (index, event) in events.iter().enumerate() {
            let phase = walk.phases[phase_of(event)];
            if let Request::Write { pieces, .. } = &event.request {
                self.visit_torn(&cut, event.device, pieces, point, phase)?;
            }
            cut.complete(&mut self.machine.tape.borrow_mut().pages, event);
            self.visit_all(&cut, point + 1, phase, None)?;
            point += 2;
            let next = events.get(index + 1).map_or(phase_of(event), phase_of);
            if next != phase_of(event) {
                self.visit_all(&cut, point, walk.phases[next], None)?;
                point += 1;
            }
        }
        let last = *walk.phases.last().expect("there is a phase at the end");
        self.visit_all(&cut, point, last, walk.settled)
    }

    fn note_requests(&mut self, events: &[Event]) {
        if self.only.is_none() {
            return;
        }
        let origin_pages = self.machine.tape.borrow().shape.origin_pages as u32;
        self.notes.push(format!("after {} crashes:", self.path.len()));
        for (index, event) in events.iter().enumerate() {
            let what = match &event.request {
                Request::Flush => "flush".to_owned(),
                Request::Write { pieces, durable } => {
                    let first = pieces.first().map_or(0, |piece| piece.index);
                    let page = if event.device == Device::Store { first - origin_pages } else { first };
                    let sectors = sector_count(pieces);
                    format!("write at page {page}, {sectors} sectors{}", if *durable { ", durable" } else { "" })
                }
            };
            self.notes.push(format!("  request {index}, phase {}: {:?}: {what}", event.phase, event.device));
        }
    }

    /// The states while a write is in flight that are neither those before it nor those after it.
    fn visit_torn(
        &mut self,
        cut: &Cut,
        device: Device,
        pieces: &[Piece],
        point: usize,
        phase: Phase<'_>,
    ) -> Result<(), String> {
        let mut random = self.random(point);
        let torn = tears(pieces, &mut random, self.settings.tears as usize);
        let mut ordinal = 0;
        for (number, part) in torn.iter().enumerate() {
            let images = cut.images_with_part(&mut self.machine.tape.borrow_mut().pages, part);
            for image in images {
                self.visit(Step { point, crash: Crash::Power, ordinal }, &Cut::settled(&image), phase, None)?;
                ordinal += 1;
            }
            // What a killed process left of its last write differs from power loss in what is below it only.
            if number % 4 == 0 {
                let visible = cut.visible_with_part(&mut self.machine.tape.borrow_mut().pages, part);
                let after = cut.after_process_crash(visible, Some((device, part.clone())));
                self.visit(Step { point, crash: Crash::Process, ordinal }, &after, phase, None)?;
                ordinal += 1;
            }
        }
        Ok(())
    }

    /// The states between two requests.
    fn visit_all(&mut self, cut: &Cut, point: usize, phase: Phase<'_>, settled: Option<&Found>) -> Result<(), String> {
        let mut random = self.random(point);
        let images = {
            let pages = &mut self.machine.tape.borrow_mut().pages;
            let mut images = cut.images(pages, &mut random);
            images.extend(cut.torn_images(pages, &mut random, self.settings.torn));
            images
        };
        for (ordinal, image) in images.into_iter().enumerate() {
            self.visit(Step { point, crash: Crash::Power, ordinal }, &Cut::settled(&image), phase, settled)?;
        }
        self.visit(Step { point, crash: Crash::Process, ordinal: 0 }, cut, phase, settled)
    }

    /// Recovers one state and judges it.
    fn visit(&mut self, step: Step, cut: &Cut, phase: Phase<'_>, settled: Option<&Found>) -> Result<(), String> {
        let depth = self.path.len();
        if self.only.as_ref().is_some_and(|only| only.get(depth) != Some(&step)) {
            return Ok(());
        }
        self.path.push(step);
        self.judge(cut, phase, settled, step.crash)?;
        let number = mix(self.path.iter().fold(self.seed, |sum, step| mix(sum ^ step.number())));
        let replayed_further = self.only.as_ref().is_some_and(|only| only.len() > self.path.len());
        let is_chosen =
            number.is_multiple_of(self.settings.again_one_in.saturating_mul(DEEPER_RARER.pow(depth as u32)));
        if (is_chosen && depth + 1 < DEPTH_MAX && self.only.is_none()) || replayed_further {
            self.crash_again(cut, phase, step.crash)?;
        }
        if number % self.settings.used_one_in == 1 || self.only.is_some() {
            self.counts.used += 1;
            usage::use_further(&self.machine, &cut.visible)?;
        }
        self.path.pop();
        Ok(())
    }

    fn judge(&mut self, cut: &Cut, phase: Phase<'_>, settled: Option<&Found>, crash: Crash) -> Result<(), String> {
        self.counts.states += 1;
        self.counts.again += u64::from(self.path.len() > 1);
        let found = &*self.recover(&cut.visible)?;
        let verdict = if crash == Crash::Power { phase.power } else { phase.process };
        if let Some(objection) = verdict.objection(found) {
            return Err(objection);
        }
        match settled {
            Some(settled) if !found.is_as(settled) => {
                Err("a second recovery gives another answer than the first".into())
            }
            _ => Ok(()),
        }
    }

    fn recover(&mut self, image: &Image) -> Result<Rc<Found>, String> {
        let hash = image.hash(&self.machine.tape.borrow().pages);
        if let Some(known) = self.recovered.get(&hash) {
            return Ok(Rc::clone(known));
        }
        self.counts.distinct += 1;
        let (found, _) = self.machine.recover(image, false)?;
        let found = match self.found.get(&found) {
            Some(known) => Rc::clone(known),
            None => Rc::new(found),
        };
        self.found.insert(Rc::clone(&found));
        self.recovered.insert(hash, Rc::clone(&found));
        Ok(found)
    }

    /// The machine crashes again while it recovers.
    fn crash_again(&mut self, cut: &Cut, phase: Phase<'_>, crash: Crash) -> Result<(), String> {
        let (found, _) = self.machine.recover(&cut.visible, true)?;
        let events = self.machine.tape.borrow_mut().events.take().expect("the tape was recording");
        // After power loss nothing is volatile: what was found then is there for good.
        let settled = (crash == Crash::Power).then_some(&found);
        // Once power was lost, no later end of a process brings back what that took.
        let process = if crash == Crash::Power { phase.power } else { phase.process };
        let walk = Walk { phases: &[Phase { process, ..phase }], settled };
        self.walk(cut.clone(), &events, &walk)
    }
}
