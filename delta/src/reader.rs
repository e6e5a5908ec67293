//! Reads a native stream, and refuses whatever is not exactly one.
//!
//! Invariants:
//! - A frame is given out only when its checksum, its digest, its place and its number are right.
//! - Behind an error nothing is given out any more.
//! - Memory: one frame as it is written, and one as it is.

use crate::bounds::Bounds;
use crate::chain::Link;
use crate::counted::Counted;
use crate::end::End;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentKind, Frame};
use crate::header::{self, Compression, StreamHeader, StreamId};
use crate::record::{
    self, kind, Description, Encoding, Head, DESCRIPTION_BYTES, FIELDS_BYTES_MAX, FRAME_BYTES_MAX, HEAD_BYTES,
    PREAMBLE_BYTES, RANGE_BYTES,
};
use crate::resume::Resume;
use std::io::Read;
use zstd::bulk::Decompressor;

/// What a reader is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The stream begins in the middle, and nobody has said yet that what came before is there.
    Waiting,
    Reading,
    Ended(End),
    Failed,
}

/// Reads one stream.
pub struct Reader<R> {
    input: Counted<R>,
    header: StreamHeader,
    stream_id: StreamId,
    continuation: Option<Resume>,
    bounds: Bounds,
    state: State,
    progress: Resume,
    decompressor: Decompressor<'static>,
    /// Content as it is written.
    written: Vec<u8>,
    /// Content as it is.
    plain: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the header. `input` should be buffered; nothing is read beyond the stream.
    pub fn new(input: R) -> Result<Reader<R>> {
        let mut input = Counted::new(input);
        let preamble: [u8; PREAMBLE_BYTES] = input.array()?;
        record::check_preamble(&preamble).map_err(|kind| kind.at(0))?;
        let at = input.offset_bytes();
        let head_bytes: [u8; HEAD_BYTES] = input.array()?;
        let head = Head::from_bytes(&head_bytes).map_err(|kind| kind.at(at))?;
        if head.kind != kind::HEADER || head.sequence != 0 || head.length_bytes > FIELDS_BYTES_MAX {
            return Err(ErrorKind::Malformed("the first record is not a header").at(at));
        }
        let mut content = vec![0; head.length_bytes as usize];
        input.read_exact(&mut content)?;
        if crc32c::crc32c(&content) != head.checksum {
            return Err(ErrorKind::Checksum { of: "header" }.at(at));
        }
        let parsed = header::parse(&content).map_err(|kind| kind.at(at))?;
        let mut progress = parsed.continuation.unwrap_or_else(|| Resume::start(parsed.stream_id));
        progress.chain = Link::after(&progress.chain).add(&preamble).add(&head_bytes).add(&content).value();
        progress.sequence = progress.sequence.max(1);
        Ok(Reader {
            bounds: parsed.header.bounds(),
            decompressor: Decompressor::new().map_err(|error| ErrorKind::Io(error).at(at))?,
            state: if parsed.continuation.is_some() { State::Waiting } else { State::Reading },
            input,
            header: parsed.header,
            stream_id: parsed.stream_id,
            continuation: parsed.continuation,
            progress,
            written: Vec::new(),
            plain: Vec::new(),
        })
    }

    /// What the stream says of itself.
    pub fn header(&self) -> &StreamHeader {
        &self.header
    }

    /// Which delta it holds.
    pub fn stream_id(&self) -> StreamId {
        self.stream_id
    }

    /// Where it begins, when it is a continuation; then [`Reader::continue_from`] comes first.
    pub fn continuation(&self) -> Option<&Resume> {
        self.continuation.as_ref()
    }

    /// Says what the receiver has already. Refused unless this stream goes on exactly there.
    pub fn continue_from(&mut self, kept: &Resume) -> Result<()> {
        let wrong = |sentence| Err(ErrorKind::WrongContinuation(sentence).at(PREAMBLE_BYTES as u64));
        match &self.continuation {
            None => wrong("the stream begins at the beginning; what was received before it must be dropped first"),
            Some(said) if said.stream_id != kept.stream_id => {
                wrong("the stream belongs to another delta than what was received before")
            }
            Some(said) if said != kept => wrong("the stream goes on at another place than where reception stopped"),
            Some(_) if self.state == State::Waiting => {
                self.state = State::Reading;
                Ok(())
            }
            Some(_) => wrong("the stream was begun already"),
        }
    }

