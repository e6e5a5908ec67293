//! Disk images of QEMU's kinds, made and written through `qemu-img` and `qemu-nbd`, which know the formats.
//!
//! Invariants:
//! - An image that is closed was flushed, and its server has ended without an error.
//! - A server that was started here never outlives this process's interest in it.

use crate::block_io::{BlockIo, NbdIo};
use crate::exit::{ExitCode, Failure, Outcome};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the server may take to listen, and to end.
const SERVER_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// An image that is being written.
pub struct Image {
    server: Child,
    socket: PathBuf,
    io: Option<NbdIo>,
}

fn missing(program: &str, error: std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::new(
            ExitCode::NotFound,
            format!("{program} is not installed; it comes with the package qemu-utils"),
        ),
        _ => Failure::new(ExitCode::Failed, format!("{program}: {error}")),
    }
}

fn qemu_img(arguments: &[&OsStr]) -> Outcome {
    let output = Command::new("qemu-img").args(arguments).output().map_err(|error| missing("qemu-img", error))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Failure::new(ExitCode::Failed, format!("qemu-img: {said}")))
        }
    }
}

impl Image {
    /// Makes an image at `path` and opens it. `backing`: what it does not hold itself is read from there.
    pub fn create(
        run_dir: &Path,
        path: &Path,
        format: &str,
        size_bytes: u64,
        backing: Option<&Path>,
    ) -> Result<Image, Failure> {
        let size = size_bytes.to_string();
        let mut arguments: Vec<&OsStr> = ["create", "-q", "-f", format].map(OsStr::new).to_vec();
        let backing =
            backing.map(|backing| std::fs::canonicalize(backing).map_err(|e| Failure::io("open", backing, e)));
        let backing = backing.transpose()?;
        if let Some(backing) = &backing {
            arguments.extend([OsStr::new("-b"), backing.as_os_str(), OsStr::new("-F"), OsStr::new("qcow2")]);
        }
        arguments.extend([path.as_os_str(), OsStr::new(&size)]);
        qemu_img(&arguments)?;
        std::fs::create_dir_all(run_dir).map_err(|error| Failure::io("make", run_dir, error))?;
        let socket = run_dir.join(format!("export-{}.sock", std::process::id()));
        let server = Command::new("qemu-nbd")
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--format={format}"))
            .args(["--cache=writeback", "--discard=unmap"])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| missing("qemu-nbd", error))?;
        let mut image = Image { server, socket, io: None };
        image.io = Some(image.connect()?);
        Ok(image)
    }

    fn connect(&mut self) -> Result<NbdIo, Failure> {
        let deadline = Instant::now() + SERVER_TIMEOUT;
        loop {
            match NbdIo::open(&self.socket, "") {
                Err(failure) if Instant::now() > deadline => return Err(failure),
                Err(failure) => {
                    if let Ok(Some(status)) = self.server.try_wait() {
                        let message = format!("qemu-nbd ended with {status}: {failure}");
                        return Err(Failure::new(ExitCode::Failed, message));
                    }
                    std::thread::sleep(POLL);
                }
                connected => return connected,
            }
        }
    }

    /// Its blocks.
    pub fn io(&mut self) -> &mut dyn BlockIo {
        self.io.as_mut().expect("an image is open until it is closed")
    }

    /// Ends the server, which writes what it still holds.
    pub fn close(mut self) -> Outcome {
        self.io().make_durable()?;
        self.io = None;
        let deadline = Instant::now() + SERVER_TIMEOUT;
        loop {
            match self.server.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
                Ok(status) => {
                    let message = format!("qemu-nbd did not end well: {status:?}; the image is not kept");
                    return Err(Failure::new(ExitCode::Failed, message));
                }
                Err(error) => return Err(missing("qemu-nbd", error)),
            }
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.io = None;
        // It has ended where the image was closed; else the image is thrown away.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
