//! diff, send, receive, export, import and audit, end to end: a volume served over NBD, files and a second volume.

mod common;

use common::attached::{Volume, MIB, VOLUME_BYTES};
use common::nbd::Client;
use common::streams::{content, write_at, Pipe};
use common::{have, sh, Place};
use serde_json::json;
use std::time::Duration;

/// Snapshot `one`: 1 MiB of 1 at 0, 64 KiB of 7 at 8 MiB. Snapshot `two`: the first 512 KiB are 2.
fn two_snapshots(place: &Place) -> Volume<'_> {
    let volume = Volume::attached(place);
    volume.fill(1);
    write_at(&volume, 8 * MIB, &[7; 64 << 10]);
    place.done(&["snapshot", "v@one"]);
    write_at(&volume, 0, &[2; 512 << 10]);
    place.done(&["snapshot", "v@two"]);
    volume
}

#[test]
fn diff_lists_what_changed_in_every_form() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    let diff = place.json(&["diff", "v@one", "v@two"]);
    assert_eq!(diff["extents"], json!([{ "offset_bytes": 0, "length_bytes": 512 << 10, "kind": "data" }]));
    assert_eq!((&diff["totals"]["data_bytes"], &diff["size_bytes"]), (&json!(512 << 10), &json!(VOLUME_BYTES)));
    let table = place.done(&["diff", "v@one", "v@two"]).stdout;
    assert!(table.contains("OFFSET") && table.contains("524288") && table.contains("512 KiB in 1 extents"), "{table}");
    let lines = place.done(&["diff", "v@one", "v@two", "--ndjson"]).stdout;
    assert_eq!(lines, "{\"offset_bytes\":0,\"length_bytes\":524288,\"kind\":\"data\"}\n");
    let rbd = place.done(&["diff", "v@one", "v@two", "--format", "rbd"]).stdout;
    let words: Vec<&str> = rbd.split_whitespace().collect();
    assert_eq!(words, ["Offset", "Length", "Type", "0", "524288", "data"]);
    let rbd = place.json(&["diff", "v@one", "v@two", "--format", "rbd"]);
    assert_eq!(rbd, json!([{ "offset": 0, "length": 524288, "exists": "true" }]));
    write_at(&volume, 12 * MIB, &[9; 4096]);
    let live = place.json(&["diff", "v@two", "v"]);
    assert_eq!(live["extents"], json!([{ "offset_bytes": 12 * MIB, "length_bytes": 4096, "kind": "data" }]));
    let verified = place.json(&["diff", "v@one", "v@two", "--verify"]);
    assert_eq!(verified["verified"]["compared_bytes"], VOLUME_BYTES - (512 << 10));
    assert_eq!(verified["verified"]["unreported_bytes"], 0);
    for (name, magic) in [("map.svg", &b"<svg"[..]), ("map.png", b"\x89PNG")] {
        place.done(&["diff", "v@one", "v", "--whole-device-map", &place.text(name)]);
        assert!(std::fs::read(place.path(name)).expect("a picture").starts_with(magic), "{name}");
    }
}

#[test]
fn a_stream_makes_a_file_and_the_next_one_brings_it_forward_and_back() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    let (replica, full, delta) = (place.text("replica.img"), place.text("full.cairn"), place.text("delta.cairn"));
    sh(&place.shell(&format!("$CAIRN send v@one > {full} && $CAIRN send -i one v@two > {delta}")));
    for (arguments, file) in [(&["send", "-n", "v@one"][..], &full), (&["send", "-n", "-i", "one", "v@two"], &delta)] {
        let told = place.json(arguments);
        assert_eq!(told["stream_bytes"], std::fs::metadata(file).expect("a stream").len(), "{arguments:?}");
    }
    let parsable = place.done(&["send", "-n", "-P", "-i", "@one", "v@two"]).stdout;
    assert!(parsable.starts_with("incremental\tone\tv@two\t") && parsable.contains("\nsize\t"), "{parsable}");
    let received = Pipe::new(&place).receive(&full, &[&replica]);
    assert_eq!((&received["verified"], &received["snapshot"]), (&json!(true), &json!("one")), "{received}");
    assert!(content(&replica) == volume.snapshot_content("one"));
    let received = Pipe::new(&place).receive(&delta, &[&replica]);
    assert_eq!(received["verified"], true, "the base's fingerprint was kept: {received}");
    assert!(content(&replica) == volume.snapshot_content("two"));
    place.done(&["receive", &replica, "--undo"]);
    assert!(content(&replica) == volume.snapshot_content("one"), "the undo is exact");
    place.fails(&["receive", &replica, "--undo"], 3, "not-found");
    let received = Pipe::new(&place).receive(&delta, &[&replica]);
    assert_eq!(received["verified"], true, "after an undo it is the base again: {received}");
    sh(&place.shell(&format!("$CAIRN send -i one v@two --compress=19 --limit-rate 1G | cat > {delta}.z")));
    assert!(std::fs::metadata(format!("{delta}.z")).expect("there").len() < 64 << 10, "compressed");
}

