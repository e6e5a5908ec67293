//! Any bytes as a client of the control API.
//!
//! Input: a byte of flags, then what the client sends. Without flag 1 that is raw bytes, after which the client hangs
//! up where flag 2 is set. With flag 1 they are requests: method (u8), endpoint (u8), a piece that is the name in the
//! path, a piece that is the body.
//!
//! What must hold: the server ends when its client does, and every answer to a request that is HTTP is JSON, an error
//! with its three fields included.

use crate::bytes::Bytes;
use crate::common::control::Memory;
use crate::memory::bounded;
use cairn_target::control::serve_stream;
use cairn_target::stop::stop_switch;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MEMORY_BYTES_MAX: usize = 16 << 20;
const REQUESTS_MAX: usize = 8;
const ANSWERS_BYTES_MAX: u64 = 4 << 20;
const PIPE_BYTES: usize = 64 << 10;

/// Methods, as an input numbers them.
pub const METHODS: [&str; 5] = ["GET", "POST", "DELETE", "PUT", "HEAD"];
/// Endpoints, as an input numbers them; NAME stands for the name.
pub const ENDPOINTS: [&str; 13] = [
    "/v1/version",
    "/v1/volume",
    "/v1/snapshots",
    "/v1/snapshots/NAME",
    "/v1/snapshots/NAME/expose",
    "/v1/restore",
    "/v1/grow",
    "/v1/stats",
    "/v1/check",
    "/v1/detach",
    "/v1/NAME",
    "/v1/changes?from=NAME&max=7",
    "/v1/snapshots/NAME/data",
];

/// Serves the client that `data` describes.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let flags = bytes.u8();
    bounded(MEMORY_BYTES_MAX, || match flags & 1 {
        0 => drop(converse(bytes.rest(), flags & 2 != 0)),
        _ => {
            for _ in 0..REQUESTS_MAX {
                if bytes.is_empty() {
                    break;
                }
                ask(&mut bytes);
            }
        }
    });
}

fn ask(bytes: &mut Bytes) {
    let method = METHODS[usize::from(bytes.u8()) % METHODS.len()];
    let endpoint = ENDPOINTS[usize::from(bytes.u8()) % ENDPOINTS.len()];
    let name: String = bytes.piece().iter().map(|byte| format!("%{byte:02X}")).collect();
    let (path, body) = (endpoint.replace("NAME", &name), bytes.piece());
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let received = converse(&[head.as_bytes(), body].concat(), false);
    let answer = String::from_utf8(received).expect("an answer is text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {method} {path}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).expect("a status");
    if method == "HEAD" {
        return assert_eq!(body, "", "the answer to HEAD has no body");
    }
    let json: serde_json::Value =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{method} {path}: {error}: {answer}"));
    assert!(status != 500, "{method} {path}: {answer}");
    if status != 200 {
        let error = &json["error"];
        assert!(error["kind"].is_string() && error["message"].is_string() && error["errno"].is_i64(), "{answer}");
    }
}

/// What the server answers. A client that does not hang up after it has spoken is left to the server's patience.
fn converse(sends: &[u8], hangs_up: bool) -> Vec<u8> {
    crate::runs_on_a_stopped_clock(async {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let (switch, _stop) = stop_switch();
        let memory = Rc::new(Memory::new(switch, Arc::new(AtomicUsize::new(0))));
        let client = async move {
            let (mut reader, mut writer) = tokio::io::split(ours);
            let mut received = Vec::new();
            let speak = async {
                // The server may close while it is still spoken to.
                let _ = writer.write_all(sends).await;
                if hangs_up {
                    let _ = writer.shutdown().await;
                }
                std::future::pending::<()>().await;
            };
            // A hold has no end; a client that leaves is one.
            let mut limited = (&mut reader).take(ANSWERS_BYTES_MAX);
            tokio::select! {
                taken = limited.read_to_end(&mut received) => taken.expect("a pipe gives what was written"),
                () = speak => unreachable!("it never ends"),
            };
            received
        };
        let (_, received) = tokio::join!(serve_stream(memory, theirs), client);
        received
    })
}
