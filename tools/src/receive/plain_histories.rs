//! Receives into a disk whose power goes at any moment: afterwards it is exactly the old, or exactly the new.
//!
//! The disk is simulated, and loses any of what was not flushed. The undo file is a real one: behind the end that it
//! had when it was last made durable any part of it is lost, or holds other bytes.
//!
//! `CAIRN_RECEIVE_HISTORIES` says how many histories there are (40).

use super::destination::Site;
use super::identity::TargetIdentity;
use super::input::Announced;
use super::place::{Place, Progress, Stage};
use super::simulated_stream::{any_pace, context_in, first_content, Source};
use super::target::Target;
use super::undo_log::UndoLog;
use super::{receive_at, undo_at, NativeInput, Options};
use crate::block_io::BlockIo;
use crate::exit::{Failure, Outcome};
use cairn_delta::Fingerprint;
use fastrand::Rng;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::rc::Rc;

const SECTOR: usize = 512;
const CRASHES_MAX: u32 = 8;
/// Calls of the disk and the undo file that a whole receive takes, about.
const CALLS: u64 = 30;

/// What unwinds when the power goes.
struct PowerLost;

/// The disk, and what of the undo file is durable.
struct Medium {
    content: Vec<u8>,
    /// Where volatile writes went, and what they hold, in their order.
    volatile: Vec<(usize, Vec<u8>)>,
    durable: Vec<u8>,
    undo_durable_bytes: u64,
}

struct Machine {
    medium: RefCell<Medium>,
    /// Calls until the power goes.
    fuse: Cell<Option<u64>>,
    undo_file: PathBuf,
}

impl Machine {
    fn call(&self) {
        if let Some(calls) = self.fuse.get() {
            match calls.checked_sub(1) {
                None => resume_unwind(Box::new(PowerLost)),
                left => self.fuse.set(left),
            }
        }
    }

    /// Of what was volatile any sectors are there.
    fn lose_power(&self, random: &mut Rng) {
        self.fuse.set(None);
        let mut medium = self.medium.borrow_mut();
        let mut left = medium.durable.clone();
        for (at, data) in std::mem::take(&mut medium.volatile) {
            for (sector, content) in data.chunks(SECTOR).enumerate().filter(|_| random.bool()) {
                left[at + sector * SECTOR..][..content.len()].copy_from_slice(content);
            }
        }
        (medium.content, medium.durable) = (left.clone(), left);
        damage_behind(&self.undo_file, medium.undo_durable_bytes, random);
    }
}

/// Behind `durable_bytes` a file ends anywhere, and some of it holds other bytes.
fn damage_behind(path: &Path, durable_bytes: u64, random: &mut Rng) {
    let Ok(file) = File::options().read(true).write(true).open(path) else { return };
    let length = file.metadata().expect("there").len();
    let kept = random.u64(durable_bytes.min(length)..=length);
    file.set_len(kept).expect("cut");
    if kept > durable_bytes && random.bool() {
        let at = random.u64(durable_bytes..kept);
        let lost = vec![0; (kept - at).min(SECTOR as u64) as usize];
        file.write_all_at(&lost, at).expect("written");
    }
}

impl BlockIo for Rc<Machine> {
    fn name(&self) -> &str {
        "disk"
    }

    fn size_bytes(&self) -> u64 {
        self.medium.borrow().content.len() as u64
    }

    fn read(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> Outcome {
        buffer.copy_from_slice(&self.medium.borrow().content[offset_bytes as usize..][..buffer.len()]);
        Ok(())
    }

    fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Outcome {
        self.call();
        let mut medium = self.medium.borrow_mut();
        medium.content[offset_bytes as usize..][..data.len()].copy_from_slice(data);
        medium.volatile.push((offset_bytes as usize, data.to_vec()));
        Ok(())
    }

    fn write_zeroes(&mut self, offset_bytes: u64, length_bytes: u64) -> Outcome {
        self.write(offset_bytes, &vec![0; length_bytes as usize])
    }

    fn make_durable(&mut self) -> Outcome {
        self.call();
        let mut medium = self.medium.borrow_mut();
        (medium.durable, medium.volatile) = (medium.content.clone(), Vec::new());
        Ok(())
    }
}

/// A disk as [`super::plain::PlainTarget`] treats one.
struct Disk {
    io: Rc<Machine>,
    undo: Option<UndoLog>,
}

impl Target for Disk {
    fn name(&self) -> &str {
        "disk"
    }

    fn io(&mut self) -> &mut dyn BlockIo {
        &mut self.io
    }

    fn identity(&self, _place: &Place) -> Result<Option<TargetIdentity>, Failure> {
        Ok(None)
    }

    fn is_untouched(&mut self, _identity: &TargetIdentity) -> Result<Option<bool>, Failure> {
        Ok(None)
    }

    fn holds_data(&mut self) -> Result<bool, Failure> {
        Ok(true)
    }

    fn check(&mut self, _announced: &Announced) -> Outcome {
        Ok(())
    }

