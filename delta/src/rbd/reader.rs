//! Reads an `rbd diff` stream.
//!
//! Invariants:
//! - Memory: one piece of content, whatever length a record has.
//! - Metadata stands before all extents and nothing of it twice; the size must be there, for without it no extent can
//!   be said to fit.
//! - Version 2 has lengths, so unknown records are passed over; version 1 has none, so they are refused.

use super::{tag, Header, Version, BANNER_BYTES, BANNER_V1, BANNER_V2, NAME_BYTES_MAX, PIECE_BYTES_MAX};
use crate::bounds::Bounds;
use crate::counted::Counted;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentKind, Frame};
use std::io::Read;

/// What a reader is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next is a record; its tag was read already.
    Tag(u8),
    /// The next is a record.
    Reading,
    /// Content of a record is left.
    Content {
        offset_bytes: u64,
        left_bytes: u64,
    },
    Ended,
    Failed,
}

/// Reads one stream.
pub struct Reader<R> {
    input: Counted<R>,
    header: Header,
    bounds: Bounds,
    end_bytes: u64,
    state: State,
    piece: Vec<u8>,
}

/// The metadata found so far.
#[derive(Default)]
struct Found {
    from_snapshot: Option<String>,
    to_snapshot: Option<String>,
    size_bytes: Option<u64>,
}

impl<R: Read> Reader<R> {
    /// Reads banner and metadata. `input` should be buffered; nothing is read beyond the stream.
    pub fn new(input: R) -> Result<Reader<R>> {
        let mut input = Counted::new(input);
        let banner: [u8; BANNER_BYTES] = input.array()?;
        let version = match &banner {
            BANNER_V1 => Version::V1,
            BANNER_V2 => Version::V2,
            _ => return Err(ErrorKind::NotAStream.at(0)),
        };
        let mut found = Found::default();
        let tag = loop {
            let [tag] = input.array()?;
            if matches!(tag, tag::WRITE | tag::ZERO | tag::END) {
                break tag;
            }
            metadata(&mut input, version, tag, &mut found)?;
        };
        let Some(size_bytes) = found.size_bytes else {
            return Err(ErrorKind::Malformed("the stream does not say the size of the image").at(input.offset_bytes()));
        };
        let Found { from_snapshot, to_snapshot, .. } = found;
        Ok(Reader {
            input,
            header: Header { version, from_snapshot, to_snapshot, size_bytes },
            bounds: Bounds { block_bytes: 1, size_bytes },
            end_bytes: 0,
            state: State::Tag(tag),
            piece: Vec::new(),
        })
    }

    /// What the stream says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next extent, or the next piece of one; none behind the end record.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        let extent = self.next_extent().inspect_err(|_| self.state = State::Failed)?;
        Ok(extent.map(|Extent { offset_bytes, length_bytes, kind }| match kind {
            ExtentKind::Data => Frame::Data { offset_bytes, content: &self.piece },
            ExtentKind::Zero | ExtentKind::NotInUse => Frame::Zero { offset_bytes, length_bytes },
        }))
    }

    /// The end record was reached: the stream is whole.
    pub fn is_whole(&self) -> bool {
        self.state == State::Ended
    }

    /// Bytes of the stream that were read.
    pub fn read_bytes(&self) -> u64 {
        self.input.offset_bytes()
    }

    /// Gives the input back; behind the end record it is where the stream ended.
    pub fn into_inner(self) -> R {
        self.input.into_inner()
    }

    fn next_extent(&mut self) -> Result<Option<Extent>> {
        loop {
            let tag = match self.state {
                State::Ended => return Ok(None),
                State::Failed => {
                    return Err(ErrorKind::Malformed("the stream failed before").at(self.input.offset_bytes()))
                }
                State::Content { offset_bytes, left_bytes } => return self.content(offset_bytes, left_bytes).map(Some),
                State::Tag(tag) => tag,
                State::Reading => self.input.array::<1>()?[0],
            };
            self.state = State::Reading;
            match tag {
                tag::END => self.state = State::Ended,
                tag::WRITE => {
                    let extent = self.range(tag, ExtentKind::Data)?;
                    self.state = State::Content { offset_bytes: extent.offset_bytes, left_bytes: extent.length_bytes };
                }
                tag::ZERO => return self.range(tag, ExtentKind::Zero).map(Some),
                tag::FROM_SNAPSHOT | tag::TO_SNAPSHOT | tag::SIZE => {
                    return Err(self.malformed("metadata stands behind an extent"));
                }
                _ => skip(&mut self.input, self.header.version, tag)?,
            }
        }
    }

    /// The head of a record of an extent.
    fn range(&mut self, tag: u8, kind: ExtentKind) -> Result<Extent> {
        let at = self.input.offset_bytes() - 1;
        let said_bytes = length(&mut self.input, self.header.version)?;
        let extent = Extent {
            offset_bytes: u64::from_le_bytes(self.input.array()?),
            length_bytes: u64::from_le_bytes(self.input.array()?),
            kind,
        };
        self.end_bytes = self.bounds.check(self.end_bytes, extent).map_err(|kind| kind.at(at))?;
        let content_bytes = if tag == tag::WRITE { extent.length_bytes } else { 0 };
        if said_bytes.is_some_and(|said| content_bytes.checked_add(16) != Some(said)) {
            return Err(ErrorKind::Malformed("a record has another length than its extent").at(at));
        }
        Ok(extent)
    }

    fn content(&mut self, offset_bytes: u64, left_bytes: u64) -> Result<Extent> {
        let length_bytes = left_bytes.min(PIECE_BYTES_MAX as u64);
        self.piece.resize(length_bytes as usize, 0);
        self.input.read_exact(&mut self.piece)?;
        self.state = match left_bytes - length_bytes {
            0 => State::Reading,
            left_bytes => State::Content { offset_bytes: offset_bytes + length_bytes, left_bytes },
        };
        Ok(Extent { offset_bytes, length_bytes, kind: ExtentKind::Data })
    }

    fn malformed(&self, sentence: &'static str) -> Error {
        ErrorKind::Malformed(sentence).at(self.input.offset_bytes() - 1)
    }
}

