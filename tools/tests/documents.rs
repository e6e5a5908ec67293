//! The table of bad input in docs/TESTING.md names tests that exist.

use std::path::Path;

/// The text of every source below a directory.
fn sources(directory: &Path, all: &mut String) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&std::fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn every_test_that_the_table_of_bad_input_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut code = String::new();
    for part in ["engine", "ublk-target", "tools"] {
        sources(&root.join(part), &mut code);
    }
    let document = include_str!("../../docs/TESTING.md");
    let mut chapters = document.split("\n## ");
    let table = chapters.find_map(|chapter| chapter.strip_prefix("Bad input and failure")).expect("the chapter");
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what is wrong"));
    let words = rows.clone().flat_map(|row| row.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let tests: Vec<&str> = words.filter(|word| word.matches('_').count() >= 3 && !word.ends_with('_')).collect();
    assert!(tests.len() >= 25, "{tests:?}");
    for test in tests {
        assert!(code.contains(&format!("fn {test}()")), "docs/TESTING.md names {test}, which does not exist");
    }
    for script in rows.flat_map(|row| row.split('`')).filter(|part| part.starts_with("tests/") && !part.contains('*')) {
        assert!(root.join(script).exists(), "docs/TESTING.md names {script}, which does not exist");
    }
}
