//! What the documents name exists: tests, files, and the places of the planted bugs.

use std::path::{Path, PathBuf};

/// The folders at the top of the project, as documents write them in front of a file's name.
const FOLDERS: [&str; 10] =
    ["engine", "ublk-target", "tools", "csi", "delta", "benches", "tests", "fuzz", "scripts", "docs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The pages below a directory, and their text.
fn pages(directory: &Path, all: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            pages(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            all.push((path.clone(), std::fs::read_to_string(&path).expect("text")));
        }
    }
}

/// Whether there is such a file or directory; `*` in its last part stands for anything.
fn is_there(name: &str) -> bool {
    let (folder, last) = name.rsplit_once('/').expect("names of files have folders");
    let Some((begin, end)) = last.split_once('*') else { return root().join(name).exists() };
    let entries = std::fs::read_dir(root().join(folder)).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .any(|file| file.len() >= begin.len() + end.len() && file.starts_with(begin) && file.ends_with(end))
}

/// The names of files of the project in a text.
fn files_named(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"_./*-".contains(c));
    let words = words.map(|word| word.trim_end_matches(['.', '/']));
    words.filter(|word| word.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder)))
}

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
    let root = root();
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

#[test]
fn every_file_that_a_document_names_exists() {
    let mut documents = vec![(root().join("README.md"), include_str!("../../README.md").to_owned())];
    pages(&root().join("docs"), &mut documents);
    let mut named = 0;
    for (document, text) in &documents {
        // There files are named from engine/src on; the test below looks at them.
        for name in files_named(text).filter(|_| !document.ends_with("PLANTED.md")) {
            assert!(is_there(name), "{} names {name}, which does not exist", document.display());
            named += 1;
        }
    }
    assert!(named >= 120, "only {named} names were found");
    assert!(!is_there("engine/src/no_such_file.rs") && !is_there("docs/no-such-*.md"));
}

#[test]
fn every_planted_bug_is_where_its_table_says() {
    let table = include_str!("../../docs/PLANTED.md");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| bug |")).collect();
    assert!(rows.len() >= 70, "{}", rows.len());
    for row in rows {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let (bug, places) = (cells.next().expect("a name"), cells.next().expect("places"));
        for place in places.split(", ") {
            let code = std::fs::read_to_string(root().join("engine/src").join(place));
            let code = code.unwrap_or_else(|error| panic!("{bug} is said to be in {place}: {error}"));
            assert!(code.contains(&format!("\"{bug}\"")), "{bug} is not in {place}");
        }
    }
}
