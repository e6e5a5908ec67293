//! A volume and its snapshots over NBD, with the engine behind them.

mod common;

use cairn_engine::error::ErrorKind;
use cairn_target::control::api::Operation;
use common::chunks::*;
use common::client::*;
use common::engine::{Order, VolumeServer};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const SIZE: usize = (1 << 20) + 512;

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_snapshot_shows_the_volume_as_it_was_whatever_is_written_later() {
    let server = VolumeServer::start(SIZE, true);
    let mut volume = Client::open(&server.socket, "vol");
    let mut random = fastrand::Rng::with_seed(0x0ca1_2003);
    let mut model = vec![0; SIZE];
    let mut kept = Vec::new();
    for name in ["one", "two", "three"] {
        for _ in 0..200 {
            let offset = random.usize(0..SIZE / 512);
            let sectors = random.usize(1..=40).min(SIZE / 512 - offset);
            let (offset, length) = (offset * 512, sectors * 512);
            let value = random.u8(1..);
            if random.u8(0..4) == 0 {
                assert_eq!(volume.call(WRITE_ZEROES, 0, offset as u64, length as u32, &[]), 0);
                model[offset..offset + length].fill(0);
            } else {
                assert_eq!(volume.write(random.u16(0..2), offset as u64, &vec![value; length]), 0);
                model[offset..offset + length].fill(value);
            }
        }
        server.order(Order::Snapshot(name)).expect("taken");
        kept.push((name, model.clone()));
    }
    assert_eq!(volume.write(0, 0, &vec![0xee; SIZE - 512]), 0);
    assert_eq!(volume.flush(), 0);
    for (name, expected) in &kept {
        let mut snapshot = Client::open(&server.socket, &format!("vol@{name}"));
        assert!(snapshot.read(0, SIZE as u32).expect("reads") == *expected, "{name} differs");
        assert_eq!(snapshot.write(0, 0, &[1; 512]), 1, "EPERM");
        assert_eq!(snapshot.read(SIZE as u64 - 512, 512).expect("the last sector"), expected[SIZE - 512..]);
    }
    assert_eq!(volume.read(4096, 512).expect("reads"), vec![0xee; 512]);
}

#[test]
fn a_snapshot_that_a_client_has_open_cannot_be_deleted() {
    let server = VolumeServer::start(SIZE, true);
    server.order(Order::Snapshot("held")).expect("taken");
    let client = Client::open(&server.socket, "vol@held");
    assert_eq!(server.order(Order::Delete("held")).expect_err("open").kind(), ErrorKind::Busy);
    drop(client);
    wait_until("the session ends", || server.sessions.total() == 0);
    server.order(Order::Delete("held")).expect("deleted");
    assert_eq!(opened(&server, "vol@held"), None);
}

/// The reply's data where the export can be opened.
fn opened(server: &VolumeServer, export: &str) -> Option<Vec<u8>> {
    let mut client = Client::connect(&server.socket);
    client.send(&3u32.to_be_bytes()).expect("sent");
    let data = [&(export.len() as u32).to_be_bytes()[..], export.as_bytes(), &[0, 0]].concat();
    client.option(OPTION_GO, &data).expect("sent");
    let reply = client.option_reply().expect("a reply");
    (reply.reply == 3).then_some(reply.data)
}

#[test]
fn the_volume_is_refused_where_another_frontend_writes_it_and_while_it_is_reserved() {
    let server = VolumeServer::start(SIZE, false);
    server.order(Order::Snapshot("one")).expect("taken");
    assert_eq!(opened(&server, "vol"), None);
    assert_eq!(opened(&server, ""), None);
    assert!(opened(&server, "vol@one").is_some());
    for name in ["vol@none", "vol@", "vol@a b", "volume", "other", "@one", "vol@one@one"] {
        assert_eq!(opened(&server, name), None, "{name}");
    }
    let server = VolumeServer::start(SIZE, true);
    let reservation = server.sessions.reserve("vol").expect("nobody has it open");
    assert_eq!(opened(&server, "vol"), None);
    assert_eq!(opened(&server, ""), None);
    drop(reservation);
    assert!(opened(&server, "").is_some());
}

#[test]
fn every_request_is_counted_with_its_bytes() {
    let server = VolumeServer::start(SIZE, true);
    let mut volume = Client::open(&server.socket, "vol");
    for _ in 0..10 {
        assert_eq!(volume.write(0, 0, &[1; 4096]), 0);
    }
    assert_eq!(volume.flush(), 0);
    server.order(Order::Snapshot("one")).expect("taken");
    Client::open(&server.socket, "vol@one").read(0, 512).expect("reads");
    let counts = |operation| {
        let reports = server.stats.operations();
        let report = reports.iter().find(|report| report.operation == operation).expect("all are there");
        (report.latency.count, report.bytes, report.errors)
    };
    assert_eq!(counts(Operation::Write), (10, 40_960, 0));
    assert_eq!(counts(Operation::Flush), (1, 0, 0));
    assert_eq!(counts(Operation::SnapshotRead), (1, 512, 0));
    assert_eq!(counts(Operation::Read), (0, 0, 0));
}