/// The length of a record, where there is one.
fn length<R: Read>(input: &mut Counted<R>, version: Version) -> Result<Option<u64>> {
    match version {
        Version::V1 => Ok(None),
        Version::V2 => Ok(Some(u64::from_le_bytes(input.array()?))),
    }
}

/// A record of metadata whose tag was read.
fn metadata<R: Read>(input: &mut Counted<R>, version: Version, tag: u8, found: &mut Found) -> Result<()> {
    let at = input.offset_bytes() - 1;
    let name = match tag {
        tag::FROM_SNAPSHOT => &mut found.from_snapshot,
        tag::TO_SNAPSHOT => &mut found.to_snapshot,
        tag::SIZE => return size(input, version, &mut found.size_bytes),
        tag => return skip(input, version, tag),
    };
    let said_bytes = length(input, version)?;
    let name_bytes = u32::from_le_bytes(input.array()?);
    if said_bytes.is_some_and(|said| said != u64::from(name_bytes) + 4) {
        return Err(ErrorKind::Malformed("a record has another length than the name in it").at(at));
    }
    if !(1..=NAME_BYTES_MAX).contains(&(name_bytes as usize)) {
        return Err(ErrorKind::Malformed("the name of a snapshot has 1 to 4096 bytes").at(at));
    }
    let mut bytes = vec![0; name_bytes as usize];
    input.read_exact(&mut bytes)?;
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(ErrorKind::Malformed("the name of a snapshot is not UTF-8").at(at));
    };
    match name.replace(text) {
        None => Ok(()),
        Some(_) => Err(ErrorKind::Malformed("a snapshot is named twice").at(at)),
    }
}

fn size<R: Read>(input: &mut Counted<R>, version: Version, found: &mut Option<u64>) -> Result<()> {
    let at = input.offset_bytes() - 1;
    if length(input, version)?.is_some_and(|said| said != 8) {
        return Err(ErrorKind::Malformed("a record has another length than the size in it").at(at));
    }
    match found.replace(u64::from_le_bytes(input.array()?)) {
        None => Ok(()),
        Some(_) => Err(ErrorKind::Malformed("the size of the image is said twice").at(at)),
    }
}

/// Passes over a record that is not known, where its length is.
fn skip<R: Read>(input: &mut Counted<R>, version: Version, tag: u8) -> Result<()> {
    let at = input.offset_bytes() - 1;
    let Some(length_bytes) = length(input, version)? else {
        return Err(ErrorKind::UnknownRecord { kind: u16::from(tag) }.at(at));
    };
    // Ceph says 8 and writes one byte; rbd-export.rst defines it so.
    let length_bytes = if tag == tag::PROTECTION { 1 } else { length_bytes };
    input.pass(length_bytes, |_| {})
}
