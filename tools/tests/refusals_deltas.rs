//! What diff, send, receive, export and import refuse: a clear error each, and nothing changed.

mod common;

use common::attached::{Volume, MIB, VOLUME_BYTES};
use common::streams::{content, noise, write_at, Pipe};
use common::{have, sh, Place};
use std::fs::File;

/// Snapshots `one` and `two`, 64 KiB apart.
fn two_snapshots(place: &Place) -> Volume<'_> {
    let volume = Volume::attached(place);
    write_at(&volume, 0, &[1; 64 << 10]);
    place.done(&["snapshot", "v@one"]);
    write_at(&volume, 32 << 10, &[2; 8192]);
    place.done(&["snapshot", "v@two"]);
    volume
}

/// A replica that is `one`, and the files of a full and an incremental stream.
fn replica(place: &Place) -> (String, String, String) {
    let (replica, full, delta) = (place.text("replica.img"), place.text("full.cairn"), place.text("delta.cairn"));
    sh(&place.shell(&format!("$CAIRN send v@one > {full}; $CAIRN send -i one v@two > {delta}")));
    Pipe::new(place).receive(&full, &[&replica]);
    (replica, full, delta)
}

/// The error of a receive of `file`, with this exit code.
fn refused(place: &Place, file: &str, arguments: &[&str], code: i32) -> (String, String) {
    let told = Pipe::new(place).try_receive(file, arguments);
    assert_eq!(told.code, code, "{arguments:?}: {}{}", told.stdout, told.stderr);
    let error: serde_json::Value = serde_json::from_str(&told.stderr).expect("one JSON object");
    let text = |key: &str| error["error"][key].as_str().expect("text").to_owned();
    (text("kind"), text("message"))
}

#[test]
fn points_in_the_wrong_order_or_of_different_volumes_or_unknown_are_refused() {
    let place = Place::new();
    let _volume = two_snapshots(&place);
    let (origin, store) = (place.image("w.img", VOLUME_BYTES), place.text("w.store"));
    place.done(&["create", "w", "--origin", &origin, "--store", &store, "--store-size", "64M"]);
    for arguments in [
        &["diff", "v@two", "v@one"][..],
        &["diff", "v@one", "v@one"],
        &["diff", "v", "v@one"],
        &["diff", "v@one", "w"],
        &["send", "-n", "-i", "two", "v@one"],
        &["send", "-n", "-i", "w@one", "v@two"],
        &["export", "v@one", "/nonexistent/x", "--format", "rbd", "--base", "two"],
    ] {
        place.fails(arguments, 1, "invalid");
    }
    for arguments in
        [&["diff", "v@gone", "v@two"][..], &["diff", "v#gone", "v"], &["send", "-n", "-i", "gone", "v@two"]]
    {
        let said = place.fails(arguments, 10, "base-missing");
        assert!(said.contains("gone"), "{said}");
    }
    place.fails(&["diff", "v@one", "v@gone"], 3, "not-found");
    place.fails(&["send", "-n", "v@gone"], 3, "not-found");
    place.fails(&["export", "v@gone", &place.text("x")], 3, "not-found");
    place.fails(&["send", "-n", "none@one"], 3, "not-found");
    assert!(!place.path("x").exists());
}

#[test]
fn a_comparison_needs_two_snapshots_and_says_so_before_it_lists_anything() {
    let place = Place::new();
    let _volume = two_snapshots(&place);
    place.done(&["delete", "v@one", "--keep-bookmark", "--yes"]);
    place.done(&["snapshot", "v@three"]);
    for (from, to, word) in [("v#one", "v@two", "bookmark"), ("v@two", "v", "take a snapshot")] {
        place.done(&["diff", from, to]);
        let said = place.fails(&["diff", "--verify", from, to], 1, "invalid");
        assert!(said.contains(word), "{said}");
        assert_eq!(place.cairn(&["diff", "--verify", from, to]).stdout, "", "{from} to {to}");
    }
    let told = place.cairn(&["diff", "--verify", "v@two"]);
    assert_eq!((told.code, told.stdout.as_str()), (2, ""));
    assert!(told.stderr.contains("<YOUNGER>"), "it says which of the two is missing: {}", told.stderr);
    place.done(&["diff", "--verify", "v@two", "v@three"]);
}

