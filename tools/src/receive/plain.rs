//! A disk or a file as the target of a receive.
//!
//! Invariants:
//! - What is overwritten is in the undo file before.
//! - A file that a receive made is gone when it is taken back.

use super::identity::{FileStamp, TargetIdentity};
use super::input::{Announced, Base};
use super::place::{read_json, remove, write_json, Place, Progress};
use super::target::{refuse_too_small, Target, LOOKED_AT_BYTES};
use super::undo_log::UndoLog;
use crate::block_io::{BlockIo, PlainIo};
use crate::context::Context;
use crate::exit::{ExitCode, Failure, Outcome};
use cairn_delta::{is_zero, Fingerprint};
use cairn_target::config::VolumeConfig;
use cairn_target::device::{kind_of, refuse_recursion, DeviceKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A disk or a file.
pub struct PlainTarget {
    path: PathBuf,
    name: String,
    io: PlainIo,
    /// Made by this process a moment ago.
    created: bool,
    /// A receive was begun: from then on its record says what is to become of a file that was made for it.
    begun: bool,
    undo_file: Option<PathBuf>,
    undo: Option<UndoLog>,
}

/// What a disk or a file is found again by: a disk's own identity, where it has one; a file's path.
pub fn key_of(path: &Path) -> String {
    let canonical = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let Ok(DeviceKind::Block { number }) = kind_of(path) else { return format!("file {}", canonical.display()) };
    let directory = PathBuf::from(format!("/sys/dev/block/{number}"));
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok().map(|text| text.trim().to_owned());
    let own = ["wwid", "device/wwid", "dm/uuid", "loop/backing_file", "md/uuid"];
    let found = own.into_iter().find_map(|name| read(name).filter(|text| !text.is_empty()));
    match found {
        Some(identity) => format!("disk {identity}"),
        None => format!("disk {}", canonical.display()),
    }
}

/// Where what a file is a copy of stands: beside it.
fn sidecar(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".cairn");
    PathBuf::from(name)
}

/// Refuses a disk or file that a volume here stands on: what is written to it is written behind Cairn's back.
fn refuse_volumes(context: &Context, path: &Path) -> Outcome {
    let same = |other: &Path| match (std::fs::metadata(path), std::fs::metadata(other)) {
        (Ok(one), Ok(two)) if one.rdev() != 0 || two.rdev() != 0 => one.rdev() == two.rdev(),
        (Ok(one), Ok(two)) => (one.dev(), one.ino()) == (two.dev(), two.ino()),
        _ => false,
    };
    for (name, config) in VolumeConfig::load_all(&context.paths)? {
        let Ok(config) = config else { continue };
        for (what, device) in [("origin", &config.origin), ("store", &config.store)] {
            if same(device) {
                let message = format!("{}: it is the {what} of volume {name}; receive into the volume", path.display());
                return Err(Failure::new(ExitCode::Refused, message));
            }
            refuse_recursion("target", path, &[device.as_path()])?;
        }
    }
    Ok(())
}

impl PlainTarget {
    /// Holds what is at `path`; a file that does not exist is made where `may_create`.
    pub fn open(
        context: &Context,
        path: &Path,
        undo_file: Option<PathBuf>,
        may_create: bool,
    ) -> Result<PlainTarget, Failure> {
        let path = std::path::absolute(path).map_err(|error| Failure::io("find", path, error))?;
        refuse_volumes(context, &path)?;
        refuse_recursion("state directory", &context.paths.state_dir, &[path.as_path()])?;
        let exists = path.exists();
        if !exists && may_create {
            let made = std::fs::File::options().write(true).create_new(true).open(&path);
            made.map_err(|error| Failure::io("create", &path, error))?;
        }
        let io = PlainIo::open(&path).inspect_err(|_| {
            if !exists && may_create {
                // Nobody has seen it.
                let _ = std::fs::remove_file(&path);
            }
        })?;
        let name = path.display().to_string();
        Ok(PlainTarget { name, path, io, created: !exists, begun: false, undo_file, undo: None })
    }

    fn undo(&mut self) -> &mut UndoLog {
        self.undo.as_mut().expect("a receive that is begun has an undo file")
    }

    fn identity_file(&self, place: &Place) -> PathBuf {
        if self.io.is_file() {
            sidecar(&self.path)
        } else {
            place.identity_file()
        }
    }

    fn stamp(&self) -> Result<Option<FileStamp>, Failure> {
        if !self.io.is_file() {
            return Ok(None);
        }
        let metadata = self.io.file().metadata().map_err(|error| Failure::io("look at", &self.path, error))?;
        Ok(Some(FileStamp::of(&metadata)))
    }
}

impl Target for PlainTarget {
    fn name(&self) -> &str {
        &self.name
    }

    fn io(&mut self) -> &mut dyn BlockIo {
        &mut self.io
    }

    fn identity(&self, place: &Place) -> Result<Option<TargetIdentity>, Failure> {
        read_json(&self.identity_file(place))
    }

    fn is_untouched(&mut self, identity: &TargetIdentity) -> Result<Option<bool>, Failure> {
        let stamp = self.stamp()?;
        // A copied or touched file may still have the content; that decides then.
        Ok((stamp.is_some() && stamp == identity.stamp).then_some(true))
    }

