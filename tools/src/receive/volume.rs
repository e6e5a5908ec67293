//! An attached volume as the target of a receive.
//!
//! Invariants:
//! - An automatic snapshot is taken before anything is written; going back is restoring it.
//! - The volume is the base only while nothing was written since the snapshot that was received: its own delta says so.

use super::identity::TargetIdentity;
use super::input::Announced;
use super::place::{read_json, remove, write_json, Place, Progress};
use super::served::{Service, Standing};
use super::target::{refuse_too_small, Target, LOOKED_AT_BYTES};
use crate::block_io::{self, BlockIo};
use crate::exit::{ExitCode, Failure, Outcome};
use crate::source::{Piece, Pieces};
use cairn_delta::{is_zero, Fingerprint, FRAME_BYTES_MAX};
use cairn_target::process::now_unix_ms;

/// An attached volume.
pub struct VolumeTarget<'a> {
    name: String,
    service: Box<dyn Service + 'a>,
    /// None while the volume must not be open.
    io: Option<Box<dyn BlockIo>>,
}

impl<'a> VolumeTarget<'a> {
    /// Opens the volume. Fails with `Busy` where it is mounted or open.
    pub fn open(name: &str, service: Box<dyn Service + 'a>) -> Result<VolumeTarget<'a>, Failure> {
        let io = service.open_io()?;
        Ok(VolumeTarget { name: name.to_owned(), service, io: Some(io) })
    }

    fn has(&self, snapshot: &str) -> Result<bool, Failure> {
        Ok(self.service.standing(snapshot)? != Standing::Missing)
    }
}

impl Target for VolumeTarget<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn io(&mut self) -> &mut dyn BlockIo {
        self.io.as_mut().expect("the volume is open while it is received into").as_mut()
    }

    fn identity(&self, place: &Place) -> Result<Option<TargetIdentity>, Failure> {
        read_json(&place.identity_file())
    }

    fn is_untouched(&mut self, identity: &TargetIdentity) -> Result<Option<bool>, Failure> {
        let Some(local) = &identity.local_snapshot else { return Ok(None) };
        if self.service.standing(local)? != Standing::Whole {
            return Ok(None);
        }
        let change = self.service.changes_since(local)?.next();
        match change {
            None => Ok(Some(true)),
            // What was written may be what was there.
            Some(Ok(_)) if identity.fingerprint.is_some() => Ok(None),
            Some(Ok(_)) => Ok(Some(false)),
            Some(Err(failure)) => Err(failure),
        }
    }

    fn holds_data(&mut self) -> Result<bool, Failure> {
        let size_bytes = self.service.size_bytes().min(LOOKED_AT_BYTES);
        let mut holds = false;
        block_io::steps(self.io(), 0, size_bytes, |io, at, length_bytes| {
            let mut content = vec![0; length_bytes as usize];
            io.read(at, &mut content)?;
            holds |= !is_zero(&content);
            Ok(())
        })?;
        Ok(holds)
    }

    fn check(&mut self, announced: &Announced) -> Outcome {
        refuse_too_small(&self.name, self.service.size_bytes(), announced.size_after_bytes)?;
        let source = announced.volume_id.map(|id| uuid::Uuid::from_bytes(id).to_string());
        if source.is_some_and(|source| source == self.service.volume_id()) {
            let name = &self.name;
            let message = format!(
                "{name}: the stream comes from this very volume; to go back to a snapshot of it: cairn restore"
            );
            return Err(Failure::new(ExitCode::Refused, message));
        }
        if self.has(&announced.target.name)? {
            let name = format!("{}@{}", self.name, announced.target.name);
            let message = format!("{name} exists, and is to become the name of what is received; delete it first");
            return Err(Failure::new(ExitCode::Exists, message));
        }
        Ok(())
    }

