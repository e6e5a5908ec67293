//! Contexts and block status against a plain client: names, wildcards, extents, and every way to ask wrongly.

#![allow(clippy::single_range_in_vec_init)] // One range is what is meant.

mod common;

use common::chunks::*;
use common::client::*;
use common::memory::Image;
use common::Server;

const SIZE: usize = 4 << 20;
const KIB: u64 = 1024;
const EINVAL: u32 = 22;
const ERR_INVALID: u32 = (1 << 31) | 3;
const ERR_UNKNOWN: u32 = (1 << 31) | 6;
const ERR_TOO_BIG: u32 = (1 << 31) | 9;

fn server() -> Server {
    let mut image = Image::new(SIZE);
    image.holes = vec![64 * KIB..192 * KIB];
    image.changed = vec![
        ("monday".to_owned(), vec![0..8 * KIB, 128 * KIB..136 * KIB]),
        ("tuesday".to_owned(), vec![128 * KIB..132 * KIB]),
    ];
    Server::start_with(image)
}

fn negotiating(server: &Server) -> Client {
    let mut client = Client::negotiate(&server.socket);
    client.agree(STRUCTURED_REPLY);
    client
}

fn listed(client: &mut Client, export: &str, queries: &[&str]) -> Vec<String> {
    let contexts = client.contexts(LIST_META_CONTEXT, export, queries).expect("listed");
    contexts.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn contexts_are_listed_by_name_by_namespace_and_all() {
    let server = server();
    let mut client = negotiating(&server);
    let bitmaps = ["qemu:dirty-bitmap:since-monday", "qemu:dirty-bitmap:since-tuesday"];
    let changes = ["cairn:changed:monday..snap", "cairn:changed:tuesday..snap"];
    assert_eq!(listed(&mut client, "vol", &[]), ["base:allocation"]);
    assert_eq!(
        listed(&mut client, "vol@snap", &[]),
        ["base:allocation", bitmaps[0], changes[0], bitmaps[1], changes[1]]
    );
    assert_eq!(listed(&mut client, "vol@snap", &["base:"]), ["base:allocation"]);
    assert_eq!(listed(&mut client, "vol@snap", &["qemu:"]), bitmaps);
    assert_eq!(listed(&mut client, "vol@snap", &["qemu:dirty-bitmap:"]), bitmaps);
    assert_eq!(listed(&mut client, "vol@snap", &["cairn:"]), changes);
    assert_eq!(listed(&mut client, "vol@snap", &[bitmaps[1], "x-unknown:", "no colon", "base:"]).len(), 2);
    assert!(listed(&mut client, "vol@snap", &["qemu:dirty-bitmap:since-sunday", "base:alloc"]).is_empty());
    assert_eq!(client.contexts(LIST_META_CONTEXT, "vol@gone", &[]), Err(ERR_UNKNOWN));
    // The empty name is the default export.
    assert_eq!(listed(&mut client, "", &[]), ["base:allocation"]);
}

#[test]
fn contexts_need_chunks_and_well_formed_queries() {
    let server = server();
    let mut simple = Client::negotiate(&server.socket);
    assert_eq!(simple.contexts(LIST_META_CONTEXT, "vol", &[]), Err(ERR_INVALID));
    assert_eq!(simple.contexts(SET_META_CONTEXT, "vol", &["base:allocation"]), Err(ERR_INVALID));
    let mut client = negotiating(&server);
    for data in [&b""[..], &[0, 0, 0, 9], &[0, 0, 0, 0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(client.refusal(SET_META_CONTEXT, data), Some(ERR_INVALID), "{data:?}");
        assert_eq!(client.refusal(LIST_META_CONTEXT, data), Some(ERR_INVALID), "{data:?}");
    }
    assert_eq!(client.contexts(SET_META_CONTEXT, "vol@gone", &["base:allocation"]), Err(ERR_UNKNOWN));
}

#[test]
fn what_does_not_exist_is_not_set_and_wildcards_set_nothing() {
    let server = server();
    let mut client = negotiating(&server);
    for queries in [&["base:", "qemu:", "qemu:dirty-bitmap:", "cairn:", "base:none", "x:y", ""][..], &[]] {
        assert_eq!(client.contexts(SET_META_CONTEXT, "vol@snap", queries), Ok(vec![]), "{queries:?}");
    }
    client.go("vol@snap");
    assert_eq!(client.ask(BLOCK_STATUS, 0, 0, 4096, &[])[0].error().0, EINVAL);
    assert_eq!(client.pieces(0, 0, 4096).data.len(), 1, "the connection goes on");
}

#[test]
fn every_context_that_was_set_is_told_with_its_own_number() {
    let server = server();
    for option in [STRUCTURED_REPLY, EXTENDED_HEADERS] {
        let mut client = Client::negotiate(&server.socket);
        client.agree(option);
        let queries = ["cairn:changed:tuesday..snap", "base:allocation", "qemu:dirty-bitmap:since-monday", "x:y"];
        let set = client.contexts(SET_META_CONTEXT, "vol@snap", &queries).expect("set");
        let number = |name: &str| set.iter().find(|(_, set)| set == name).expect("it was set").0;
        assert_eq!(set.len(), 3);
        client.go("vol@snap");
        let chunks = match option {
            STRUCTURED_REPLY => client.ask(BLOCK_STATUS, 0, 0, SIZE as u32, &[]),
            _ => client.ask_extended(BLOCK_STATUS, 0, 0, SIZE as u64, &[]),
        };
        let told: std::collections::BTreeMap<_, _> = chunks.iter().map(Chunk::extents).collect();
        assert_eq!((chunks.len(), told.len()), (3, 3));
        let rest = SIZE as u64;
        assert_eq!(told[&number(queries[1])], [(64 * KIB, 0), (128 * KIB, 3), (rest - 192 * KIB, 0)]);
        assert_eq!(told[&number(queries[2])], [(8 * KIB, 1), (120 * KIB, 0), (8 * KIB, 1), (rest - 136 * KIB, 0)]);
        assert_eq!(told[&number(queries[0])], [(128 * KIB, 0), (4 * KIB, 1), (rest - 132 * KIB, 0)]);
    }
}

#[test]
fn a_question_may_begin_anywhere_and_ask_for_one_extent() {
    let server = server();
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@snap", &["base:allocation"]);
    assert_eq!(client.status(0, 65 * KIB, 4096), [(1, vec![(4096, 3)])]);
    assert_eq!(client.status(REQ_ONE, 0, SIZE as u32), [(1, vec![(64 * KIB, 0)])]);
    assert_eq!(client.status(REQ_ONE | FUA, 64 * KIB, 512), [(1, vec![(512, 3)])]);
    assert_eq!(client.status(0, 191 * KIB + 512, 1024), [(1, vec![(512, 3), (512, 0)])]);
    for (flags, offset, length) in
        [(0, 0, 0), (0, 100, 512), (0, 0, 100), (0, SIZE as u64, 512), (0, SIZE as u64 - 512, 1024), (DF, 0, 512)]
    {
        assert_eq!(client.ask(BLOCK_STATUS, flags, offset, length, &[])[0].error().0, EINVAL, "{flags} {offset}");
    }
    // The volume's holes may hold anything.
    let mut volume = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol", &["base:allocation"]);
    assert_eq!(volume.status(0, 64 * KIB, 4096), [(1, vec![(4096, 1)])]);
}

#[test]
fn contexts_are_of_the_export_they_were_set_for_and_of_the_last_attempt() {
    let server = server();
    let refuses = |mut client: Client, export: &str| {
        client.go(export);
        let errno = client.ask(BLOCK_STATUS, 0, 0, 4096, &[])[0].error().0;
        assert_eq!(errno, EINVAL);
    };
    let mut client = negotiating(&server);
    client.contexts(SET_META_CONTEXT, "vol@snap", &["base:allocation"]).expect("set");
    refuses(client, "vol");
    let mut client = negotiating(&server);
    client.contexts(SET_META_CONTEXT, "vol", &["base:allocation"]).expect("set");
    client.contexts(SET_META_CONTEXT, "vol", &["base:none"]).expect("nothing is set");
    refuses(client, "vol");
    let mut client = negotiating(&server);
    client.contexts(SET_META_CONTEXT, "vol", &["base:allocation"]).expect("set");
    client.contexts(SET_META_CONTEXT, "vol@gone", &["base:allocation"]).expect_err("there is no such export");
    refuses(client, "vol");
    let mut client = negotiating(&server);
    client.contexts(SET_META_CONTEXT, "", &["base:allocation"]).expect("set");
    client.go("vol");
    assert_eq!(client.status(0, 0, 4096).len(), 1, "the empty name means the same export");
}

#[test]
fn an_answer_is_bounded_and_the_client_gets_on() {
    let mut image = Image::new(64 << 20);
    image.holes = (0..(64 << 20) / (8 * KIB)).map(|index| index * 8 * KIB..index * 8 * KIB + 4 * KIB).collect();
    let server = Server::start_with(image);
    let mut client = Client::open_with(&server.socket, STRUCTURED_REPLY, "vol@snap", &["base:allocation"]);
    let (mut at, mut answers) = (0, 0);
    while at < 64 << 20 {
        let [(_, extents)] = &client.status(0, at, (64 << 20) - at as u32)[..] else { panic!("one context") };
        assert!(extents.len() <= 4096);
        for (length, status) in extents {
            assert_eq!((*length, *status), (4 * KIB, if at % (8 * KIB) == 0 { 3 } else { 0 }));
            at += length;
        }
        answers += 1;
    }
    assert_eq!(answers, 4);
    // A read over as many holes is one of data: none of them is worth a chunk.
    assert_eq!(client.pieces(0, 0, 1 << 20).data.len(), 1);
}

#[test]
fn one_client_has_a_bounded_number_of_contexts() {
    let mut image = Image::new(SIZE);
    image.changed = (0..1000).map(|index| (format!("s{index}"), vec![0..4096])).collect();
    let server = Server::start_with(image);
    let mut client = negotiating(&server);
    let all = listed(&mut client, "vol@snap", &[]);
    assert_eq!(all.len(), 2001);
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(client.contexts(SET_META_CONTEXT, "vol@snap", &names[..65]), Err(ERR_TOO_BIG));
    assert_eq!(client.contexts(SET_META_CONTEXT, "vol@snap", &names[..64]).expect("set").len(), 64);
    client.go("vol@snap");
    for _ in 0..20 {
        assert_eq!(client.status(0, 0, SIZE as u32).len(), 64);
    }
}
