//! TLS: a connection is upgraded before anything is said on it, and only for clients that show a certificate.
//!
//! Invariants:
//! - Where TLS is configured nothing but the upgrade is answered in the clear, and nothing sent in the clear counts.
//! - A client without a certificate that our authority signed gets no further than the TLS handshake.
//! - Files that are missing or do not fit together are found when the server starts, not when a client comes.

use super::options::{read_option, reply, violation, OPTIONS_MAX};
use super::wire::{option, option_reply};
use cairn_engine::error::{Error, ErrorKind, Result};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{split, AsyncRead, AsyncWrite};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;

/// The authorities whose signature on a client's certificate is accepted.
const AUTHORITIES: &str = "ca-cert.pem";
/// Certificates that are not accepted any more. May be missing.
const REVOKED: &str = "ca-crl.pem";
/// The server's own certificate, and those between it and an authority.
const CERTIFICATE: &str = "server-cert.pem";
/// The key to it.
const KEY: &str = "server-key.pem";

/// Whom the server shows itself as, and whom it accepts. A directory of files named as qemu-nbd's `tls-creds-x509` and
/// nbdkit have them.
#[derive(Clone)]
pub struct TlsCredentials {
    config: Arc<ServerConfig>,
}

impl TlsCredentials {
    /// Reads the files in `directory`.
    pub fn load(directory: &Path) -> Result<TlsCredentials> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(load_authorities(&directory.join(AUTHORITIES))?);
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let revoked = directory.join(REVOKED);
        if revoked.exists() {
            let lists = load_all::<CertificateRevocationListDer>(&revoked)?;
            verifier = verifier.with_crls(lists).only_check_end_entity_revocation();
        }
        let (certificate, key) = (directory.join(CERTIFICATE), directory.join(KEY));
        let chain = load_all::<CertificateDer>(&certificate)?;
        let secret = PrivateKeyDer::from_pem_file(&key).map_err(|cause| unusable(&key, cause))?;
        let verifier = verifier.build().map_err(|cause| unusable(directory, cause))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| unusable(directory, cause))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, secret)
            .map_err(|cause| unusable(&certificate, cause))?;
        Ok(TlsCredentials { config: Arc::new(config) })
    }

    /// Serves a client that was greeted until it asks for TLS, and upgrades the connection. `None`: the client went
    /// away in good order.
    pub(super) async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
    ) -> io::Result<Option<TlsStream<S>>> {
        if !upgrade_is_asked(&mut stream).await? {
            return Ok(None);
        }
        TlsAcceptor::from(self.config.clone()).accept(stream).await.map(Some)
    }
}

/// Everything but the upgrade is refused. Reads nothing ahead, so that what a client, or somebody between, sends behind
/// its request for the upgrade is taken for TLS and for nothing else.
async fn upgrade_is_asked(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<bool> {
    let (mut reader, mut writer) = split(stream);
    for _ in 0..OPTIONS_MAX {
        let (option, data) = read_option(&mut reader, &mut writer).await?;
        let kind = match option {
            option::STARTTLS if data.is_empty() => option_reply::ACK,
            option::STARTTLS => option_reply::ERR_INVALID,
            option::ABORT => option_reply::ACK,
            option::EXPORT_NAME => return Err(violation("an export was chosen without TLS")),
            _ => option_reply::ERR_TLS_REQD,
        };
        reply(&mut writer, option, kind, &[]).await?;
        if kind == option_reply::ACK {
            return Ok(option == option::STARTTLS);
        }
    }
    Err(violation("the client sent too many options"))
}

fn load_authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in load_all::<CertificateDer>(path)? {
        roots.add(certificate).map_err(|cause| unusable(path, cause))?;
    }
    Ok(roots)
}

/// Every item of its kind in a PEM file; at least one.
fn load_all<T: PemObject>(path: &Path) -> Result<Vec<T>> {
    let items: std::result::Result<Vec<T>, _> = T::pem_file_iter(path).and_then(Iterator::collect);
    let items = items.map_err(|cause| unusable(path, cause))?;
    if items.is_empty() {
        return Err(unusable(path, io::Error::from(io::ErrorKind::UnexpectedEof)));
    }
    Ok(items)
}

fn unusable(path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Invalid, "load TLS credentials", path.display().to_string())
        .saying(format!("the directory must hold {AUTHORITIES}, {CERTIFICATE} and {KEY} in PEM that belong together"))
        .caused_by(cause)
}
