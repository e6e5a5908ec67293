//! What a stream of a snapshot consists of: a plan, and the frames that follow from it.
//!
//! Invariants:
//! - Frames are the extents of the delta, cut at 4 MiB, whatever they hold: a dry run counts exactly those.
//! - Reading is ahead of writing by a bounded number of pieces, and side by side.
//! - The fingerprint of the result follows from content that was read: of everything, or of what changed, old and new.

use crate::exit::{ExitCode, Failure};
use crate::names::VolumeName;
use crate::points::Older;
use crate::source::{Changes, Hold, Piece, Pieces, ReadAhead, SnapshotSource, READERS};
use cairn_delta::{
    Compression, Extent, ExtentKind, Fingerprint, Frame, Resume, StreamHeader, FINGERPRINT_BLOCK_BYTES, FRAME_BYTES_MAX,
};
use cairn_target::control::api::{ChangeKind, SnapshotReport};
use std::sync::Arc;

/// Pieces that are read and not written yet, or being read.
const AHEAD: usize = 2 * READERS;

/// What is to be sent.
pub struct Plan {
    /// Where it is read.
    pub source: Arc<dyn SnapshotSource>,
    /// The base as it was named; none for everything.
    pub from: Option<String>,
    /// The base.
    pub base: Option<SnapshotReport>,
    /// The snapshot to send.
    pub target: SnapshotReport,
    /// Whether frames may be compressed.
    pub compression: Compression,
    /// Whether to find out the fingerprint of the result.
    pub with_fingerprints: bool,
    /// Fingerprint of the base, where it is known.
    pub base_fingerprint: Option<Fingerprint>,
    /// Where to go on; none from the beginning.
    pub resume: Option<Resume>,
}

/// A delta lies within one volume.
pub fn same_volume(volume: &VolumeName, older: &Older) -> Result<(), Failure> {
    match &older.volume {
        Some(other) if other != volume => {
            let message =
                format!("the base is of volume {other}, the snapshot of {volume}; a delta lies within one volume");
            let mut failure = Failure::new(ExitCode::Failed, message);
            failure.kind = "invalid".to_owned();
            Err(failure)
        }
        _ => Ok(()),
    }
}

/// The fingerprint of a snapshot, from all of its content.
pub fn fingerprint_of(source: &Arc<dyn SnapshotSource>, snapshot: &str) -> Result<Fingerprint, Failure> {
    let extents = Changes::new(source.clone(), None, Some(snapshot.to_owned()));
    let (reader, name) = (source.clone(), snapshot.to_owned());
    let parts = ReadAhead::start(Pieces::new(extents), READERS, AHEAD, move |piece: Piece| match piece.kind {
        ChangeKind::NotInUse => Ok(Fingerprint::EMPTY),
        ChangeKind::Data => {
            let mut content = vec![0; piece.length_bytes as usize];
            reader.read(&name, piece.offset_bytes, &mut content)?;
            Ok(Fingerprint::of_content(piece.offset_bytes, &content))
        }
    });
    parts.sum()
}

/// A piece as it was read.
struct Read {
    piece: Piece,
    content: Vec<u8>,
    /// What the piece adds to the fingerprint of the base.
    added: Fingerprint,
    /// What it takes away.
    removed: Fingerprint,
}

impl Plan {
    /// To send `to`, or what it has that `from` has not.
    pub fn new(source: Arc<dyn SnapshotSource>, from: Option<&str>, to: &str) -> Result<Plan, Failure> {
        let target = source.facts().whole(to)?.clone();
        let base = from.map(|from| source.facts().base(from).cloned()).transpose()?;
        // Asked for now, so that two snapshots in the wrong order are refused before anything is written.
        source.changes(from, Some(to), 0, 1)?;
        Ok(Plan {
            from: from.map(str::to_owned),
            source,
            base,
            target,
            compression: Compression::None,
            with_fingerprints: true,
            base_fingerprint: None,
            resume: None,
        })
    }

    /// Keeps both snapshots while the result exists.
    pub fn hold(&self) -> Result<Vec<Box<dyn Hold>>, Failure> {
        let base = self.base.iter().filter(|_| !self.base_is_bookmark());
        base.chain([&self.target]).map(|snapshot| self.source.hold(&snapshot.name)).collect()
    }

    /// A bookmark has a map and no content.
    pub fn base_is_bookmark(&self) -> bool {
        self.from.as_ref().is_some_and(|from| from.starts_with('#'))
    }

    /// Goes on where `token` says. The stream must be the one that the token is of.
    pub fn resume_at(&mut self, token: &Resume) -> Result<(), Failure> {
        // The base's fingerprint belongs to the stream's identity, and may have become known only since.
        let known = self.base_fingerprint;
        for fingerprint in [known, None] {
            self.base_fingerprint = fingerprint;
            if self.header().stream_id() == token.stream_id {
                self.resume = Some(*token);
                return Ok(());
            }
        }
        let message = "--token: it is of another stream; name the same snapshot and the same base as before";
        let mut failure = Failure::new(ExitCode::Refused, message);
        failure.kind = "wrong-continuation".to_owned();
        Err(failure)
    }