#[test]
fn a_stream_of_another_lineage_or_for_another_base_is_refused() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    let (replica, _, delta) = replica(&place);
    Pipe::new(&place).receive(&delta, &[&replica]);
    let before = content(&replica);
    let (kind, said) = refused(&place, &delta, &[&replica], 10);
    assert!(kind == "base-missing" && said.contains("two") && said.contains("one"), "{said}");
    let zeroes = place.image("zeroes.img", VOLUME_BYTES);
    refused(&place, &delta, &[&zeroes], 10);
    assert!(content(&zeroes).iter().all(|byte| *byte == 0));
    let (origin, store) = (place.image("w.img", VOLUME_BYTES), place.text("w.store"));
    place.done(&["create", "w", "--origin", &origin, "--store", &store, "--store-size", "64M"]);
    place.done(&["attach", "w", "--frontend=nbd"]);
    let _detached = place.detach_later("w");
    place.done(&["snapshot", "w@one"]);
    place.done(&["snapshot", "w@two"]);
    let other = place.text("other.cairn");
    sh(&place.shell(&format!("$CAIRN send -i one w@two --fingerprint > {other}")));
    refused(&place, &other, &[&replica], 10);
    assert!(content(&replica) == before);
    drop(volume);
}

#[test]
fn every_flipped_byte_and_every_truncation_of_a_stream_leaves_the_target_as_it_was() {
    let place = Place::new();
    let _volume = two_snapshots(&place);
    let (replica, _, delta) = replica(&place);
    let (before, stream) = (content(&replica), content(&delta));
    let bad = place.text("bad.cairn");
    // Each offset is tried in the crate of the format; here the command is, at some of each part.
    let places: Vec<usize> = (0..stream.len()).step_by(stream.len() / 24).chain([stream.len() - 1]).collect();
    for at in places {
        let mut flipped = stream.clone();
        flipped[at] ^= 0x20;
        for (what, bytes) in [("flipped", &flipped[..]), ("cut", &stream[..at])] {
            std::fs::write(&bad, bytes).expect("written");
            let told = Pipe::new(&place).try_receive(&bad, &[&replica]);
            assert!([8, 9].contains(&told.code), "{what} at {at}: {}{}", told.stdout, told.stderr);
            assert!(content(&replica) == before, "{what} at {at}");
        }
    }
    std::fs::write(&bad, [&stream[..], b"x"].concat()).expect("written");
    refused(&place, &bad, &[&replica], 8);
    assert!(content(&replica) == before);
    Pipe::new(&place).receive(&delta, &[&replica]);
}

#[test]
fn a_newer_version_of_the_stream_is_refused_by_its_number() {
    let place = Place::new();
    let _volume = two_snapshots(&place);
    let (replica, _, delta) = replica(&place);
    let mut stream = content(&delta);
    stream[8] = 9;
    let newer = place.text("newer.cairn");
    std::fs::write(&newer, stream).expect("written");
    let (kind, said) = refused(&place, &newer, &[&replica], 9);
    assert!(kind == "stream-too-new" && said.contains('9'), "{kind}: {said}");
}

#[test]
fn a_target_that_was_modified_is_noticed_even_where_its_times_say_nothing() {
    let place = Place::new();
    let _volume = two_snapshots(&place);
    let (replica, _, delta) = replica(&place);
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(&replica).expect("opens");
    file.write_all_at(&[9; 512], 5 * MIB).and_then(|()| file.sync_all()).expect("written");
    let before = content(&replica);
    let (kind, _) = refused(&place, &delta, &[&replica], 11);
    assert_eq!(kind, "target-modified");
    assert!(content(&replica) == before);
    file.write_all_at(&[0; 512], 5 * MIB).and_then(|()| file.sync_all()).expect("written");
    let received = Pipe::new(&place).receive(&delta, &[&replica]);
    assert_eq!(received["verified"], true, "touched, and the content is that of the base");
}

