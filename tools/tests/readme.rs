//! Every command in README.md is run: the first session by hand, with ublk where the kernel has it, else with NBD.

mod common;

use common::{have, ran, Place};
use std::process::Command;

/// The code blocks marked `sh`, in order, without those of the frontend that is not used here.
fn session(readme: &str, frontend: &str) -> String {
    let mut script = String::new();
    let mut taken = false;
    for line in readme.lines() {
        match (taken, line.strip_prefix("```")) {
            (false, Some(mark)) => taken = mark == "sh" || mark == format!("sh {frontend}"),
            (true, Some(_)) => taken = false,
            (true, None) => script.push_str(&format!("{line}\n")),
            (false, None) => {}
        }
    }
    script
}

/// Runs the session where /mnt, /run/cairn and the like are directories of its own, and cleans up whatever happens.
const FRAME: &str = r#"
set -euo pipefail
PATH="$CAIRN_BIN_DIR:$PATH:/usr/sbin:/sbin"
unset CAIRN_STATE_DIR CAIRN_RUN_DIR CAIRN_DEV_DIR
mkdir -p lib run mnt here /var/lib/cairn /run/cairn
mount --bind lib /var/lib/cairn
mount --bind run /run/cairn
mount --bind mnt /mnt
clean_up() {
    set +e
    umount monday /mnt 2>/dev/null
    for loop in "${DISK:-}" "${LOOK:-}"; do losetup --detach "$loop" 2>/dev/null; done
    sleep 0.5
    fusermount3 -u demo.nbd 2>/dev/null
    fusermount3 -u monday.nbd 2>/dev/null
    cairn detach demo 2>/dev/null
}
trap clean_up EXIT
cd here
set -x
"#;

#[test]
fn the_first_session_by_hand_works_as_the_readme_says() {
    let needs = ["mkfs.ext4", "losetup", "nbdfuse", "fusermount3", "unshare"];
    if !have("the_first_session_by_hand_works_as_the_readme_says", &needs, &["/dev/loop-control", "/dev/fuse"]) {
        return;
    }
    let place = Place::new();
    let has_ublk = place.json(&["features"])["ublk"] == true;
    let readme = include_str!("../../README.md");
    let script = format!("{FRAME}{}", session(readme, if has_ublk { "ublk" } else { "nbd" }));
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_cairn"));
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "bash", "-c", &script])
        .env("CAIRN_BIN_DIR", binary.parent().expect("a directory"))
        .current_dir(place.directory.path())
        .output()
        .expect("unshare runs");
    let ran = ran(output);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("all is well"), "the restored diary was not shown: {}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("demo is destroyed"), "{}", ran.stdout);
}

#[test]
fn the_readme_names_the_two_commands_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = include_str!("../../README.md");
    for script in ["scripts/quickstart", "scripts/test"] {
        assert!(readme.contains(&format!("\n    {script}\n")), "{script} is not in the README");
        assert!(root.join(script).exists(), "{script} does not exist");
    }
    for page in ["OPERATIONS", "ARCHITECTURE", "FORMAT", "CONTROL"] {
        assert!(readme.contains(&format!("docs/{page}.md")) && root.join(format!("docs/{page}.md")).exists(), "{page}");
    }
}

#[test]
fn the_session_takes_the_blocks_of_its_frontend_only() {
    let text = "```sh\na\n```\nprose\n```sh ublk\nb\n```\n```sh nbd\nc\n```\n```\nd\n```\n";
    assert_eq!(session(text, "ublk"), "a\nb\n");
    assert_eq!(session(text, "nbd"), "a\nc\n");
}
