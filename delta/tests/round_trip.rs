//! What was written is read, with and without compression, whatever number of workers there is.

mod common;

use cairn_delta::{Compression, ExtentKind, Fingerprint, Frame, Reader, StreamLength, Writer, WriterOptions};
use common::{apply, delta, header, random_image, random_successor, read, rest, written, Piece, BLOCK_BYTES};

const FRAME_BYTES_MAX: usize = cairn_delta::FRAME_BYTES_MAX;

fn options(workers: usize) -> WriterOptions {
    WriterOptions { workers, ..WriterOptions::default() }
}

#[test]
fn a_delta_that_was_sent_makes_the_base_the_target() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let sizes = [0, 1].map(|_| random.usize(1..80) * BLOCK_BYTES - if random.bool() { 512 } else { 0 });
        let before = random_image(&mut random, sizes[0]);
        let after = random_successor(&mut random, &before, sizes[1]);
        let pieces = delta(&mut random, &before, &after);
        let fingerprint = Fingerprint::of_content(0, &after);
        for compression in [Compression::None, Compression::Zstd] {
            let header = cairn_delta::StreamHeader {
                base_fingerprint: Some(Fingerprint::of_content(0, &before)),
                compression,
                ..header("L", "M", sizes[0], sizes[1])
            };
            let stream = written(&header, &pieces, options(0), Some(fingerprint));
            for workers in [1, 3] {
                let other = written(&header, &pieces, options(workers), Some(fingerprint));
                assert!(other == stream, "seed {seed}: {workers} workers write something else");
            }
            let mut reader = Reader::new(&stream[..]).expect("a header that was written");
            assert_eq!(reader.header(), &header, "seed {seed}");
            let found = rest(&mut reader).expect("a stream that was written");
            assert_eq!(found, pieces, "seed {seed}");
            let end = reader.end().expect("the end");
            assert_eq!(end.fingerprint, Some(fingerprint), "seed {seed}");
            assert_eq!(end.totals.covered_bytes(), pieces.iter().map(|piece| piece.extent.length_bytes).sum::<u64>());
            assert_eq!(apply(&before, sizes[1], &found), after, "seed {seed}");
            assert_eq!(Fingerprint::of_content(0, &apply(&before, sizes[1], &found)), fingerprint);
        }
    }
}

#[test]
fn data_longer_than_a_frame_is_cut_and_the_length_told_before_is_exact() {
    let size_bytes = 3 * FRAME_BYTES_MAX;
    let header = header("L", "M", size_bytes, size_bytes);
    let mut random = fastrand::Rng::with_seed(1);
    let mut content = vec![0; 2 * FRAME_BYTES_MAX + BLOCK_BYTES];
    random.fill(&mut content);
    let pieces = [
        Piece::data(0, content),
        Piece::range((size_bytes - 2 * BLOCK_BYTES) as u64, BLOCK_BYTES as u64, ExtentKind::Zero),
        Piece::range((size_bytes - BLOCK_BYTES) as u64, BLOCK_BYTES as u64, ExtentKind::NotInUse),
    ];
    for fingerprint in [None, Some(Fingerprint::EMPTY)] {
        let stream = written(&header, &pieces, options(2), fingerprint);
        let mut length = StreamLength::new(&header, None);
        pieces.iter().for_each(|piece| length.add(piece.extent));
        assert_eq!(length.finish(fingerprint.is_some()), stream.len() as u64);
        let found = read(&stream).expect("a stream that was written");
        assert_eq!(found.iter().map(|piece| piece.content.len()).max(), Some(FRAME_BYTES_MAX));
        assert_eq!(found.iter().flat_map(|piece| &piece.content).count(), 2 * FRAME_BYTES_MAX + BLOCK_BYTES);
    }
}

#[test]
fn a_full_stream_has_no_base_and_an_empty_delta_no_frames() {
    let full = cairn_delta::StreamHeader { base: None, ..header("L", "M", 0, 4 * BLOCK_BYTES) };
    let pieces = [Piece::data(0, vec![1; 4 * BLOCK_BYTES])];
    assert_eq!(read(&written(&full, &pieces, options(0), None)).expect("full"), pieces);
    let stream = written(&header("L", "M", 0, 0), &[], options(4), None);
    assert_eq!(read(&stream).expect("empty"), []);
    let wrong = cairn_delta::StreamHeader { size_before_bytes: 1, ..full };
    assert!(Writer::new(Vec::new(), &wrong, options(0)).is_err());
}

#[test]
fn what_compresses_is_compressed_and_what_does_not_is_left_as_it_is() {
    let compressed = |content: Vec<u8>| {
        let header = cairn_delta::StreamHeader { compression: Compression::Zstd, ..header("L", "M", 1 << 20, 1 << 20) };
        let pieces = [Piece::data(0, content)];
        let stream = written(&header, &pieces, options(0), None);
        assert_eq!(read(&stream).expect("a stream that was written"), pieces);
        stream.len()
    };
    let mut random = vec![0; 1 << 20];
    fastrand::Rng::with_seed(2).fill(&mut random);
    let with_text = compressed(b"the same sentence again. ".repeat(50_000)[..1 << 20].to_vec());
    assert!(with_text < 4096, "{with_text} bytes for the same sentence again and again");
    let with_noise = compressed(random);
    assert!(((1 << 20)..(1 << 20) + 1024).contains(&with_noise), "{with_noise} bytes for a MiB of noise");
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let header = header("L", "M", 16 * BLOCK_BYTES, 16 * BLOCK_BYTES);
    let block = [1; BLOCK_BYTES];
    let wrong = [
        Frame::Data { offset_bytes: 0, content: &block },
        Frame::Data { offset_bytes: 4096, content: &block },
        Frame::Data { offset_bytes: 16 * 4096, content: &block },
        Frame::Data { offset_bytes: 8192, content: &block[..512] },
        Frame::Data { offset_bytes: 8192, content: &[] },
        Frame::Data { offset_bytes: 8704, content: &block },
        Frame::Zero { offset_bytes: 8192, length_bytes: 0 },
        Frame::Zero { offset_bytes: 8192, length_bytes: 15 * 4096 },
        Frame::NotInUse { offset_bytes: u64::MAX - 4095, length_bytes: 8192 },
    ];
    for frame in wrong {
        let mut writer = Writer::new(Vec::new(), &header, options(0)).expect("a header that is right");
        writer.write(Frame::Zero { offset_bytes: 4096, length_bytes: 4096 }).expect("right");
        assert!(writer.write(frame).is_err(), "{:?} was written", frame.extent());
        writer.write(Frame::Zero { offset_bytes: 8192, length_bytes: 4096 }).expect("what is refused changes nothing");
        let (stream, _) = writer.finish(None).expect("memory takes everything");
        assert_eq!(read(&stream).expect("a stream that was written").len(), 2);
    }
}

#[test]
fn nothing_is_read_beyond_the_stream() {
    let header = header("L", "M", 4096, 4096);
    let stream = written(&header, &[Piece::data(0, vec![1; 4096])], options(0), None);
    let mut reader = Reader::new(std::io::Cursor::new([&stream[..], b"what follows"].concat())).expect("a header");
    rest(&mut reader).expect("a stream");
    assert_eq!(reader.read_bytes(), stream.len() as u64);
    assert_eq!(reader.into_inner().position(), stream.len() as u64);
}
