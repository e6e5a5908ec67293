//! Two deltas made one do what they do one after the other.

mod common;

use cairn_delta::{compose, Compression, ErrorKind, Fingerprint, Reader, StreamHeader, WriterOptions};
use common::{apply, delta, header, random_image, random_successor, read, written, Piece, BLOCK_BYTES};

fn composed(first: &[u8], second: &[u8]) -> cairn_delta::Result<Vec<u8>> {
    let (mut first, mut second) = (Reader::new(first)?, Reader::new(second)?);
    compose(&mut first, &mut second, Vec::new(), Compression::Zstd, WriterOptions::default())
}

#[test]
fn the_composition_does_what_both_do() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let sizes = [0, 1, 2].map(|_| random.usize(1..60) * BLOCK_BYTES - random.usize(0..2) * 512);
        let x = random_image(&mut random, sizes[0]);
        let y = random_successor(&mut random, &x, sizes[1]);
        let z = random_successor(&mut random, &y, sizes[2]);
        let (first, second) = (delta(&mut random, &x, &y), delta(&mut random, &y, &z));
        let fingerprint = Fingerprint::of_content(0, &z);
        let first = written(&header("X", "Y", sizes[0], sizes[1]), &first, WriterOptions::default(), None);
        let second =
            written(&header("Y", "Z", sizes[1], sizes[2]), &second, WriterOptions::default(), Some(fingerprint));
        let stream = composed(&first, &second).expect("they follow each other");
        let mut reader = Reader::new(&stream[..]).expect("a header");
        let expected = StreamHeader { compression: Compression::Zstd, ..header("X", "Z", sizes[0], sizes[2]) };
        assert_eq!(reader.header(), &expected);
        let pieces = common::rest(&mut reader).expect("a stream");
        assert!(apply(&x, sizes[2], &pieces) == z, "seed {seed}");
        assert_eq!(reader.end().expect("the end").fingerprint, Some(fingerprint));
    }
}

#[test]
fn deltas_that_do_not_follow_each_other_are_not_composed() {
    let block = [Piece::data(0, vec![1; BLOCK_BYTES])];
    let stream = |header: &StreamHeader, end| written(header, &block, WriterOptions::default(), end);
    let (first, second) = (header("X", "Y", 8192, 8192), header("Y", "Z", 8192, 8192));
    composed(&stream(&first, None), &stream(&second, None)).expect("they follow each other");
    let wrong = [
        StreamHeader { volume_id: [1; 16], ..second.clone() },
        StreamHeader { base: Some(common::snapshot("X")), ..second.clone() },
        StreamHeader { base: None, size_before_bytes: 0, ..second.clone() },
        StreamHeader { size_before_bytes: 4096, ..second.clone() },
        StreamHeader { block_bytes: 512, ..second.clone() },
        StreamHeader { base_fingerprint: Some(Fingerprint::of_block(0, b"other")), ..second.clone() },
    ];
    let middle = Fingerprint::of_block(0, b"middle");
    for second in wrong {
        let error = composed(&stream(&first, Some(middle)), &stream(&second, None)).expect_err("not adjacent");
        assert!(matches!(error.kind(), ErrorKind::NotAdjacent(_)), "{error:?}");
    }
}

#[test]
fn a_composition_of_something_cut_short_is_refused() {
    let block = [Piece::data(0, vec![1; BLOCK_BYTES])];
    let first = written(&header("X", "Y", 8192, 8192), &block, WriterOptions::default(), None);
    let second = written(&header("Y", "Z", 8192, 8192), &block, WriterOptions::default(), None);
    read(&composed(&first, &second).expect("whole")).expect("whole");
    for length in 0..first.len() {
        assert!(composed(&first[..length], &second).is_err(), "{length} bytes of the first");
    }
    for length in 0..second.len() {
        assert!(composed(&first, &second[..length]).is_err(), "{length} bytes of the second");
    }
}
