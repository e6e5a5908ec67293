//! Puts frames where they belong.
//!
//! Invariants:
//! - What a range held is kept durably before the range is overwritten.
//! - A checkpoint is written only when everything before it is durable on the target.
//! - With a full stream, what no frame covers is zeroes at the end.

use super::input::{Announced, Base, Input};
use super::place::{Place, Progress};
use super::target::Target;
use crate::block_io;
use crate::exit::{ExitCode, Failure, Outcome};
use crate::rate::Progress as Shown;
use cairn_delta::{is_zero, Frame};
use std::time::{Duration, Instant};

/// When to write, and when to record how far the receive is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// So much content waits for its old content to be durable, at most.
    pub pending_bytes: usize,
    /// It is recorded this often,
    pub checkpoint_interval: Duration,
    /// and after so much was written.
    pub checkpoint_bytes: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        let checkpoint_interval = Duration::from_millis(500);
        Pace { pending_bytes: 16 << 20, checkpoint_interval, checkpoint_bytes: 256 << 20 }
    }
}

/// What is to be written.
enum Change {
    Content { offset_bytes: u64, content: Vec<u8> },
    Zeroes { offset_bytes: u64, length_bytes: u64 },
}

/// Applies one stream.
pub struct Applier<'a> {
    place: &'a Place,
    target: &'a mut dyn Target,
    progress: &'a mut Progress,
    pace: Pace,
    is_full: bool,
    size_bytes: u64,
    /// Up to where the target is, or is about to be, as it should.
    at: u64,
    pending: Vec<Change>,
    pending_bytes: usize,
    written_bytes: u64,
    since_checkpoint_bytes: u64,
    last_checkpoint: Instant,
}

impl<'a> Applier<'a> {
    /// Into `target`, from where `progress` says.
    pub fn new(
        place: &'a Place,
        target: &'a mut dyn Target,
        progress: &'a mut Progress,
        announced: &Announced,
        pace: Pace,
    ) -> Applier<'a> {
        let kept = progress.token.as_ref().and_then(|token| token.parse::<cairn_delta::Resume>().ok());
        Applier {
            place,
            target,
            progress,
            pace,
            is_full: announced.base == Base::Anything,
            size_bytes: announced.size_after_bytes,
            at: kept.map_or(0, |kept| kept.next_offset_bytes),
            pending: Vec::new(),
            pending_bytes: 0,
            written_bytes: 0,
            since_checkpoint_bytes: 0,
            last_checkpoint: Instant::now(),
        }
    }

    /// All frames; how many bytes were written.
    pub fn run(mut self, input: &mut dyn Input, shown: &mut Shown) -> Result<u64, Failure> {
        while let Some(frame) = input.next()? {
            self.take(frame)?;
            shown.at(self.written_bytes);
            let due = self.last_checkpoint.elapsed() >= self.pace.checkpoint_interval;
            if due || self.since_checkpoint_bytes >= self.pace.checkpoint_bytes {
                self.checkpoint(input.token())?;
            }
        }
        input.finish()?;
        self.cover(self.size_bytes)?;
        self.write_pending()?;
        Ok(self.written_bytes)
    }

    fn take(&mut self, frame: Frame<'_>) -> Outcome {
        let extent = frame.extent();
        self.cover(extent.offset_bytes)?;
        self.at = extent.offset_bytes + extent.length_bytes;
        match frame {
            Frame::Data { offset_bytes, content } if !is_zero(content) => {
                self.target.save(offset_bytes, content.len() as u64)?;
                self.push(Change::Content { offset_bytes, content: content.to_vec() }, content.len())
            }
            _ => self.zero(extent.offset_bytes, self.at),
        }
    }

    /// With a full stream, zeroes up to `end_bytes`: no frame will come for it.
    fn cover(&mut self, end_bytes: u64) -> Outcome {
        let at = self.at;
        if !self.is_full || at >= end_bytes {
            return Ok(());
        }
        self.at = end_bytes;
        self.zero(at, end_bytes)
    }

    /// Zeroes, where there are none yet.
    fn zero(&mut self, offset_bytes: u64, end_bytes: u64) -> Outcome {
        let mut found = Vec::new();
        let mut content = Vec::new();
        block_io::steps(self.target.io(), offset_bytes, end_bytes, |io, at, length_bytes| {
            content.resize(length_bytes as usize, 0);
            io.read(at, &mut content)?;
            if !is_zero(&content) {
                found.push((at, length_bytes));
            }
            Ok(())
        })?;
        for (offset_bytes, length_bytes) in found {
            self.target.save(offset_bytes, length_bytes)?;
            self.push(Change::Zeroes { offset_bytes, length_bytes }, length_bytes as usize)?;
        }
        Ok(())
    }

    fn push(&mut self, change: Change, bytes: usize) -> Outcome {
        self.pending.push(change);
        self.pending_bytes += bytes;
        match self.pending_bytes >= self.pace.pending_bytes {
            true => self.write_pending(),
            false => Ok(()),
        }
    }

    fn write_pending(&mut self) -> Outcome {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.target.make_saved_durable()?;
        for change in self.pending.drain(..) {
            match change {
                Change::Content { offset_bytes, content } => self.target.io().write(offset_bytes, &content)?,
                Change::Zeroes { offset_bytes, length_bytes } => {
                    self.target.io().write_zeroes(offset_bytes, length_bytes)?;
                }
            }
        }
        self.written_bytes += self.pending_bytes as u64;
        self.since_checkpoint_bytes += self.pending_bytes as u64;
        self.pending_bytes = 0;
        Ok(())
    }

    fn checkpoint(&mut self, token: Option<String>) -> Outcome {
        self.write_pending()?;
        self.target.io().make_durable()?;
        let Some(token) = token else {
            self.last_checkpoint = Instant::now();
            return Ok(());
        };
        self.progress.token = Some(token);
        self.place.save(self.progress).map_err(|failure| Failure::new(ExitCode::Failed, failure.message))?;
        (self.last_checkpoint, self.since_checkpoint_bytes) = (Instant::now(), 0);
        Ok(())
    }
}
