//! Wrong usage, names, sizes, and what happens without a target: exit codes and messages.

mod common;

use common::{http, http_error, Place};

/// Every verb that takes a volume or a snapshot.
const OF_VOLUME: [&str; 6] = ["attach", "detach", "show", "grow", "stat", "check"];
const OF_SNAPSHOT: [&str; 5] = ["snapshot", "expose", "unexpose", "restore", "delete"];

#[test]
fn missing_and_unknown_arguments_are_wrong_usage() {
    let place = Place::new();
    for verb in OF_VOLUME.iter().chain(&OF_SNAPSHOT).chain(&["create", "destroy", "man", "completions"]) {
        assert_eq!(place.cairn(&[verb]).code, 2, "{verb} without arguments");
        assert_eq!(place.cairn(&[verb, "a", "b", "c", "--no-such-option"]).code, 2, "{verb}");
    }
    assert_eq!(place.cairn(&[]).code, 2);
    assert_eq!(place.cairn(&["frobnicate"]).code, 2);
    assert_eq!(place.cairn(&["create", "v", "--origin", "x"]).code, 2, "no store");
    assert_eq!(place.cairn(&["attach", "v", "--queues", "0"]).code, 2);
    assert_eq!(place.cairn(&["attach", "v", "--frontend", "iscsi"]).code, 2);
    assert_eq!(place.cairn(&["snapshot", "v@s", "--freeze-timeout-ms", "500"]).code, 2, "time limit without freeze");
    assert_eq!(place.cairn(&["check", "v", "--store", "x"]).code, 2);
}

#[test]
fn names_with_illegal_characters_are_wrong_usage() {
    let place = Place::new();
    for name in ["", "a/b", "../x", ".hidden", "a b", "ä", &"x".repeat(65)] {
        for verb in OF_VOLUME {
            assert_eq!(place.cairn(&[verb, "--", name]).code, 2, "{verb} {name:?}");
        }
    }
    for name in ["v", "v@", "@s", "v@a/b", "v@a@b", "v@..", &format!("v@{}", "x".repeat(129))] {
        for verb in OF_SNAPSHOT {
            assert_eq!(place.cairn(&[verb, "--", name]).code, 2, "{verb} {name:?}");
        }
    }
    let said = place.cairn(&["attach", "v@s"]).stderr;
    assert!(said.contains("a volume is meant here"), "{said}");
    let said = place.cairn(&["snapshot", "v"]).stderr;
    assert!(said.contains("v@"), "{said}");
}

#[test]
fn a_volume_that_does_not_exist_is_not_found() {
    let place = Place::new();
    for verb in OF_VOLUME.iter().chain(&["destroy"]) {
        let said = place.fails(&[verb, "v"], 3, "not-found");
        assert!(said.contains("v"), "{said}");
    }
    for verb in OF_SNAPSHOT {
        place.fails(&[verb, "v@s"], 3, "not-found");
    }
}

#[test]
fn a_volume_that_is_not_attached_says_so_and_how_to_attach_it() {
    let place = Place::new();
    place.configure("v");
    for arguments in [&["detach", "v"], &["stat", "v"], &["grow", "v"], &["snapshot", "v@s"]] {
        let said = place.fails(arguments, 6, "not-attached");
        assert!(said.contains("cairn attach v"), "{said}");
    }
    let shown = place.json(&["show", "v"]);
    assert_eq!(shown["attached"], false);
    assert!(shown["volume"].is_null() && shown["snapshots"].is_null());
    assert!(shown["store_error"].as_str().expect("a reason").contains("no.store"));
    assert!(shown["gave_up"].is_null());
    place.fails(&["show", "v@s"], 3, "not-found");
    std::fs::create_dir_all(place.path("run/v")).expect("the run directory");
    std::fs::write(place.path("run/v/gave-up"), "11 workers died in a row; giving up\n").expect("a mark");
    assert_eq!(place.json(&["show", "v"])["gave_up"], "11 workers died in a row; giving up");
    assert!(place.done(&["show", "v"]).stdout.contains("not served: 11 workers died"));
    let listed = place.json(&["list"]);
    assert_eq!(listed["volumes"][0]["name"], "v");
    assert_eq!(listed["volumes"][0]["attached"], false);
}

#[test]
fn a_socket_that_nobody_serves_is_not_attached() {
    let place = Place::new();
    place.configure("v");
    std::fs::create_dir_all(place.path("run/v")).expect("the run directory");
    drop(std::os::unix::net::UnixListener::bind(place.path("run/v/control.sock")).expect("a socket"));
    place.fails(&["stat", "v"], 6, "not-attached");
}

