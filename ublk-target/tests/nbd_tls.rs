//! TLS: who gets in, who does not, and what is said in the clear. Clients are the tools people use, and a plain one.

#![allow(clippy::single_range_in_vec_init)] // One range is what is meant.

#[path = "common/certificates.rs"]
mod certificates;
mod common;

use cairn_engine::error::ErrorKind;
use cairn_target::nbd::{ListenOptions, Listeners, TlsCredentials};
use certificates::Credentials;
use common::chunks::STRUCTURED_REPLY;
use common::client::Client;
use common::memory::Image;
use common::tools::{attempt, is_installed, run};
use common::Server;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

const SIZE: usize = 8 << 20;
const STARTTLS: u32 = 5;
const ACK: u32 = 1;
const ERR_UNSUP: u32 = (1 << 31) | 1;
const ERR_INVALID: u32 = (1 << 31) | 3;
const ERR_TLS_REQD: u32 = (1 << 31) | 5;

fn image() -> Image {
    let mut image = Image::new(SIZE);
    image.content = (0..SIZE).map(|index| (index / 512 % 251) as u8).collect();
    image.holes = vec![1 << 20..2 << 20];
    image.content[1 << 20..2 << 20].fill(0);
    image
}

fn uri(server: &Server, export: &str, credentials: &Path) -> String {
    format!("nbds://{}/{export}?tls-certificates={}", server.tcp_address, credentials.display())
}

/// A client over TCP that was greeted and has nothing to do with TLS.
struct InTheClear(TcpStream);

