//! The stream as docs/DELTA.md defines it, made a second time in [`common::raw`], is the stream that is written; and
//! what a later version may add is passed over.

mod common;

use cairn_delta::{ErrorKind, ExtentKind, Fingerprint, WriterOptions};
use common::raw::{field, header_fields, Raw, CRITICAL, NOT_IN_USE, ZERO};
use common::{header, read, written, Piece};

fn pieces() -> Vec<Piece> {
    vec![
        Piece::data(4096, vec![5; 8192]),
        Piece::range(5 * 4096, 3 * 4096, ExtentKind::Zero),
        Piece::range(60 * 4096, 4 * 4096, ExtentKind::NotInUse),
    ]
}

fn frames(raw: Raw) -> Raw {
    raw.data(4096, &[5; 8192]).range(ZERO, 5 * 4096, 3 * 4096).range(NOT_IN_USE, 60 * 4096, 4 * 4096)
}

#[test]
fn a_stream_is_written_as_it_is_documented() {
    let header = header("L", "M", 64 * 4096, 64 * 4096);
    let stream = written(&header, &pieces(), WriterOptions::default(), None);
    assert_eq!(frames(Raw::usual()).end(), stream);
    let fingerprint = Fingerprint::of_block(3, b"content");
    let with_fingerprint = written(&header, &pieces(), WriterOptions::default(), Some(fingerprint));
    assert_eq!(frames(Raw::usual()).end_with(&field(0x8002, &fingerprint.to_bytes())), with_fingerprint);
}

#[test]
fn unknown_records_and_fields_are_passed_over_unless_they_are_critical() {
    let long = vec![9; 100_000];
    let raw = Raw::usual().unknown(0, b"from a later version").unknown(0, b"").unknown(0, &long);
    let stream = frames(raw).unknown(0, b"and behind").end_with(&field(77, b"a later field"));
    assert_eq!(read(&stream).expect("what is not critical is passed over"), pieces());

    let mut fields = header_fields("L", "M", 64 * 4096, 64 * 4096);
    fields.push(field(78, b"a later field"));
    assert_eq!(read(&frames(Raw::new(&fields.concat())).end()).expect("passed over"), pieces());

    let error = read(&frames(Raw::usual().unknown(CRITICAL, b"must be understood")).end()).expect_err("critical");
    assert!(matches!(error.kind(), ErrorKind::UnknownRecord { kind: 77 }), "{error}");
    let error = read(&Raw::usual().end_with(&field(0x8000 | 77, b""))).expect_err("critical");
    assert!(matches!(error.kind(), ErrorKind::UnknownField { number: 77 }), "{error}");
    *fields.last_mut().expect("a field") = field(0x8000 | 78, b"");
    let error = read(&Raw::new(&fields.concat()).end()).expect_err("critical");
    assert!(matches!(error.kind(), ErrorKind::UnknownField { number: 78 }), "{error}");
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let mut stream = frames(Raw::usual()).end();
    stream[8] = 2;
    let error = read(&stream).expect_err("newer");
    assert!(matches!(error.kind(), ErrorKind::Version { found: 2 }), "{error}");
    assert!(error.to_string().contains("version 2") && error.to_string().contains("update"), "{error}");
}
