//! The NBD server against a plain client: every option, every command, every refusal.

mod common;

use cairn_engine::error::ErrorKind;
use common::client::*;
use common::Server;

const SIZE: usize = 1 << 20;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

const ACK: u32 = 1;
const INFO: u32 = 3;
const ERR_UNSUP: u32 = (1 << 31) | 1;
const ERR_INVALID: u32 = (1 << 31) | 3;
const ERR_UNKNOWN: u32 = (1 << 31) | 6;
const ERR_TOO_BIG: u32 = (1 << 31) | 9;

#[test]
fn what_is_written_reads_back_over_every_kind_of_request() {
    let server = Server::start(SIZE);
    let mut client = Client::open(&server.socket, "vol");
    let data: Vec<u8> = (0..8192u32).map(|index| (index / 512 + 1) as u8).collect();
    assert_eq!(client.write(0, 4096, &data), 0);
    assert_eq!(client.read(4096, 8192).expect("reads"), data);
    assert_eq!(client.read(4608, 512).expect("reads"), data[512..1024]);
    assert_eq!(client.call(WRITE_ZEROES, NO_HOLE | FUA, 4096, 512, &[]), 0);
    assert_eq!(client.call(WRITE_ZEROES, 0, 4608, 512, &[]), 0);
    assert_eq!(client.read(4096, 1024).expect("reads"), vec![0; 1024]);
    assert_eq!(client.call(TRIM, 0, 0, 4096, &[]), 0);
    let image = server.image.lock().expect("not poisoned");
    assert_eq!(image.zeroes, [(512, true, false), (512, false, true)]);
    assert_eq!(image.discards, [(0, 4096)]);
    assert_eq!(image.flushes, 0);
}

#[test]
fn fua_is_durable_alone_and_a_discard_with_fua_flushes() {
    let server = Server::start(SIZE);
    let mut client = Client::open(&server.socket, "vol");
    assert_eq!(client.write(FUA, 0, &[7; 512]), 0);
    assert_eq!(client.write(0, 512, &[8; 512]), 0);
    {
        let image = server.image.lock().expect("not poisoned");
        assert_eq!((image.durable[0], image.durable[512]), (7, 0));
    }
    assert_eq!(client.call(TRIM, FUA, 4096, 4096, &[]), 0);
    let image = server.image.lock().expect("not poisoned");
    assert_eq!((image.durable[512], image.flushes), (8, 1));
}

#[test]
fn a_snapshot_refuses_whatever_changes_it() {
    let server = Server::start(SIZE);
    let mut client = Client::open(&server.socket, "vol@snap");
    assert_eq!(client.write(0, 0, &[1; 512]), EPERM);
    assert_eq!(client.call(WRITE_ZEROES, 0, 0, 512, &[]), EPERM);
    assert_eq!(client.call(TRIM, 0, 0, 512, &[]), EPERM);
    assert_eq!(client.flush(), 0);
    assert_eq!(client.read(0, 512).expect("reads"), vec![0; 512]);
}

#[test]
fn requests_outside_unaligned_or_unknown_are_refused_and_the_connection_goes_on() {
    let server = Server::start(SIZE);
    let mut client = Client::open(&server.socket, "vol");
    let size = SIZE as u64;
    for (command, flags, offset, length, errno) in [
        (READ, 0, size, 512, EINVAL),
        (READ, 0, size - 512, 1024, EINVAL),
        (READ, 0, u64::MAX - 511, 512, EINVAL),
        (READ, 0, u64::MAX - 511, 1024, EINVAL),
        (READ, 0, 1, 512, EINVAL),
        (READ, 0, 0, 511, EINVAL),
        (READ, 0, 0, 0, EINVAL),
        (READ, 0, 0, (32 << 20) + 512, EINVAL),
        (READ, 0, 0, u32::MAX, EINVAL),
        (READ, NO_HOLE, 0, 512, EINVAL),
        (READ, 1 << 15, 0, 512, EINVAL),
        (TRIM, 0, size, 512, EINVAL),
        (WRITE_ZEROES, 0, size, 512, ENOSPC),
        (WRITE_ZEROES, 1 << 4, 0, 512, EINVAL),
        (FLUSH, 0, 512, 0, EINVAL),
        (FLUSH, 0, 0, 512, EINVAL),
        (5, 0, 0, 512, EINVAL),
        (7, 0, 0, 512, EINVAL),
        (u16::MAX, 0, 0, 512, EINVAL),
    ] {
        assert_eq!(client.call(command, flags, offset, length, &[]), errno, "{command} {flags} {offset} {length}");
    }
    assert_eq!(client.write(0, size, &[1; 512]), ENOSPC);
    assert_eq!(client.write(0, 100, &[1; 512]), EINVAL);
    assert_eq!(client.write(NO_HOLE, 0, &[1; 512]), EINVAL);
    assert_eq!(client.write(0, 0, &[]), EINVAL);
    assert_eq!(client.read(0, 512).expect("still in step"), vec![0; 512]);
}