#[test]
fn an_undo_of_a_first_receive_removes_the_file_it_made() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    let replica = place.text("replica.img");
    sh(&place.shell(&format!("$CAIRN send v@one | $CAIRN receive {replica}")));
    assert!(content(&replica) == volume.snapshot_content("one"));
    place.done(&["receive", &replica, "--undo"]);
    assert!(!place.path("replica.img").exists() && !place.path("replica.img.cairn").exists());
}

#[test]
fn a_volume_receives_what_another_sends_and_goes_back() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    let (origin, store) = (place.image("w.img", VOLUME_BYTES), place.text("w.store"));
    place.done(&["create", "w", "--origin", &origin, "--store", &store, "--store-size", "64M"]);
    place.done(&["attach", "w", "--frontend=nbd"]);
    let _detached = place.detach_later("w");
    sh(&place.shell("$CAIRN send v@one | $CAIRN receive w"));
    let read = |export: &str| common::streams::read_export(&place.path("run/w/nbd.sock"), export, VOLUME_BYTES);
    assert!(read("w") == volume.snapshot_content("one") && read("w@one") == volume.snapshot_content("one"));
    sh(&place.shell("$CAIRN send -i one v@two | $CAIRN receive w"));
    assert!(read("w") == volume.snapshot_content("two") && read("w@two") == volume.snapshot_content("two"));
    let names = |shown: &serde_json::Value| {
        let snapshots = shown["snapshots"].as_array().expect("a list");
        snapshots.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let kept = names(&place.json(&["show", "w"]));
    assert_eq!(kept.iter().filter(|name| name.starts_with("before-receive-")).count(), 1, "one undo: {kept:?}");
    place.done(&["receive", "w", "--undo"]);
    assert!(read("w") == volume.snapshot_content("one"), "the undo is exact");
    assert_eq!(names(&place.json(&["show", "w"])), ["one"]);
    sh(&place.shell("$CAIRN send -i one v@two | $CAIRN receive w"));
    assert!(read("w") == volume.snapshot_content("two"));
    write_at_export(&place, "w", 4096, &[5; 4096]);
    let told = Pipe::new(&place).send_to(&["send", "-i", "two", "v@three"], &["receive", "w"], || {
        write_at(&volume, 2 * MIB, &[3; 4096]);
        place.done(&["snapshot", "v@three"]);
    });
    assert_eq!(told.code, 11, "written since: {}", told.stderr);
}

#[test]
fn a_bookmark_of_the_received_name_is_not_replaced_without_a_word() {
    let place = Place::new();
    let _volume = two_snapshots(&place);
    let (origin, store) = (place.image("w.img", VOLUME_BYTES), place.text("w.store"));
    place.done(&["create", "w", "--origin", &origin, "--store", &store, "--store-size", "64M"]);
    place.done(&["attach", "w", "--frontend=nbd"]);
    let _detached = place.detach_later("w");
    place.done(&["snapshot", "w@one"]);
    place.done(&["delete", "w@one", "--keep-bookmark", "--yes"]);
    let told = Pipe::new(&place).send_to(&["send", "v@one"], &["receive", "w"], || {});
    assert!(told.code == 4 && told.stderr.contains("w@one exists"), "{}: {}", told.code, told.stderr);
    assert_eq!(place.json(&["show", "w"])["bookmarks"][0]["name"], "one");
}

