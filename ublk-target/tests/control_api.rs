//! The control API against good and bad input, and against what docs/CONTROL.md says of it.

mod common;

use cairn_target::control::{CONNECTIONS_MAX, REQUEST_TIMEOUT};
use common::control::Control;
use serde_json::{json, Value};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const DOCUMENT: &str = include_str!("../../docs/CONTROL.md");

/// Every endpoint, as the document titles it.
const ENDPOINTS: [&str; 14] = [
    "GET /v1/version",
    "GET /v1/volume",
    "GET /v1/snapshots",
    "GET /v1/changes?from=monday&to=tuesday&max=1",
    "POST /v1/snapshots",
    "DELETE /v1/snapshots/{name}",
    "POST /v1/snapshots/{name}/expose",
    "DELETE /v1/snapshots/{name}/expose",
    "POST /v1/restore",
    "POST /v1/grow",
    "GET /v1/stats",
    "POST /v1/check",
    "POST /v1/detach",
    "GET /v1/no-such-endpoint",
];

/// An error must be complete, and carry this word.
fn assert_error(answer: (u16, Value), status: u16, kind: &str) {
    let (found, body) = answer;
    assert_eq!((found, &body["error"]["kind"]), (status, &json!(kind)), "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    assert!(body["error"]["errno"].as_i64().is_some_and(|errno| errno > 0), "{body}");
    assert_eq!(body["error"].as_object().map(|error| error.len()), Some(3));
}

#[test]
fn the_document_shows_what_the_code_answers() {
    let control = Control::start();
    let mut shown = BTreeSet::new();
    let mut blocks = DOCUMENT.split("```http\n").skip(1).map(|rest| rest.split("```").next().expect("an end"));
    let examples: Vec<&str> = blocks.by_ref().collect();
    for example in &examples {
        let (request, answer) = example.split_once("\n\n").unwrap_or_else(|| panic!("no answer in:\n{example}"));
        let (line, body) = request.split_once('\n').unwrap_or((request, ""));
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let (status, expected) = answer.split_once('\n').expect("a status and a body");
        let expected: Value = serde_json::from_str(expected).unwrap_or_else(|error| panic!("{error} in:\n{answer}"));
        let mut found = control.ask(method, path, body);
        if path == "/v1/version" {
            found.1["version"] = expected["version"].clone();
        }
        assert_eq!(found, (status.parse().expect("a status"), expected), "{line}");
        shown.insert(line.replace("/monday", "/{name}").replace("/tuesday", "/{name}"));
    }
    assert_eq!(shown, ENDPOINTS.iter().map(|endpoint| endpoint.to_string()).collect::<BTreeSet<_>>());
    control.wait();
}

#[test]
fn requests_of_the_wrong_shape_are_refused_with_the_reason() {
    let control = Control::start();
    for (path, body) in [
        ("/v1/snapshots", ""),
        ("/v1/snapshots", "{"),
        ("/v1/snapshots", "[]"),
        ("/v1/snapshots", "null"),
        ("/v1/snapshots", "{}"),
        ("/v1/snapshots", r#"{"name": 7}"#),
        ("/v1/snapshots", r#"{"name": "a", "name": "b"}"#),
        ("/v1/snapshots", r#"{"name": "a"} x"#),
        ("/v1/snapshots", r#"{"name": "a", "novel": true}"#),
        ("/v1/snapshots", r#"{"name": "a", "consistency": "quantum"}"#),
        ("/v1/snapshots", r#"{"name": "a", "freeze_timeout_ms": "5"}"#),
        ("/v1/snapshots", r#"{"name": "a", "freeze_timeout_ms": -5}"#),
        ("/v1/snapshots", r#"{"name": "a", "freeze_timeout_ms": 0}"#),
        ("/v1/snapshots", r#"{"name": "a", "freeze_timeout_ms": 60001}"#),
        ("/v1/snapshots", r#"{"name": "a", "freeze_timeout_ms": 1.5}"#),
        ("/v1/snapshots/monday/expose", r#"{"scratch": "yes"}"#),
        ("/v1/snapshots/monday/expose", r#"{"scratch": true, "novel": 1}"#),
        ("/v1/restore", r#"{"before": "x"}"#),
        ("/v1/restore", r#"{"snapshot": ["monday"]}"#),
        ("/v1/grow", "{}"),
        ("/v1/grow", r#"{"store_bytes": 1e30}"#),
        ("/v1/grow", r#"{"volume": 1}"#),
        ("/v1/check", r#"{"data": null}"#),
        ("/v1/check", "true"),
    ] {
        assert_error(control.ask("POST", path, body), 400, "invalid");
    }
    let (_, answer) = control.ask("POST", "/v1/snapshots", r#"{"name": "a", "novel": true}"#);
    assert!(answer["error"]["message"].as_str().expect("text").contains("novel"), "the message names the key");
    assert_error(control.ask_bytes("POST", "/v1/snapshots", b"\xff\xfe\x00"), 400, "invalid");
    let nested = format!("{{\"name\": {}", "[".repeat(10_000));
    assert_error(control.ask("POST", "/v1/snapshots", &nested), 400, "invalid");
    assert_eq!(control.ask("GET", "/v1/volume", "").1["snapshots"], 1, "nothing was done");
}

#[test]
fn illegal_snapshot_names_are_refused_wherever_they_come() {
    let control = Control::start();
    for name in ["", ".", "..", "-a", "a b", "a/b", "a@b", "é", "a\u{0}", "a\nb", &"x".repeat(129)] {
        let in_body = json!({ "name": name }).to_string();
        assert_error(control.ask("POST", "/v1/snapshots", &in_body), 400, "invalid");
        let restore = json!({ "snapshot": name }).to_string();
        assert_error(control.ask("POST", "/v1/restore", &restore), 400, "invalid");
        let before = json!({ "snapshot": "monday", "before": name }).to_string();
        assert_error(control.ask("POST", "/v1/restore", &before), 400, "invalid");
    }
    for name in ["a%20b", "a%2Fb", "a%40b", "%2e%2e", "%ff", "%00", &"x".repeat(129)] {
        assert_error(control.ask("DELETE", &format!("/v1/snapshots/{name}"), ""), 400, "invalid");
        assert_error(control.ask("POST", &format!("/v1/snapshots/{name}/expose"), ""), 400, "invalid");
        assert_error(control.ask("DELETE", &format!("/v1/snapshots/{name}/expose"), ""), 400, "invalid");
    }
}

#[test]
fn errors_of_the_volume_arrive_with_their_word_and_status() {
    let control = Control::start();
    assert_error(control.ask("DELETE", "/v1/snapshots/none", ""), 404, "not-found");
    assert_error(control.ask("POST", "/v1/snapshots/none/expose", ""), 404, "not-found");
    assert_error(control.ask("POST", "/v1/restore", r#"{"snapshot": "none"}"#), 404, "not-found");
    assert_error(control.ask("POST", "/v1/snapshots", r#"{"name": "monday"}"#), 409, "exists");
    let hurried = r#"{"name": "a", "freeze_timeout_ms": 1}"#;
    assert_error(control.ask("POST", "/v1/snapshots", hurried), 504, "timed-out");
    assert_eq!(control.ask("POST", "/v1/snapshots/monday/expose", "").0, 200);
    assert_error(control.ask("DELETE", "/v1/snapshots/monday", ""), 409, "busy");
}

#[test]
fn unknown_paths_and_methods_are_refused_as_json() {
    let control = Control::start();
    for path in ["/", "/v1", "/v2/volume", "/v1/volume/", "/v1/snapshots/a/b/c", "/v1/../etc/passwd", "/v1/Volume"] {
        assert_error(control.ask("GET", path, ""), 404, "no-such-endpoint");
    }
    for (method, path) in [
        ("POST", "/v1/volume"),
        ("DELETE", "/v1/snapshots"),
        ("GET", "/v1/snapshots/monday"),
        ("PUT", "/v1/snapshots/monday"),
        ("GET", "/v1/restore"),
        ("GET", "/v1/detach"),
        ("BREW", "/v1/check"),
    ] {
        assert_error(control.ask(method, path, ""), 405, "method-not-allowed");
    }
}

#[test]
fn an_oversized_body_is_refused() {
    let control = Control::start();
    let name = "x".repeat(64 * 1024);
    let body = json!({ "name": name }).to_string();
    assert_error(control.ask("POST", "/v1/snapshots", &body), 413, "body-refused");
    assert_eq!(control.ask("GET", "/v1/version", "").0, 200, "the next request is served");
}

#[test]
fn a_slow_command_holds_up_no_other_and_ends_even_when_its_client_goes() {
    let control = Control::start();
    let body = r#"{"name": "slow"}"#;
    let head = format!("POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut impatient = UnixStream::connect(&control.socket).expect("connects");
    impatient.write_all(head.as_bytes()).expect("sent");
    std::thread::sleep(Duration::from_millis(50));
    drop(impatient);
    assert_eq!(control.ask("GET", "/v1/volume", "").0, 200);
    assert_eq!(control.finished.load(Ordering::SeqCst), 0, "the slow command is still running");
    let deadline = Instant::now() + Duration::from_secs(10);
    while control.finished.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "the command was given up with its client");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_detach_is_answered_though_a_client_stalls_and_running_commands_end() {
    let control = Control::start();
    let mut stalled = UnixStream::connect(&control.socket).expect("connects");
    stalled.write_all(b"POST /v1/snapshots HTTP/1.1\r\nContent-Le").expect("sent");
    let started = Instant::now();
    assert_eq!(control.ask("POST", "/v1/detach", ""), (200, json!({ "detached": "vol" })));
    control.wait();
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn garbage_on_the_socket_harms_nobody() {
    let control = Control::start();
    let mut random = fastrand::Rng::with_seed(0x0ca1_2002);
    for _ in 0..100 {
        let mut stream = UnixStream::connect(&control.socket).expect("connects");
        let noise: Vec<u8> = (0..random.usize(0..2000)).map(|_| random.u8(..)).collect();
        // The server may close at the first byte.
        let _ = stream.write_all(&noise);
    }
    assert_eq!(control.ask("GET", "/v1/version", "").0, 200);
}

#[test]
fn connections_are_bounded_and_those_that_say_nothing_keep_nobody_out_for_long() {
    let control = Control::start();
    let connect = || UnixStream::connect(&control.socket).expect("the kernel holds it until it is accepted");
    let mut stalled: Vec<_> = (0..CONNECTIONS_MAX).map(|_| connect()).collect();
    stalled[0].write_all(b"GET /v1/vol").expect("sent");
    stalled[1].write_all(b"POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{").expect("sent");
    std::thread::sleep(Duration::from_millis(200));
    let mut late = connect();
    late.write_all(b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    late.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let waits = std::io::Read::read(&mut late, &mut [0; 1]).expect_err("one too many waits");
    assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    late.set_read_timeout(Some(REQUEST_TIMEOUT + Duration::from_secs(5))).expect("a timeout");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut late, &mut answer).expect("answered once the silent ones were sent away");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut refused = String::new();
    let _ = std::io::Read::read_to_string(&mut stalled[1], &mut refused);
    assert!(refused.starts_with("HTTP/1.1 408") && refused.contains("body-refused"), "{refused}");
}

#[test]
fn data_of_a_snapshot_comes_in_ranges_and_in_no_other_way() {
    let control = Control::start();
    let data = "/v1/snapshots/monday/data";
    let (status, head, bytes) = control.get(data, "Range: bytes=4096-4105\r\n");
    assert_eq!((status, bytes), (206, (0..10).collect::<Vec<u8>>()));
    assert!(head.contains("content-range: bytes 4096-4105/1073741824"), "{head}");
    let (status, head, bytes) = control.get(data, "Range: bytes=1073741820-1073745000\r\n");
    assert_eq!((status, bytes.len()), (206, 4), "cut off at the end");
    assert!(head.contains("bytes 1073741820-1073741823/1073741824"), "{head}");
    for range in ["", "Range: bytes=0-1048576\r\n", "Range: bytes=5-4\r\n", "Range: bytes=-5\r\n", "Range: x\r\n"] {
        let (status, head, bytes) = control.get(data, range);
        assert_eq!(status, 416, "{range}: {head}");
        let body: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_error((status, body), 416, "range-refused");
    }
    for range in ["0-18446744073709551615", "18446744073709551615-18446744073709551615", "99999999999999999999-0"] {
        let (status, head, _) = control.get(data, &format!("Range: bytes={range}\r\n"));
        assert!([400, 416].contains(&status), "{range}: {head}");
    }
    assert_eq!(control.get("/v1/snapshots/none/data", "Range: bytes=0-1\r\n").0, 404);
}

#[test]
fn changes_come_in_pages_and_nonsense_is_refused() {
    let control = Control::start();
    let (_, first) = control.ask("GET", "/v1/changes?max=1", "");
    let next = first["next_offset_bytes"].as_u64().expect("a second page");
    let (_, second) = control.ask("GET", &format!("/v1/changes?max=1&offset={next}"), "");
    assert_eq!((&second["extents"][0]["kind"], &second["next_offset_bytes"]), (&json!("not-in-use"), &json!(null)));
    assert_eq!(control.ask("GET", "/v1/changes?from=%23gone", "").1["from"], "#gone");
    assert_error(control.ask("GET", "/v1/changes?from=none", ""), 404, "not-found");
    for query in
        ["max=0", "max=65537", "max=x", "offset=-1", "novel=1", "from=a%2Fb", "to=%23monday", "from=%23", "to="]
    {
        assert_error(control.ask("GET", &format!("/v1/changes?{query}"), ""), 400, "invalid");
    }
}

#[test]
fn a_hold_ends_with_its_connection() {
    use std::io::Read;
    let control = Control::start();
    let mut stream = UnixStream::connect(&control.socket).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(b"GET /v1/snapshots/monday/hold HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("{\"held\":\"monday\"}\n") {
        let mut piece = [0; 256];
        let length = stream.read(&mut piece).expect("an answer");
        assert!(length > 0, "the server went away: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..length]);
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(control.finished.load(Ordering::SeqCst), 0, "held");
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(10);
    while control.finished.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "the hold outlived its connection");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_error(control.ask("GET", "/v1/snapshots/none/hold", ""), 404, "not-found");
}