#[test]
fn a_volume_of_4096_byte_sectors_refuses_smaller_requests_and_says_so() {
    let mut image = common::memory::Image::new(SIZE);
    image.sector_bytes = 4096;
    let server = Server::start_with(image);
    let mut client = Client::negotiate(&server.socket);
    client.option(6, &[0, 0, 0, 3, b'v', b'o', b'l', 0, 1, 0, 3]).expect("sent");
    assert_eq!(client.option_reply().expect("the export").reply, INFO);
    let sizes = client.option_reply().expect("the block sizes").data;
    assert_eq!(
        sizes,
        [&[0, 3][..], &4096u32.to_be_bytes(), &4096u32.to_be_bytes(), &(32u32 << 20).to_be_bytes()].concat()
    );
    assert_eq!(client.option_reply().expect("a reply").reply, ACK);
    client.go("vol");
    assert_eq!(client.read(512, 512), Err(EINVAL));
    assert_eq!(client.read(4096, 4096).expect("reads").len(), 4096);
}

#[test]
fn errors_of_the_engine_arrive_as_the_protocols_own() {
    let server = Server::start(SIZE);
    let mut client = Client::open(&server.socket, "vol");
    for (kind, errno) in [
        (ErrorKind::Io, EIO),
        (ErrorKind::FlushFailed, EIO),
        (ErrorKind::NoSpace, ENOSPC),
        (ErrorKind::ReadOnly, EPERM),
        (ErrorKind::Closed, 108),
    ] {
        server.image.lock().expect("not poisoned").failing = Some(kind);
        assert_eq!(client.read(0, 512), Err(errno));
        assert_eq!(client.write(0, 0, &[1; 512]), errno);
        assert_eq!(client.flush(), errno);
    }
}

#[test]
fn options_are_answered_or_refused_in_the_protocols_own_way() {
    let server = Server::start(SIZE);
    let mut client = Client::negotiate(&server.socket);
    // STARTTLS where there is no TLS, PEEK_EXPORT, one that does not exist.
    for option in [5, 4, 0xdead_beef] {
        client.option(option, b"any data").expect("sent");
        assert_eq!(client.option_reply().expect("a reply").reply, ERR_UNSUP, "option {option}");
    }
    client.option(OPTION_GO, &[0, 0, 0, 9, 1]).expect("sent");
    assert_eq!(client.option_reply().expect("a reply").reply, ERR_INVALID);
    client.option(OPTION_GO, &[0, 0, 0, 2, b'n', b'o', 0, 0]).expect("sent");
    assert_eq!(client.option_reply().expect("a reply").reply, ERR_UNKNOWN);
    client.option(3, b"x").expect("sent");
    assert_eq!(client.option_reply().expect("a reply").reply, ERR_INVALID);
    client.option(3, &[]).expect("sent");
    assert_eq!(client.option_reply().expect("a reply").data, b"\0\0\0\x03vol");
    assert_eq!(client.option_reply().expect("a reply").data, b"\0\0\0\x08vol@snap");
    assert_eq!(client.option_reply().expect("a reply").reply, ACK);
    client.option(2, &[]).expect("sent");
    assert_eq!(client.option_reply().expect("a reply").reply, ACK);
    assert!(client.is_closed());
}

#[test]
fn the_old_way_to_open_an_export_works_with_and_without_zeroes() {
    let server = Server::start(SIZE);
    for (flags, zeroes) in [(1u32, 124), (3, 0)] {
        let mut client = Client::connect(&server.socket);
        client.send(&flags.to_be_bytes()).expect("sent");
        client.option(1, b"vol").expect("sent");
        assert_eq!(client.take(8).expect("the size"), (SIZE as u64).to_be_bytes());
        // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, CAN_MULTI_CONN.
        assert_eq!(client.take(2).expect("the flags"), 0b1_0110_1101u16.to_be_bytes());
        assert_eq!(client.take(zeroes).expect("the zeroes"), vec![0; zeroes]);
        assert_eq!(client.read(0, 512).expect("reads"), vec![0; 512]);
    }
    let mut client = Client::negotiate(&server.socket);
    client.option(1, b"no such export").expect("sent");
    assert!(client.is_closed());
}

#[test]
fn oversized_options_and_payloads_end_the_connection() {
    let server = Server::start(SIZE);
    let mut client = Client::negotiate(&server.socket);
    client.send(&[&b"IHAVEOPT"[..], &7u32.to_be_bytes(), &u32::MAX.to_be_bytes()].concat()).expect("sent");
    assert_eq!(client.option_reply().expect("a reply").reply, ERR_TOO_BIG);
    assert!(client.is_closed());
    let mut client = Client::open(&server.socket, "vol");
    client.send(&request_header(WRITE, 0, 1, 0, (32 << 20) + 512)).expect("sent");
    assert!(client.is_closed());
    let mut client = Client::negotiate(&server.socket);
    for _ in 0..64 {
        client.option(99, &[]).expect("sent");
        assert_eq!(client.option_reply().expect("a reply").reply, ERR_UNSUP);
    }
    assert!(client.is_closed(), "options without end");
}

#[test]
fn the_largest_payload_is_served() {
    const LARGEST: usize = 32 << 20;
    let server = Server::start(LARGEST + 4096);
    let mut client = Client::open(&server.socket, "vol");
    let data: Vec<u8> = (0..LARGEST).map(|index| (index >> 9) as u8 ^ (index >> 17) as u8).collect();
    assert_eq!(client.write(0, 4096, &data), 0);
    assert!(client.read(4096, LARGEST as u32).expect("reads") == data);
}
