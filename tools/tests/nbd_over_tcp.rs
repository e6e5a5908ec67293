//! `cairn attach --nbd-listen --tls-creds`: what is served over TCP, to whom, and what is refused before anything is.

#[path = "../../ublk-target/tests/common/certificates.rs"]
mod certificates;
mod common;

use certificates::Credentials;
use common::attached::{kill, wait_until, Volume};
use common::Place;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

const GO: &[u8] = b"IHAVEOPT\0\0\0\x07\0\0\0\x07\0\0\0\x01v\0\0";
const INFO: u32 = 3;
const ERR_TLS_REQD: u32 = (1 << 31) | 5;

/// An address of the loopback interface that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// The first reply to a client that wants the volume and knows nothing of TLS.
fn reply_in_the_clear(address: SocketAddr) -> u32 {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.read_exact(&mut [0; 18]).expect("a greeting");
    stream.write_all(&[&3u32.to_be_bytes()[..], GO].concat()).expect("sent");
    let mut header = [0; 20];
    stream.read_exact(&mut header).expect("a reply");
    u32::from_be_bytes(header[12..16].try_into().expect("four bytes"))
}

fn nbdinfo(address: SocketAddr, credentials: &std::path::Path) -> bool {
    let uri = format!("nbds://{address}/v?tls-certificates={}", credentials.display());
    let ran = std::process::Command::new("timeout").args(["30", "nbdinfo", "--size", &uri]).output();
    ran.expect("timeout is part of every Linux").status.success()
}

#[test]
fn tcp_on_the_loopback_interface_takes_to_be_asked_for() {
    let place = Place::new();
    let volume = Volume::create(&place);
    let address = free_address();
    volume.attach();
    assert!(TcpStream::connect(address).is_err());
    volume.detach();
    place.done(&["attach", "v", "--frontend=nbd", &format!("--nbd-listen={address}")]);
    assert_eq!(reply_in_the_clear(address), INFO);
    volume.detach();
}

#[test]
fn with_credentials_tcp_is_for_those_who_have_a_certificate_and_so_it_is_with_a_successor() {
    let place = Place::new();
    let volume = Volume::create(&place);
    let (credentials, address) = (Credentials::new(), free_address());
    let directory = credentials.of("server").display().to_string();
    place.done(&["attach", "v", "--frontend=nbd", &format!("--nbd-listen={address}"), "--tls-creds", &directory]);
    assert_eq!(reply_in_the_clear(address), ERR_TLS_REQD);
    let has_nbdinfo = common::have("nbdinfo over TLS", &["nbdinfo"], &[]);
    if has_nbdinfo {
        assert!(nbdinfo(address, &credentials.of("client")));
        assert!(!nbdinfo(address, &credentials.of("nobody")));
    }
    volume.fill(7);
    let killed = volume.worker().expect("it runs");
    kill(killed);
    wait_until("a successor runs", || volume.worker().is_some_and(|worker| worker != killed));
    wait_until("it serves", || place.cairn(&["show", "v"]).code == 0);
    assert_eq!(reply_in_the_clear(address), ERR_TLS_REQD);
    assert!(volume.holds("v", 7));
    volume.detach();
}

#[test]
fn tcp_without_tls_beyond_the_loopback_interface_is_refused_and_so_are_credentials_that_do_not_serve() {
    let place = Place::new();
    let volume = Volume::create(&place);
    let said = volume.attach_fails(&["--nbd-listen=0.0.0.0:0"], 1, "invalid");
    assert!(said.contains("TLS"), "{said}");
    let empty = place.text("empty");
    std::fs::create_dir(&empty).expect("a directory");
    let said = volume.attach_fails(&["--nbd-listen=127.0.0.1:0", "--tls-creds", &empty], 1, "invalid");
    assert!(said.contains("ca-cert.pem"), "{said}");
    assert_eq!(place.cairn(&["attach", "v", "--tls-creds", &empty]).code, 2, "credentials for nothing");
    assert_eq!(place.cairn(&["attach", "v", "--nbd-listen=localhost"]).code, 2, "no port");
    assert!(volume.worker().is_none());
    volume.attach();
    volume.detach();
}
