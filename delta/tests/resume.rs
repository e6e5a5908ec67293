//! A stream that stopped goes on exactly where it stopped, and nowhere else.

mod common;

use cairn_delta::{
    Compression, End, ErrorKind, ExtentKind, Fingerprint, Frame, Reader, Resume, StreamHeader, StreamLength, Writer,
    WriterOptions,
};
use common::{delta, header, random_image, random_successor, rest, written, Piece, BLOCK_BYTES};
use std::io::{self, Write};

const SIZE_BYTES: usize = 40 * BLOCK_BYTES;

fn options() -> WriterOptions {
    WriterOptions { workers: 2, ..WriterOptions::default() }
}

fn pieces(seed: u64) -> Vec<Piece> {
    let mut random = fastrand::Rng::with_seed(seed);
    let before = random_image(&mut random, SIZE_BYTES);
    let after = random_successor(&mut random, &before, SIZE_BYTES);
    delta(&mut random, &before, &after)
}

/// The rest of a stream, from a process that knows nothing but the token.
fn continued(header: &StreamHeader, resume: &Resume, pieces: &[Piece], fingerprint: Fingerprint) -> Vec<u8> {
    let mut writer = Writer::resume(Vec::new(), header, resume, options()).expect("the token is of this delta");
    for piece in pieces.iter().filter(|piece| piece.extent.offset_bytes >= resume.next_offset_bytes) {
        writer.write(piece.frame()).expect("what follows");
    }
    writer.finish(Some(fingerprint)).expect("memory takes everything").0
}

/// Receives until `frames` more have come, as if the line broke then; what is kept goes through its printed form.
fn receive(stream: &[u8], kept: Option<&Resume>, frames: usize, into: &mut Vec<Piece>) -> (Resume, Option<End>) {
    let mut reader = Reader::new(stream).expect("a header");
    if let Some(kept) = kept {
        assert_eq!(reader.continuation(), Some(kept));
        reader.continue_from(kept).expect("exactly the continuation");
    }
    for _ in 0..frames {
        match reader.next_frame().expect("a frame") {
            Some(frame) => into.push(Piece::of(frame)),
            None => break,
        }
    }
    (reader.progress().to_string().parse().expect("a token"), reader.end().copied())
}

#[test]
fn an_interrupted_stream_is_the_whole_one_in_the_end() {
    let fingerprint = Fingerprint::of_block(9, b"result");
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(1000 + seed);
        let pieces = pieces(seed);
        let compression = if random.bool() { Compression::Zstd } else { Compression::None };
        let header = StreamHeader { compression, ..header("L", "M", SIZE_BYTES, SIZE_BYTES) };
        let mut stream = written(&header, &pieces, options(), Some(fingerprint));
        let whole = Reader::new(&stream[..]).map(|mut reader| (rest(&mut reader), *reader.end().expect("the end")));
        let (_, whole) = whole.expect("a stream that was written");
        let (mut received, mut kept, mut parts) = (Vec::new(), None, 0);
        let end = loop {
            let (resume, end) = receive(&stream, kept.as_ref(), random.usize(0..5), &mut received);
            if let Some(end) = end {
                break end;
            }
            stream = continued(&header, &resume, &pieces, fingerprint);
            (kept, parts) = (Some(resume), parts + 1);
            assert!(parts < 400, "seed {seed}: this does not end");
        };
        assert_eq!(received, pieces, "seed {seed}, {parts} parts");
        assert_eq!(end, whole, "seed {seed}, {parts} parts");
    }
}

#[test]
fn the_length_of_a_continuation_is_told_exactly() {
    let pieces = pieces(7);
    let header = header("L", "M", SIZE_BYTES, SIZE_BYTES);
    let stream = written(&header, &pieces, options(), None);
    let (resume, _) = receive(&stream, None, 3, &mut Vec::new());
    let mut length = StreamLength::new(&header, Some(&resume));
    pieces.iter().skip(3).for_each(|piece| length.add(piece.extent));
    let continued = continued(&header, &resume, &pieces, Fingerprint::EMPTY);
    assert_eq!(length.finish(true), continued.len() as u64);
}

/// What a reader says that has this, and is given that.
fn refusal(stream: &[u8], kept: &Resume) -> String {
    let mut reader = Reader::new(stream).expect("a header");
    let error = reader.continue_from(kept).expect_err("not what goes on here");
    assert!(matches!(error.kind(), ErrorKind::WrongContinuation(_)), "{error:?}");
    error.to_string()
}

