//! What a worker tells its supervisor, and that whoever attached the volume: one line of JSON on standard output.
//!
//! Invariants:
//! - Exactly one line, and it comes when the volume is served or cannot be; no line means that the process died.

use cairn_engine::error::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::path::PathBuf;

/// The one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// The volume is served.
    Ready(Ready),
    /// It cannot be served.
    Failed(Failed),
}

/// How the volume is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The volume.
    pub volume: String,
    /// The block device's link, where ublk serves it.
    pub device: Option<PathBuf>,
    /// The NBD address, where one is served.
    pub nbd_uri: Option<String>,
    /// Where to control it.
    pub control_socket: PathBuf,
    /// The worker.
    pub pid: u32,
}

/// Why it cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// A stable word, the same as the control API's.
    pub kind: String,
    /// The whole error, for people.
    pub message: String,
}

impl Readiness {
    /// For an error.
    pub fn failed(error: &Error) -> Readiness {
        let kind = crate::control::error::kind_word(error.kind()).to_owned();
        Readiness::Failed(Failed { kind, message: error.to_string() })
    }

    /// Says it on standard output.
    pub fn announce(&self) {
        let line = serde_json::to_string(self).expect("plain data");
        let mut output = std::io::stdout().lock();
        // Whoever attached the volume may have gone; the volume is served all the same.
        let _ = writeln!(output, "{line}").and_then(|()| output.flush());
    }

    /// Reads the line a child says; when there is none the child died, and `device` names it in the error.
    pub fn hear(output: impl std::io::Read, device: &str) -> cairn_engine::error::Result<Readiness> {
        let mut line = String::new();
        let heard = std::io::BufReader::new(output).read_line(&mut line);
        let died = || {
            Error::new(ErrorKind::Io, "attach", device)
                .saying("the target ended before it could say why; its log tells more")
        };
        if !matches!(heard, Ok(length) if length > 0) {
            return Err(died());
        }
        serde_json::from_str(&line).map_err(|source| died().caused_by(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_travels_with_its_words_and_silence_is_a_failure() {
        let error = Error::new(ErrorKind::Busy, "open", "/dev/vdb").saying("it is in use: mounted on /srv");
        let said = Readiness::failed(&error);
        let line = serde_json::to_string(&said).expect("plain data") + "\n";
        assert_eq!(Readiness::hear(line.as_bytes(), "web").expect("heard"), said);
        assert!(line.contains("mounted on /srv"));
        Readiness::hear(&b""[..], "web").expect_err("silence");
        Readiness::hear(&b"nonsense\n"[..], "web").expect_err("nonsense");
    }
}