    fn begin(&mut self, place: &Place, progress: &mut Progress, announced: &Announced) -> Outcome {
        place.clear()?;
        self.undo = Some(UndoLog::create(&self.io.undo_file, &announced.stream_id)?);
        self.io.medium.borrow_mut().undo_durable_bytes = length_of(&self.io.undo_file);
        progress.undo_file = Some(self.io.undo_file.clone());
        place.save(progress)?;
        self.io.call();
        Ok(())
    }

    fn reopen(&mut self, _place: &Place, progress: &mut Progress, _size_after_bytes: u64) -> Outcome {
        self.undo = Some(UndoLog::open(&self.io.undo_file, &progress.stream_id)?);
        Ok(())
    }

    fn save(&mut self, offset_bytes: u64, length_bytes: u64) -> Outcome {
        self.io.call();
        self.undo.as_mut().expect("it was begun").save(&mut self.io, offset_bytes, length_bytes)
    }

    fn make_saved_durable(&mut self) -> Outcome {
        self.io.call();
        self.undo.as_mut().expect("it was begun").make_durable()?;
        self.io.medium.borrow_mut().undo_durable_bytes = length_of(&self.io.undo_file);
        Ok(())
    }

    fn difference(
        &mut self,
        progress: &Progress,
        announced: &Announced,
    ) -> Result<Option<(Fingerprint, Fingerprint)>, Failure> {
        let undo = self.undo.as_mut().expect("it was begun");
        undo.difference(&mut self.io, progress.size_before_bytes, announced.size_after_bytes)
    }

    fn commit(&mut self, place: &Place, progress: &mut Progress, _identity: TargetIdentity) -> Outcome {
        self.io.make_durable()?;
        place.save_done(progress)
    }

    fn roll_back(mut self: Box<Self>, place: &Place, progress: &mut Progress) -> Outcome {
        place.save_undoing(progress)?;
        let Disk { io, undo } = &mut *self;
        undo.as_mut().expect("it was begun").put_back(io)?;
        place.clear()
    }
}

fn length_of(path: &Path) -> u64 {
    std::fs::metadata(path).expect("there").len()
}

/// One delta, until it is received or taken back; how many power cuts that took.
fn live_through(seed: u64) -> u32 {
    let mut random = Rng::with_seed(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let context = context_in(directory.path());
    let base = first_content();
    let source = Source::random(&base, 0, &mut random);
    let medium = Medium { content: base.clone(), volatile: Vec::new(), durable: base.clone(), undo_durable_bytes: 0 };
    let undo_file = directory.path().join("undo");
    let machine = Rc::new(Machine { medium: RefCell::new(medium), fuse: Cell::new(None), undo_file });
    let mut crashes = 0;
    loop {
        let place = Place::open(&context.paths, "disk", "disk").expect("nobody else receives");
        let kept = place.progress().expect("readable");
        let is_done = kept.as_ref().is_some_and(|kept| kept.stage == Stage::Done);
        let undoes = kept.as_ref().is_some_and(|kept| kept.stage == Stage::Undoing || random.u8(0..5) == 0);
        let token = kept.and_then(|kept| kept.token).filter(|_| random.u8(0..4) > 0);
        if is_done && !undoes {
            assert!(machine.medium.borrow().durable == source.result, "seed {seed}: it is not the new");
            return crashes;
        }
        machine.fuse.set((crashes < CRASHES_MAX).then(|| random.u64(0..CALLS)));
        let pace = any_pace(&mut random);
        let options = Options { pace, ..Options::default() };
        let io = Rc::clone(&machine);
        let done = catch_unwind(AssertUnwindSafe(|| {
            let open = move |_| Ok(Box::new(Disk { io: Rc::clone(&io), undo: None }) as Box<dyn Target>);
            let site = Site { name: "disk".to_owned(), place, open: Box::new(open) };
            if undoes {
                return undo_at(&context, &site).map(drop);
            }
            let mut input = NativeInput::new("stream", Cursor::new(source.stream(token.as_deref())))?;
            receive_at(&context, &site, &mut input, &options).map(drop)
        }));
        match done {
            Ok(Ok(())) if undoes => {
                assert!(machine.medium.borrow().durable == base, "seed {seed}: it is not the old");
                return crashes;
            }
            Ok(Ok(())) => {}
            Ok(Err(failure)) => panic!("seed {seed}: {}: {}", failure.kind, failure.message),
            Err(payload) if payload.is::<PowerLost>() => {
                crashes += 1;
                machine.lose_power(&mut random);
            }
            Err(payload) => resume_unwind(payload),
        }
    }
}

#[test]
fn a_disk_is_exactly_the_old_or_the_new_after_any_power_cut() {
    let histories = std::env::var("CAIRN_RECEIVE_HISTORIES").map_or(40, |text| text.parse().expect("a number"));
    let crashes: u32 = (0..histories).map(live_through).sum();
    println!("{histories} histories, {crashes} power cuts");
    assert!(crashes > 10, "the power never went: {crashes}");
}
