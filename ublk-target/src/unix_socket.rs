//! Unix sockets that only their owner can connect to.
//!
//! Invariants:
//! - There is no instant at which anybody else could connect: the mode is set before the socket has a name.
//! - A socket that a dead process left behind is replaced; one that answers, or a file of another kind, never is.
//! - The name is removed when the listener goes.

use cairn_engine::error::{Error, ErrorKind, Result};
use rustix::fs::{fchmod, Mode};
use rustix::io::Errno;
use rustix::net::{bind, listen, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Connections the kernel holds until they are accepted.
const BACKLOG: i32 = 64;
const OWNER_ONLY: u32 = 0o600;

/// A listening socket and its name.
pub struct PrivateListener {
    listener: UnixListener,
    name: SocketName,
}

/// Removes the name when dropped.
pub struct SocketName(PathBuf);

impl Drop for SocketName {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!("{}: the socket's name is gone already: {error}", self.0.display());
        }
    }
}

impl PrivateListener {
    /// Listens at `path`, mode 0600, non-blocking.
    pub fn bind(path: &Path) -> Result<PrivateListener> {
        let failed = |errno: Errno| {
            let error = Error::new(ErrorKind::Io, "listen", path.display().to_string());
            error.saying("the socket could not be created").caused_by(errno)
        };
        let address = SocketAddrUnix::new(path).map_err(|errno| {
            let error = Error::new(ErrorKind::Invalid, "listen", path.display().to_string());
            error.saying("a socket's path has at most 107 bytes; choose a shorter run directory").caused_by(errno)
        })?;
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
        // The kernel creates the name with the mode that the socket has.
        fchmod(&socket, Mode::from_raw_mode(OWNER_ONLY)).map_err(failed)?;
        bind(&socket, &address).map_err(failed)?;
        let name = SocketName(path.to_owned());
        require_mode(path)?;
        listen(&socket, BACKLOG).map_err(failed)?;
        Ok(PrivateListener { listener: UnixListener::from(socket), name })
    }

    /// The listener, and the name that must be kept as long as it is used.
    pub fn into_parts(self) -> (UnixListener, SocketName) {
        (self.listener, self.name)
    }
}

/// Nobody can connect before `listen`, so a kernel that ignored the socket's mode is corrected in time.
fn require_mode(path: &Path) -> Result<()> {
    let failed = |error| Error::new(ErrorKind::Io, "listen", path.display().to_string()).caused_by(Box::new(error));
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode != OWNER_ONLY {
        fs::set_permissions(path, fs::Permissions::from_mode(OWNER_ONLY)).map_err(failed)?;
    }
    Ok(())
}

fn remove_stale(path: &Path) -> Result<()> {
    let refuse = |kind, sentence: &str| Err(Error::new(kind, "listen", path.display().to_string()).saying(sentence));
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return refuse(ErrorKind::Exists, "there is a file of another kind; remove it or choose another path");
    }
    if UnixStream::connect(path).is_ok() {
        return refuse(ErrorKind::Busy, "another process answers there already; detach it first");
    }
    fs::remove_file(path).map_err(|error| {
        let failed = Error::new(ErrorKind::Io, "listen", path.display().to_string());
        failed.saying("the socket of an earlier process cannot be removed").caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_can_connect_and_the_name_goes_with_the_listener() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        let listener = PrivateListener::bind(&path).expect("binds");
        assert_eq!(fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).expect("answers");
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_or_a_file_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).expect("binds"));
        assert!(path.exists());
        let live = PrivateListener::bind(&path).expect("a stale socket is replaced");
        assert_eq!(PrivateListener::bind(&path).err().expect("refused").kind(), ErrorKind::Busy);
        drop(live);
        fs::write(&path, "content").expect("written");
        assert_eq!(PrivateListener::bind(&path).err().expect("refused").kind(), ErrorKind::Exists);
        assert_eq!(fs::read_to_string(&path).expect("still there"), "content");
    }

    #[test]
    fn a_path_that_is_too_long_is_refused_with_the_reason() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        assert_eq!(PrivateListener::bind(&path).err().expect("refused").kind(), ErrorKind::Invalid);
    }
}
