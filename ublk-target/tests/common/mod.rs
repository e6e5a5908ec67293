//! What the tests of the target share: a control socket, an export in memory, a server around it, a plain client, and outside tools.

#![allow(dead_code)] // Every test program uses a part of it.

pub mod chunks;
pub mod client;
pub mod control;
pub mod engine;
pub mod memory;
pub mod tools;

use cairn_target::nbd::{serve, ListenOptions, Listeners, Sessions};
use cairn_target::stop::{stop_switch, StopSwitch};
use memory::{Image, MemorySource};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// Runs a future the way the target's threads do.
pub fn runs_locally<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// A server on a thread of its own, stopped when dropped.
pub struct Server {
    pub directory: TempDir,
    pub socket: PathBuf,
    pub tcp_address: SocketAddr,
    pub sessions: Sessions,
    /// What `vol` and `vol@snap` show.
    pub image: Arc<Mutex<Image>>,
    switch: StopSwitch,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves a volume of `size_bytes`.
    pub fn start(size_bytes: usize) -> Server {
        Server::start_with(Image::new(size_bytes))
    }

    pub fn start_with(image: Image) -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("nbd.sock");
        let options = ListenOptions {
            unix_path: Some(socket.clone()),
            tcp_address: Some("127.0.0.1:0".parse().expect("an address")),
            tls_credentials: None,
        };
        Server::listening(directory, socket, options, image)
    }

    /// Serves TCP to clients that are secured with the credentials in `credentials` alone, and a Unix socket to all.
    pub fn start_secured(image: Image, credentials: &Path) -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("nbd.sock");
        let options = ListenOptions {
            unix_path: Some(socket.clone()),
            tcp_address: Some("127.0.0.1:0".parse().expect("an address")),
            tls_credentials: Some(credentials.to_owned()),
        };
        Server::listening(directory, socket, options, image)
    }

    fn listening(directory: TempDir, socket: PathBuf, options: ListenOptions, image: Image) -> Server {
        let listeners = Listeners::bind(&options).expect("binds");
        let tcp_address = listeners.tcp_address().expect("bound");
        let (switch, stop) = stop_switch();
        let (sessions, image) = (Sessions::default(), Arc::new(Mutex::new(image)));
        let (server_sessions, server_image) = (sessions.clone(), image.clone());
        let thread = std::thread::spawn(move || {
            let source = Rc::new(MemorySource { image: server_image });
            runs_locally(serve(source, listeners, server_sessions, stop)).expect("serves");
        });
        Server { directory, socket, tcp_address, sessions, image, switch, thread: Some(thread) }
    }

    /// The URI of an export.
    pub fn uri(&self, name: &str) -> String {
        cairn_target::nbd::unix_uri(&self.socket, name)
    }

    /// Raises the stop without waiting.
    pub fn raise_stop(&self) {
        self.switch.raise();
    }

    /// Stops the server and waits for it; fails where it panicked.
    pub fn stop(mut self) {
        self.switch.raise();
        self.thread.take().expect("runs").join().expect("the server must not panic");
        assert!(!self.socket.exists(), "the socket's name must go with the server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.switch.raise();
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(outcome.is_ok() || std::thread::panicking(), "the server must not panic");
        }
    }
}
