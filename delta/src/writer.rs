//! Writes a native stream.
//!
//! Invariants:
//! - Frames come out in the order in which they were given, whoever compressed them.
//! - At most a few frames for each worker are held; a caller that is faster waits.
//! - A stream without its end record is refused by every reader: dropping a writer leaves nothing that counts.

mod pool;
mod seal;

use crate::bounds::Bounds;
use crate::chain::Link;
use crate::end::End;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentKind, Frame};
use crate::fingerprint::Fingerprint;
use crate::header::{Compression, StreamHeader};
use crate::record::{self, kind, Head, FRAME_BYTES_MAX};
use crate::resume::Resume;
use pool::Pool;
use seal::{Job, Sealed, Sealer};
use std::collections::VecDeque;
use std::io::Write;

/// How to write a stream; nothing of it changes what the stream says.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// Level of zstd, where the header allows compression: 1 (fast) to 19.
    pub zstd_level: i32,
    /// Threads that hash and compress; with 0 the caller's does.
    pub workers: usize,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions { zstd_level: 3, workers: 0 }
    }
}

/// Who hashes and compresses.
enum Hands {
    Own(Box<Sealer>),
    Pool(Pool),
}

/// What was given and is not written yet.
enum Queued {
    /// The next frame that comes out of the pool.
    Sealing,
    Range(Extent),
}

/// Writes one stream.
pub struct Writer<W> {
    output: W,
    written_bytes: u64,
    bounds: Bounds,
    /// The end of the last extent that was given.
    given_end_bytes: u64,
    /// Up to what was written.
    progress: Resume,
    hands: Hands,
    queue: VecDeque<Queued>,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
    failed: bool,
}

impl<W: Write> Writer<W> {
    /// Begins a stream.
    pub fn new(output: W, header: &StreamHeader, options: WriterOptions) -> Result<Writer<W>> {
        Writer::begin(output, header, None, options)
    }

    /// Begins the continuation of a stream that stopped: what follows is what begins at `resume.next_offset_bytes` or
    /// later. Fails where the place is in another stream than the one that `header` describes.
    pub fn resume(output: W, header: &StreamHeader, resume: &Resume, options: WriterOptions) -> Result<Writer<W>> {
        if resume.stream_id != header.stream_id() {
            const OTHER: &str = "the resume token belongs to another delta: other snapshots, sizes, or fingerprint";
            return Err(ErrorKind::WrongContinuation(OTHER).at(0));
        }
        resume.check(header).map_err(|kind| kind.at(0))?;
        Writer::begin(output, header, Some(resume), options)
    }

    fn begin(output: W, header: &StreamHeader, resume: Option<&Resume>, options: WriterOptions) -> Result<Writer<W>> {
        header.check().map_err(|kind| kind.at(0))?;
        let stream_id = header.stream_id();
        let progress = resume.copied().unwrap_or_else(|| Resume::start(stream_id));
        let zstd_level = (header.compression == Compression::Zstd).then_some(options.zstd_level);
        let hands = match options.workers {
            0 => Hands::Own(Box::new(Sealer::new(zstd_level).map_err(|error| ErrorKind::Io(error).at(0))?)),
            workers => Hands::Pool(Pool::new(workers, zstd_level).map_err(|error| ErrorKind::Io(error).at(0))?),
        };
        let mut writer = Writer {
            output,
            written_bytes: 0,
            bounds: header.bounds(),
            given_end_bytes: progress.next_offset_bytes,
            progress,
            hands,
            queue: VecDeque::new(),
            spare: Vec::new(),
            failed: false,
        };
        let content = header.to_bytes(stream_id, resume);
        let head = Head::critical(kind::HEADER, 0, content.len(), crc32c::crc32c(&content)).to_bytes();
        let preamble = record::preamble();
        writer.progress.chain = Link::after(&progress.chain).add(&preamble).add(&head).add(&content).value();
        writer.progress.sequence = progress.sequence.max(1);
        writer.put(&[&preamble, &head, &content])?;
        Ok(writer)
    }

    /// Adds an extent, which lies behind those before. Data longer than 4 MiB becomes several frames.
    pub fn write(&mut self, frame: Frame<'_>) -> Result<()> {
        let extent = frame.extent();
        self.alive()?;
        self.given_end_bytes =
            self.bounds.check(self.given_end_bytes, extent).map_err(|kind| kind.at(self.written_bytes))?;
        match frame {
            Frame::Data { offset_bytes, content } => {
                let offsets = (offset_bytes..).step_by(FRAME_BYTES_MAX);
                offsets.zip(content.chunks(FRAME_BYTES_MAX)).try_for_each(|(offset, piece)| self.data(offset, piece))
            }
            Frame::Zero { .. } | Frame::NotInUse { .. } if self.queue.is_empty() => self.write_range(extent),
            Frame::Zero { .. } | Frame::NotInUse { .. } => self.enqueue(Queued::Range(extent)),
        }
    }

