//! Receives into a volume, crashed at any moment: afterwards the volume is exactly the old, or exactly the new.
//!
//! `CAIRN_RECEIVE_HISTORIES` says how many histories there are (40), `CAIRN_RECEIVE_SEED` runs one alone.

use super::destination::Site;
use super::place::{Place, Stage};
use super::simulated::{Attached, Machine, Stopped};
use super::simulated_stream::{any_pace, context_in, first_content, Source};
use super::volume::VolumeTarget;
use super::{receive_at, undo_at, NativeInput, Options, Received};
use crate::context::Context;
use crate::exit::Failure;
use cairn_engine::sim::Crash;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::io::Cursor;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::rc::Rc;
use std::time::Duration;

const ROUNDS: u64 = 3;
/// After so many crashes in a row the machine is left in peace.
const CRASHES_MAX: u32 = 8;
/// Steps of the machine that a whole receive takes, about.
const STEPS: u64 = 200;

/// How often what happened.
type Reached = BTreeMap<&'static str, u64>;

/// What is done next.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The stream comes, from where it stopped where it may.
    Receive,
    Undo,
}

struct History {
    seed: u64,
    random: Rng,
    context: Context,
    machine: Option<Rc<Machine>>,
    /// Snapshots that were received and stay.
    kept: Vec<String>,
    /// What the volume held before this round.
    before: Vec<u8>,
    reached: Reached,
}

impl History {
    fn machine(&self) -> Rc<Machine> {
        Rc::clone(self.machine.as_ref().expect("a machine runs"))
    }

    fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    fn place(&self) -> Place {
        Place::open(&self.context.paths, "volume v", "v").expect("nobody else receives")
    }

    /// What may be done with the volume as it is.
    fn choose(&mut self, source: &Source) -> (Act, Option<String>) {
        let progress = self.place().progress().expect("readable").filter(|progress| progress.stage != Stage::Done);
        let Some(progress) = progress else { return (Act::Receive, None) };
        assert_eq!(progress.stream_id, source.header.stream_id().to_string());
        match (progress.stage, self.random.u8(0..4)) {
            (Stage::Undoing, _) | (_, 0) => (Act::Undo, None),
            (_, 1) => (Act::Receive, None),
            _ => (Act::Receive, progress.token),
        }
    }

    /// Does it, on a machine that may stop. None: it stopped.
    fn act(&mut self, act: Act, stream: Vec<u8>, may_stop: bool) -> Option<Result<Option<Received>, Failure>> {
        let machine = self.machine();
        machine.fuse.set(may_stop.then(|| self.random.u64(0..STEPS)));
        let pace = any_pace(&mut self.random);
        let options = Options { resumable: self.random.bool(), pace, ..Options::default() };
        let (context, place) = (&self.context, self.place());
        let done = catch_unwind(AssertUnwindSafe(|| {
            let open = move |_| {
                let service = Box::new(Attached(Rc::clone(&machine)));
                Ok(Box::new(VolumeTarget::open("v", service)?) as Box<dyn super::Target>)
            };
            let site = Site { name: "v".to_owned(), place, open: Box::new(open) };
            match act {
                Act::Undo => undo_at(context, &site).map(|_| None),
                Act::Receive => {
                    let mut input = NativeInput::new("stream", Cursor::new(stream))?;
                    receive_at(context, &site, &mut input, &options).map(Some)
                }
            }
        }));
        match done {
            Ok(result) => {
                self.machine().fuse.set(None);
                Some(result)
            }
            Err(payload) if payload.is::<Stopped>() => None,
            Err(payload) => resume_unwind(payload),
        }
    }

    fn crash(&mut self) {
        let crash = if self.random.bool() { Crash::Power } else { Crash::Process };
        self.reach(if crash == Crash::Power { "power cuts" } else { "kills" });
        let machine = self.machine.take().expect("a machine runs");
        let machine = Rc::into_inner(machine).expect("whoever used the machine is gone");
        self.machine = Some(Rc::new(machine.crash(self.random.u64(..), crash)));
    }

