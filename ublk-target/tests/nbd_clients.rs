//! Many clients, rude clients, and the stop: what one client does never harms another, or the server.

mod common;

use cairn_target::nbd::CONNECTIONS_MAX;
use common::client::*;
use common::memory::Image;
use common::Server;
use std::io::Read;
use std::net::Shutdown;
use std::time::{Duration, Instant};

const SIZE: usize = 1 << 20;

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_flush_covers_what_completed_over_every_connection() {
    let mut image = Image::new(SIZE);
    image.yields = 3;
    let server = Server::start_with(image);
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let server = &server;
            scope.spawn(move || {
                let mut writer = Client::open(&server.socket, "vol");
                let mut flusher = Client::open(&server.socket, "vol");
                for round in 0..200usize {
                    let offset = (thread * 32 + round % 32) * 4096;
                    let value = (round % 255 + 1) as u8;
                    assert_eq!(writer.write(0, offset as u64, &[value; 4096]), 0);
                    assert_eq!(flusher.flush(), 0);
                    let durable = server.image.lock().expect("not poisoned").durable[offset];
                    assert_eq!(durable, value, "thread {thread}, round {round}");
                }
            });
        }
    });
}

#[test]
fn requests_of_one_connection_overlap_and_each_is_answered_once() {
    let mut image = Image::new(SIZE);
    image.yields = 10;
    let server = Server::start_with(image);
    let mut client = Client::open(&server.socket, "vol");
    let mut waiting = std::collections::BTreeSet::new();
    for index in 0..200u64 {
        let cookie = client.request(WRITE, 0, index * 512, 512, &[index as u8; 512]).expect("sent");
        waiting.insert(cookie);
    }
    while !waiting.is_empty() {
        let (errno, cookie) = client.reply().expect("a reply");
        assert_eq!(errno, 0);
        assert!(waiting.remove(&cookie), "{cookie} was answered twice or never asked");
    }
    for index in 0..200u64 {
        assert_eq!(client.read(index * 512, 512).expect("reads"), [index as u8; 512]);
    }
}

#[test]
fn a_client_too_many_is_turned_away_and_a_place_becomes_free_again() {
    let server = Server::start(SIZE);
    let mut clients: Vec<_> = (0..CONNECTIONS_MAX).map(|_| Client::open(&server.socket, "vol")).collect();
    assert_eq!(server.sessions.count("vol"), CONNECTIONS_MAX);
    let mut stream = std::os::unix::net::UnixStream::connect(&server.socket).expect("connects");
    assert_eq!(std::io::Read::read(&mut stream, &mut [0; 18]).expect("ends"), 0, "closed without a greeting");
    clients.pop().expect("one").request(DISC, 0, 0, 0, &[]).expect("sent");
    wait_until("a free place", || server.sessions.count("vol") < CONNECTIONS_MAX);
    // The place itself becomes free just after the session is not counted any more.
    std::thread::sleep(Duration::from_millis(50));
    let mut late = Client::open(&server.socket, "vol@snap");
    assert_eq!(late.read(0, 512).expect("reads"), vec![0; 512]);
    assert_eq!(server.sessions.count("vol@snap"), 1);
}

#[test]
fn clients_that_crowd_the_tcp_port_leave_the_unix_socket_alone() {
    let server = Server::start(SIZE);
    let crowd: Vec<_> =
        (0..2 * CONNECTIONS_MAX).map(|_| std::net::TcpStream::connect(server.tcp_address).expect("connects")).collect();
    let turned_away = |stream: &std::net::TcpStream| matches!((&*stream).read(&mut [0; 64]), Ok(0) | Err(_));
    assert_eq!(crowd.iter().filter(|stream| turned_away(stream)).count(), CONNECTIONS_MAX as usize);
    let mut client = Client::open(&server.socket, "vol");
    assert_eq!(client.read(0, 512).expect("reads"), vec![0; 512]);
}

#[test]
fn a_client_that_stalls_in_its_handshake_is_turned_away() {
    let server = Server::start(SIZE);
    let started = Instant::now();
    let mut silent = Client::connect(&server.socket);
    let mut halfway = Client::connect(&server.socket);
    halfway.send(&3u32.to_be_bytes()).expect("sent");
    halfway.send(b"IHAVE").expect("sent");
    assert!(silent.is_closed());
    assert!(halfway.is_closed());
    assert!(started.elapsed() >= cairn_target::nbd::HANDSHAKE_TIMEOUT - Duration::from_millis(100));
}

