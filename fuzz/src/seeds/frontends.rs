//! Seeds for the two servers.

use super::Seeds;
use crate::bytes::Script;
use crate::nbd::{flag, handshake, option, request};

const ORDERLY: u8 = flag::HANDSHAKE | flag::REQUESTS;

/// A request as [`crate::nbd`] reads it.
fn fields(command: u8, flags: u8, offset: u32, length: u32) -> Script {
    Script::default().u8(command).u8(flags).u32(offset).u32(length).u8(0)
}

fn orderly(flags: u8, requests: &[Script]) -> Vec<u8> {
    let script = Script::default().u8(ORDERLY | flags);
    requests.iter().fold(script, |script, one| script.raw(&one.clone().finish())).finish()
}

/// Handshakes, options, requests of every kind, and what breaks off.
pub fn nbd() -> Seeds {
    let raw = |parts: &[&[u8]]| [&[0][..], &3u32.to_be_bytes(), &parts.concat()].concat();
    let read = request(0x2560_9513, 0, 0, 7, 0, 4096);
    let mut seeds = vec![
        ("handshake".to_owned(), [&[0][..], &handshake(0), &read].concat()),
        ("list".to_owned(), raw(&[&option(3, b""), &option(2, b"")])),
        ("export-name".to_owned(), raw(&[&option(1, b"vol"), &read])),
        ("info".to_owned(), raw(&[&option(6, b"\0\0\0\x03vol\0\x02\0\0\0\x03"), &option(2, b"")])),
        ("unknown-export".to_owned(), raw(&[&option(7, b"\0\0\0\x04none\0\0")])),
        ("unknown-option".to_owned(), raw(&[&option(99, b"data"), &option(5, b""), &option(8, b"")])),
        ("option-too-long".to_owned(), raw(&[b"IHAVEOPT\0\0\0\x03\x7f\xff\xff\xff"])),
        ("name-too-long".to_owned(), raw(&[&option(7, b"\xff\xff\xff\xffx\0\0")])),
        ("flags-unknown".to_owned(), vec![0, 0xff, 0xff, 0xff, 0xff]),
        ("write-too-long".to_owned(), [&[1][..], &request(0x2560_9513, 0, 1, 1, 0, 33 << 20)].concat()),
        ("write-cut-short".to_owned(), [&[1][..], &request(0x2560_9513, 0, 1, 1, 0, 32 << 20), &[1; 30]].concat()),
    ];
    let all = [fields(1, 1, 0, 4096), fields(0, 0, 0, 65536), fields(6, 3, 4096, 8192), fields(4, 1, 0, 4096)];
    let rest = [fields(3, 0, 0, 0), fields(0, 0, 61440, 8192), fields(9, 0, 0, 0), fields(1, 0, 65536, 512)];
    let more = [fields(0, 0, 1, 512), fields(0, 0, 0, 0), fields(0, 0, u32::MAX, u32::MAX), fields(2, 0, 0, 0)];
    for (name, requests) in [("all", &all), ("rest", &rest), ("more", &more)] {
        seeds.push((format!("requests-{name}"), orderly(0, requests)));
        seeds.push((format!("requests-{name}-snapshot"), orderly(flag::SNAPSHOT | flag::PIECES, requests)));
        seeds.push((format!("requests-{name}-sectors"), orderly(flag::SECTORS, requests)));
        seeds.push((format!("requests-{name}-structured"), orderly(flag::STRUCTURED, requests)));
        seeds.push((format!("requests-{name}-extended"), orderly(flag::EXTENDED | flag::PIECES, requests)));
    }
    let holes = [fields(0, 0, 0, 65536), fields(0, 4, 4096, 16384), fields(0, 0, 8192, 8192), fields(0, 1, 512, 512)];
    let status = [fields(7, 0, 0, 65536), fields(7, 8, 8192, 4096), fields(7, 0, 512, 512), fields(7, 0, 0, 1 << 31)];
    let payloads = [fields(1, 32, 0, 4096), fields(7, 32, 0, 24), fields(6, 0, 0, 1 << 31), fields(0, 32, 0, 512)];
    for (name, requests) in [("holes", &holes), ("status", &status), ("payloads", &payloads)] {
        for (style, flags) in [("structured", flag::STRUCTURED), ("extended", flag::EXTENDED)] {
            let flags = flags | flag::CONTEXTS;
            seeds.push((format!("{name}-{style}"), orderly(flags, requests)));
            seeds.push((format!("{name}-{style}-snapshot"), orderly(flags | flag::SNAPSHOT, requests)));
        }
    }
    let queries = |export: &[u8], queries: &[&[u8]]| {
        let string = |text: &[u8]| [&(text.len() as u32).to_be_bytes()[..], text].concat();
        let strings: Vec<_> = queries.iter().map(|query| string(query)).collect();
        [&string(export)[..], &(queries.len() as u32).to_be_bytes(), &strings.concat()].concat()
    };
    let list = |data: &[u8]| option(9, data);
    let contexts: [(&str, Vec<u8>); 5] = [
        ("contexts-all", list(&queries(b"vol@snap", &[]))),
        ("contexts-wild", list(&queries(b"vol@snap", &[b"qemu:", b"base:", b"cairn:changed:", b"x:", b""]))),
        ("contexts-gone", option(10, &queries(b"none", &[b"base:allocation"]))),
        ("contexts-many", list(&[&queries(b"vol", &[])[..7], &[0xff; 4]].concat())),
        ("contexts-cut", option(10, b"\0\0\0\x03vol\0\0\0\x01\xff\xff\xff\xff")),
    ];
    for (name, sent) in contexts {
        seeds.push((name.to_owned(), raw(&[&sent, &option(8, b""), &sent, &option(11, b""), &sent, &option(2, b"")])));
    }
    seeds
}