#[test]
fn a_target_that_is_too_small_or_holds_data_or_is_mounted_is_refused() {
    let name = "a_target_that_is_too_small_or_holds_data_or_is_mounted_is_refused";
    let place = Place::new();
    let _volume = two_snapshots(&place);
    let (_, full, _) = replica(&place);
    let precious = place.text("precious.img");
    std::fs::write(&precious, vec![5; MIB as usize]).expect("written");
    let (_, said) = refused(&place, &full, &[&precious], 9);
    assert!(said.contains("--yes"), "{said}");
    assert!(content(&precious) == vec![5; MIB as usize]);
    Pipe::new(&place).receive(&full, &[&precious, "--yes"]);
    place.done(&["receive", &precious, "--undo"]);
    assert!(content(&precious) == vec![5; MIB as usize], "content and length are back");
    let (origin, store) = (place.image("w.img", 8 * MIB), place.text("w.store"));
    place.done(&["create", "w", "--origin", &origin, "--store", &store, "--store-size", "64M"]);
    place.done(&["attach", "w", "--frontend=nbd"]);
    let _detached = place.detach_later("w");
    let (_, said) = refused(&place, &full, &["w"], 9);
    assert!(said.contains("too small"), "{said}");
    if !have(name, &["losetup", "mkfs.ext4", "mount"], &["/dev/loop-control"]) {
        return;
    }
    let (image, mounted) = (place.image("small.img", 8 * MIB), place.text("mounted"));
    let device = sh(&format!("PATH=$PATH:/usr/sbin; mkfs.ext4 -q {image}; losetup --find --show {image}"));
    let (_, said) = refused(&place, &full, &[&device, "--yes"], 9);
    assert!(said.contains("too small"), "{said}");
    sh(&format!("PATH=$PATH:/usr/sbin; mkdir {mounted}; mount {device} {mounted}"));
    let (_, said) = refused(&place, &full, &[&device, "--yes"], 5);
    sh(&format!("PATH=$PATH:/usr/sbin; umount {mounted}; losetup --detach {device}"));
    assert!(said.contains("mounted"), "{said}");
}

#[test]
fn the_origin_or_the_store_of_a_volume_is_never_a_target() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    let (_, full, delta) = replica(&place);
    let store_before = content(&volume.store);
    for (path, what) in [(&volume.origin, "origin"), (&volume.store, "store")] {
        for stream in [&full, &delta] {
            let (_, said) = refused(&place, stream, &[&path.display().to_string(), "--yes"], 9);
            assert!(said.contains(&format!("the {what} of volume v")), "{said}");
        }
    }
    let (_, said) = refused(&place, &full, &["v"], 9);
    assert!(said.contains("this very volume"), "{said}");
    volume.detach();
    let (_, said) = refused(&place, &full, &[&volume.origin.display().to_string(), "--yes"], 9);
    assert!(said.contains("the origin of volume v"), "detached as well: {said}");
    assert_eq!(content(&volume.store).len(), store_before.len());
}

#[test]
fn a_full_disk_leaves_no_file_under_the_final_name() {
    let name = "a_full_disk_leaves_no_file_under_the_final_name";
    if !have(name, &["mount", "umount", "qemu-img", "qemu-nbd"], &[]) {
        return;
    }
    let place = Place::new();
    let volume = Volume::attached(&place);
    write_at(&volume, 0, &noise(1, 4 << 20));
    place.done(&["snapshot", "v@one"]);
    let small = place.text("small");
    sh(&format!("mkdir {small}; mount -t tmpfs -o size=1M none {small}"));
    let mut left = Vec::new();
    for format in ["raw", "qcow2", "vhdx", "rbd", "native"] {
        let told = place.cairn(&["export", "v@one", &format!("{small}/file"), "--format", format]);
        left.push((format, told.code, told.stderr, sh(&format!("ls -A {small}"))));
    }
    sh(&format!("umount {small}"));
    for (format, code, said, files) in left {
        assert!(code != 0 && files.is_empty(), "{format}: exit code {code}, {said}, left: {files}");
        assert!(said.to_lowercase().contains("no space") || said.contains("os error 28"), "{format}: {said}");
    }
}

#[test]
fn usage_that_makes_no_sense_is_said() {
    let place = Place::new();
    let _volume = two_snapshots(&place);
    let x = place.text("x");
    for arguments in [
        &["export", "v@two", &x, "--base", "one"][..],
        &["export", "v@two", &x, "--format", "qcow2", "--base", "one"],
        &["export", "v@two", &x, "--format", "rbd", "--base", "one", "--backing-file", &x],
        &["send", "-n", "-t", "nonsense", "v@one"],
        &["diff", "v@one", "v@two", "--whole-device-map", "map.gif"],
    ] {
        place.fails(arguments, 2, "usage");
    }
    std::fs::write(&x, b"").expect("written");
    let (kind, _) = refused(&place, &x, &[&place.text("y")], 8);
    assert_eq!(kind, "stream-truncated");
    std::fs::write(&x, b"once upon a time, there was no stream").expect("written");
    let (kind, _) = refused(&place, &x, &[&place.text("y")], 8);
    assert_eq!(kind, "not-a-stream");
    assert!(!place.path("y").exists());
    place.fails(&["receive", &place.text("y"), "--token"], 3, "not-found");
}