#[test]
fn a_stop_answers_what_was_started_and_then_closes() {
    let mut image = Image::new(SIZE);
    image.yields = 2000;
    let server = Server::start_with(image);
    let mut client = Client::open(&server.socket, "vol");
    let idle = Client::open(&server.socket, "vol");
    // The flush behind it takes as long again, so the write is surely in flight when its turn to stop comes.
    client.request(WRITE, 0, 0, 512, &[9; 512]).expect("sent");
    client.request(FLUSH, 0, 0, 0, &[]).expect("sent");
    std::thread::sleep(Duration::from_millis(1));
    server.raise_stop();
    let mut answered = 0;
    while client.reply().is_ok_and(|(errno, _)| errno == 0) {
        answered += 1;
    }
    let written = server.image.lock().expect("not poisoned").content[0];
    assert_eq!(written == 9, answered >= 1, "what was done was answered, what was answered was done");
    drop(idle);
    server.stop();
}

#[test]
fn a_client_that_takes_no_replies_holds_up_neither_others_nor_the_stop() {
    let server = Server::start(SIZE);
    let mut greedy = Client::open(&server.socket, "vol");
    for _ in 0..60 {
        greedy.request(READ, 0, 0, SIZE as u32, &[]).expect("sent");
    }
    let mut other = Client::open(&server.socket, "vol");
    assert_eq!(other.read(0, 4096).expect("reads"), vec![0; 4096]);
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < Duration::from_secs(15), "the stop gives up on such a client");
}

/// Sends `bytes`, ends the sending side, and waits until the server has closed its own.
fn rude(mut client: Client, bytes: &[u8]) {
    // The server may have closed already; that is one of the right answers.
    let _ = client.send(bytes);
    let _ = client.stream.shutdown(Shutdown::Write);
    assert!(client.is_closed(), "the server must close after {bytes:02x?}");
}

#[test]
fn garbage_in_any_phase_closes_the_connection_and_nothing_else() {
    let server = Server::start(SIZE);
    let seed = 0x0ca1_2001;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut steady = Client::open(&server.socket, "vol@snap");
    for round in 0..400 {
        let length = random.usize(0..200);
        let noise: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        let mut client = Client::connect(&server.socket);
        match round % 6 {
            0 => rude(client, &noise),
            1 => {
                client.send(&3u32.to_be_bytes()).expect("sent");
                rude(client, &noise);
            }
            2 => {
                client.send(&3u32.to_be_bytes()).expect("sent");
                client.option(random.u32(0..12), &noise).expect("sent");
                rude(client, &noise);
            }
            phase => {
                client.send(&3u32.to_be_bytes()).expect("sent");
                client.go(if phase == 5 { "vol" } else { "vol@snap" });
                let header = request_header(
                    random.u16(0..8),
                    random.u16(0..4),
                    random.u64(..),
                    random.u64(0..2 * SIZE as u64) & !511,
                    random.u32(0..4096) & !511,
                );
                let header = if phase == 3 { Vec::new() } else { header };
                rude(client, &[header, noise].concat());
            }
        }
        assert_eq!(steady.read(4096, 512).map(|data| data.len()), Ok(512), "seed {seed:#x}, round {round}");
    }
    wait_until("only the steady client is left", || server.sessions.total() == 1);
    server.stop();
}

#[test]
fn a_client_that_vanishes_amid_its_requests_leaves_them_done() {
    let mut image = Image::new(SIZE);
    image.yields = 20;
    let server = Server::start_with(image);
    for round in 1..=50u8 {
        // A client that is gone has its place until its requests are done.
        wait_until("there is room", || server.sessions.total() < CONNECTIONS_MAX / 2);
        let mut client = Client::open(&server.socket, "vol");
        for index in 0..32u64 {
            client.request(WRITE, 0, index * 512, 512, &[round; 512]).expect("sent");
        }
        drop(client);
    }
    wait_until("all sessions end", || server.sessions.total() == 0);
    let image = server.image.lock().expect("not poisoned");
    assert!(image.writes_begun > 0);
    assert_eq!(image.writes_done, image.writes_begun, "a request that was started was dropped");
}
