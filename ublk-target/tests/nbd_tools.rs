//! The NBD server against the tools people use: nbdinfo, nbdsh, nbdcopy, qemu-img, qemu-io.

mod common;

use common::tools::{attempt, is_installed, run};
use common::Server;
use std::fs;

const SIZE: usize = 8 << 20;

fn pattern() -> Vec<u8> {
    (0..SIZE as u32).map(|index| (index / 512).wrapping_mul(37) as u8 ^ index as u8).collect()
}

#[test]
fn nbdinfo_shows_what_an_export_can_do() {
    if !is_installed("nbdinfo", "nbdinfo_shows_what_an_export_can_do") {
        return;
    }
    let server = Server::start(SIZE);
    let facts: serde_json::Value =
        serde_json::from_str(&run(&["nbdinfo", "--json", "--no-content", &server.uri("vol")])).expect("JSON");
    let export = &facts["exports"][0];
    assert_eq!(export["export-size"], SIZE);
    for (key, expected) in [
        ("is_read_only", false),
        ("can_flush", true),
        ("can_fua", true),
        ("can_trim", true),
        ("can_zero", true),
        ("can_multi_conn", true),
        ("can_fast_zero", false),
    ] {
        assert_eq!(export[key], expected, "{key}");
    }
    assert_eq!(export["block_size_minimum"], 512);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 32 << 20);
    let list = run(&["nbdinfo", "--list", "--no-content", &server.uri("")]);
    assert!(list.contains("export=\"vol\"") && list.contains("export=\"vol@snap\""), "{list}");
    assert!(run(&["nbdinfo", "--is", "read-only", &server.uri("vol@snap")]).is_empty());
    assert!(!attempt(&["nbdinfo", &server.uri("vol@gone")]).status.success());
    let tcp = format!("nbd://{}/vol", server.tcp_address);
    assert_eq!(run(&["nbdinfo", "--size", &tcp]).trim(), SIZE.to_string());
}

#[test]
fn nbdsh_reads_writes_and_flushes() {
    // By the distribution's own interpreter: the one that comes first in PATH may not have libnbd's module.
    const NBDSH: [&str; 3] = ["/usr/bin/python3", "-m", "nbd"];
    if !is_installed("nbdsh", "nbdsh_reads_writes_and_flushes") {
        return;
    }
    let server = Server::start(SIZE);
    let script = "
h.pwrite(b'a' * 4096, 8192, nbd.CMD_FLAG_FUA)
h.zero(4096, 0)
h.trim(4096, 4096)
h.flush()
assert h.pread(4096, 8192) == b'a' * 4096
h.set_strict_mode(0)
try:
    h.pread(512, h.get_size())
    raise SystemExit('a read past the end succeeded')
except nbd.Error as error:
    assert error.errno == 'EINVAL', error.errno
";
    run(&[&NBDSH[..], &["-u", &server.uri("vol"), "-c", script]].concat());
    assert_eq!(server.image.lock().expect("not poisoned").durable[8192], b'a');
}

#[test]
fn nbdcopy_moves_an_image_in_and_out_over_several_connections() {
    if !is_installed("nbdcopy", "nbdcopy_moves_an_image_in_and_out_over_several_connections") {
        return;
    }
    let server = Server::start(SIZE);
    let (source, copy) = (server.directory.path().join("source"), server.directory.path().join("copy"));
    fs::write(&source, pattern()).expect("written");
    let path = |path: &std::path::Path| path.display().to_string();
    run(&["nbdcopy", "--connections=4", "--requests=64", "--flush", &path(&source), &server.uri("vol")]);
    assert!(server.image.lock().expect("not poisoned").durable == pattern());
    run(&["nbdcopy", "--connections=4", &server.uri("vol@snap"), &path(&copy)]);
    assert!(fs::read(&copy).expect("copied") == pattern());
}

#[test]
fn qemu_tools_convert_compare_and_do_io() {
    if !is_installed("qemu-img", "qemu_tools_convert_compare_and_do_io")
        || !is_installed("qemu-io", "qemu_tools_convert_compare_and_do_io")
    {
        return;
    }
    let server = Server::start(SIZE);
    let source = server.directory.path().join("source.raw").display().to_string();
    fs::write(&source, pattern()).expect("written");
    run(&["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", &source, &server.uri("vol")]);
    run(&["qemu-img", "compare", "-f", "raw", "-F", "raw", &source, &server.uri("vol@snap")]);
    let commands = ["write -P 0xab 64k 128k", "write -f -z 1M 64k", "discard 2M 1M", "flush", "read -P 0xab 64k 128k"];
    let mut arguments = vec!["qemu-io", "-f", "raw"];
    for command in &commands {
        arguments.extend(["-c", command]);
    }
    let uri = server.uri("vol");
    arguments.push(&uri);
    let output = run(&arguments);
    assert!(!output.contains("failed") && !output.contains("error"), "{output}");
    let image = server.image.lock().expect("not poisoned");
    assert!(image.flushes > 0 && image.discards.contains(&(2 << 20, 1 << 20)));
    assert!(image.content[1 << 20..(1 << 20) + (64 << 10)].iter().all(|byte| *byte == 0));
}
