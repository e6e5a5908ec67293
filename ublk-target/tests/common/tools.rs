//! Running the NBD tools of other projects against the server.

use std::io::Write;
use std::process::{Command, Output};

/// Whether `tool` is installed. Where it is not the test that asks must end at once, and says so past the harness's
/// capture; in continuous integration that is a failure.
pub fn is_installed(tool: &str, test: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(tool).is_file()));
    if !found {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {tool} is not installed (libnbd-bin, qemu-utils)");
        assert!(std::env::var_os("CI").is_none(), "{test} cannot run without {tool}");
    }
    found
}

/// Runs a tool under a time limit; panics where it fails. Its standard output.
pub fn run(arguments: &[&str]) -> String {
    let output = attempt(arguments);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?} failed:\n{stdout}{stderr}");
    stdout.into_owned()
}

/// Runs a tool under a time limit.
pub fn attempt(arguments: &[&str]) -> Output {
    Command::new("timeout").arg("60").args(arguments).output().expect("timeout is part of every Linux")
}