#[test]
fn a_bad_configuration_does_not_hide_the_others() {
    let place = Place::new();
    place.configure("good");
    std::fs::write(place.path("state/volumes/bad.json"), "{").expect("a file");
    let listed = place.json(&["list"]);
    assert_eq!(listed["volumes"][0]["name"], "bad");
    assert!(listed["volumes"][0]["error"].is_string());
    assert_eq!(listed["volumes"][1]["name"], "good");
    place.fails(&["show", "bad"], 1, "invalid");
}

#[test]
fn errors_of_the_target_become_documented_exit_codes() {
    for (status, kind, code) in [
        (404, "not-found", 3),
        (409, "exists", 4),
        (409, "busy", 5),
        (504, "timed-out", 7),
        (409, "broken", 8),
        (500, "corrupt", 8),
        (409, "origin-changed", 11),
        (507, "store-full", 12),
        (500, "io", 1),
        (418, "of-a-newer-version", 1),
        (409, "of-a-newer-version", 5),
    ] {
        let place = Place::new();
        place.configure("v");
        place.fake_target("v", move |_, _| http_error(status, kind));
        let said = place.fails(&["snapshot", "v@s"], code, kind);
        assert!(said.contains("what happened"), "{said}");
    }
}

#[test]
fn answers_that_make_no_sense_are_failures_not_panics() {
    for answer in [
        &b""[..],
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\xff\xff\xff",
        b"HTTP/1.1 500 Any\r\ncontent-length: 4\r\n\r\noops",
    ] {
        let place = Place::new();
        place.configure("v");
        place.fake_target("v", move |_, _| answer.to_vec());
        place.fails(&["stat", "v"], 1, "failed");
    }
}

#[test]
fn requests_are_those_of_the_control_api() {
    let place = Place::new();
    place.configure("v");
    let (tell, told) = std::sync::mpsc::channel();
    place.fake_target("v", move |line, body| {
        tell.send(format!("{line} {body}").trim().to_owned()).expect("the test listens");
        http(200, r#"{"deleted":"s","restored":"s","before":"b","unexposed":"s"}"#)
    });
    place.done(&["delete", "v@s", "--yes"]);
    place.done(&["unexpose", "v@s"]);
    place.done(&["restore", "v@s", "--yes"]);
    place.done(&["restore", "v@s", "--before", "b", "-y"]);
    let requests: Vec<String> = told.try_iter().collect();
    assert_eq!(
        requests,
        [
            "DELETE /v1/snapshots/s",
            "DELETE /v1/snapshots/s/expose",
            r#"POST /v1/restore {"snapshot":"s","before":null}"#,
            r#"POST /v1/restore {"snapshot":"s","before":"b"}"#,
        ]
    );
}

#[test]
fn destructive_actions_ask_and_without_a_terminal_refuse() {
    let place = Place::new();
    place.configure("v");
    place.fake_target("v", |_, _| http_error(500, "io"));
    for arguments in [&["delete", "v@s"], &["restore", "v@s"]] {
        let said = place.fails(arguments, 9, "refused");
        assert!(said.contains("--yes"), "{said}");
    }
}

#[test]
fn versions_and_devices_answer_in_json_without_any_volume() {
    let place = Place::new();
    assert_eq!(place.json(&["version"])["program"], "cairn");
    assert_eq!(place.json(&["list"])["volumes"], serde_json::json!([]));
    let devices = place.json(&["devices"]);
    for device in devices["devices"].as_array().expect("a list") {
        assert!(device["size_bytes"].is_u64() && device["origin"]["fit"].is_boolean(), "{device}");
        let reasons = device["store"]["why_not"].as_array().expect("reasons");
        assert_eq!(device["store"]["fit"].as_bool(), Some(reasons.is_empty()));
    }
    place.fails(&["devices", "/no/such/device"], 3, "not-found");
    place.fails(&["devices", "/etc/passwd"], 3, "not-found");
}

#[test]
fn a_restore_that_ends_between_the_refusal_and_the_look_at_it_is_no_obstacle() {
    let place = Place::new();
    place.configure("v");
    let refusals = std::sync::atomic::AtomicUsize::new(1);
    place.fake_target("v", move |request, _| match request.starts_with("DELETE") {
        true if refusals.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1 => http_error(409, "busy"),
        true => http(200, r#"{"deleted": "s", "bookmark": false}"#),
        false => http(
            200,
            r#"{"name": "v", "volume_id": "", "store_id": "", "size_bytes": 4096,
                "origin": {"path": "", "size_bytes": 4096, "sector_bytes": 512},
                "store": {"path": "", "size_bytes": 0, "used_bytes": 0, "free_bytes": 0},
                "state": "whole", "state_reason": null, "frontend": "nbd", "device": null, "nbd_uri": null,
                "clients": 0, "snapshots": 1, "restore": null, "process_id": 1,
                "attached_at": "2026-11-21T12:00:00.000Z"}"#,
        ),
    });
    place.done(&["delete", "v@s", "--yes"]);
}
