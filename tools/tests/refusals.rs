//! What attach refuses, and that the disk is untouched by it: a test for each row of bad input.

mod common;

use common::attached::{Volume, MIB, VOLUME_BYTES};
use common::{have, ran, sh, Place};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

fn overwrite(path: &Path, offset_bytes: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(path).expect("there");
    file.write_all_at(bytes, offset_bytes).expect("overwritten");
}

/// Changes one key of a volume's configuration.
fn configure(place: &Place, volume: &str, key: &str, value: serde_json::Value) {
    let path = place.path(&format!("state/volumes/{volume}.json"));
    let text = std::fs::read(&path).expect("a configuration");
    let mut config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    config[key] = value;
    std::fs::write(&path, config.to_string()).expect("written");
}

/// Attached once, filled with 1, snapshot `one`, filled with 2, detached.
fn used(place: &Place) -> Volume<'_> {
    let volume = Volume::attached(place);
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    volume.fill(2);
    volume.detach();
    volume
}

#[test]
fn a_second_target_of_a_volume_is_refused() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    let said = volume.attach_fails(&[], 5, "busy");
    assert!(said.contains("attached already"), "{said}");
    let target = Path::new(env!("CARGO_BIN_EXE_cairn")).with_file_name("cairn-target");
    for verb in ["serve", "supervise"] {
        let mut command = Command::new(&target);
        command.args([verb, "--volume", "v", "--frontend", "nbd"]);
        for (option, directory) in [("--state-dir", "state"), ("--run-dir", "run"), ("--dev-dir", "dev")] {
            command.arg(option).arg(place.path(directory));
        }
        let second = ran(command.output().expect("runs"));
        assert_ne!(second.code, 0);
        assert!(second.stdout.contains("\"busy\""), "{}", second.stdout);
    }
    volume.fill(1);
    assert!(volume.holds("v", 1), "the first one serves as before");
}

#[test]
fn a_lost_store_is_said_and_the_origin_is_untouched() {
    let place = Place::new();
    let volume = used(&place);
    let lost = place.path("lost");
    std::fs::rename(&volume.store, &lost).expect("lost");
    let said = volume.attach_fails(&[], 3, "not-found");
    assert!(said.contains("disk.store"), "it names the store: {said}");
    assert!(volume.origin_holds(2));
    std::fs::rename(&lost, &volume.store).expect("found");
    volume.attach();
    assert!(volume.holds("v@one", 1));
}

#[test]
fn a_store_without_a_signature_is_said_and_the_origin_is_untouched() {
    let place = Place::new();
    let volume = used(&place);
    overwrite(&volume.store, 0, &[0; 4096]);
    overwrite(&volume.store, 64 << 10, &[0; 4096]);
    let said = volume.attach_fails(&[], 8, "not-a-store");
    assert!(said.contains("disk.store"), "{said}");
    assert!(volume.origin_holds(2));
}

#[test]
fn a_truncated_store_is_refused_and_the_origin_is_untouched() {
    let place = Place::new();
    let volume = used(&place);
    for length_bytes in [0, 4096, 100 << 10, 1 << 20, 32 << 20] {
        let file = std::fs::File::options().write(true).open(&volume.store).expect("the store");
        file.set_len(length_bytes).expect("truncated");
        let told = place.cairn(&["attach", "v", "--frontend=nbd"]);
        assert!((1..=12).contains(&told.code), "{length_bytes}: {}", told.stderr);
        assert!(told.stderr.contains("disk.store"), "{length_bytes}: {}", told.stderr);
        assert!(!told.stderr.contains("panicked"), "{length_bytes}: {}", told.stderr);
        assert!(volume.origin_holds(2));
    }
}

#[test]
fn the_store_of_another_volume_is_refused() {
    let place = Place::new();
    let volume = used(&place);
    let (origin, store) = (place.image("other.img", VOLUME_BYTES), place.text("other.store"));
    place.done(&["create", "w", "--origin", &origin, "--store", &store, "--store-size", "64M"]);
    configure(&place, "v", "store", store.into());
    let said = volume.attach_fails(&[], 9, "wrong-origin");
    assert!(said.contains("other.store") && said.contains("was created with"), "{said}");
    assert!(volume.origin_holds(2));
}