    /// The next extent; none behind the end record, which was right then.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        let at = self.input.offset_bytes();
        match self.state {
            State::Reading => {}
            State::Ended(_) => return Ok(None),
            State::Waiting => {
                const WAITS: &str = "the stream begins in the middle, and nothing was received before it";
                return Err(ErrorKind::WrongContinuation(WAITS).at(at));
            }
            State::Failed => return Err(ErrorKind::Malformed("the stream failed before").at(at)),
        }
        let extent = self.next_extent().inspect_err(|_| self.state = State::Failed)?;
        Ok(extent.map(|Extent { offset_bytes, length_bytes, kind }| match kind {
            ExtentKind::Data => Frame::Data { offset_bytes, content: &self.plain },
            ExtentKind::Zero => Frame::Zero { offset_bytes, length_bytes },
            ExtentKind::NotInUse => Frame::NotInUse { offset_bytes, length_bytes },
        }))
    }

    /// The end record, when it was reached. Only then the stream is whole.
    pub fn end(&self) -> Option<&End> {
        match &self.state {
            State::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Where a continuation would begin, once the extents given out so far are in place for good.
    pub fn progress(&self) -> &Resume {
        &self.progress
    }

    /// Bytes of the stream that were read.
    pub fn read_bytes(&self) -> u64 {
        self.input.offset_bytes()
    }

    /// Gives the input back; behind the end record it is where the stream ended.
    pub fn into_inner(self) -> R {
        self.input.into_inner()
    }

    /// Reads records up to one that holds an extent, or the end.
    fn next_extent(&mut self) -> Result<Option<Extent>> {
        loop {
            let at = self.input.offset_bytes();
            let head_bytes: [u8; HEAD_BYTES] = self.input.array()?;
            let head = Head::from_bytes(&head_bytes).map_err(|kind| kind.at(at))?;
            if head.sequence != self.progress.sequence {
                let (expected, found) = (self.progress.sequence, head.sequence);
                return Err(ErrorKind::Sequence { expected, found }.at(at));
            }
            let record = Record { at, head, link: Link::after(&self.progress.chain).add(&head_bytes) };
            match head.kind {
                kind::DATA => return self.data(record).map(Some),
                kind::ZERO => return self.range(record, ExtentKind::Zero).map(Some),
                kind::NOT_IN_USE => return self.range(record, ExtentKind::NotInUse).map(Some),
                kind::END => return self.end_record(record).map(|()| None),
                kind if head.is_critical() || kind == kind::HEADER => {
                    return Err(ErrorKind::UnknownRecord { kind }.at(at))
                }
                _ => self.skip(record)?,
            }
        }
    }

    fn data(&mut self, record: Record) -> Result<Extent> {
        let Record { at, head, link } = record;
        let content_bytes = (head.length_bytes as usize).checked_sub(DESCRIPTION_BYTES);
        let Some(content_bytes) = content_bytes.filter(|length| (1..=FRAME_BYTES_MAX).contains(length)) else {
            return Err(record_length(at));
        };
        let description_bytes: [u8; DESCRIPTION_BYTES] = self.input.array()?;
        self.written.resize(content_bytes, 0);
        self.input.read_exact(&mut self.written)?;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&description_bytes), &self.written);
        if checksum != head.checksum {
            return Err(ErrorKind::Checksum { of: "frame" }.at(at));
        }
        let description = Description::from_bytes(&description_bytes).map_err(|kind| kind.at(at))?;
        let length_bytes = u64::from(description.length_bytes);
        let extent = Extent { offset_bytes: description.offset_bytes, length_bytes, kind: ExtentKind::Data };
        let end_bytes = self.check_bounds(at, extent)?;
        self.decode(&description).map_err(|kind| kind.at(at))?;
        if *blake3::hash(&self.plain).as_bytes() != description.digest {
            return Err(ErrorKind::Checksum { of: "content of a frame" }.at(at));
        }
        self.advance(link.add(&description_bytes), extent, end_bytes);
        Ok(extent)
    }

    /// Puts the plain content into `plain`.
    fn decode(&mut self, description: &Description) -> std::result::Result<(), ErrorKind> {
        let length = description.length_bytes as usize;
        if length > FRAME_BYTES_MAX {
            return Err(ErrorKind::Malformed("a frame is longer than 4 MiB"));
        }
        match description.encoding {
            Encoding::Raw if self.written.len() == length => {
                std::mem::swap(&mut self.plain, &mut self.written);
                Ok(())
            }
            Encoding::Raw => Err(ErrorKind::Malformed("a frame has another length than it says")),
            Encoding::Zstd if self.header.compression == Compression::None => {
                Err(ErrorKind::Malformed("a frame is compressed and the header says that none is"))
            }
            Encoding::Zstd if self.written.len() >= length => {
                Err(ErrorKind::Malformed("a compressed frame is not shorter than its content"))
            }
            Encoding::Zstd => {
                self.plain.resize(length, 0);
                match self.decompressor.decompress_to_buffer(&self.written, &mut self.plain[..]) {
                    Ok(found) if found == length => Ok(()),
                    _ => Err(ErrorKind::Malformed("a frame cannot be decompressed to the length that it says")),
                }
            }
        }
    }

    fn range(&mut self, record: Record, kind: ExtentKind) -> Result<Extent> {
        let Record { at, head, link } = record;
        if head.length_bytes as usize != RANGE_BYTES {
            return Err(record_length(at));
        }
        let content: [u8; RANGE_BYTES] = self.input.array()?;
        if crc32c::crc32c(&content) != head.checksum {
            return Err(ErrorKind::Checksum { of: "frame" }.at(at));
        }
        let extent = record::range_from_bytes(&content, kind);
        let end_bytes = self.check_bounds(at, extent)?;
        self.advance(link.add(&content), extent, end_bytes);
        Ok(extent)
    }

    fn end_record(&mut self, record: Record) -> Result<()> {
        let Record { at, head, .. } = record;
        if head.length_bytes > FIELDS_BYTES_MAX {
            return Err(record_length(at));
        }
        let mut content = vec![0; head.length_bytes as usize];
        self.input.read_exact(&mut content)?;
        if crc32c::crc32c(&content) != head.checksum {
            return Err(ErrorKind::Checksum { of: "end record" }.at(at));
        }
        let end = End::parse(&content, &self.progress.chain, &self.progress.totals).map_err(|kind| kind.at(at))?;
        self.state = State::Ended(end);
        Ok(())
    }

    /// Passes over a record of a kind that is not known and need not be.
    fn skip(&mut self, record: Record) -> Result<()> {
        let Record { at, head, link } = record;
        let (mut checksum, mut link) = (0, Some(link));
        self.input.pass(u64::from(head.length_bytes), |piece| {
            checksum = crc32c::crc32c_append(checksum, piece);
            link = link.take().map(|link| link.add(piece));
        })?;
        if checksum != head.checksum {
            return Err(ErrorKind::Checksum { of: "record that is skipped" }.at(at));
        }
        self.progress.chain = link.expect("a link was put back each time").value();
        self.progress.sequence += 1;
        Ok(())
    }

    fn check_bounds(&self, at: u64, extent: Extent) -> Result<u64> {
        self.bounds.check(self.progress.next_offset_bytes, extent).map_err(|kind| kind.at(at))
    }

    fn advance(&mut self, link: Link, extent: Extent, end_bytes: u64) {
        self.progress.chain = link.value();
        self.progress.sequence += 1;
        self.progress.totals.add(extent);
        self.progress.next_offset_bytes = end_bytes;
    }
}

/// A record whose head was read.
struct Record {
    at: u64,
    head: Head,
    link: Link,
}

fn record_length(at: u64) -> Error {
    ErrorKind::Malformed("a record has a length that its kind cannot have").at(at)
}