#[test]
fn snapshots_taken_amid_writes_of_many_connections_are_cuts() {
    let server = VolumeServer::start(SIZE, true);
    // Each connection counts upwards in its own block: a cut must show a value that was acknowledged before the
    // snapshot was asked for, or was at least on its way when the answer came.
    let acknowledged: Vec<_> = (0..4).map(|_| std::sync::atomic::AtomicU64::new(0)).collect();
    let order = std::sync::atomic::Ordering::SeqCst;
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (index, count) in acknowledged.iter().enumerate() {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut client = Client::open(&server.socket, "vol");
                let mut value = 0u64;
                while !stop.load(order) {
                    value += 1;
                    let data: Vec<u8> = value.to_be_bytes().iter().copied().cycle().take(4096).collect();
                    assert_eq!(client.write(0, index as u64 * 4096, &data), 0);
                    count.store(value, order);
                }
            });
        }
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            std::thread::sleep(Duration::from_millis(20));
            let least: Vec<u64> = acknowledged.iter().map(|count| count.load(order)).collect();
            server.order(Order::Snapshot(name)).expect("taken");
            let most: Vec<u64> = acknowledged.iter().map(|count| count.load(order) + 1).collect();
            std::thread::sleep(Duration::from_millis(10));
            let mut snapshot = Client::open(&server.socket, &format!("vol@{name}"));
            for index in 0..4usize {
                let data = snapshot.read(index as u64 * 4096, 4096).expect("reads");
                let value = u64::from_be_bytes(data[..8].try_into().expect("8 bytes"));
                assert!(data.chunks(8).all(|chunk| chunk == value.to_be_bytes()), "{name}: a torn block");
                assert!((least[index]..=most[index]).contains(&value), "{name}: {value} of {least:?}..={most:?}");
            }
        }
        stop.store(true, order);
    });
}

/// Blocks of 4 KiB that a context says are dirty.
fn dirty(client: &mut Client) -> BTreeSet<u64> {
    let mut blocks = BTreeSet::new();
    let mut at = 0;
    while at < SIZE as u64 {
        let [(_, extents)] = &client.status(0, at, (SIZE as u64 - at) as u32)[..] else { panic!("one context") };
        for (length, status) in extents {
            if status & 1 != 0 {
                blocks.extend(at / 4096..(at + length).div_ceil(4096));
            }
            at += length;
        }
    }
    blocks
}

#[test]
fn what_changed_between_any_two_snapshots_is_told_exactly() {
    let server = VolumeServer::start(SIZE, true);
    let mut volume = Client::open(&server.socket, "vol");
    let mut random = fastrand::Rng::with_seed(0x0ca1_2012);
    let names = ["s0", "s1", "s2", "s3", "s4", "s5"];
    // What was written between each snapshot and the next.
    let mut written: Vec<BTreeSet<u64>> = Vec::new();
    for name in names {
        server.order(Order::Snapshot(name)).expect("taken");
        let blocks: BTreeSet<u64> = (0..random.usize(0..60)).map(|_| random.u64(0..257)).collect();
        for block in &blocks {
            // The last block is one sector long.
            let length = if *block == 256 { 512 } else { 4096 };
            assert_eq!(volume.write(0, block * 4096, &vec![random.u8(..); length]), 0);
        }
        written.push(blocks);
    }
    for (newer, name) in names.iter().enumerate() {
        let export = format!("vol@{name}");
        let mut lister = Client::negotiate(&server.socket);
        lister.agree(STRUCTURED_REPLY);
        let contexts = lister.contexts(LIST_META_CONTEXT, &export, &[]).expect("listed");
        assert_eq!(contexts.len(), 1 + 2 * newer, "only what is older");
        for older in 0..newer {
            let expected: BTreeSet<u64> = written[older..newer].iter().flatten().copied().collect();
            for context in
                [format!("qemu:dirty-bitmap:since-{}", names[older]), format!("cairn:changed:{}..{name}", names[older])]
            {
                let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, &export, &[&context]);
                assert_eq!(dirty(&mut client), expected, "{context} of {export}");
            }
        }
    }
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol", &["base:allocation"]);
    assert!(dirty(&mut client).is_empty(), "everything is in use");
    let one = ["qemu:dirty-bitmap:since-s0"];
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@s5", &one);
    let extents = &client.status(REQ_ONE, 0, SIZE as u32)[0].1;
    assert_eq!(extents.len(), 1);
}

