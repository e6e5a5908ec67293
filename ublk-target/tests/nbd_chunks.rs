//! Structured replies and extended headers against a plain client: reads with holes, errors with words, long lengths.

mod common;

use cairn_engine::error::ErrorKind;
use common::chunks::*;
use common::client::*;
use common::memory::Image;
use common::Server;

const SIZE: usize = 1 << 20;
const KIB: u64 = 1024;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ERR_INVALID: u32 = (1 << 31) | 3;
const ERR_EXT_HEADER_REQD: u32 = (1 << 31) | 10;

/// Content that is nowhere zero but in the holes: 64 to 192 KiB, and 8 KiB at 256 KiB.
fn image_with_holes() -> Image {
    let mut image = Image::new(SIZE);
    image.content = (0..SIZE).map(|index| (index / 512 % 255 + 1) as u8).collect();
    image.holes = vec![64 * KIB..192 * KIB, 256 * KIB..264 * KIB];
    for hole in image.holes.clone() {
        image.content[hole.start as usize..hole.end as usize].fill(0);
    }
    image
}

#[test]
fn holes_of_a_snapshot_are_told_and_everything_else_is_sent() {
    let server = Server::start_with(image_with_holes());
    let content = server.image.lock().expect("not poisoned").content.clone();
    for option in [STRUCTURED_REPLY, EXTENDED_HEADERS] {
        let mut client = Client::open_with(&server.socket, option, "vol@snap", &[]);
        let read = |client: &mut Client, flags, offset: u64, length: u64| match option {
            STRUCTURED_REPLY => client.pieces(flags, offset, length as u32),
            _ => pieces(&client.ask_extended(READ, flags, offset, length, &[])),
        };
        let got = read(&mut client, 0, 0, SIZE as u64);
        assert_eq!(got.holes, [(64 * KIB, 128 << 10)], "a short hole is not worth a chunk");
        let mut rebuilt = vec![0; SIZE];
        for (offset, data) in &got.data {
            rebuilt[*offset as usize..*offset as usize + data.len()].copy_from_slice(data);
        }
        assert!(rebuilt == content);
        assert_eq!(got.data.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 192 * KIB]);
        let inside = read(&mut client, 0, 100 * KIB, 32 * KIB);
        assert_eq!((inside.holes, inside.data), (vec![(100 * KIB, 32 << 10)], vec![]));
        // Unfragmented: one chunk, be it data or a hole.
        let whole = read(&mut client, DF, 32 * KIB, 64 * KIB);
        let expected = content[32 << 10..96 << 10].to_vec();
        assert_eq!((whole.holes, whole.data), (vec![], vec![(32 * KIB, expected)]));
        assert_eq!(read(&mut client, DF, 96 * KIB, 64 * KIB).holes, [(96 * KIB, 64 << 10)]);
    }
    let reads = &server.image.lock().expect("not poisoned").reads;
    assert!(reads.iter().all(|(offset, _)| *offset != 100 * KIB), "a hole is not read");
}

#[test]
fn data_behind_a_hole_is_read_into_aligned_memory_wherever_the_read_begins() {
    let server = Server::start_with(image_with_holes());
    let content = server.image.lock().expect("not poisoned").content.clone();
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@snap", &[]);
    // The export in memory refuses what direct I/O would.
    let got = client.pieces(0, 512, 256 << 10);
    assert_eq!(got.holes, [(64 * KIB, 128 << 10)]);
    let expected = |from: usize, to: usize| (from as u64, content[from..to].to_vec());
    assert!(got.data == [expected(512, 64 << 10), expected(192 << 10, (256 << 10) + 512)]);
}

#[test]
fn what_the_volume_does_not_use_may_hold_anything_and_is_sent() {
    let server = Server::start_with(image_with_holes());
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol", &[]);
    let got = client.pieces(0, 0, SIZE as u32);
    assert!(got.holes.is_empty() && got.data.len() == 1);
}

