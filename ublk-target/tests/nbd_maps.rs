//! Contexts and holes through the tools people use: nbdinfo --map, nbdsh, nbdcopy, qemu-img map and convert, qemu-io.

#![allow(clippy::single_range_in_vec_init)] // One range is what is meant.

mod common;

use common::memory::Image;
use common::tools::{is_installed, run};
use common::Server;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SIZE: usize = 16 << 20;
const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// Content that is nowhere zero but in the holes of the snapshot.
fn server() -> Server {
    let mut image = Image::new(SIZE);
    image.content = (0..SIZE).map(|index| (index / 512 % 251 + 1) as u8).collect();
    image.holes = vec![MIB..3 * MIB, 8 * MIB..8 * MIB + 64 * KIB, 15 * MIB..16 * MIB];
    for hole in image.holes.clone() {
        image.content[hole.start as usize..hole.end as usize].fill(0);
    }
    image.changed = vec![
        ("monday".to_owned(), vec![0..8 * KIB, 2 * MIB..4 * MIB]),
        ("tuesday".to_owned(), vec![4 * MIB - 4 * KIB..4 * MIB]),
    ];
    Server::start_with(image)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// Offset, length and status of each extent that `nbdinfo --map` shows.
fn map(server: &Server, export: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let option = format!("--map={context}");
    let shown: Value = serde_json::from_str(&run(&["nbdinfo", &option, "--json", &server.uri(export)])).expect("JSON");
    let number = |extent: &Value, key: &str| extent[key].as_u64().expect("a number");
    let extents = shown.as_array().expect("a list");
    extents.iter().map(|one| (number(one, "offset"), number(one, "length"), number(one, "type"))).collect()
}

#[test]
fn nbdinfo_maps_holes_and_changes() {
    if !is_installed("nbdinfo", "nbdinfo_maps_holes_and_changes") {
        return;
    }
    let server = server();
    let allocation = |status| {
        vec![
            (0, MIB, 0),
            (MIB, 2 * MIB, status),
            (3 * MIB, 5 * MIB, 0),
            (8 * MIB, 64 * KIB, status),
            (8 * MIB + 64 * KIB, 7 * MIB - 64 * KIB, 0),
            (15 * MIB, MIB, status),
        ]
    };
    assert_eq!(map(&server, "vol@snap", "base:allocation"), allocation(3));
    assert_eq!(map(&server, "vol", "base:allocation"), allocation(1));
    let changed = [(0, 8 * KIB, 1), (8 * KIB, 2 * MIB - 8 * KIB, 0), (2 * MIB, 2 * MIB, 1), (4 * MIB, 12 * MIB, 0)];
    assert_eq!(map(&server, "vol@snap", "qemu:dirty-bitmap:since-monday"), changed);
    assert_eq!(map(&server, "vol@snap", "cairn:changed:monday..snap"), changed);
    assert_eq!(map(&server, "vol@snap", "cairn:changed:tuesday..snap").len(), 3);
    let whole: Value =
        serde_json::from_str(&run(&["nbdinfo", "--json", "--list", "--no-content", &server.uri("")])).expect("JSON");
    let exports = whole["exports"].as_array().expect("a list");
    let contexts: Vec<&str> =
        exports[1]["contexts"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(
        contexts,
        [
            "base:allocation",
            "qemu:dirty-bitmap:since-monday",
            "cairn:changed:monday..snap",
            "qemu:dirty-bitmap:since-tuesday",
            "cairn:changed:tuesday..snap"
        ]
    );
    assert_eq!(exports[0]["contexts"], serde_json::json!(["base:allocation"]));
    assert!(run(&["nbdinfo", "--can", "df", &server.uri("vol")]).is_empty());
}

#[test]
fn a_backup_script_reads_what_changed_and_nothing_else() {
    // By the distribution's own interpreter: the one that comes first in PATH may not have libnbd's module.
    const NBDSH: [&str; 3] = ["/usr/bin/python3", "-m", "nbd"];
    if !is_installed("nbdsh", "a_backup_script_reads_what_changed_and_nothing_else") {
        return;
    }
    let server = server();
    let script = "
uri = h.get_uri()
import os
c = nbd.NBD()
c.add_meta_context('base:allocation')
c.add_meta_context('qemu:dirty-bitmap:since-monday')
c.add_meta_context('qemu:dirty-bitmap:since-sunday')
c.connect_uri(os.environ.get('URI', uri))
assert c.can_meta_context('base:allocation')
assert not c.can_meta_context('qemu:dirty-bitmap:since-sunday')
seen = {}
def note(context, offset, entries, error):
    at = offset
    for length, flags in zip(entries[::2], entries[1::2]):
        seen.setdefault(context, []).append((at, length, flags))
        at += length
c.block_status(c.get_size(), 0, note)
dirty = [(at, n) for at, n, flags in seen['qemu:dirty-bitmap:since-monday'] if flags & 1]
assert dirty == [(0, 8192), (2 << 20, 2 << 20)], dirty
assert sum(n for at, n, flags in seen['base:allocation'] if flags == 3) == (3 << 20) + 65536
for at, n in dirty:
    assert len(c.pread(n, at)) == n
holes = []
def chunk(data, offset, status, error):
    if status == nbd.READ_HOLE:
        holes.append(offset)
data = c.pread_structured(4 << 20, 0, chunk)
assert holes == [1 << 20], holes
assert data[1 << 20:3 << 20] == bytearray(2 << 20)
one = []
c.block_status(1 << 20, 0, lambda ctx, at, entries, err: one.append(len(entries)), nbd.CMD_FLAG_REQ_ONE)
assert one == [2, 2], one
";
    run(&[&NBDSH[..], &["-u", &server.uri("vol@snap"), "-c", script]].concat());
}

#[test]
fn nbdcopy_leaves_holes_where_the_snapshot_has_them() {
    if !is_installed("nbdcopy", "nbdcopy_leaves_holes_where_the_snapshot_has_them") {
        return;
    }
    let server = server();
    let copy = server.directory.path().join("copy");
    run(&["nbdcopy", &server.uri("vol@snap"), &path(&copy)]);
    let image = server.image.lock().expect("not poisoned");
    assert!(fs::read(&copy).expect("copied") == image.content);
    let allocated_bytes = fs::metadata(&copy).expect("there").blocks() * 512;
    assert!(allocated_bytes <= 13 * MIB, "{allocated_bytes} bytes of 16 MiB with 3 MiB of holes");
    let in_holes = image.reads.iter().filter(|(offset, _)| (MIB..3 * MIB).contains(offset)).count();
    assert_eq!(in_holes, 0, "a hole is not even read");
}

#[test]
fn qemu_img_maps_converts_and_compares_with_holes() {
    const TEST: &str = "qemu_img_maps_converts_and_compares_with_holes";
    if !is_installed("qemu-img", TEST) {
        return;
    }
    let server = server();
    let uri = server.uri("vol@snap");
    let shown: Value =
        serde_json::from_str(&run(&["qemu-img", "map", "--output=json", "-f", "raw", &uri])).expect("JSON");
    let holes: Vec<(u64, u64)> = shown
        .as_array()
        .expect("a list")
        .iter()
        .filter(|one| one["zero"] == true && one["data"] == false)
        .map(|one| (one["start"].as_u64().expect("a number"), one["length"].as_u64().expect("a number")))
        .collect();
    assert_eq!(holes, [(MIB, 2 * MIB), (8 * MIB, 64 * KIB), (15 * MIB, MIB)]);
    // qemu shows a bitmap as if it were allocation: what is dirty is no data.
    let socket = path(&server.socket);
    let options = format!(
        "driver=nbd,server.type=unix,server.path={socket},export=vol@snap,\
         x-dirty-bitmap=qemu:dirty-bitmap:since-monday"
    );
    let shown = run(&["qemu-img", "map", "--output=json", "--image-opts", &options]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let dirty: Vec<_> = shown
        .as_array()
        .expect("a list")
        .iter()
        .filter(|one| one["data"] == false)
        .map(|one| (one["start"].as_u64().expect("a number"), one["length"].as_u64().expect("a number")))
        .collect();
    assert_eq!(dirty, [(0, 8 * KIB), (2 * MIB, 2 * MIB)]);
    let (raw, qcow2) = (server.directory.path().join("copy.raw"), server.directory.path().join("copy.qcow2"));
    run(&["qemu-img", "convert", "-f", "raw", "-O", "raw", &uri, &path(&raw)]);
    run(&["qemu-img", "convert", "-f", "raw", "-O", "qcow2", &uri, &path(&qcow2)]);
    assert!(fs::read(&raw).expect("converted") == server.image.lock().expect("not poisoned").content);
    assert!(fs::metadata(&raw).expect("there").blocks() * 512 <= 13 * MIB);
    run(&["qemu-img", "compare", "-f", "raw", "-F", "qcow2", &uri, &path(&qcow2)]);
}

#[test]
fn qemu_io_reads_writes_and_maps_the_volume() {
    if !is_installed("qemu-io", "qemu_io_reads_writes_and_maps_the_volume") {
        return;
    }
    let server = server();
    let uri = server.uri("vol");
    let output = run(&[
        "qemu-io",
        "-f",
        "raw",
        "-c",
        "write -P 0xab 64k 128k",
        "-c",
        "write -z 512k 64k",
        "-c",
        "discard 3M 1M",
        "-c",
        "flush",
        "-c",
        "read -P 0xab 64k 128k",
        "-c",
        "read -P 0 512k 64k",
        "-c",
        "map",
        &uri,
    ]);
    assert!(!output.contains("failed") && !output.contains("error"), "{output}");
    assert!(server.image.lock().expect("not poisoned").flushes > 0);
}