#[test]
fn only_the_exact_continuation_is_accepted() {
    let pieces = pieces(3);
    let header = header("L", "M", SIZE_BYTES, SIZE_BYTES);
    let stream = written(&header, &pieces, options(), None);
    let (kept, _) = receive(&stream, None, 2, &mut Vec::new());
    let (later, _) = receive(&stream, None, 3, &mut Vec::new());
    let go_on = |resume: &Resume| continued(&header, resume, &pieces, Fingerprint::EMPTY);

    assert!(refusal(&stream, &kept).contains("begins at the beginning"));
    assert!(refusal(&go_on(&later), &kept).contains("another place"));
    let other = Resume { chain: [1; 32], ..kept };
    assert!(refusal(&go_on(&other), &kept).contains("another place"));
    let other = Resume { sequence: kept.sequence + 1, ..kept };
    assert!(refusal(&go_on(&other), &kept).contains("another place"));

    let foreign = StreamHeader { volume_id: [8; 16], ..header.clone() };
    let error = Writer::resume(Vec::new(), &foreign, &kept, options()).err().expect("another volume");
    assert!(matches!(error.kind(), ErrorKind::WrongContinuation(_)), "{error:?}");
    let of_foreign = Resume { stream_id: foreign.stream_id(), ..kept };
    let stream_of_foreign = continued(&foreign, &of_foreign, &pieces, Fingerprint::EMPTY);
    assert!(refusal(&stream_of_foreign, &kept).contains("another delta"));

    let stream = go_on(&kept);
    let mut unasked = Reader::new(&stream[..]).expect("a header");
    let error = unasked.next_frame().expect_err("nothing was received before");
    assert!(matches!(error.kind(), ErrorKind::WrongContinuation(_)), "{error:?}");
}

#[test]
fn places_that_cannot_be_are_refused() {
    let header = header("L", "M", SIZE_BYTES, SIZE_BYTES);
    let (kept, _) = receive(&written(&header, &pieces(3), options(), None), None, 2, &mut Vec::new());
    let mut totals = kept.totals;
    totals.zero_bytes = u64::MAX;
    let wrong = [
        Resume { sequence: 0, ..kept },
        Resume { sequence: u64::MAX, ..kept },
        Resume { next_offset_bytes: SIZE_BYTES as u64 + 1, ..kept },
        Resume { totals, ..kept },
    ];
    for resume in wrong {
        assert!(Writer::resume(Vec::new(), &header, &resume, options()).is_err(), "{resume:?}");
    }
}

#[test]
fn a_token_with_a_wrong_character_is_none() {
    let header = header("L", "M", SIZE_BYTES, SIZE_BYTES);
    let (kept, _) = receive(&written(&header, &pieces(5), options(), None), None, 4, &mut Vec::new());
    let token = kept.to_string();
    assert_eq!(token.parse(), Ok(kept));
    assert_eq!(format!(" {token}\n").parse(), Ok(kept));
    for at in 0..token.len() {
        for character in ["0", "1", "f", "g", "A", "-", "\u{e9}"] {
            let wrong = [&token[..at], character, &token[at + 1..]].concat();
            assert!(wrong == token || wrong.parse::<Resume>().is_err(), "{wrong}");
        }
        assert!(token[..at].parse::<Resume>().is_err());
    }
}

/// Takes some bytes and then no more, as a line that breaks.
struct Broken {
    left: usize,
    taken: Vec<u8>,
}

impl Write for Broken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.left);
        if length == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.left -= length;
        self.taken.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_that_breaks_anywhere_goes_on_from_what_was_received() {
    let pieces = [
        Piece::data(0, vec![1; 4096]),
        Piece::range(4096, 4096, ExtentKind::Zero),
        Piece::data(8192, vec![2; 8192]),
        Piece::range(20480, 4096, ExtentKind::NotInUse),
    ];
    let header = StreamHeader { compression: Compression::Zstd, ..header("L", "M", SIZE_BYTES, SIZE_BYTES) };
    let whole_length = written(&header, &pieces, options(), Some(Fingerprint::EMPTY)).len();
    for left in 0..whole_length {
        let mut output = Broken { left, taken: Vec::new() };
        let sent = Writer::new(&mut output, &header, options()).and_then(|mut writer| {
            let failure = pieces.iter().find_map(|piece| writer.write(piece.frame()).err());
            if failure.is_some() {
                let again = writer.write(Frame::Zero { offset_bytes: 36864, length_bytes: 4096 });
                assert!(again.is_err(), "a stream with a hole goes on");
            }
            writer.finish(Some(Fingerprint::EMPTY)).map(|_| ())
        });
        assert!(sent.is_err(), "{left} bytes are not all of it");
        let Ok(mut reader) = Reader::new(&output.taken[..]) else { continue };
        let mut received = Vec::new();
        while let Ok(frame) = reader.next_frame() {
            received.push(Piece::of(frame.expect("no end record came")));
        }
        let kept = *reader.progress();
        let stream = continued(&header, &kept, &pieces, Fingerprint::EMPTY);
        let (_, end) = receive(&stream, Some(&kept), usize::MAX, &mut received);
        assert!(end.is_some() && received == pieces, "{left} bytes");
    }
}