#[test]
fn a_map_that_cannot_be_read_does_not_keep_the_data_back() {
    let mut image = image_with_holes();
    image.status_failing = Some(ErrorKind::Corrupt);
    let server = Server::start_with(image);
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@snap", &["base:allocation"]);
    let got = client.pieces(0, 0, SIZE as u32);
    assert!(got.holes.is_empty() && got.data.len() == 1);
    let chunks = client.ask(BLOCK_STATUS, 0, 0, 4096, &[]);
    assert_eq!(chunks.len(), 1);
    assert_eq!(chunks[0].error().0, EIO);
}

#[test]
fn errors_come_with_words_and_reads_with_the_place() {
    let server = Server::start_with(image_with_holes());
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol", &[]);
    server.image.lock().expect("not poisoned").failing = Some(ErrorKind::Io);
    let chunks = client.ask(READ, 0, 4096, 4096, &[]);
    let (errno, message, offset) = chunks[0].error();
    assert_eq!((chunks.len(), errno, offset), (1, EIO, Some(4096)));
    assert!(message.contains("told to fail"), "{message}");
    server.image.lock().expect("not poisoned").failing = Some(ErrorKind::NoSpace);
    let chunks = client.ask(WRITE, 0, 0, 512, &[1; 512]);
    assert_eq!((chunks.len(), chunks[0].error().0, chunks[0].error().2), (1, ENOSPC, None));
    server.image.lock().expect("not poisoned").failing = None;
    assert_eq!(client.ask(WRITE, 0, 0, 512, &[1; 512])[0].kind, kind::NONE);
    let mut snapshot = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@snap", &[]);
    assert_eq!(snapshot.ask(WRITE, 0, 0, 512, &[1; 512])[0].error().0, EPERM);
    assert_eq!(snapshot.ask(READ, 0, SIZE as u64, 512, &[])[0].error().0, EINVAL);
}

#[test]
fn flags_are_taken_where_they_mean_something() {
    let server = Server::start_with(image_with_holes());
    let mut simple = Client::open(&server.socket, "vol");
    assert_eq!(simple.read(0, 512).expect("reads").len(), 512);
    assert_eq!(simple.call(READ, DF, 0, 512, &[]), EINVAL, "nobody agreed on it");
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol", &[]);
    for (command, flags) in [(READ, REQ_ONE), (TRIM, DF), (WRITE_ZEROES, REQ_ONE), (FLUSH, DF), (READ, PAYLOAD_LEN)] {
        assert_eq!(client.ask(command, flags, 0, 512, &[])[0].error().0, EINVAL, "{command} {flags}");
    }
    assert_eq!(client.ask(BLOCK_STATUS, 0, 0, 512, &[])[0].error().0, EINVAL, "no context was set");
}

