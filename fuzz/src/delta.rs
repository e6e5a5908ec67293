//! Any bytes as a delta stream.
//!
//! Input: a byte of flags, then the stream. Flags: 1 makes every checksum, digest and the chain right first, so that
//! what lies behind them is reached; 2 composes the stream with itself.
//!
//! What must hold: a typed error, or a stream that, written again, says the same. Memory and work are bounded by a few
//! frames, whatever the stream says of itself.

use crate::bytes::Bytes;
use crate::memory::bounded;
use cairn_delta::{compose, Compression, Extent, Frame, Reader, Writer, WriterOptions, FRAME_BYTES_MAX, HEAD_BYTES};

/// Two readers and a writer with a frame and a compressor each, and what they write.
const MEMORY_BYTES_MAX: usize = 96 << 20;
const PREAMBLE_BYTES: usize = 12;
const DESCRIPTION_BYTES: usize = 48;
const CHAIN_BYTES: usize = 32;

/// Flags of an input.
pub mod flag {
    /// Makes checksums right.
    pub const SEALED: u8 = 1;
    /// Composes the stream with itself.
    pub const COMPOSED: u8 = 2;
}

/// Reads the stream in `data`.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let flags = bytes.u8();
    let mut stream = bytes.rest().to_vec();
    bounded(MEMORY_BYTES_MAX, || {
        if flags & flag::SEALED != 0 {
            seal(&mut stream);
        }
        if let Some(again) = write_again(&stream) {
            assert_same(&stream, &again);
        }
        if flags & flag::COMPOSED != 0 {
            compose_with_itself(&stream);
        }
    });
}

fn open(stream: &[u8]) -> Option<Reader<&[u8]>> {
    let mut reader = Reader::new(stream).ok()?;
    if let Some(resume) = reader.continuation().copied() {
        let token = resume.to_string();
        assert_eq!(token.parse(), Ok(resume), "a token that is another place");
        reader.continue_from(&resume).expect("a continuation of exactly that");
    }
    Some(reader)
}

/// The stream as our writer writes it; nothing if it is refused.
fn write_again(stream: &[u8]) -> Option<Vec<u8>> {
    let mut reader = open(stream)?;
    let (header, continuation) = (reader.header().clone(), reader.continuation().copied());
    let options = WriterOptions { zstd_level: 1, workers: 0 };
    let mut writer = match continuation {
        None => Writer::new(Vec::new(), &header, options).expect("a header that was read"),
        // Its id may be one that another version derived.
        Some(resume) if resume.stream_id != header.stream_id() => return None,
        Some(resume) => Writer::resume(Vec::new(), &header, &resume, options).expect("a place that was read"),
    };
    let mut end_bytes = 0;
    while let Some(frame) = reader.next_frame().ok()? {
        let Extent { offset_bytes, length_bytes, .. } = frame.extent();
        assert!(offset_bytes >= end_bytes && length_bytes > 0, "extents out of order");
        end_bytes = offset_bytes + length_bytes;
        assert!(end_bytes <= header.size_after_bytes, "an extent beyond the volume");
        writer.write(frame).expect("what a reader gives out can be written");
    }
    let end = reader.end().expect("no further frame means the end");
    let (again, written) = writer.finish(end.fingerprint).expect("memory takes everything");
    assert_eq!(&written, end);
    Some(again)
}

fn assert_same(stream: &[u8], again: &[u8]) {
    let (mut one, mut other) = (open(stream).expect("read before"), open(again).expect("just written"));
    assert_eq!(one.header(), other.header());
    loop {
        let (frame, same) = (one.next_frame().expect("read before"), other.next_frame().expect("just written"));
        assert!(frame == same, "written again, the stream says something else");
        if frame.is_none() {
            return;
        }
    }
}

fn compose_with_itself(stream: &[u8]) {
    let (Ok(mut first), Ok(mut second)) = (Reader::new(stream), Reader::new(stream)) else { return };
    let options = WriterOptions { zstd_level: 1, workers: 0 };
    let Ok(composed) = compose(&mut first, &mut second, Vec::new(), Compression::Zstd, options) else { return };
    let mut reader = Reader::new(&composed[..]).expect("a composition is a stream");
    while let Some(frame) = reader.next_frame().expect("a composition is a stream") {
        assert!(!matches!(frame, Frame::Data { content, .. } if content.len() > FRAME_BYTES_MAX));
    }
}

/// Makes lengths fit, checksums and digests right, and the chain what it would be.
pub fn seal(stream: &mut [u8]) {
    let (mut at, mut chain) = (0, [0; CHAIN_BYTES]);
    let mut linked = PREAMBLE_BYTES.min(stream.len());
    while stream.len() - linked > HEAD_BYTES {
        let head = linked;
        let content = head + HEAD_BYTES;
        let length = u32::from_le_bytes(stream[head + 4..head + 8].try_into().expect("four bytes")) as usize;
        let length = length.min(stream.len() - content);
        stream[head + 4..head + 8].copy_from_slice(&(length as u32).to_le_bytes());
        let kind = stream[head];
        seal_content(kind, &mut stream[content..content + length], &chain);
        let checksum = crc32c::crc32c(&stream[content..content + length]);
        stream[head + 16..head + 20].copy_from_slice(&checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&stream[head..head + 20]);
        stream[head + 20..content].copy_from_slice(&checksum.to_le_bytes());
        if kind == 1 && length >= 96 {
            // A continuation's field stands last; its chain is what the next link follows.
            let field = &stream[content + length - 100..content + length];
            if field.starts_with(&[9, 0x80, 96, 0]) {
                chain.copy_from_slice(&field[20..52]);
            }
        }
        let chained = if kind == 2 { length.min(DESCRIPTION_BYTES) } else { length };
        chain = *blake3::hash(&[&chain[..], &stream[at..content + chained]].concat()).as_bytes();
        (at, linked) = (content + length, content + length);
    }
}

fn seal_content(kind: u8, content: &mut [u8], chain: &[u8; CHAIN_BYTES]) {
    match kind {
        2 if content.len() > DESCRIPTION_BYTES => {
            let (description, written) = content.split_at_mut(DESCRIPTION_BYTES);
            let length = u32::from_le_bytes(description[8..12].try_into().expect("four bytes")) as usize;
            let plain = match description[12] {
                1 => zstd::bulk::decompress(written, length.min(FRAME_BYTES_MAX)).unwrap_or_default(),
                _ => written.to_vec(),
            };
            description[16..48].copy_from_slice(blake3::hash(&plain).as_bytes());
        }
        5 if content.len() >= CHAIN_BYTES => {
            let (fields, value) = content.split_at_mut(content.len() - CHAIN_BYTES);
            value.copy_from_slice(blake3::hash(&[&chain[..], fields].concat()).as_bytes());
        }
        _ => {}
    }
}
