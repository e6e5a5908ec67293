//! The help of every verb is a contract: it changes only together with tests/help.txt.
//! `CAIRN_BLESS=1 cargo test -p cairn --test help` writes that file anew.

mod common;

use common::Place;
use std::path::Path;

const VERBS: [&str; 25] = [
    "devices",
    "create",
    "attach",
    "detach",
    "list",
    "show",
    "snapshot",
    "expose",
    "unexpose",
    "restore",
    "delete",
    "grow",
    "stat",
    "check",
    "features",
    "destroy",
    "diff",
    "send",
    "receive",
    "export",
    "import",
    "audit",
    "version",
    "man",
    "completions",
];

/// Line breaks follow the terminal; words do not.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_help_of_every_verb_is_as_pinned() {
    let place = Place::new();
    let mut all = format!("## cairn\n{}\n", words(&place.done(&["--help"]).stdout));
    for verb in VERBS {
        let help = place.done(&[verb, "--help"]).stdout;
        // The options of every verb are pinned once, above.
        let own: Vec<&str> = help.split("\n\n").filter(|part| !part.starts_with("Exit codes")).collect();
        all.push_str(&format!("## cairn {verb}\n{}\n", words(&own.join("\n\n"))));
    }
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help.txt");
    if std::env::var_os("CAIRN_BLESS").is_some() {
        std::fs::write(&pinned, &all).expect("the pinned help is written");
    }
    let expected = std::fs::read_to_string(&pinned).expect("the pinned help");
    for (is, should) in all.lines().zip(expected.lines()) {
        assert_eq!(is, should);
    }
    assert_eq!(all.lines().count(), expected.lines().count());
}

#[test]
fn the_list_of_verbs_here_is_complete() {
    let help = Place::new().done(&["--help"]).stdout;
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list");
    let listed: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut expected = VERBS.to_vec();
    expected.push("help");
    assert_eq!(listed, expected);
}

#[test]
fn every_exit_code_is_in_the_help_and_in_the_manual() {
    let help = Place::new().done(&["--help"]).stdout;
    let manual = include_str!("../../docs/OPERATIONS.md");
    for code in 0..=13 {
        let in_help = help.lines().any(|line| line.split_whitespace().next() == Some(&code.to_string()));
        assert!(in_help, "{code} is not in the help");
        assert!(manual.contains(&format!("\n| {code} |")), "{code} is not in docs/OPERATIONS.md");
    }
}

#[test]
fn manual_pages_and_completions_are_made() {
    let place = Place::new();
    place.done(&["man", &place.text("man")]);
    for verb in VERBS {
        let page = std::fs::read_to_string(place.path(&format!("man/cairn-{verb}.1"))).expect("a page");
        assert!(page.contains(".TH"), "{verb}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.done(&["completions", shell]).stdout.contains("snapshot"), "{shell}");
    }
}
