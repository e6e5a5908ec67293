//! Seeds for the readers of streams.

use super::Seeds;
use crate::delta::flag;
use cairn_delta::rbd::{Header, Version};
use cairn_delta::{
    rbd, Compression, Fingerprint, Frame, Reader, SnapshotIdentity, StreamHeader, Writer, WriterOptions,
};

const SIZE_BYTES: u64 = 64 << 10;

fn snapshot(name: &str) -> SnapshotIdentity {
    SnapshotIdentity { store_id: [3; 16], epoch: 5, created_unix_ms: 1_700_000_000_000, name: name.to_owned() }
}

fn header(compression: Compression) -> StreamHeader {
    StreamHeader {
        volume_id: [7; 16],
        base: Some(snapshot("L")),
        target: snapshot("L"),
        size_before_bytes: SIZE_BYTES,
        size_after_bytes: SIZE_BYTES,
        block_bytes: 512,
        base_fingerprint: Some(Fingerprint::of_block(0, b"base")),
        compression,
    }
}

const FRAMES: [Frame<'static>; 5] = [
    Frame::Data { offset_bytes: 0, content: &[1; 1024] },
    Frame::Zero { offset_bytes: 1024, length_bytes: 512 },
    Frame::Data { offset_bytes: 2048, content: &[2; 512] },
    Frame::NotInUse { offset_bytes: 4096, length_bytes: 4096 },
    Frame::Data { offset_bytes: SIZE_BYTES - 512, content: &[3; 512] },
];

fn finished(mut writer: Writer<Vec<u8>>, frames: &[Frame<'_>]) -> Vec<u8> {
    frames.iter().for_each(|frame| writer.write(*frame).expect("frames that are right"));
    writer.finish(Some(Fingerprint::of_block(0, b"base"))).expect("memory takes everything").0
}

/// Whole streams, a continuation, and parts of streams.
pub fn delta() -> Seeds {
    let options = WriterOptions::default();
    let whole = |header: &StreamHeader, frames: &[Frame<'_>]| {
        finished(Writer::new(Vec::new(), header, options).expect("a header that is right"), frames)
    };
    let (raw, compressed) = (header(Compression::None), header(Compression::Zstd));
    let full = StreamHeader { base: None, size_before_bytes: 0, base_fingerprint: None, ..compressed.clone() };
    let stream = whole(&raw, &FRAMES);
    let mut reader = Reader::new(&stream[..]).expect("just written");
    (0..3).for_each(|_| assert!(reader.next_frame().expect("just written").is_some()));
    let resumed = Writer::resume(Vec::new(), &raw, reader.progress(), options).expect("a place in it");
    let long = [0; 256 << 10];
    let large = StreamHeader { size_after_bytes: 1 << 30, ..compressed.clone() };
    let streams = [
        ("compressed", whole(&compressed, &FRAMES)),
        ("full", whole(&full, &FRAMES)),
        ("empty", whole(&raw, &[])),
        ("continuation", finished(resumed, &FRAMES[3..])),
        ("long", whole(&large, &[Frame::Data { offset_bytes: 0, content: &long }])),
        ("cut-short", stream[..stream.len() / 2].to_vec()),
        ("raw", stream),
    ];
    let mut seeds = Seeds::new();
    for (name, stream) in streams {
        seeds.push((name.to_owned(), [&[0], &stream[..]].concat()));
        seeds.push((format!("{name}-sealed"), [&[flag::SEALED | flag::COMPOSED], &stream[..]].concat()));
    }
    seeds
}

/// Whole streams of both versions, and what is none.
pub fn rbd_diff() -> Seeds {
    let mut seeds = Seeds::new();
    for (name, version) in [("v1", Version::V1), ("v2", Version::V2)] {
        let header = Header {
            version,
            from_snapshot: Some("L".to_owned()),
            to_snapshot: Some("M".to_owned()),
            size_bytes: SIZE_BYTES,
        };
        let mut writer = rbd::Writer::new(Vec::new(), &header).expect("a header that is right");
        FRAMES.iter().for_each(|frame| writer.write(*frame).expect("frames that are right"));
        let stream = writer.finish().expect("memory takes everything");
        let unknown = [&stream[..12], b"X\x03\0\0\0\0\0\0\0abcp\x08\0\0\0\0\0\0\0\x01", &stream[12..]].concat();
        let bare = Header { from_snapshot: None, to_snapshot: None, ..header };
        let bare = rbd::Writer::new(Vec::new(), &bare).and_then(rbd::Writer::finish).expect("memory");
        seeds.push((format!("{name}-cut-short"), stream[..stream.len() / 2].to_vec()));
        seeds.push((format!("{name}-unknown"), unknown));
        seeds.push((format!("{name}-bare"), bare));
        seeds.push((name.to_owned(), stream));
    }
    seeds.push(("image".to_owned(), b"rbd image v2\nE".to_vec()));
    seeds
}