fn write_at_export(place: &Place, volume: &str, offset: u64, bytes: &[u8]) {
    let mut client = common::nbd::Client::open(&place.path(&format!("run/{volume}/nbd.sock")), volume);
    assert_eq!((client.write(0, offset, bytes), client.flush()), (0, 0));
}

#[test]
fn exports_are_read_by_qemu_and_hold_what_the_snapshot_holds() {
    let name = "exports_are_read_by_qemu_and_hold_what_the_snapshot_holds";
    let place = Place::new();
    let volume = two_snapshots(&place);
    for (snapshot, file) in [("one", "one.raw"), ("two", "two.raw")] {
        place.done(&["export", &format!("v@{snapshot}"), &place.text(file)]);
        assert!(content(place.text(file)) == volume.snapshot_content(snapshot));
    }
    use std::os::unix::fs::MetadataExt;
    let blocks = std::fs::metadata(place.path("one.raw")).expect("there").blocks();
    assert!(blocks * 512 <= 2 * MIB, "a sparse file: {blocks}");
    place.fails(&["export", "v@one", &place.text("one.raw")], 4, "exists");
    if !have(name, &["qemu-img", "qemu-nbd"], &[]) {
        return;
    }
    let (base, overlay, vhdx) = (place.text("one.qcow2"), place.text("two.qcow2"), place.text("two.vhdx"));
    place.done(&["export", "v@one", &base, "--format", "qcow2"]);
    let more = ["--format", "qcow2", "--base", "one", "--backing-file", &base];
    place.done(&[&["export", "v@two", &overlay][..], &more].concat());
    place.done(&["export", "v@two", &vhdx, "--format", "vhdx"]);
    for (image, raw) in [(&base, "one.raw"), (&overlay, "two.raw"), (&vhdx, "two.raw")] {
        let compared = sh(&format!("qemu-img compare {image} -F raw {}", place.text(raw)));
        assert!(compared.contains("identical"), "{image}: {compared}");
    }
    assert!(std::fs::metadata(&overlay).expect("there").len() < MIB + (512 << 10), "only what changed");
    assert!(!sh(&format!("ls -A {}", place.directory.path().display())).contains(".partial"));
}

#[test]
fn diffs_of_ceph_are_exported_and_imported_in_both_versions() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    for (format, version) in [("rbd", "v1"), ("rbd-v2", "v2")] {
        let (full, delta, copy) =
            (place.text("full.rbd"), place.text("delta.rbd"), place.text(&format!("{format}.img")));
        place.done(&["export", "v@one", &full, "--format", format, "--force"]);
        place.done(&["export", "v@two", &delta, "--format", format, "--base", "one", "--force"]);
        assert!(content(&full).starts_with(format!("rbd diff {version}\n").as_bytes()));
        place.done(&["import", &full, &copy]);
        assert!(content(&copy) == volume.snapshot_content("one"));
        place.done(&["import", &delta, &copy]);
        assert!(content(&copy) == volume.snapshot_content("two"));
        place.fails(&["import", &delta, &copy], 10, "base-missing");
    }
    let (raw, native, copy) = (place.text("one.raw"), place.text("two.cairn"), place.text("copy.img"));
    place.done(&["export", "v@one", &raw]);
    place.done(&["export", "v@two", &native, "--format", "native"]);
    let imported = place.json(&["import", &raw, &copy]);
    assert_eq!(imported["verified"], true, "{imported}");
    assert!(content(&copy) == content(&raw));
    place.done(&["import", &native, &copy, "--yes"]);
    assert!(content(&copy) == volume.snapshot_content("two"));
}