    /// One stream, until it is received or taken back.
    fn round(&mut self, source: &Source) {
        // Automatic snapshots are named after the millisecond.
        std::thread::sleep(Duration::from_millis(2));
        let mut crashes = 0;
        let stream_id = source.header.stream_id().to_string();
        loop {
            let progress = self.place().progress().expect("readable");
            if progress.is_some_and(|progress| progress.stage == Stage::Done && progress.stream_id == stream_id) {
                return self.received(source, "received just before the machine stopped");
            }
            let (act, token) = self.choose(source);
            let mut stream = source.stream(token.as_deref());
            let is_cut = self.random.u8(0..6) == 0;
            if is_cut {
                stream.truncate(self.random.usize(0..stream.len()));
            }
            let Some(outcome) = self.act(act, stream, crashes < CRASHES_MAX) else {
                crashes += 1;
                self.crash();
                continue;
            };
            match outcome {
                Ok(Some(received)) => {
                    assert!(received.verified, "seed {}", self.seed);
                    let how = if token.is_some() { "received by going on" } else { "received" };
                    return self.received(source, how);
                }
                Ok(None) => return self.taken_back("taken back"),
                Err(failure) if is_cut => {
                    if self.place().progress().expect("readable").is_none_or(|progress| progress.stage == Stage::Done) {
                        return self.taken_back("broken off and rolled back");
                    }
                    assert_ne!(failure.kind, "target-modified", "seed {}: {}", self.seed, failure.message);
                    self.reach("broken off and kept");
                }
                Err(failure) => panic!("seed {}: {act:?}: {}: {}", self.seed, failure.kind, failure.message),
            }
        }
    }

    fn received(&mut self, source: &Source, how: &'static str) {
        self.reach(how);
        let name = source.header.target.name.clone();
        assert!(self.machine().content() == source.result, "seed {}: the volume is not {name}", self.seed);
        let mut content = vec![0; source.result.len()];
        let attached = Attached(self.machine());
        super::served::Service::read_snapshot(&attached, &name, 0, &mut content).expect("it was taken");
        assert!(content == source.result, "seed {}: the snapshot is not {name}", self.seed);
        self.kept.push(name);
        self.assert_snapshots();
        self.before = source.result.clone();
    }

    fn taken_back(&mut self, how: &'static str) {
        self.reach(how);
        assert!(self.machine().content() == self.before, "seed {}: it is not what it was", self.seed);
        self.assert_snapshots();
    }

    /// What was received, and what the last receive would be taken back to.
    fn assert_snapshots(&self) {
        let before = self.place().progress().expect("readable").and_then(|progress| progress.before);
        let mut expected: Vec<String> = self.kept.iter().cloned().chain(before).collect();
        expected.sort();
        assert_eq!(self.machine().snapshots(), expected, "seed {}: snapshots are left", self.seed);
    }
}

fn live_through(seed: u64) -> Reached {
    let mut random = Rng::with_seed(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let context = context_in(directory.path());
    let base = first_content();
    let machine = Some(Rc::new(Machine::new(&base, random.u64(..))));
    let mut history =
        History { seed, random, context, machine, kept: Vec::new(), before: base, reached: Reached::new() };
    for round in 0..ROUNDS {
        // What was taken back comes no more: the next delta begins with what is there.
        let source = Source::random(&history.before.clone(), round, &mut history.random);
        history.round(&source);
    }
    let machine = history.machine.take().expect("a machine runs");
    Rc::into_inner(machine).expect("whoever used the machine is gone").switch_off();
    history.reached
}

fn number_of(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

#[test]
fn a_volume_is_exactly_the_old_or_the_new_after_any_crash() {
    if let Some(seed) = number_of("CAIRN_RECEIVE_SEED") {
        return println!("{:#?}", live_through(seed));
    }
    let mut reached = Reached::new();
    for seed in 0..number_of("CAIRN_RECEIVE_HISTORIES").unwrap_or(40) {
        live_through(seed).into_iter().for_each(|(what, times)| *reached.entry(what).or_default() += times);
    }
    println!("{reached:#?}");
    let must = ["power cuts", "kills", "received", "received by going on", "taken back", "broken off and kept"];
    let missed: Vec<&str> = must.into_iter().filter(|what| !reached.contains_key(what)).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
}