/// Every endpoint with the body it takes, and what is none.
pub fn control() -> Seeds {
    let ask = |method: u8, endpoint: u8, name: &[u8], body: &[u8]| {
        Script::default().u8(method).u8(endpoint).piece(name).piece(body).finish()
    };
    let asks = [
        ("version", ask(0, 0, b"", b"")),
        ("volume", ask(0, 1, b"", b"")),
        ("snapshots", ask(0, 2, b"", b"")),
        ("snapshot", ask(1, 2, b"", br#"{"name":"a","consistency":"crash","freeze_timeout_ms":1000}"#)),
        ("delete", ask(2, 3, b"monday", b"")),
        ("expose", ask(1, 4, b"monday", br#"{"scratch":true}"#)),
        ("unexpose", ask(2, 4, b"monday", b"")),
        ("restore", ask(1, 5, b"", br#"{"snapshot":"monday","before":"b"}"#)),
        ("grow", ask(1, 6, b"", br#"{"volume":true,"store_bytes":268435456}"#)),
        ("stats", ask(0, 7, b"", b"")),
        ("check", ask(1, 8, b"", br#"{"data":true}"#)),
        ("detach", ask(1, 9, b"", b"")),
        ("nowhere", ask(3, 10, b"\xff/..%", b"{}")),
        ("head", ask(4, 2, b"", b"")),
        ("deep", ask(1, 2, b"", &[b'['; 200])),
        ("number", ask(1, 6, b"", br#"{"volume":false,"store_bytes":-1e400}"#)),
        ("name", ask(2, 3, b"a b@\0", b"")),
    ];
    let mut seeds: Seeds = Vec::new();
    for (name, bytes) in asks {
        seeds.push((name.to_owned(), [&[1][..], &bytes].concat()));
    }
    let raw: [(&str, &[u8]); 5] = [
        ("raw-get", b"\0GET /v1/volume HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/stats HTTP/1.0\r\n\r\n"),
        ("raw-chunked", b"\0POST /v1/check HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        ("raw-length", b"\0POST /v1/grow HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{"),
        ("raw-upgrade", b"\0PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("raw-garbage", b"\0\x16\x03\x01\x02\0\x01\0\x01\xfc"),
    ];
    seeds.extend(raw.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())));
    seeds
}
