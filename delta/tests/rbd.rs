//! Ceph's streams: as its documentation defines them, there and back, and refused where they are wrong.

mod common;

use cairn_delta::rbd::{Header, Reader, Version, Writer, PIECE_BYTES_MAX};
use cairn_delta::{ErrorKind, ExtentKind, Frame, Result};
use common::{apply, delta, random_image, random_successor, Piece, BLOCK_BYTES};

fn header(version: Version, size_bytes: usize) -> Header {
    Header {
        version,
        from_snapshot: Some("L".to_owned()),
        to_snapshot: Some("M".to_owned()),
        size_bytes: size_bytes as u64,
    }
}

fn written(header: &Header, pieces: &[Piece]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), header).expect("a header that is right");
    pieces.iter().for_each(|piece| writer.write(piece.frame()).expect("extents that are right"));
    let length = writer.written_bytes();
    let stream = writer.finish().expect("memory takes everything");
    assert_eq!(stream.len() as u64, length + 1, "the end record is one byte");
    stream
}

fn read(stream: &[u8]) -> Result<(Header, Vec<Piece>)> {
    let mut reader = Reader::new(stream)?;
    let mut pieces = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        pieces.push(Piece::of(frame));
    }
    assert!(reader.is_whole());
    Ok((reader.header().clone(), pieces))
}

/// The records of doc/dev/rbd-diff.rst by hand.
fn record(version: Version, tag: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    match version {
        Version::V1 => [&[tag], content].concat(),
        Version::V2 => [&[tag], &length[..], content].concat(),
    }
}

fn text(name: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_le_bytes()[..], name].concat()
}

fn range(offset_bytes: u64, length_bytes: u64) -> Vec<u8> {
    [offset_bytes.to_le_bytes(), length_bytes.to_le_bytes()].concat()
}

fn banner(version: Version) -> &'static [u8] {
    match version {
        Version::V1 => b"rbd diff v1\n",
        Version::V2 => b"rbd diff v2\n",
    }
}

const VERSIONS: [Version; 2] = [Version::V1, Version::V2];

#[test]
fn streams_are_what_the_documentation_says() {
    for version in VERSIONS {
        let pieces = [Piece::data(100, vec![9; 50]), Piece::range(200, 4096, ExtentKind::Zero)];
        let expected = [
            banner(version),
            &record(version, b'f', &text(b"L")),
            &record(version, b't', &text(b"M")),
            &record(version, b's', &10_000u64.to_le_bytes()),
            &record(version, b'w', &[&range(100, 50)[..], &[9; 50]].concat()),
            &record(version, b'z', &range(200, 4096)),
            b"e",
        ];
        assert_eq!(written(&header(version, 10_000), &pieces), expected.concat());
        assert_eq!(read(&expected.concat()).expect("documented"), (header(version, 10_000), pieces.to_vec()));
        let bare = [banner(version), &record(version, b's', &0u64.to_le_bytes()), b"e"].concat();
        let (found, pieces) = read(&bare).expect("a full stream of an empty image");
        assert_eq!((found.from_snapshot, found.to_snapshot, pieces.len()), (None, None, 0));
    }
}

#[test]
fn what_was_written_is_read_and_both_versions_say_the_same() {
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let sizes = [0, 1].map(|_| random.usize(1..60) * BLOCK_BYTES - random.usize(0..2) * 700);
        let before = random_image(&mut random, sizes[0]);
        let after = random_successor(&mut random, &before, sizes[1]);
        let pieces = delta(&mut random, &before, &after);
        let both = VERSIONS.map(|version| {
            let stream = written(&header(version, sizes[1]), &pieces);
            let (found, pieces) = read(&stream).expect("what was written");
            assert_eq!(found, header(version, sizes[1]));
            (pieces, stream)
        });
        assert_eq!(both[0].0, both[1].0, "seed {seed}");
        assert!(apply(&before, sizes[1], &both[0].0) == after, "seed {seed}");
        let turned = VERSIONS.map(|version| written(&header(version, sizes[1]), &both[0].0));
        assert!(turned == [both[0].1.clone(), both[1].1.clone()], "seed {seed}: v1 to v2 and back");
    }
}

#[test]
fn every_truncation_is_refused() {
    for version in VERSIONS {
        let pieces = [Piece::data(0, vec![9; 600]), Piece::range(5000, 100, ExtentKind::Zero)];
        let stream = written(&header(version, 10_000), &pieces);
        for length in 0..stream.len() {
            let error = read(&stream[..length]).expect_err("cut short");
            assert!(matches!(error.kind(), ErrorKind::Truncated), "{length} bytes: {error}");
        }
    }
}

/// A stream whose metadata is in order, and then has these bytes.
fn behind_metadata(version: Version, records: &[Vec<u8>]) -> Vec<u8> {
    [banner(version), &record(version, b's', &8192u64.to_le_bytes()), &records.concat(), b"e"].concat()
}

