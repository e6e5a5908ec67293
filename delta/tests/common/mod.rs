//! Deltas of random images, and what their receiver makes of them.

#![allow(dead_code)]

pub mod raw;

use cairn_delta::{
    Compression, Extent, ExtentKind, Fingerprint, Frame, Reader, SnapshotIdentity, StreamHeader, Writer, WriterOptions,
};

pub const BLOCK_BYTES: usize = 4096;

/// A snapshot of the test's volume.
pub fn snapshot(name: &str) -> SnapshotIdentity {
    SnapshotIdentity {
        store_id: [3; 16],
        epoch: u64::from(name.as_bytes()[0]),
        created_unix_ms: 1_700_000_000_000,
        name: name.to_owned(),
    }
}

/// A header from the first snapshot to the second.
pub fn header(from: &str, to: &str, size_before_bytes: usize, size_after_bytes: usize) -> StreamHeader {
    StreamHeader {
        volume_id: [7; 16],
        base: Some(snapshot(from)),
        target: snapshot(to),
        size_before_bytes: size_before_bytes as u64,
        size_after_bytes: size_after_bytes as u64,
        block_bytes: BLOCK_BYTES as u32,
        base_fingerprint: None,
        compression: Compression::None,
    }
}

/// One of these for each frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub extent: Extent,
    pub content: Vec<u8>,
}

impl Piece {
    pub fn data(offset_bytes: u64, content: Vec<u8>) -> Piece {
        let length_bytes = content.len() as u64;
        Piece { extent: Extent { offset_bytes, length_bytes, kind: ExtentKind::Data }, content }
    }

    pub fn range(offset_bytes: u64, length_bytes: u64, kind: ExtentKind) -> Piece {
        Piece { extent: Extent { offset_bytes, length_bytes, kind }, content: Vec::new() }
    }

    pub fn frame(&self) -> Frame<'_> {
        let Extent { offset_bytes, length_bytes, kind } = self.extent;
        match kind {
            ExtentKind::Data => Frame::Data { offset_bytes, content: &self.content },
            ExtentKind::Zero => Frame::Zero { offset_bytes, length_bytes },
            ExtentKind::NotInUse => Frame::NotInUse { offset_bytes, length_bytes },
        }
    }

    pub fn of(frame: Frame<'_>) -> Piece {
        let content = if let Frame::Data { content, .. } = frame { content.to_vec() } else { Vec::new() };
        Piece { extent: frame.extent(), content }
    }
}

/// What three blocks in four are made of: bytes that compress, bytes that do not, zeroes.
fn random_block(random: &mut fastrand::Rng, block: &mut [u8]) {
    match random.u8(0..4) {
        0 => block.fill(0),
        1 => random.fill(block),
        _ => {
            block.fill(random.u8(..));
            block[0] = random.u8(..);
        }
    }
}

/// An image of this size.
pub fn random_image(random: &mut fastrand::Rng, size_bytes: usize) -> Vec<u8> {
    let mut image = vec![0; size_bytes];
    image.chunks_mut(BLOCK_BYTES).for_each(|block| random_block(random, block));
    image
}

/// Another state of an image: some blocks written, and perhaps another size.
pub fn random_successor(random: &mut fastrand::Rng, image: &[u8], size_bytes: usize) -> Vec<u8> {
    let mut next = image.to_vec();
    next.resize(size_bytes, 0);
    for block in next.chunks_mut(BLOCK_BYTES) {
        if random.u8(0..3) == 0 {
            random_block(random, block);
        }
    }
    next
}

/// The delta between two images: what differs, what lies beyond the first one's size, and some of what is the same.
pub fn delta(random: &mut fastrand::Rng, before: &[u8], after: &[u8]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (number, block) in after.chunks(BLOCK_BYTES).enumerate() {
        let (start, end) = (number * BLOCK_BYTES, number * BLOCK_BYTES + block.len());
        if before.get(start..end) == Some(block) && random.u8(0..8) > 0 && end <= before.len() {
            continue;
        }
        let zero = block.iter().all(|byte| *byte == 0);
        let kind = match random.u8(0..4) {
            0 | 1 if zero => ExtentKind::NotInUse,
            2 if zero => ExtentKind::Zero,
            _ => ExtentKind::Data,
        };
        let content = if kind == ExtentKind::Data { block.to_vec() } else { Vec::new() };
        match pieces.last_mut() {
            Some(last)
                if last.extent.kind == kind
                    && last.extent.offset_bytes + last.extent.length_bytes == start as u64
                    && random.u8(0..4) > 0 =>
            {
                last.extent.length_bytes += block.len() as u64;
                last.content.extend(content);
            }
            _ => pieces.push(Piece {
                extent: Extent { offset_bytes: start as u64, length_bytes: block.len() as u64, kind },
                content,
            }),
        }
    }
    pieces
}

/// What a receiver makes of a delta.
pub fn apply(before: &[u8], size_bytes: usize, pieces: &[Piece]) -> Vec<u8> {
    let mut after = before.to_vec();
    after.resize(size_bytes, 0);
    for piece in pieces {
        let start = piece.extent.offset_bytes as usize;
        let place = &mut after[start..start + piece.extent.length_bytes as usize];
        match piece.extent.kind {
            ExtentKind::Data => place.copy_from_slice(&piece.content),
            ExtentKind::Zero | ExtentKind::NotInUse => place.fill(0),
        }
    }
    after
}

/// A whole stream of these pieces.
pub fn written(
    header: &StreamHeader,
    pieces: &[Piece],
    options: WriterOptions,
    fingerprint: Option<Fingerprint>,
) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), header, options).expect("a header that is right");
    for piece in pieces {
        writer.write(piece.frame()).expect("extents that are right");
    }
    writer.finish(fingerprint).expect("memory takes everything").0
}

/// All frames of a stream up to its end, or why it is refused.
pub fn read(stream: &[u8]) -> cairn_delta::Result<Vec<Piece>> {
    let mut reader = Reader::new(stream)?;
    let pieces = rest(&mut reader)?;
    Ok(pieces)
}

/// All frames that are left.
pub fn rest<R: std::io::Read>(reader: &mut Reader<R>) -> cairn_delta::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        pieces.push(Piece::of(frame));
    }
    assert!(reader.end().is_some(), "no frame is left, and the end record was not read");
    Ok(pieces)
}
