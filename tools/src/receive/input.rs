//! What is received: a stream of ours, or of somebody else's, as frames with an announcement in front.
//!
//! Invariants:
//! - A frame that is given out was checked as far as its format allows.
//! - The end is said only where the format says that it is the end.

use crate::exit::{ExitCode, Failure, Outcome};
use crate::stream::refused;
use cairn_delta::{Fingerprint, Frame, Reader, Resume, SnapshotIdentity, StreamHeader};
use std::io::Read;

/// What the target must be before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Anything: all of it is replaced.
    Anything,
    /// A copy of this snapshot.
    Snapshot(SnapshotIdentity),
    /// A copy of a snapshot of that name; the format says no more.
    Named(String),
}

/// What a stream says of itself in front.
#[derive(Clone, Debug)]
pub struct Announced {
    /// Which delta.
    pub stream_id: String,
    /// The volume it came from, where the format says so.
    pub volume_id: Option<[u8; 16]>,
    /// What the target must be before.
    pub base: Base,
    /// What it will be.
    pub target: SnapshotIdentity,
    /// Size of the base; 0 with a full stream. None where the format does not say.
    pub size_before_bytes: Option<u64>,
    /// Size of the result.
    pub size_after_bytes: u64,
    /// Fingerprint of the base, where the sender knows it.
    pub base_fingerprint: Option<Fingerprint>,
}

/// Frames in ascending order.
pub trait Input {
    /// What it says of itself.
    fn announced(&self) -> &Announced;
    /// Whether it goes on where a receive stopped.
    fn is_continuation(&self) -> bool;
    /// Says where the receive stopped; refused unless the stream goes on exactly there.
    fn continue_from(&mut self, token: &str) -> Outcome;
    /// The next frame; none at the end.
    fn next(&mut self) -> Result<Option<Frame<'_>>, Failure>;
    /// Refuses whatever follows behind the end.
    fn finish(&mut self) -> Outcome;
    /// Where a continuation would begin now, where the format has any.
    fn token(&self) -> Option<String>;
    /// The fingerprint that the result must have, known at the end.
    fn result(&self) -> Option<Fingerprint>;
}

/// A stream that `cairn send` wrote.
pub struct NativeInput<R> {
    name: String,
    /// None behind the end.
    reader: Option<Reader<R>>,
    announced: Announced,
    result: Option<Fingerprint>,
}

impl<R: Read> NativeInput<R> {
    /// Reads the header.
    pub fn new(name: &str, input: R) -> Result<NativeInput<R>, Failure> {
        let reader = Reader::new(input).map_err(|error| refused(name, &error))?;
        let announced = announce(&reader);
        Ok(NativeInput { name: name.to_owned(), reader: Some(reader), announced, result: None })
    }
}

fn announce<R: Read>(reader: &Reader<R>) -> Announced {
    let header: &StreamHeader = reader.header();
    Announced {
        stream_id: reader.stream_id().to_string(),
        volume_id: Some(header.volume_id),
        base: header.base.clone().map_or(Base::Anything, Base::Snapshot),
        target: header.target.clone(),
        size_before_bytes: Some(header.size_before_bytes),
        size_after_bytes: header.size_after_bytes,
        base_fingerprint: header.base_fingerprint,
    }
}

impl<R: Read> Input for NativeInput<R> {
    fn announced(&self) -> &Announced {
        &self.announced
    }

    fn is_continuation(&self) -> bool {
        self.reader.as_ref().is_some_and(|reader| reader.continuation().is_some())
    }

    fn continue_from(&mut self, token: &str) -> Outcome {
        let kept: Resume = token.parse().map_err(|error| {
            Failure::new(ExitCode::Damaged, format!("{}: what was kept of the receive is damaged: {error}", self.name))
        })?;
        let reader = self.reader.as_mut().expect("a stream that is begun has a reader");
        reader.continue_from(&kept).map_err(|error| refused(&self.name, &error))
    }

    fn next(&mut self) -> Result<Option<Frame<'_>>, Failure> {
        match &mut self.reader {
            Some(reader) => reader.next_frame().map_err(|error| refused(&self.name, &error)),
            None => Ok(None),
        }
    }

    fn finish(&mut self) -> Outcome {
        let Some(reader) = self.reader.take() else { return Ok(()) };
        self.result = reader.end().expect("the end was read").fingerprint;
        nothing_follows(&self.name, reader.into_inner())
    }

    fn token(&self) -> Option<String> {
        let progress = self.reader.as_ref()?.progress();
        (progress.sequence > 0).then(|| progress.to_string())
    }

    fn result(&self) -> Option<Fingerprint> {
        self.result
    }
}

/// Refuses input that does not end where the stream does.
pub fn nothing_follows(name: &str, mut input: impl Read) -> Outcome {
    let mut byte = [0];
    loop {
        return match input.read(&mut byte) {
            Ok(0) => Ok(()),
            Ok(_) => {
                let mut failure =
                    Failure::new(ExitCode::Damaged, format!("{name}: something follows behind the stream"));
                failure.kind = "stream-corrupt".to_owned();
                Err(failure)
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Err(Failure::new(ExitCode::Failed, format!("{name}: {error}"))),
        };
    }
}
