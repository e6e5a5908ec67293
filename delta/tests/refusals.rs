//! What is not exactly a stream is refused: every flipped byte, every truncation, and every rule that is broken under
//! checksums that are right.

mod common;

use cairn_delta::{Compression, ErrorKind, ExtentKind, Fingerprint, StreamHeader, WriterOptions};
use common::raw::{description, field, header_fields, Raw, CRITICAL, DATA, HEADER, NOT_IN_USE, ZERO};
use common::{header, read, written, Piece};

/// Everything a stream may hold, in little space.
fn small_stream() -> Vec<u8> {
    let header = StreamHeader {
        block_bytes: 512,
        base_fingerprint: Some(Fingerprint::of_block(0, b"base")),
        compression: Compression::Zstd,
        ..header("L", "M", 8192, 8192)
    };
    let mut noise = vec![0; 512];
    fastrand::Rng::with_seed(3).fill(&mut noise);
    let pieces = [
        Piece::data(0, noise),
        Piece::data(512, vec![1; 1024]),
        Piece::range(2048, 512, ExtentKind::Zero),
        Piece::range(4096, 4096, ExtentKind::NotInUse),
    ];
    written(&header, &pieces, WriterOptions::default(), Some(Fingerprint::of_block(0, b"target")))
}

#[test]
fn every_flipped_byte_is_refused() {
    let unknown = Raw::usual().data(0, &[1; 4096]).unknown(0, b"passed over").end();
    for (name, stream) in [("all kinds", small_stream()), ("unknown record", unknown)] {
        read(&stream).expect("unharmed");
        for offset in 0..stream.len() {
            for flip in [0x01, 0x02, 0x10, 0x80, 0xff] {
                let mut harmed = stream.clone();
                harmed[offset] ^= flip;
                let Err(error) = read(&harmed) else {
                    panic!("{name}: byte {offset} was changed by {flip:#x}, and nothing was noticed");
                };
                assert!(error.offset_bytes() <= offset as u64, "{name}: byte {offset}, but {error}");
            }
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let stream = small_stream();
    for length in 0..stream.len() {
        let error = read(&stream[..length]).expect_err("cut short");
        assert!(matches!(error.kind(), ErrorKind::Truncated), "{length} bytes: {error}");
        assert!(error.offset_bytes() <= length as u64, "{length} bytes: {error}");
    }
}

#[test]
fn bytes_that_are_lost_doubled_or_moved_are_refused() {
    let stream = small_stream();
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..2000 {
        let (a, b) = (random.usize(..stream.len()), random.usize(..stream.len()));
        let (start, end) = (a.min(b), a.max(b) + 1);
        let lost = [&stream[..start], &stream[end..]].concat();
        let doubled = [&stream[..end], &stream[start..]].concat();
        let to = random.usize(..=lost.len());
        let moved = [&lost[..to], &stream[start..end], &lost[to..]].concat();
        for harmed in [lost, doubled, moved] {
            // Bytes behind a whole stream are not part of it.
            assert!(harmed.starts_with(&stream) || read(&harmed).is_err(), "{start}..{end} to {to}");
        }
    }
}

/// A stream that breaks one rule is refused for that.
fn refused(rule: &str, stream: &[u8], expected: fn(&ErrorKind) -> bool) {
    match read(stream) {
        Ok(_) => panic!("{rule}: nothing was noticed"),
        Err(error) => assert!(expected(error.kind()), "{rule}: {error:?}"),
    }
}

fn malformed(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::Malformed(_))
}

#[test]
fn extents_that_lie_wrong_are_refused() {
    let block = [1; 4096];
    let order = |kind: &ErrorKind| matches!(kind, ErrorKind::Order { .. });
    let beyond = |kind: &ErrorKind| matches!(kind, ErrorKind::BeyondSize { .. });
    let misaligned = |kind: &ErrorKind| matches!(kind, ErrorKind::Misaligned { .. });
    refused("descending", &Raw::usual().data(8192, &block).data(0, &block).end(), order);
    refused("twice", &Raw::usual().data(0, &block).data(0, &block).end(), order);
    refused("overlap", &Raw::usual().range(ZERO, 0, 8192).data(4096, &block).end(), order);
    refused("beyond", &Raw::usual().data(64 * 4096, &block).end(), beyond);
    refused("across the end", &Raw::usual().range(ZERO, 63 * 4096, 8192).end(), beyond);
    refused("overflow", &Raw::usual().range(NOT_IN_USE, 4096, u64::MAX).end(), beyond);
    refused("half a block", &Raw::usual().data(0, &block[..512]).end(), misaligned);
    refused("between blocks", &Raw::usual().data(512, &block).end(), misaligned);
    refused("empty", &Raw::usual().range(ZERO, 0, 0).end(), malformed);
}

#[test]
fn records_that_lie_about_themselves_are_refused() {
    let block = [1; 4096];
    let digest = |kind: &ErrorKind| matches!(kind, ErrorKind::Checksum { of: "content of a frame" });
    let small = zstd::bulk::compress(&block, 3).expect("memory");
    let usual = || Raw::usual().data(0, &block);
    refused("wrong digest", &Raw::usual().encoded(description(0, &[2; 4096], 0), &block, 4096).end(), digest);
    refused("raw, too short", &Raw::usual().encoded(description(0, &block, 0), &block[..9], 9).end(), malformed);
    refused("unknown encoding", &Raw::usual().encoded(description(0, &block, 2), &small, 4096).end(), malformed);
    refused("compressed, unannounced", &Raw::usual().encoded(description(0, &block, 1), &small, 4096).end(), malformed);
    refused("flags", &usual().unknown(2, b"").end(), malformed);
    refused("a second header", &usual().add(HEADER, 0, b"", 0).end(), |kind| {
        matches!(kind, ErrorKind::UnknownRecord { kind: HEADER })
    });
    refused("a range that is too long", &usual().add(ZERO, CRITICAL, &[0; 17], 17).end(), malformed);
    refused("data without content", &usual().add(DATA, CRITICAL, &[0; 48], 48).end(), malformed);
    let mut gap = usual();
    gap.sequence += 1;
    refused("a record lost", &gap.data(4096, &block).end(), |kind| {
        matches!(kind, ErrorKind::Sequence { expected: 2, found: 3 })
    });
    let mut totals = usual();
    totals.totals[1] += 4096;
    refused("wrong totals", &totals.end(), malformed);
    let mut chain = usual();
    chain.chain[5] ^= 1;
    refused("wrong chain", &chain.end(), |kind| matches!(kind, ErrorKind::Checksum { of: "whole stream" }));
}

#[test]
fn compressed_frames_that_lie_are_refused() {
    let mut fields = header_fields("L", "M", 64 << 20, 64 << 20);
    *fields.last_mut().expect("the compression") = field(0x8008, &[1]);
    let raw = || Raw::new(&fields.concat());
    let block = [1; 4096];
    let small = zstd::bulk::compress(&block, 3).expect("memory");
    let bomb = zstd::bulk::compress(&vec![0; 16 << 20], 3).expect("memory");
    let frame = |plain: &[u8], content: &[u8]| raw().encoded(description(0, plain, 1), content, plain.len()).end();
    assert_eq!(read(&frame(&block, &small)).expect("right").len(), 1);
    refused("longer than it says", &frame(&block, &bomb), malformed);
    refused("shorter than it says", &frame(&[1; 8192], &small), malformed);
    refused("not compressed at all", &frame(&block, &[7; 100]), malformed);
    refused("not shorter", &frame(&block, &block), malformed);
    refused("longer than a frame may be", &frame(&vec![0; 16 << 20], &bomb), malformed);
}

#[test]
fn headers_that_are_wrong_are_refused() {
    let fields = || header_fields("L", "M", 64 * 4096, 64 * 4096);
    let with = |number: usize, changed: Vec<u8>| {
        let mut fields = fields();
        fields[number] = changed;
        Raw::new(&fields.concat()).end()
    };
    read(&Raw::new(&fields().concat()).end()).expect("unchanged");
    for number in [0, 1, 3, 4, 5, 6] {
        refused("a field is missing", &with(number, Vec::new()), malformed);
    }
    refused("a full stream with a base's size", &with(2, Vec::new()), malformed);
    refused("twice", &with(1, [field(0x8002, &[7; 16]), field(0x8002, &[7; 16])].concat()), malformed);
    let mut descending = fields();
    descending.swap(2, 3);
    refused("descending", &Raw::new(&descending.concat()).end(), malformed);
    refused("a wrong length", &with(1, field(0x8002, &[7; 15])), malformed);
    refused("a short identity", &with(2, field(0x8003, &[7; 31])), malformed);
    refused("a name that is no text", &with(3, field(0x8004, &[0xff; 40])), malformed);
    refused("a long name", &with(3, field(0x8004, &[b'a'; 32 + 256])), malformed);
    refused("a block of 4095 bytes", &with(5, field(0x8006, &4095u32.to_le_bytes())), malformed);
    refused("a block of no bytes", &with(5, field(0x8006, &0u32.to_le_bytes())), malformed);
    refused("a block of 8 MiB", &with(5, field(0x8006, &(8u32 << 20).to_le_bytes())), malformed);
    refused("an unknown compression", &with(6, field(0x8008, &[2])), malformed);
    let mut cut = fields().concat();
    cut.extend([1, 0x80, 200, 0, 1]);
    refused("cut short", &Raw::new(&cut).end(), malformed);
}