#[test]
fn an_origin_of_another_size_or_another_disk_is_refused() {
    let place = Place::new();
    let volume = used(&place);
    let other = place.image("other.img", VOLUME_BYTES - MIB);
    configure(&place, "v", "origin", other.into());
    let said = volume.attach_fails(&[], 9, "wrong-origin");
    assert!(said.contains("other.img") && said.contains(&VOLUME_BYTES.to_string()), "{said}");
    let same_size = place.image("same-size.img", VOLUME_BYTES);
    configure(&place, "v", "origin", same_size.clone().into());
    let said = volume.attach_fails(&[], 11, "origin-changed");
    assert!(said.contains("same-size.img") && said.contains("--accept-changed-origin"), "{said}");
    configure(&place, "v", "origin", volume.origin.display().to_string().into());
    volume.attach();
    assert!(volume.holds("v@one", 1), "the right disk is joined as before");
}

#[test]
fn a_missing_or_busy_origin_or_store_is_said_by_name() {
    let place = Place::new();
    let volume = used(&place);
    let aside = place.path("aside");
    std::fs::rename(&volume.origin, &aside).expect("unplugged");
    let said = volume.attach_fails(&[], 3, "not-found");
    assert!(said.contains("disk.img"), "{said}");
    std::fs::rename(&aside, &volume.origin).expect("plugged in");
    if !have("a_missing_or_busy_origin_or_store_is_said_by_name", &["losetup"], &["/dev/loop-control"]) {
        return;
    }
    for path in [&volume.origin, &volume.store] {
        let user = sh(&format!("PATH=$PATH:/usr/sbin; losetup --find --show {}", path.display()));
        let said = volume.attach_fails(&[], 5, "busy");
        sh(&format!("PATH=$PATH:/usr/sbin; losetup --detach {user}"));
        assert!(said.contains(&path.display().to_string()) && said.contains(&user), "{said}");
    }
    volume.attach();
}

#[test]
fn an_origin_written_while_detached_is_noticed_and_accepted_only_when_told() {
    let place = Place::new();
    let volume = used(&place);
    // Where an ext4 keeps its marks and times.
    overwrite(&volume.origin, 1024, &[0x53; 256]);
    let said = volume.attach_fails(&[], 11, "origin-changed");
    assert!(said.contains("disk.img") && said.contains("--accept-changed-origin"), "{said}");
    assert_eq!(volume.snapshot_state("one").0, "whole", "refusing changes nothing");
    place.done(&["attach", "v", "--frontend=nbd", "--accept-changed-origin"]);
    let (state, reason) = volume.snapshot_state("one");
    assert_eq!(state, "broken");
    assert!(reason.expect("a reason").contains("while Cairn was away"));
    assert_eq!(volume.show()["volume"]["state"], "degraded");
    place.fails(&["expose", "v@one"], 8, "broken");
    place.done(&["snapshot", "v@two"]);
    volume.fill(4);
    assert_eq!(volume.snapshot_state("two").0, "whole");
    volume.detach();
    volume.attach();
    assert_eq!((volume.snapshot_state("one").0, volume.snapshot_state("two").0), ("broken".into(), "whole".into()));
}

#[test]
fn an_origin_written_after_a_crash_is_noticed() {
    let place = Place::new();
    let volume = Volume::attached(&place);
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    volume.fill(2);
    volume.kill();
    overwrite(&volume.origin, 1024, &[0x53; 256]);
    volume.attach_fails(&[], 11, "origin-changed");
    place.done(&["attach", "v", "--frontend=nbd", "--accept-changed-origin"]);
    assert_eq!(volume.snapshot_state("one").0, "broken");
}