#[test]
fn extended_headers_carry_every_command_and_lengths_beyond_32_bits() {
    let server = Server::start_with(image_with_holes());
    let mut client = Client::open_with(&server.socket, EXTENDED_HEADERS, "vol", &["base:allocation"]);
    for flags in [PAYLOAD_LEN, PAYLOAD_LEN | FUA, 0] {
        let value = flags as u8 + 1;
        assert_eq!(client.ask_extended(WRITE, flags, 512, 512, &[value; 512])[0].kind, kind::NONE);
        let got = pieces(&client.ask_extended(READ, 0, 512, 512, &[]));
        assert_eq!(got.data, [(512, vec![value; 512])]);
    }
    assert_eq!(client.ask_extended(WRITE_ZEROES, NO_HOLE, 0, 4096, &[])[0].kind, kind::NONE);
    assert_eq!(client.ask_extended(TRIM, 0, 0, 4096, &[])[0].kind, kind::NONE);
    assert_eq!(client.ask_extended(FLUSH, 0, 0, 0, &[])[0].kind, kind::NONE);
    for (command, length, errno) in [
        (READ, 1 << 40, EINVAL),
        (TRIM, 1 << 40, EINVAL),
        (WRITE_ZEROES, 1 << 40, ENOSPC),
        (WRITE_ZEROES, u64::MAX - 511, ENOSPC),
        (BLOCK_STATUS, 1 << 40, EINVAL),
        (READ, (32 << 20) + 512, EINVAL),
    ] {
        assert_eq!(client.ask_extended(command, 0, 4096, length, &[])[0].error().0, errno, "{command} {length}");
    }
    // A payload where none belongs is taken off the stream, and the request refused.
    for command in [READ, TRIM, BLOCK_STATUS, FLUSH, 99] {
        assert_eq!(client.ask_extended(command, PAYLOAD_LEN, 0, 512, &[9; 512])[0].error().0, EINVAL, "{command}");
    }
    let status = client.ask_extended(BLOCK_STATUS, 0, 0, SIZE as u64, &[]);
    assert_eq!(status[0].kind, kind::STATUS_EXT);
    assert_eq!(status[0].extents().1[..2], [(64 * KIB, 0), (128 * KIB, 1)]);
    client.send(&extended_header(READ, PAYLOAD_LEN, 1, 0, (32 << 20) + 1)).expect("sent");
    assert!(client.is_closed(), "a payload that nobody will take");
}

#[test]
fn styles_only_grow_richer_and_each_is_agreed_on_once() {
    let server = Server::start(SIZE);
    let mut client = Client::negotiate(&server.socket);
    assert_eq!(client.refusal(STRUCTURED_REPLY, b"data"), Some(ERR_INVALID));
    client.agree(STRUCTURED_REPLY);
    assert_eq!(client.refusal(STRUCTURED_REPLY, &[]), Some(ERR_INVALID));
    assert_eq!(client.refusal(EXTENDED_HEADERS, b"data"), Some(ERR_INVALID));
    client.agree(EXTENDED_HEADERS);
    assert_eq!(client.refusal(EXTENDED_HEADERS, &[]), Some(ERR_INVALID));
    assert_eq!(client.refusal(STRUCTURED_REPLY, &[]), Some(ERR_EXT_HEADER_REQD));
    client.option(1, b"vol").expect("sent");
    assert!(client.is_closed(), "EXPORT_NAME does not go with extended headers");
    // It does with structured replies, and says that reads can be kept in one piece.
    let mut client = Client::negotiate(&server.socket);
    client.agree(STRUCTURED_REPLY);
    client.option(1, b"vol").expect("sent");
    assert_eq!(client.take(10).expect("size and flags")[8..], 0b1_1110_1101u16.to_be_bytes());
    assert_eq!(client.pieces(0, 0, 512).data, [(0, vec![0; 512])]);
}

#[test]
fn chunks_of_many_requests_mix_but_never_within_themselves() {
    let mut image = image_with_holes();
    image.yields = 10;
    let server = Server::start_with(image);
    let content = server.image.lock().expect("not poisoned").content.clone();
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@snap", &[]);
    let mut waiting = std::collections::BTreeMap::new();
    for index in 0..60u64 {
        let cookie = client.request(READ, 0, index * 4 * KIB, 512 << 10, &[]).expect("sent");
        waiting.insert(cookie, (index * 4 * KIB, vec![0xee; 512 << 10]));
    }
    while !waiting.is_empty() {
        let (cookie, last, chunk) = client.chunk().expect("a chunk");
        let got = pieces(&[chunk]);
        let (start, buffer) = waiting.get_mut(&cookie).expect("asked, and not answered yet");
        for (offset, data) in got.data {
            buffer[(offset - *start) as usize..][..data.len()].copy_from_slice(&data);
        }
        for (offset, length) in got.holes {
            buffer[(offset - *start) as usize..][..length as usize].fill(0);
        }
        if last {
            let (start, buffer) = waiting.remove(&cookie).expect("it is there");
            assert!(buffer == content[start as usize..][..buffer.len()], "the read at {start}");
        }
    }
}