#[test]
fn an_audit_compares_what_no_delta_touched() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    let first = place.json(&["audit", "v", "--full"]);
    assert_eq!((&first["since"], &first["known_bytes"]), (&json!(null), &json!(VOLUME_BYTES)));
    write_at(&volume, 3 * MIB, &[4; 4096]);
    place.done(&["snapshot", "v@three"]);
    let second = place.json(&["audit", "v", "--full"]);
    assert_eq!((&second["since"], &second["compared_bytes"]), (&json!("two"), &json!(VOLUME_BYTES - MIB)), "{second}");
    assert_eq!(second["wrong_extents"], 0);
    assert_eq!(place.json(&["show", "v"])["audit"], second);
    assert_eq!(place.json(&["stat", "v"])["audit"], second, "among the metrics, too");
    // A disk that changes behind Cairn's back is a change that no delta reports.
    use std::os::unix::fs::FileExt;
    let bare = std::fs::File::options().write(true).open(&volume.origin).expect("the origin");
    bare.write_all_at(&[6; 4096], 9 * MIB).and_then(|()| bare.sync_all()).expect("written");
    place.done(&["snapshot", "v@four"]);
    let told = place.cairn(&["audit", "v", "--full", "--json"]);
    assert_eq!(told.code, 8, "{}{}", told.stdout, told.stderr);
    let report: serde_json::Value = serde_json::from_str(&told.stdout).expect("a report");
    assert_eq!((&report["wrong_extents"], &report["first_wrong_bytes"]), (&json!(1), &json!(9 * MIB)));
    for verb in ["show", "stat"] {
        assert!(place.done(&[verb, "v"]).stdout.contains("WRONG"), "{verb}");
    }
    assert_eq!(place.json(&["stat", "v"])["audit"]["wrong_extents"], 1);
}

#[test]
fn an_audit_of_an_earlier_volume_of_the_name_shows_nowhere() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    place.done(&["audit", "v", "--full"]);
    volume.detach();
    place.done(&["destroy", "v", "--yes"]);
    let left: Vec<_> = std::fs::read_dir(place.path("state/audit")).expect("a directory").collect();
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_file(&volume.store).expect("removed");
    drop(volume);
    let volume = Volume::attached(&place);
    assert_eq!(place.json(&["show", "v"])["audit"], json!(null));
    assert_eq!(place.json(&["stat", "v"])["audit"], json!(null));
    assert!(place.done(&["stat", "v"]).stdout.contains("none yet"));
    drop(volume);
}

#[test]
fn a_snapshot_that_is_sent_is_neither_deleted_nor_its_volume_detached() {
    let place = Place::new();
    let _volume = two_snapshots(&place);
    let mut command = place.command(&["send", "v@one", "--limit-rate", "64K"]);
    let mut sender = command.stdout(std::process::Stdio::piped()).spawn().expect("starts");
    use std::io::Read;
    let mut first = [0; 16];
    sender.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("the stream begins");
    let said = place.fails(&["delete", "v@one", "--yes"], 5, "busy");
    assert!(said.contains("one"), "{said}");
    place.fails(&["detach", "v"], 5, "busy");
    sender.kill().and_then(|()| sender.wait()).expect("ended");
    common::attached::wait_until("the snapshot is let go", || place.cairn(&["delete", "v@one", "--yes"]).code == 0);
}

#[test]
fn a_detached_volume_answers_like_an_attached_one() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    write_at(&volume, 12 * MIB, &[9; 4096]);
    let questions = [&["diff", "v@one", "v@two"][..], &["diff", "v@one", "v"], &["send", "-n", "-i", "one", "v@two"]];
    let attached: Vec<_> = questions.iter().map(|question| place.json(question)).collect();
    let expected = volume.snapshot_content("one");
    volume.detach();
    for (question, answer) in questions.iter().zip(&attached) {
        assert_eq!(place.json(question), *answer, "{question:?}");
    }
    place.done(&["export", "v@one", &place.text("one.raw")]);
    assert!(content(place.path("one.raw")) == expected);
    let replica = place.text("replica.img");
    sh(&place.shell(&format!("$CAIRN send v@one | $CAIRN receive {replica}")));
    volume.attach();
    volume.kill();
    sh(&place.shell(&format!("$CAIRN send -i one v@two | $CAIRN receive {replica}")));
    let store = content(&volume.store);
    assert_eq!(place.json(questions[0]), attached[0], "after an unclean end as well");
    assert!(content(&volume.store) == store, "and nothing was written");
    volume.attach();
    assert!(content(&replica) == volume.snapshot_content("two"));
}