#[test]
fn an_older_snapshot_stays_for_the_client_that_asked_about_it() {
    let server = VolumeServer::start(SIZE, true);
    for name in ["one", "two"] {
        server.order(Order::Snapshot(name)).expect("taken");
        assert_eq!(Client::open(&server.socket, "vol").write(0, 0, &[1; 4096]), 0);
    }
    server.order(Order::Snapshot("three")).expect("taken");
    let contexts = ["qemu:dirty-bitmap:since-one"];
    let mut asked = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@three", &contexts);
    let mut late = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@three", &["cairn:changed:two..three"]);
    assert_eq!(dirty(&mut asked), [0].into());
    assert_eq!(server.order(Order::Delete("one")).expect_err("a client compares with it").kind(), ErrorKind::Busy);
    server.order(Order::Delete("two")).expect("nobody asked about it yet");
    let (errno, message, _) = late.ask(BLOCK_STATUS, 0, 0, 4096, &[])[0].error();
    assert!(errno == 5 && message.contains("deleted"), "{errno} {message}");
    // A snapshot that takes the name is another one.
    server.order(Order::Snapshot("two")).expect("taken");
    assert_eq!(late.ask(BLOCK_STATUS, 0, 0, 4096, &[])[0].error().0, 5);
    assert_eq!(dirty(&mut asked), [0].into());
    drop(asked);
    wait_until("the session ends", || server.sessions.count("vol@three") == 1);
    wait_until("it can be deleted", || server.order(Order::Delete("one")).is_ok());
}

#[test]
fn what_changed_since_a_bookmark_is_told_and_the_bookmark_is_no_export() {
    let server = VolumeServer::start(SIZE, true);
    let mut volume = Client::open(&server.socket, "vol");
    let write = |volume: &mut Client, block: u64| assert_eq!(volume.write(0, block * 4096, &[7; 4096]), 0);
    server.order(Order::Snapshot("one")).expect("taken");
    write(&mut volume, 3);
    server.order(Order::Snapshot("two")).expect("taken");
    write(&mut volume, 5);
    server.order(Order::Bookmark("one")).expect("made");
    server.order(Order::Bookmark("two")).expect("made");
    write(&mut volume, 9);
    write(&mut volume, 5);
    server.order(Order::Snapshot("three")).expect("taken");
    write(&mut volume, 11);
    for (context, expected) in [
        ("qemu:dirty-bitmap:since-one", BTreeSet::from([3, 5, 9])),
        ("cairn:changed:two..three", BTreeSet::from([5, 9])),
    ] {
        let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@three", &[context]);
        assert_eq!(dirty(&mut client), expected, "{context}");
    }
    assert_eq!(opened(&server, "vol@one"), None, "a bookmark is never read");
    assert!(opened(&server, "vol@three").is_some());
}

#[test]
fn what_was_discarded_is_a_hole_of_every_snapshot_until_it_is_written_again() {
    let server = VolumeServer::start(SIZE, true);
    let mut volume = Client::open(&server.socket, "vol");
    assert_eq!(volume.write(0, 0, &vec![0xaa; SIZE - 512]), 0);
    assert_eq!(volume.call(TRIM, 0, 64 * 4096, 64 * 4096, &[]), 0);
    server.order(Order::Snapshot("one")).expect("taken");
    assert_eq!(volume.write(0, 80 * 4096, &[0xbb; 4096]), 0);
    // The older snapshot needs it, so it stays where it is; the younger one does not have it all the same.
    assert_eq!(volume.call(TRIM, 0, 5 * 4096, 4096, &[]), 0);
    server.order(Order::Snapshot("two")).expect("taken");
    let allocation = |export: &str| {
        let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, export, &["base:allocation"]);
        client.status(0, 0, SIZE as u32).remove(0).1
    };
    let block = 4096;
    let rest = SIZE as u64 - 128 * block;
    assert_eq!(allocation("vol@one"), [(64 * block, 0), (64 * block, 3), (rest, 0)]);
    assert_eq!(
        allocation("vol@two"),
        [(5 * block, 0), (block, 3), (58 * block, 0), (16 * block, 3), (block, 0), (47 * block, 3), (rest, 0)]
    );
    assert_eq!(
        allocation("vol"),
        [(5 * block, 0), (block, 1), (58 * block, 0), (16 * block, 1), (block, 0), (47 * block, 1), (rest, 0)]
    );
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@two", &["qemu:dirty-bitmap:since-one"]);
    assert_eq!(dirty(&mut client), [5, 80].into(), "written, and not in use any more");
    let got = client.pieces(0, 0, SIZE as u32);
    assert_eq!(got.holes, [(64 * block, 16 << 12), (81 * block, 47 << 12)]);
    let mut simple = Client::open(&server.socket, "vol@two");
    let read = simple.read(0, SIZE as u32).expect("reads");
    assert!(read[5 << 12..6 << 12].iter().all(|byte| *byte == 0), "a hole reads as zeroes over every style");
    let mut older = Client::open(&server.socket, "vol@one");
    assert_eq!(older.read(5 << 12, 4096).expect("reads"), vec![0xaa; 4096]);
    assert!(read[64 << 12..80 << 12].iter().all(|byte| *byte == 0) && read[80 << 12] == 0xbb);
}
