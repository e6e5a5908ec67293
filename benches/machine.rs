//! What the figures were measured on.

use crate::results::Machine;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a program prints first; nothing where it is not installed.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    format!("{count} CPUs: {}", field("model name").unwrap_or_else(|| "of a model that is not known".to_owned()))
}

/// Describes this machine, what was built and what it is compared with.
pub fn describe(project: &Path, kernel: Option<&Path>) -> Machine {
    let directory = project.display().to_string();
    let unknown = || "unknown".to_owned();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let versions = [("fio", ["--version"]), ("dmsetup", ["--version"]), ("qemu-storage-daemon", ["--version"])];
    let programs = versions.iter().chain(&[("nbdkit", ["--version"]), ("valgrind", ["--version"])]);
    let named = |(program, arguments): &(&str, [&str; 1])| {
        let said = first_line(program, arguments)?;
        Some(if said.contains(program) { said } else { format!("{program} {said}") })
    };
    let test_kernel = kernel.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    Machine {
        processor: processor(),
        host_kernel: first_line("uname", &["-r"]).unwrap_or_else(unknown),
        test_kernel: test_kernel.map_or_else(|| "none".to_owned(), |name| format!("{name} (user-mode Linux)")),
        programs: programs.filter_map(named).collect(),
        date: first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]).unwrap_or_else(unknown),
        commit: first_line("git", &["-C", &directory, "describe", "--always", "--dirty"]).unwrap_or_else(unknown),
        load_before: load.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or_default(),
    }
}