#[test]
fn streams_that_break_a_rule_are_refused() {
    for version in VERSIONS {
        let refused = |rule: &str, stream: &[u8]| {
            let error = read(stream).err().unwrap_or_else(|| panic!("{version:?}: {rule}: nothing was noticed"));
            assert!(!matches!(error.kind(), ErrorKind::Truncated | ErrorKind::Io(_)), "{version:?}: {rule}: {error}");
            assert!(error.offset_bytes() <= stream.len() as u64);
        };
        let zero = |offset, length| record(version, b'z', &range(offset, length));
        let write = |offset, length: usize| {
            record(version, b'w', &[&range(offset, length as u64)[..], &vec![1; length]].concat())
        };
        let then = |records: &[Vec<u8>]| behind_metadata(version, records);
        let size = record(version, b's', &8192u64.to_le_bytes());
        let name = |tag, name: &[u8]| record(version, tag, &text(name));
        read(&then(&[write(0, 100), zero(100, 8092)])).expect("right");
        refused("descending", &then(&[write(4096, 100), zero(0, 100)]));
        refused("overlap", &then(&[zero(0, 100), write(99, 100)]));
        refused("empty", &then(&[zero(0, 0)]));
        refused("beyond the size", &then(&[write(8000, 193)]));
        refused("overflow", &then(&[zero(1, u64::MAX)]));
        refused("metadata behind data", &then(&[zero(0, 100), size.clone()]));
        refused("two sizes", &then(std::slice::from_ref(&size)));
        refused("two names", &then(&[name(b'f', b"a"), name(b'f', b"a")]));
        refused("no name", &then(&[name(b't', b"")]));
        refused("a long name", &then(&[name(b't', &[b'a'; 4097])]));
        refused("a name that is no text", &then(&[name(b't', b"\xff")]));
        refused("no size", &[banner(version), b"e"].concat());
        refused("another banner", b"rbd diff v3\ne");
        refused("an image", b"rbd image v2\nE");
    }
}

#[test]
fn lengths_of_version_2_must_fit_and_let_unknown_records_be_passed_over() {
    let with_length = |tag: u8, length: u64, content: &[u8]| [&[tag], &length.to_le_bytes()[..], content].concat();
    let then = |records: &[Vec<u8>]| behind_metadata(Version::V2, records);
    let wrong = [
        with_length(b'z', 17, &[&range(0, 100)[..], &[0]].concat()),
        with_length(b'w', 16, &[&range(0, 100)[..], &[1; 100]].concat()),
        with_length(b'w', u64::MAX, &[&range(0, 100)[..], &[1; 100]].concat()),
        with_length(b'f', 4, &text(b"L")),
        with_length(b't', 6, &text(b"L")),
    ];
    for record in wrong {
        let error = read(&then(std::slice::from_ref(&record))).expect_err("a wrong length");
        assert!(matches!(error.kind(), ErrorKind::Malformed(_)), "{error}");
    }
    let size = with_length(b's', 9, &[0; 9]);
    assert!(read(&[banner(Version::V2), &size, b"e"].concat()).is_err());

    let unknown = record(Version::V2, b'X', &[1; 10_000]);
    // Ceph gives the length of this one as 8, and it has one byte.
    let protection = with_length(b'p', 8, &[1]);
    let zero = record(Version::V2, b'z', &range(0, 100));
    let stream = then(&[unknown.clone(), protection, zero.clone(), unknown]);
    assert_eq!(read(&stream).expect("passed over").1, [Piece::range(0, 100, ExtentKind::Zero)]);
    let first = behind_metadata(Version::V1, &[record(Version::V1, b'X', &[1; 8])]);
    let error = read(&first).expect_err("version 1 has no lengths");
    assert!(matches!(error.kind(), ErrorKind::UnknownRecord { kind: 88 }), "{error}");
}

#[test]
fn long_records_come_in_pieces() {
    let length = 2 * PIECE_BYTES_MAX + 5;
    let mut content = vec![0; length];
    fastrand::Rng::with_seed(1).fill(&mut content);
    let pieces = [Piece::data(3, content.clone()), Piece::range(length as u64 + 3, 1, ExtentKind::Zero)];
    for version in VERSIONS {
        let (_, found) = read(&written(&header(version, length + 4), &pieces)).expect("what was written");
        let lengths: Vec<_> = found.iter().map(|piece| piece.content.len()).collect();
        assert_eq!(lengths, [PIECE_BYTES_MAX, PIECE_BYTES_MAX, 5, 0]);
        assert!(found.iter().flat_map(|piece| &piece.content).eq(&content));
        assert_eq!(found[2].extent.offset_bytes, 3 + 2 * PIECE_BYTES_MAX as u64);
    }
}

#[test]
fn a_length_that_is_not_there_takes_no_memory() {
    let mut stream = behind_metadata(Version::V1, &[]);
    stream.truncate(stream.len() - 1 - 8);
    stream.extend(u64::MAX.to_le_bytes());
    stream.extend([b"w", &range(0, u64::MAX)[..], b"little"].concat());
    let mut reader = Reader::new(&stream[..]).expect("metadata");
    assert!(matches!(reader.next_frame().expect_err("cut short").kind(), ErrorKind::Truncated));
    assert!(reader.next_frame().is_err(), "behind an error nothing comes");
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    for version in VERSIONS {
        let mut writer = Writer::new(Vec::new(), &header(version, 8192)).expect("right");
        writer.write(Frame::NotInUse { offset_bytes: 4096, length_bytes: 100 }).expect("right");
        assert!(writer.write(Frame::Zero { offset_bytes: 0, length_bytes: 100 }).is_err());
        assert!(writer.write(Frame::Data { offset_bytes: 8191, content: &[1, 2] }).is_err());
        let (_, pieces) = read(&writer.finish().expect("memory")).expect("what is refused leaves nothing");
        assert_eq!(pieces, [Piece::range(4096, 100, ExtentKind::Zero)]);
        let nameless = Header { to_snapshot: Some(String::new()), ..header(version, 0) };
        assert!(Writer::new(Vec::new(), &nameless).is_err());
    }
}
