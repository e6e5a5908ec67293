//! Listening: sockets, connections and their limits, and a stop that loses nothing.
//!
//! Invariants:
//! - At most [`CONNECTIONS_MAX`] clients of either socket; one more is turned away at once. Nobody who only reaches the
//!   TCP port can keep the clients of the Unix socket out.
//! - A client that does not finish its handshake within [`HANDSHAKE_TIMEOUT`] is turned away.
//! - TCP without TLS is bound to the loopback interface or not at all; where there is TLS, every TCP client needs it.
//! - A stop accepts nothing more, finishes what is in flight, and only then returns.

use super::buffers::BufferPool;
use super::export::ExportSource;
use super::handshake::negotiate;
use super::options::greet;
use super::sessions::Sessions;
use super::tls::TlsCredentials;
use super::transmission::transmit;
use crate::stop::Stop;
use crate::unix_socket::{PrivateListener, SocketName};
use cairn_engine::error::{Error, ErrorKind, Result};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{split, AsyncRead, AsyncWrite, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{timeout_at, Instant};

/// Clients of one socket at a time.
pub const CONNECTIONS_MAX: u32 = 16;
/// How long a client may take to choose an export.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when the host cannot give another descriptor.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Requests are read ahead in pieces of this size; payloads larger than it go past the buffer.
const READ_AHEAD_BYTES: usize = 32 * 1024;

/// Where to listen.
#[derive(Clone, Debug, Default)]
pub struct ListenOptions {
    /// A Unix socket, mode 0600.
    pub unix_path: Option<PathBuf>,
    /// A TCP address; port 0 takes any.
    pub tcp_address: Option<SocketAddr>,
    /// The directory of the credentials that TCP needs unless its address is of the loopback interface.
    pub tls_credentials: Option<PathBuf>,
}

/// Bound sockets, not yet served. May be bound on one thread and served on another.
pub struct Listeners {
    unix: Option<PrivateListener>,
    tcp: Option<std::net::TcpListener>,
    tls: Option<TlsCredentials>,
}

impl Listeners {
    /// Binds what `options` name.
    pub fn bind(options: &ListenOptions) -> Result<Listeners> {
        let tls = options.tls_credentials.as_deref().map(TlsCredentials::load).transpose()?;
        let unix = options.unix_path.as_deref().map(PrivateListener::bind).transpose()?;
        let tcp = options.tcp_address.map(|address| bind_tcp(address, tls.is_some())).transpose()?;
        Ok(Listeners { unix, tcp, tls })
    }

    /// The TCP address that was bound, with the port the kernel chose.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

fn bind_tcp(address: SocketAddr, has_tls: bool) -> Result<std::net::TcpListener> {
    let error = |kind| Error::new(kind, "listen", address.to_string());
    if !has_tls && !address.ip().is_loopback() {
        let sentence =
            "NBD without TLS is served on the loopback interface only; name TLS credentials, or use 127.0.0.1 \
                        or [::1]";
        return Err(error(ErrorKind::Invalid).saying(sentence));
    }
    let bound = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|cause| error(ErrorKind::Io).saying("the TCP address could not be bound").caused_by(cause))?;
    Ok(bound)
}

/// The URI under which clients reach the export `name` on the Unix socket at `path`.
pub fn unix_uri(path: &Path, name: &str) -> String {
    format!(
        "nbd+unix:///{}?socket={}",
        percent_encoded(name.as_bytes()),
        percent_encoded(path.as_os_str().as_encoded_bytes())
    )
}

fn percent_encoded(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-~:@".contains(byte);
    bytes.iter().map(|byte| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// What every connection gets.
struct Server<S> {
    source: Rc<S>,
    sessions: Sessions,
    pool: BufferPool,
    unix_clients: Arc<Semaphore>,
    tcp_clients: Arc<Semaphore>,
    /// What TCP clients need.
    tls: Option<TlsCredentials>,
    stop: Stop,
}

/// Serves `source` on `listeners` until `stop` is raised and everything in flight is done. Runs on a `LocalSet`.
pub async fn serve<S: ExportSource + 'static>(
    source: Rc<S>,
    listeners: Listeners,
    sessions: Sessions,
    stop: Stop,
) -> Result<()> {
    let server = Rc::new(Server::new(source, sessions, listeners.tls, stop));
    let failed = |error| Error::new(ErrorKind::Io, "listen", "NBD").caused_by(Box::new(error));
    let unix = match listeners.unix {
        Some(private) => {
            let (listener, name) = private.into_parts();
            Some((UnixListener::from_std(listener).map_err(failed)?, name))
        }
        None => None,
    };
    let tcp = listeners.tcp.map(TcpListener::from_std).transpose().map_err(failed)?;
    tokio::join!(server.clone().accept_unix(unix), server.clone().accept_tcp(tcp));
    for clients in [&server.unix_clients, &server.tcp_clients] {
        let all = clients.acquire_many(CONNECTIONS_MAX).await;
        drop(all.expect("the semaphore is never closed"));
    }
    Ok(())
}

/// Serves one client that is connected already, over any stream, until it leaves or `stop` is raised. Runs on a
/// `LocalSet`. An error says why the connection ended where that was not in good order.
pub async fn serve_stream<S: ExportSource + 'static>(
    source: Rc<S>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    sessions: Sessions,
    stop: Stop,
) -> io::Result<()> {
    Server::new(source, sessions, None, stop).converse(stream, None).await
}

impl<S: ExportSource + 'static> Server<S> {
    fn new(source: Rc<S>, sessions: Sessions, tls: Option<TlsCredentials>, stop: Stop) -> Server<S> {
        let clients = || Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
        let (unix_clients, tcp_clients) = (clients(), clients());
        Server { source, sessions, pool: BufferPool::default(), unix_clients, tcp_clients, tls, stop }
    }

    async fn accept_unix(self: Rc<Self>, listener: Option<(UnixListener, SocketName)>) {
        let Some((listener, _name)) = listener else { return };
        loop {
            let accepted = tokio::select! {
                () = self.stop.raised() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.start(&self.unix_clients, stream, None),
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    async fn accept_tcp(self: Rc<Self>, listener: Option<TcpListener>) {
        let Some(listener) = listener else { return };
        loop {
            let accepted = tokio::select! {
                () = self.stop.raised() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // Without it replies wait for acknowledgements of earlier ones; it is only speed.
                    let _ = stream.set_nodelay(true);
                    self.start(&self.tcp_clients, stream, self.tls.clone());
                }
                Err(error) => accept_failed(&error).await,
            }
        }
    }

    /// Serves the client in a task of its own, where there is room for it.
    fn start(
        self: &Rc<Self>,
        clients: &Arc<Semaphore>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        tls: Option<TlsCredentials>,
    ) {
        match clients.clone().try_acquire_owned() {
            Ok(permit) => drop(spawn_local(self.clone().connection(stream, tls, permit))),
            Err(_) => tracing::warn!("an NBD client was turned away: there are {CONNECTIONS_MAX} already"),
        }
    }

    async fn connection(
        self: Rc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        tls: Option<TlsCredentials>,
        _permit: OwnedSemaphorePermit,
    ) {
        if let Err(error) = self.converse(stream, tls).await {
            tracing::info!("an NBD connection was closed: {error}");
        }
    }

    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        tls: Option<TlsCredentials>,
    ) -> io::Result<()> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let Some(no_zeroes) = self.in_time(deadline, async { greet(&mut stream).await.map(Some) }).await? else {
            return Ok(());
        };
        let Some(tls) = tls else {
            return self.converse_openly(stream, no_zeroes, deadline).await;
        };
        match self.in_time(deadline, tls.secure(stream)).await? {
            Some(secured) => self.converse_openly(secured, no_zeroes, deadline).await,
            None => Ok(()),
        }
    }

    /// With a client that was greeted, and secured where that is needed.
    async fn converse_openly(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        no_zeroes: bool,
        deadline: Instant,
    ) -> io::Result<()> {
        let (reader, mut writer) = split(stream);
        let mut reader = BufReader::with_capacity(READ_AHEAD_BYTES, reader);
        let negotiation = negotiate(&*self.source, &self.sessions, &mut reader, &mut writer, no_zeroes);
        let Some(chosen) = self.in_time(deadline, negotiation).await? else {
            return Ok(());
        };
        let (pool, agreed) = (self.pool.clone(), chosen.agreed);
        let served = transmit(chosen.export, agreed, &mut reader, writer, pool, &self.stop).await;
        drop(chosen.session);
        served
    }

    /// One step of a handshake. `None` where the stop came first, too.
    async fn in_time<T>(
        &self,
        deadline: Instant,
        step: impl Future<Output = io::Result<Option<T>>>,
    ) -> io::Result<Option<T>> {
        tokio::select! {
            () = self.stop.raised() => Ok(None),
            outcome = timeout_at(deadline, step) => outcome?,
        }
    }
}

async fn accept_failed(error: &io::Error) {
    tracing::warn!("an NBD client could not be accepted: {error}");
    tokio::time::sleep(ACCEPT_RETRY).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_interface_is_served_without_tls() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let options =
                ListenOptions { tcp_address: Some(address.parse().expect("an address")), ..Default::default() };
            assert_eq!(Listeners::bind(&options).err().expect("refused").kind(), ErrorKind::Invalid, "{address}");
        }
        let options = ListenOptions { tcp_address: Some("127.0.0.1:0".parse().expect("one")), ..Default::default() };
        let listeners = Listeners::bind(&options).expect("loopback is fine");
        assert_ne!(listeners.tcp_address().expect("bound").port(), 0);
    }

    #[test]
    fn a_uri_escapes_what_would_end_it() {
        assert_eq!(unix_uri(Path::new("/run/a b/n.sock"), "vol@s"), "nbd+unix:///vol@s?socket=/run/a%20b/n.sock");
        assert_eq!(unix_uri(Path::new("/x"), "a?b#c"), "nbd+unix:///a%3Fb%23c?socket=/x");
    }
}