    fn holds_data(&mut self) -> Result<bool, Failure> {
        // A file tells where its content is; of a disk the places are looked at where anything in use has something.
        let size_bytes = self.io.size_bytes();
        let looked_at_bytes = if self.io.is_file() { size_bytes } else { size_bytes.min(LOOKED_AT_BYTES) };
        for place in [0..looked_at_bytes, looked_at_bytes.max(size_bytes - looked_at_bytes)..size_bytes] {
            let mut at = place.start;
            while let Some(content) = self.io.next_content(at)?.filter(|at| *at < place.end) {
                let mut buffer = vec![0; (size_bytes - content).min(1 << 20) as usize];
                self.io.read(content, &mut buffer)?;
                if !is_zero(&buffer) {
                    return Ok(true);
                }
                at = content + buffer.len() as u64;
            }
        }
        Ok(false)
    }

    fn check(&mut self, announced: &Announced) -> Outcome {
        match self.io.is_file() {
            true => Ok(()),
            false => refuse_too_small(&self.name, self.io.size_bytes(), announced.size_after_bytes),
        }
    }

    fn begin(&mut self, place: &Place, progress: &mut Progress, announced: &Announced) -> Outcome {
        let undo_file = self.undo_file.clone().unwrap_or_else(|| place.undo_file());
        let undo_file = std::path::absolute(&undo_file).map_err(|error| Failure::io("find", &undo_file, error))?;
        refuse_recursion("undo file", &undo_file, &[self.path.as_path()])?;
        // The receive before this one cannot be taken back once its undo file is gone.
        place.clear()?;
        self.undo = Some(UndoLog::create(&undo_file, &announced.stream_id)?);
        progress.undo_file = Some(undo_file);
        progress.created = self.created;
        progress.length_before_bytes = self.io.size_bytes();
        place.save(progress)?;
        self.begun = true;
        remove(&self.identity_file(place))?;
        if self.io.is_file() && self.io.size_bytes() < announced.size_after_bytes {
            self.io.set_size(announced.size_after_bytes)?;
        }
        Ok(())
    }

    fn reopen(&mut self, place: &Place, progress: &mut Progress, size_after_bytes: u64) -> Outcome {
        self.begun = true;
        let undo_file = progress.undo_file.as_deref().ok_or_else(|| {
            Failure::new(ExitCode::Damaged, format!("{}: it is not said where its undo file is", self.name))
        })?;
        self.undo = Some(UndoLog::open(undo_file, &progress.stream_id)?);
        remove(&self.identity_file(place))?;
        if self.io.is_file() && self.io.size_bytes() < size_after_bytes {
            self.io.set_size(size_after_bytes)?;
        }
        Ok(())
    }

    fn save(&mut self, offset_bytes: u64, length_bytes: u64) -> Outcome {
        let undo = self.undo.as_mut().expect("a receive that is begun has an undo file");
        undo.save(&mut self.io, offset_bytes, length_bytes)
    }

    fn make_saved_durable(&mut self) -> Outcome {
        self.undo().make_durable()
    }

    fn difference(
        &mut self,
        progress: &Progress,
        announced: &Announced,
    ) -> Result<Option<(Fingerprint, Fingerprint)>, Failure> {
        if announced.base == Base::Anything {
            return Ok(None);
        }
        let undo = self.undo.as_mut().expect("a receive that is begun has an undo file");
        undo.difference(&mut self.io, progress.size_before_bytes, announced.size_after_bytes)
    }

    fn commit(&mut self, place: &Place, progress: &mut Progress, mut identity: TargetIdentity) -> Outcome {
        if self.io.is_file() && self.io.size_bytes() > identity.size_bytes {
            // What a full stream replaces may have been longer; what is cut off is in the undo file.
            self.save(identity.size_bytes, self.io.size_bytes() - identity.size_bytes)?;
            self.make_saved_durable()?;
            self.io.set_size(identity.size_bytes)?;
        }
        self.io.make_durable()?;
        identity.stamp = self.stamp()?;
        write_json(&self.identity_file(place), &identity)?;
        place.save_done(progress)
    }

    fn roll_back(mut self: Box<Self>, place: &Place, progress: &mut Progress) -> Outcome {
        place.save_undoing(progress)?;
        remove(&self.identity_file(place))?;
        if progress.created {
            remove(&self.path)?;
        } else {
            let PlainTarget { io, undo, .. } = &mut *self;
            if io.is_file() && io.size_bytes() < progress.length_before_bytes {
                io.set_size(progress.length_before_bytes)?;
            }
            undo.as_mut().expect("a receive that is begun has an undo file").put_back(io)?;
            if io.is_file() && io.size_bytes() > progress.length_before_bytes {
                io.set_size(progress.length_before_bytes)?;
                io.make_durable()?;
            }
            if let Some(mut identity) = progress.identity_before.clone() {
                // The content is what it was; the times of the file are not.
                identity.stamp = self.stamp()?;
                write_json(&self.identity_file(place), &identity)?;
            }
        }
        place.clear()?;
        progress.undo_file.as_deref().map_or(Ok(()), remove)
    }
}

impl Drop for PlainTarget {
    fn drop(&mut self) {
        if self.created && !self.begun {
            // It was made for a receive that never began; an empty file that stays harms nobody.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