#[test]
fn a_bookmark_begins_a_delta_and_a_stream_and_is_never_read() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    let replica = place.text("replica.img");
    sh(&place.shell(&format!("$CAIRN send v@one | $CAIRN receive {replica}")));
    let before = place.json(&["diff", "v@one", "v@two"]);
    place.done(&["delete", "v@one", "--keep-bookmark", "--yes"]);
    let after = place.json(&["diff", "v#one", "v@two"]);
    assert_eq!(after["extents"], before["extents"]);
    let said = place.fails(&["diff", "v@one", "v@two"], 10, "base-missing");
    assert!(said.contains("#one"), "it says that a bookmark is left: {said}");
    assert!(place.done(&["show", "v"]).stdout.contains("#one"));
    place.fails(&["diff", "v@two", "v#one"], 1, "invalid");
    sh(&place.shell(&format!("$CAIRN send -i '#one' v@two | $CAIRN receive {replica}")));
    assert!(content(&replica) == volume.snapshot_content("two"));
    place.done(&["delete", "v#one", "--yes"]);
    place.fails(&["diff", "v#one", "v@two"], 10, "base-missing");
}

#[test]
fn what_is_not_in_use_any_more_travels_as_such_and_reads_as_zeroes() {
    let place = Place::new();
    let volume = two_snapshots(&place);
    let (replica, other) = (place.text("replica.img"), place.text("other.img"));
    sh(&place.shell(&format!("$CAIRN send v@two | $CAIRN receive {replica}; cp --sparse=never {replica} {other}")));
    let mut client = volume.open("v");
    assert_eq!(client.call(common::nbd::TRIM, 0, 8 * MIB, 64 << 10, &[]), 0);
    drop(client);
    place.done(&["snapshot", "v@three"]);
    let diff = place.json(&["diff", "v@two", "v@three"]);
    assert_eq!(diff["extents"], json!([{ "offset_bytes": 8 * MIB, "length_bytes": 64 << 10, "kind": "not-in-use" }]));
    assert!(place.done(&["diff", "v@two", "v@three"]).stdout.contains("not in use"));
    assert!(place.done(&["diff", "v@two", "v@three", "--format", "rbd"]).stdout.contains("zero"));
    let stream = place.text("delta.cairn");
    sh(&place.shell(&format!("$CAIRN send -i two v@three > {stream}")));
    assert!(std::fs::metadata(&stream).expect("there").len() < 4096, "nothing but the range travels");
    let received = Pipe::new(&place).receive(&stream, &[&replica]);
    assert_eq!(received["verified"], true, "{received}");
    let expected = volume.snapshot_content("three");
    assert!(expected[8 << 20..(8 << 20) + (64 << 10)].iter().all(|byte| *byte == 0));
    assert!(content(&replica) == expected);
    // A copy without its record is told by its content.
    let received = Pipe::new(&place).receive(&stream, &[&other]);
    assert_eq!(received["verified"], true, "{received}");
    assert!(content(&other) == expected);
    place.done(&["export", "v@three", &place.text("three.raw")]);
    assert!(content(place.path("three.raw")) == expected);
    place.done(&["receive", &replica, "--undo"]);
    assert!(content(&replica) == volume.snapshot_content("two"));
}

#[test]
fn a_receive_into_a_volume_waits_a_moment_for_a_client_that_goes_but_not_for_one_that_stays() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    let (origin, store) = (place.image("w.img", VOLUME_BYTES), place.text("w.store"));
    place.done(&["create", "w", "--origin", &origin, "--store", &store, "--store-size", "256M"]);
    place.done(&["attach", "w", "--frontend=nbd"]);
    let _detached = place.detach_later("w");
    let open = || Client::open(&place.path("run/w/nbd.sock"), "w");
    let bring = || Pipe::new(&place).send_to(&["send", "v@one"], &["receive", "w"], || {});
    let staying = open();
    let refused = bring();
    assert!(refused.code == 5 && refused.stderr.contains("NBD clients have it open"), "{}", refused.stderr);
    drop(staying);
    let going = open();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            drop(going);
        });
        let received = bring();
        assert_eq!(received.code, 0, "{}", received.stderr);
    });
}
