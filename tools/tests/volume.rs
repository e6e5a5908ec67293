//! A volume without a target: create, show, check and destroy on image files, through the engine.

mod common;

use common::Place;
use std::os::unix::fs::FileExt;

const MIB: u64 = 1 << 20;

fn created(place: &Place) -> (String, String) {
    let (origin, store) = (place.image("disk.img", 64 * MIB), place.text("disk.store"));
    let answer = place.json(&["create", "v", "--origin", &origin, "--store", &store, "--store-size", "32M"]);
    assert_eq!(answer["size_bytes"], 64 * MIB);
    assert_eq!(answer["store_bytes"], 32 * MIB);
    (origin, store)
}

#[test]
fn create_writes_the_store_and_never_the_origin() {
    let place = Place::new();
    let origin = place.image("disk.img", 8 * MIB);
    let content: Vec<u8> = (0..8 * MIB).map(|index| (index % 251) as u8).collect();
    std::fs::write(&origin, &content).expect("content");
    let store = place.text("s");
    place.done(&["create", "v", "--origin", &origin, "--store", &store, "--store-size", "32M"]);
    assert!(std::fs::read(&origin).expect("content") == content, "the origin was written");
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(&store).expect("a store");
    assert!(metadata.blocks() * 512 >= 32 * MIB, "the store is not allocated whole");
    assert_eq!(metadata.mode() & 0o777, 0o600);
}

#[test]
fn a_created_volume_is_listed_shown_and_checked_while_detached() {
    let place = Place::new();
    let (origin, store) = created(&place);
    let shown = place.json(&["show", "v"]);
    assert_eq!(shown["snapshots"], serde_json::json!([]));
    assert_eq!(shown["config"]["origin"], origin.as_str());
    assert!(shown["config"]["store_id"].is_string());
    let checked = place.json(&["check", "v", "--data"]);
    assert_eq!(checked["clean"], true, "{checked}");
    assert_eq!(place.json(&["check", "--store", &store])["clean"], true);
    place.fails(&["show", "v@none"], 3, "not-found");
}

#[test]
fn create_refuses_what_would_lose_data_or_cannot_work() {
    let place = Place::new();
    let (origin, store) = created(&place);
    let other = place.image("other.img", 64 * MIB);
    let there = place.image("there.store", 32 * MIB);
    let new = place.text("new.store");
    let create = |volume: &'static str, origin: &str, store: &str, more: &[&'static str]| {
        let mut arguments = vec!["create", volume, "--origin", origin, "--store", store];
        arguments.extend(more);
        arguments.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let size = ["--store-size", "32M"];
    let tiny = place.image("tiny.img", 1000);
    for (arguments, code, kind, says) in [
        (create("v", &other, &new, &size), 4, "exists", "another name"),
        (create("w", &other, &other, &[]), 9, "refused", "is the origin"),
        (create("w", "/no/such", &new, &size), 3, "not-found", "/no/such"),
        (create("w", &tiny, &new, &size), 1, "invalid", "at least 4096"),
        (create("w", &other, &new, &[]), 3, "not-found", "--store-size"),
        (create("w", &other, &store, &["--force"]), 9, "refused", "is the store of volume v"),
        (create("w", &origin, &new, &size), 9, "refused", "is the origin of volume v"),
        (create("w", &other, &there, &size), 4, "exists", "--store-size"),
        (create("w", "/dev/null", &new, &size), 1, "failed", "neither"),
        (create("w", &other, "/dev/null", &[]), 1, "invalid", "neither"),
        (create("w", &other, &new, &["--store-size", "64K"]), 12, "store-full", "larger store"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = place.fails(&arguments, code, kind);
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert!(!place.path("new.store").exists(), "{arguments:?} left a store behind");
        assert!(!place.path("state/volumes/w.json").exists(), "{arguments:?} left a configuration behind");
    }
}

#[test]
fn a_store_with_data_is_overwritten_only_by_force() {
    let place = Place::new();
    let (origin, store) = (place.image("disk.img", 8 * MIB), place.image("s", 32 * MIB));
    let file = std::fs::File::options().write(true).open(&store).expect("the store");
    file.write_all_at(b"\x53\xef", 1024 + 56).expect("an ext4 mark");
    let said = place.fails(&["create", "v", "--origin", &origin, "--store", &store], 9, "refused");
    assert!(said.contains("ext4") && said.contains("--force"), "{said}");
    place.done(&["create", "v", "--origin", &origin, "--store", &store, "--force"]);
    assert_eq!(place.json(&["check", "v"])["clean"], true);
}

#[test]
fn destroy_forgets_the_volume_erases_the_signature_and_leaves_the_origin() {
    let place = Place::new();
    let (origin, store) = created(&place);
    place.fails(&["destroy", "v"], 9, "refused");
    let answer = place.json(&["destroy", "v", "--yes"]);
    assert_eq!(answer["store_erased"], true);
    assert_eq!(place.json(&["list"])["volumes"], serde_json::json!([]));
    place.fails(&["check", "--store", &store], 8, "not-a-store");
    // What is left is space for the next.
    place.done(&["create", "v", "--origin", &origin, "--store", &store, "--force"]);
}

#[test]
fn a_lost_or_damaged_store_is_said_and_can_be_forgotten() {
    let place = Place::new();
    let (_, store) = created(&place);
    let file = std::fs::File::options().write(true).open(&store).expect("the store");
    file.write_all_at(&[0xff; 4096], 0).expect("damage");
    file.write_all_at(&[0xff; 4096], 65536).expect("damage");
    let said = place.fails(&["check", "v"], 8, "not-a-store");
    assert!(said.contains("disk.store"), "{said}");
    std::fs::remove_file(&store).expect("a lost store");
    place.fails(&["check", "v"], 3, "not-found");
    place.fails(&["destroy", "v", "--yes"], 3, "not-found");
    assert_eq!(place.json(&["destroy", "v", "--yes", "--force"])["store_erased"], false);
    assert_eq!(place.json(&["list"])["volumes"], serde_json::json!([]));
}

#[test]
fn one_damaged_copy_is_reported_and_does_no_harm() {
    let place = Place::new();
    let (_, store) = created(&place);
    let file = std::fs::File::options().write(true).open(&store).expect("the store");
    file.write_all_at(&[0xff; 512], 1024).expect("damage");
    // The copy at 64 KiB answers; the other is written anew at the next attach.
    assert_eq!(place.cairn(&["check", "v"]).code, 0);
}