    fn begin(&mut self, place: &Place, progress: &mut Progress, _announced: &Announced) -> Outcome {
        let before = format!("before-receive-{}", now_unix_ms());
        progress.before = Some(before.clone());
        // Recorded first: a snapshot without a record would stay for ever.
        place.save(progress)?;
        self.service.take(&before)?;
        progress.before_taken = true;
        place.save(progress)?;
        remove(&place.identity_file())
    }

    fn reopen(&mut self, place: &Place, progress: &mut Progress, _size_after_bytes: u64) -> Outcome {
        remove(&place.identity_file())?;
        let before = progress.before.clone().unwrap_or_default();
        let is_there = self.has(&before)?;
        if !progress.before_taken && !is_there {
            self.service.take(&before)?;
        }
        if !progress.before_taken {
            progress.before_taken = true;
            return place.save(progress);
        }
        if is_there {
            return Ok(());
        }
        let message = format!("{}: its snapshot {before} is gone, to which it would be taken back", self.name);
        Err(Failure::new(ExitCode::Damaged, message))
    }

    fn save(&mut self, _offset_bytes: u64, _length_bytes: u64) -> Outcome {
        // The snapshot keeps it.
        Ok(())
    }

    fn make_saved_durable(&mut self) -> Outcome {
        Ok(())
    }

    fn difference(
        &mut self,
        progress: &Progress,
        _announced: &Announced,
    ) -> Result<Option<(Fingerprint, Fingerprint)>, Failure> {
        let before = progress.before.clone().unwrap_or_default();
        let (mut old, mut new) = (Fingerprint::EMPTY, Fingerprint::EMPTY);
        let VolumeTarget { service, io, .. } = self;
        let io = io.as_mut().expect("the volume is open while it is received into");
        for piece in Pieces::new(service.changes_since(&before)?) {
            let Piece { offset_bytes, length_bytes, .. } = piece?;
            let end_bytes = (offset_bytes + length_bytes).min(service.size_bytes());
            let mut at = offset_bytes;
            while at < end_bytes {
                let mut content = vec![0; (end_bytes - at).min(FRAME_BYTES_MAX as u64) as usize];
                service.read_snapshot(&before, at, &mut content)?;
                old += Fingerprint::of_content(at, &content);
                io.read(at, &mut content)?;
                new += Fingerprint::of_content(at, &content);
                at += content.len() as u64;
            }
        }
        Ok(Some((old, new)))
    }

    fn commit(&mut self, place: &Place, progress: &mut Progress, mut identity: TargetIdentity) -> Outcome {
        self.io().make_durable()?;
        // There was none of this name when the receive began; one that is there was taken by an end that was interrupted.
        self.service.delete(&progress.snapshot)?;
        self.service.take(&progress.snapshot)?;
        identity.local_snapshot = Some(progress.snapshot.clone());
        write_json(&place.identity_file(), &identity)?;
        progress.received = Some(progress.snapshot.clone());
        place.save_done(progress)
    }

    fn roll_back(mut self: Box<Self>, place: &Place, progress: &mut Progress) -> Outcome {
        place.save_undoing(progress)?;
        remove(&place.identity_file())?;
        self.io = None;
        let before = progress.before.clone().unwrap_or_default();
        if self.has(&before)? {
            // The same name each time: an earlier attempt may have left it.
            let aside = before.replacen("before-", "undone-", 1);
            self.service.delete(&aside)?;
            self.service.restore(&before, &aside)?;
            self.service.delete(&aside)?;
            // Also where the receive was interrupted before it recorded that this was taken.
            self.service.delete(&progress.snapshot)?;
        }
        if let Some(identity) = &progress.identity_before {
            write_json(&place.identity_file(), identity)?;
        }
        // While there is a record somebody deletes it.
        self.service.delete(&before)?;
        self.forget(progress)?;
        place.clear()
    }

    fn forget(&mut self, progress: &Progress) -> Outcome {
        progress.older_before.as_ref().map_or(Ok(()), |older| self.service.delete(older))
    }
}