impl InTheClear {
    fn greeted(server: &Server) -> InTheClear {
        let mut stream = TcpStream::connect(server.tcp_address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.read_exact(&mut [0; 18]).expect("a greeting");
        stream.write_all(&3u32.to_be_bytes()).expect("sent");
        InTheClear(stream)
    }

    fn send(&mut self, option: u32, data: &[u8]) {
        let length = (data.len() as u32).to_be_bytes();
        self.0.write_all(&[b"IHAVEOPT", &option.to_be_bytes()[..], &length, data].concat()).expect("sent");
    }

    fn reply(&mut self) -> u32 {
        let mut header = [0; 20];
        self.0.read_exact(&mut header).expect("a reply");
        assert_eq!(header[16..], [0; 4], "nothing is told in the clear");
        u32::from_be_bytes(header[12..16].try_into().expect("four bytes"))
    }

    fn is_closed(&mut self) -> bool {
        // TLS may say why before it closes.
        self.0.read_to_end(&mut Vec::new()).is_ok_and(|length| length < 64)
    }
}

#[test]
fn nothing_but_the_upgrade_is_answered_in_the_clear() {
    let credentials = Credentials::new();
    let server = Server::start_secured(image(), &credentials.of("server"));
    let mut client = InTheClear::greeted(&server);
    for option in [3, 6, 7, 8, 9, 10, 11, 99] {
        client.send(option, b"\0\0\0\x03vol\0\0");
        assert_eq!(client.reply(), ERR_TLS_REQD, "option {option}");
    }
    client.send(STARTTLS, b"data");
    assert_eq!(client.reply(), ERR_INVALID);
    client.send(2, &[]);
    assert_eq!(client.reply(), ACK);
    assert!(client.is_closed());
    let mut client = InTheClear::greeted(&server);
    client.send(1, b"vol");
    assert!(client.is_closed(), "EXPORT_NAME cannot be refused but by closing");
    // What is sent in the clear behind the upgrade is taken for TLS, and is none.
    let mut client = InTheClear::greeted(&server);
    client.send(STARTTLS, &[]);
    client.send(7, b"\0\0\0\x03vol\0\0");
    assert_eq!(client.reply(), ACK);
    assert!(client.is_closed());
    assert_eq!(server.sessions.total(), 0);
}

#[test]
fn the_unix_socket_has_no_tls_and_needs_none() {
    let credentials = Credentials::new();
    let server = Server::start_secured(image(), &credentials.of("server"));
    let mut client = Client::negotiate(&server.socket);
    assert_eq!(client.refusal(STARTTLS, &[]), Some(ERR_UNSUP));
    client.agree(STRUCTURED_REPLY);
    client.go("vol");
    assert_eq!(client.pieces(0, 0, 512).data.len(), 1);
}

#[test]
fn a_client_with_a_certificate_of_our_authority_reads_and_writes() {
    const TEST: &str = "a_client_with_a_certificate_of_our_authority_reads_and_writes";
    if !is_installed("nbdinfo", TEST) || !is_installed("nbdcopy", TEST) {
        return;
    }
    let credentials = Credentials::new();
    let server = Server::start_secured(image(), &credentials.of("server"));
    let own = credentials.of("client");
    assert_eq!(run(&["nbdinfo", "--size", &uri(&server, "vol", &own)]).trim(), SIZE.to_string());
    let list = run(&["nbdinfo", "--list", "--no-content", &uri(&server, "", &own)]);
    assert!(list.contains("vol@snap"), "{list}");
    let map = run(&["nbdinfo", "--map", "--totals", &uri(&server, "vol@snap", &own)]);
    assert!(map.contains("hole,zero"), "{map}");
    let (source, copy) = (server.directory.path().join("source"), server.directory.path().join("copy"));
    let content: Vec<u8> = (0..SIZE).map(|index| (index / 4096) as u8 ^ index as u8).collect();
    std::fs::write(&source, &content).expect("written");
    let path = |path: &Path| path.display().to_string();
    run(&["nbdcopy", "--connections=4", "--flush", &path(&source), &uri(&server, "vol", &own)]);
    assert!(server.image.lock().expect("not poisoned").durable == content);
    run(&["nbdcopy", "--connections=4", &uri(&server, "vol", &own), &path(&copy)]);
    assert!(std::fs::read(&copy).expect("copied") == content);
}

#[test]
fn qemu_img_converts_over_tls() {
    if !is_installed("qemu-img", "qemu_img_converts_over_tls") {
        return;
    }
    let credentials = Credentials::new();
    let server = Server::start_secured(image(), &credentials.of("server"));
    let copy = server.directory.path().join("copy").display().to_string();
    let object = |name: &str| format!("tls-creds-x509,id=tls,endpoint=client,dir={}", credentials.of(name).display());
    let port = server.tcp_address.port().to_string();
    let options = format!("driver=nbd,host=127.0.0.1,port={port},export=vol@snap,tls-creds=tls");
    let convert = |name: &str| {
        attempt(&["qemu-img", "convert", "--object", &object(name), "--image-opts", &options, "-O", "raw", &copy])
    };
    let converted = convert("client");
    assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    assert!(std::fs::read(&copy).expect("converted") == image().content);
    for name in ["stranger", "nobody"] {
        assert!(!convert(name).status.success(), "{name} got in");
    }
}

#[test]
fn a_client_without_a_certificate_or_with_another_authoritys_is_refused() {
    const TEST: &str = "a_client_without_a_certificate_or_with_another_authoritys_is_refused";
    if !is_installed("nbdinfo", TEST) {
        return;
    }
    let credentials = Credentials::new();
    let server = Server::start_secured(image(), &credentials.of("server"));
    let gets_in = |name: &str| attempt(&["nbdinfo", &uri(&server, "vol", &credentials.of(name))]).status.success();
    assert!(gets_in("client") && gets_in("revoked"));
    assert!(!gets_in("stranger"), "another authority's");
    assert!(!gets_in("nobody"), "none");
    let in_the_clear = format!("nbd://{}/vol", server.tcp_address);
    assert!(!attempt(&["nbdinfo", &in_the_clear]).status.success());
    credentials.revoke();
    let server = Server::start_secured(image(), &credentials.of("server"));
    let gets_in = |name: &str| attempt(&["nbdinfo", &uri(&server, "vol", &credentials.of(name))]).status.success();
    assert!(gets_in("client"));
    assert!(!gets_in("revoked"));
    assert_eq!(server.sessions.total(), 0);
}

#[test]
fn beyond_the_loopback_interface_there_is_tls_or_nothing() {
    let credentials = Credentials::new();
    let any = Some("0.0.0.0:0".parse().expect("an address"));
    let open = ListenOptions { tcp_address: any, ..Default::default() };
    assert_eq!(Listeners::bind(&open).err().expect("refused").kind(), ErrorKind::Invalid);
    let secured = ListenOptions { tls_credentials: Some(credentials.of("server")), ..open };
    assert_ne!(Listeners::bind(&secured).expect("fine").tcp_address().expect("bound").port(), 0);
}

#[test]
fn credentials_that_do_not_serve_are_found_at_the_start() {
    let credentials = Credentials::new();
    let directory = credentials.of("server");
    TlsCredentials::load(&directory).expect("whole");
    let spoil = |file: &str, content: &[u8]| {
        let path = directory.join(file);
        let kept = std::fs::read(&path).ok();
        std::fs::write(&path, content).expect("written");
        let refused = TlsCredentials::load(&directory).err().expect("refused").to_string();
        match kept {
            Some(kept) => std::fs::write(&path, kept).expect("written"),
            None => std::fs::remove_file(&path).expect("removed"),
        }
        assert!(refused.contains(&directory.display().to_string()), "{refused}");
    };
    for file in ["ca-cert.pem", "server-cert.pem", "server-key.pem", "ca-crl.pem"] {
        spoil(file, b"");
        spoil(file, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        spoil(file, b"\xff\xfe no PEM");
    }
    let strangers_key = std::fs::read(credentials.of("stranger").join("client-key.pem")).expect("a key");
    spoil("server-key.pem", &strangers_key);
    for file in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        let (path, aside) = (directory.join(file), directory.join("aside"));
        std::fs::rename(&path, &aside).expect("renamed");
        assert!(TlsCredentials::load(&directory).is_err(), "{file} is missing");
        std::fs::rename(&aside, &path).expect("renamed back");
    }
    TlsCredentials::load(&directory).expect("whole again");
}