/// Attaches `v` as a machine with another identity would.
fn attach_elsewhere(place: &Place, more: &str) -> common::Ran {
    std::fs::write(place.path("machine-id"), "0123456789abcdef0123456789abcdef\n").expect("an identity");
    let script = format!(
        "mount --bind {} /etc/machine-id && exec {} attach v --frontend=nbd --json {more}",
        place.text("machine-id"),
        env!("CARGO_BIN_EXE_cairn")
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-c", &script]);
    for (variable, directory) in [("STATE", "state"), ("RUN", "run"), ("DEV", "dev")] {
        command.env(format!("CAIRN_{variable}_DIR"), place.path(directory));
    }
    ran(command.output().expect("unshare runs"))
}

#[test]
fn a_store_that_another_host_left_unclean_is_refused_until_accepted() {
    let needs = ["unshare", "mount"];
    if !have("a_store_that_another_host_left_unclean_is_refused_until_accepted", &needs, &["/etc/machine-id"]) {
        return;
    }
    let place = Place::new();
    let volume = Volume::attached(&place);
    volume.fill(1);
    place.done(&["snapshot", "v@one"]);
    volume.fill(2);
    volume.kill();
    let told = attach_elsewhere(&place, "");
    assert_eq!(told.code, 9, "{}{}", told.stdout, told.stderr);
    assert!(told.stderr.contains("other-host") && told.stderr.contains("--accept-other-host"), "{}", told.stderr);
    let told = attach_elsewhere(&place, "--accept-other-host");
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
    let (state, reason) = volume.snapshot_state("one");
    assert_eq!(state, "broken");
    assert!(reason.expect("a reason").contains("another host"));
    assert!(volume.holds("v", 2), "production is not concerned");
}

#[test]
fn a_store_that_another_host_detached_is_taken_without_a_question() {
    let needs = ["unshare", "mount"];
    if !have("a_store_that_another_host_detached_is_taken_without_a_question", &needs, &["/etc/machine-id"]) {
        return;
    }
    let place = Place::new();
    let volume = used(&place);
    let told = attach_elsewhere(&place, "");
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
    assert!(volume.holds("v@one", 1));
}

#[test]
fn a_store_a_state_directory_or_a_log_on_the_origin_is_refused() {
    let name = "a_store_a_state_directory_or_a_log_on_the_origin_is_refused";
    if !have(name, &["mkfs.ext4", "losetup", "mount"], &["/dev/loop-control"]) {
        return;
    }
    let place = Place::new();
    let volume = Volume::create(&place);
    let (origin, mounted) = (place.text("disk.img"), place.text("mounted"));
    sh(&format!("PATH=$PATH:/usr/sbin; mkfs.ext4 -q {origin}; mkdir {mounted}; mount -o loop {origin} {mounted}"));
    let _mounted = Unmounted(mounted.clone());
    sh(&format!("cp -r {} {mounted}/state", place.text("state")));
    let said = [
        // The log lies in the run directory.
        volume.attach_fails(&["--run-dir", &format!("{mounted}/run")], 1, "invalid"),
        volume.attach_fails(&["--state-dir", &format!("{mounted}/state")], 1, "invalid"),
    ];
    assert!(said[0].contains("run directory") && said[1].contains("state directory"), "{said:?}");
    configure(&place, "v", "store", format!("{mounted}/store").into());
    sh(&format!("truncate -s 4M {mounted}/store"));
    let said = volume.attach_fails(&[], 1, "invalid");
    assert!(said.contains("the store would lie on"), "{said}");
    place.done(&["destroy", "v", "--yes", "--force"]);
    let inner = format!("{mounted}/new.store");
    let said =
        place.fails(&["create", "w", "--origin", &origin, "--store", &inner, "--store-size", "4M"], 1, "invalid");
    assert!(said.contains("the store would lie on"), "{said}");
    assert!(!Path::new(&inner).exists());
}

struct Unmounted(String);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_volume_without_its_target_program_or_without_ublk_says_what_is_missing() {
    let place = Place::new();
    let volume = Volume::create(&place);
    let mut command = place.command(&["attach", "v", "--json"]);
    let told = ran(command.env("CAIRN_TARGET", "/no/such/program").output().expect("runs"));
    assert_eq!(told.code, 3, "{}", told.stderr);
    assert!(told.stderr.contains("/no/such/program"), "{}", told.stderr);
    if !Path::new("/dev/ublk-control").exists() {
        let said = place.fails(&["attach", "v", "--frontend=ublk"], 1, "invalid");
        assert!(said.contains("modprobe ublk_drv"), "{said}");
    }
    volume.attach();
}

#[test]
fn a_configuration_that_is_damaged_or_of_a_newer_version_is_refused() {
    let place = Place::new();
    let volume = Volume::create(&place);
    configure(&place, "v", "version", 99.into());
    volume.attach_fails(&[], 9, "too-new");
    std::fs::write(place.path("state/volumes/v.json"), "{").expect("damaged");
    volume.attach_fails(&[], 1, "invalid");
    assert!(place.json(&["list"])["volumes"][0]["error"].is_string());
}