    /// Ends the stream, with the fingerprint of the target where it is known, and flushes.
    pub fn finish(mut self, fingerprint: Option<Fingerprint>) -> Result<(W, End)> {
        self.alive()?;
        self.write_queued(0)?;
        let end = End { totals: self.progress.totals, fingerprint };
        let content = end.to_bytes(&self.progress.chain);
        let head = Head::critical(kind::END, self.progress.sequence, content.len(), crc32c::crc32c(&content));
        self.put(&[&head.to_bytes(), &content])?;
        self.output.flush().map_err(|error| ErrorKind::Io(error).at(self.written_bytes))?;
        Ok((self.output, end))
    }

    /// Bytes written so far. Frames that are being compressed are not counted yet.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Up to what the stream was written. A receiver may have less: only it knows where to go on.
    pub fn progress(&self) -> &Resume {
        &self.progress
    }

    /// A stream that failed in the middle of a record cannot go on behind it.
    fn alive(&self) -> Result<()> {
        match self.failed {
            true => Err(ErrorKind::Malformed("the stream failed before; resume it").at(self.written_bytes)),
            false => Ok(()),
        }
    }

    fn data(&mut self, offset_bytes: u64, content: &[u8]) -> Result<()> {
        if let Hands::Pool(pool) = &self.hands {
            let others_max = pool.frames_max() - 1;
            self.write_queued(others_max)?;
        }
        let mut plain = self.spare.pop().unwrap_or_default();
        plain.clear();
        plain.extend_from_slice(content);
        let job = Job { offset_bytes, plain, scratch: self.spare.pop().unwrap_or_default() };
        match &mut self.hands {
            Hands::Own(sealer) => {
                let sealed = sealer.seal(job);
                self.write_sealed(sealed)
            }
            Hands::Pool(pool) => {
                pool.submit(job);
                self.enqueue(Queued::Sealing)
            }
        }
    }

    fn enqueue(&mut self, queued: Queued) -> Result<()> {
        self.queue.push_back(queued);
        match &self.hands {
            Hands::Own(_) => self.write_queued(0),
            Hands::Pool(pool) => self.write_queued(pool.frames_max()),
        }
    }

    /// Writes what was given first until at most `left` are waiting.
    fn write_queued(&mut self, left: usize) -> Result<()> {
        while self.queue.len() > left {
            let Some(queued) = self.queue.pop_front() else { break };
            match (queued, &mut self.hands) {
                (Queued::Sealing, Hands::Pool(pool)) => {
                    let sealed = pool.next();
                    self.write_sealed(sealed)?;
                }
                (Queued::Sealing, Hands::Own(_)) => unreachable!("without a pool nothing waits for it"),
                (Queued::Range(extent), _) => self.write_range(extent)?,
            }
        }
        Ok(())
    }

    fn write_sealed(&mut self, sealed: Sealed) -> Result<()> {
        let description = sealed.description.to_bytes();
        let length = description.len() + sealed.content.len();
        let head = Head::critical(kind::DATA, self.progress.sequence, length, sealed.checksum).to_bytes();
        self.put(&[&head, &description, &sealed.content])?;
        self.advance(Link::after(&self.progress.chain).add(&head).add(&description), sealed.extent());
        self.spare.extend([sealed.content, sealed.spare]);
        Ok(())
    }

    fn write_range(&mut self, extent: Extent) -> Result<()> {
        let kind = match extent.kind {
            ExtentKind::Zero => kind::ZERO,
            ExtentKind::NotInUse => kind::NOT_IN_USE,
            ExtentKind::Data => unreachable!("data has content"),
        };
        let content = record::range_to_bytes(extent);
        let head = Head::critical(kind, self.progress.sequence, content.len(), crc32c::crc32c(&content)).to_bytes();
        self.put(&[&head, &content])?;
        self.advance(Link::after(&self.progress.chain).add(&head).add(&content), extent);
        Ok(())
    }

    fn advance(&mut self, link: Link, extent: Extent) {
        self.progress.chain = link.value();
        self.progress.sequence += 1;
        self.progress.totals.add(extent);
        self.progress.next_offset_bytes = extent.offset_bytes + extent.length_bytes;
    }

    fn put(&mut self, pieces: &[&[u8]]) -> Result<()> {
        for piece in pieces {
            if let Err(error) = self.output.write_all(piece) {
                self.failed = true;
                return Err(Error::new(self.written_bytes, ErrorKind::Io(error)));
            }
            self.written_bytes += piece.len() as u64;
        }
        Ok(())
    }
}