    /// What the stream says of itself.
    pub fn header(&self) -> StreamHeader {
        let facts = self.source.facts();
        StreamHeader {
            volume_id: facts.volume_id.into_bytes(),
            base: self.base.as_ref().map(|base| facts.identity(base)),
            target: facts.identity(&self.target),
            size_before_bytes: self.base.as_ref().map_or(0, |base| base.size_bytes),
            size_after_bytes: self.target.size_bytes,
            // A disk's sector: volumes are whole numbers of them.
            block_bytes: 512,
            base_fingerprint: self.base_fingerprint,
            compression: self.compression,
        }
    }

    /// Whether the fingerprint of the result will be known.
    pub fn knows_result(&self) -> bool {
        let base_is_known = self.base.is_none() || (self.base_fingerprint.is_some() && !self.base_is_bookmark());
        self.with_fingerprints && base_is_known
    }

    fn pieces(&self) -> Pieces<Changes> {
        Pieces::new(Changes::new(self.source.clone(), self.from.clone(), Some(self.target.name.clone())))
    }

    fn sent_from_bytes(&self) -> u64 {
        self.resume.as_ref().map_or(0, |resume| resume.next_offset_bytes)
    }

    /// The extents that are sent, without their content.
    pub fn extents_to_send(&self) -> impl Iterator<Item = Result<Extent, Failure>> {
        let sent_from_bytes = self.sent_from_bytes();
        self.pieces().filter_map(move |piece| match piece {
            Err(failure) => Some(Err(failure)),
            Ok(piece) if piece.end_bytes() <= sent_from_bytes => None,
            Ok(piece) => Some(Ok(extent_of(&piece))),
        })
    }

    /// Reads everything and gives the frames in order to `send`; the fingerprint of the result, where it is known.
    pub fn run(&self, mut send: impl FnMut(Frame<'_>) -> Result<(), Failure>) -> Result<Option<Fingerprint>, Failure> {
        let (source, target) = (self.source.clone(), self.target.name.clone());
        let base = self.base.clone();
        let (knows_result, sent_from_bytes) = (self.knows_result(), self.sent_from_bytes());
        // What was sent before is read again for the fingerprint alone.
        let skipped = move |piece: &Piece| !knows_result && piece.end_bytes() <= sent_from_bytes;
        let pieces = self.pieces().filter(move |piece| !piece.as_ref().is_ok_and(skipped));
        let reads = ReadAhead::start(pieces, READERS, AHEAD, move |piece: Piece| {
            let mut read = Read { piece, content: Vec::new(), added: Fingerprint::EMPTY, removed: Fingerprint::EMPTY };
            if piece.kind == ChangeKind::Data {
                read.content = vec![0; piece.length_bytes as usize];
                source.read(&target, piece.offset_bytes, &mut read.content)?;
            }
            if knows_result {
                read.added = Fingerprint::of_content(piece.offset_bytes, &read.content);
                if let Some(base) = &base {
                    read.removed = fingerprint_within(source.as_ref(), base, &piece)?;
                }
            }
            Ok(read)
        });
        let mut result = self.base_fingerprint.unwrap_or(Fingerprint::EMPTY);
        for read in reads {
            let Read { piece, content, added, removed } = read?;
            result += added;
            result -= removed;
            if piece.end_bytes() > sent_from_bytes {
                send(frame_of(&piece, &content))?;
            }
        }
        Ok(knows_result.then_some(result))
    }
}

fn extent_of(piece: &Piece) -> Extent {
    let kind = match piece.kind {
        ChangeKind::Data => ExtentKind::Data,
        ChangeKind::NotInUse => ExtentKind::NotInUse,
    };
    Extent { offset_bytes: piece.offset_bytes, length_bytes: piece.length_bytes, kind }
}

fn frame_of<'a>(piece: &Piece, content: &'a [u8]) -> Frame<'a> {
    let Piece { offset_bytes, length_bytes, kind } = *piece;
    match kind {
        ChangeKind::Data => Frame::Data { offset_bytes, content },
        ChangeKind::NotInUse => Frame::NotInUse { offset_bytes, length_bytes },
    }
}

/// What a range of a snapshot adds to the snapshot's fingerprint. The range begins at a block.
fn fingerprint_within(
    source: &dyn SnapshotSource,
    snapshot: &SnapshotReport,
    range: &Piece,
) -> Result<Fingerprint, Failure> {
    assert!(range.offset_bytes.is_multiple_of(FINGERPRINT_BLOCK_BYTES as u64), "extents begin at blocks");
    let end_bytes = range.end_bytes().min(snapshot.size_bytes);
    let mut sum = Fingerprint::EMPTY;
    let mut at = range.offset_bytes;
    while at < end_bytes {
        let mut content = vec![0; (end_bytes - at).min(FRAME_BYTES_MAX as u64) as usize];
        source.read(&snapshot.name, at, &mut content)?;
        sum += Fingerprint::of_content(at, &content);
        at += content.len() as u64;
    }
    Ok(sum)
}
