//! An authority, and certificates that it, or another, signed; in the files that NBD tools look for.

#![allow(dead_code)] // Every test program uses a part of it.

use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

const REVOKED: u64 = 4;

/// Directories of credentials: of the server, of a client, of a client of another authority, of one without a
/// certificate, and of one whose certificate was revoked.
pub struct Credentials {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Credentials {
    /// Makes all of them.
    pub fn new() -> Credentials {
        let directory = tempfile::tempdir().expect("a directory");
        let credentials = Credentials { directory, authority: authority("cairn test authority") };
        let (ours, theirs) = (&credentials.authority, &authority("another authority"));
        for name in ["server", "client", "stranger", "nobody", "revoked"] {
            fs::create_dir(credentials.of(name)).expect("a directory");
            fs::write(credentials.of(name).join("ca-cert.pem"), ours.pem()).expect("written");
        }
        credentials.issue("server", "server", ours, 1);
        credentials.issue("client", "client", ours, 2);
        credentials.issue("stranger", "client", theirs, 3);
        credentials.issue("revoked", "client", ours, REVOKED);
        credentials
    }

    /// The directory of one of them.
    pub fn of(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn issue(&self, directory: &str, role: &str, authority: &CertifiedIssuer<'static, KeyPair>, serial: u64) {
        let key = KeyPair::generate().expect("a key");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters.distinguished_name.push(DnType::CommonName, directory);
        parameters.serial_number = Some(SerialNumber::from(serial));
        parameters.is_ca = IsCa::ExplicitNoCa;
        // qemu refuses keys that may not encipher, also where nothing is enciphered with them.
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        parameters.extended_key_usages = vec![match role {
            "server" => ExtendedKeyUsagePurpose::ServerAuth,
            _ => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let certificate = parameters.signed_by(&key, authority).expect("signed");
        let path = |what: &str| self.of(directory).join(format!("{role}-{what}.pem"));
        fs::write(path("cert"), certificate.pem()).expect("written");
        fs::write(path("key"), key.serialize_pem()).expect("written");
    }

    /// A server that starts from now on refuses the client `revoked`.
    pub fn revoke(&self) {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(REVOKED),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(4000, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.authority).expect("signed").pem().expect("PEM");
        fs::write(self.of("server").join("ca-crl.pem"), list).expect("written");
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let key = KeyPair::generate().expect("a key");
    let mut parameters = CertificateParams::new([]).expect("no names");
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(parameters, key).expect("signed")
}
