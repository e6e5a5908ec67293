//! Where a stepped process was: functions by the number of instructions spent in them.
//!
//! Invariants:
//! - An inlined function counts for itself, not for the one it was inlined in.
//! - What cannot be named is counted under the name of its file.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashMap};
use std::process::Command;

/// How often an instruction was about to be executed, by its address.
pub type Places = HashMap<u64, u64>;

/// A file that is mapped into a process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapped {
    path: String,
    /// Where its first byte would be.
    base: u64,
    /// Where it is mapped, in any number of pieces.
    start: u64,
    end: u64,
}

/// What is in `/proc/PID/maps`, ascending; what is mapped in pieces has an entry for each.
fn mapped(maps: &str) -> Vec<Mapped> {
    let mut files: Vec<Mapped> = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(path)) = (words.next(), words.nth(4)) else { continue };
        let Some((start, end)) = range.split_once('-') else { continue };
        let number = |digits| u64::from_str_radix(digits, 16).unwrap_or(0);
        let (start, end) = (number(start), number(end));
        // The first piece of a file is the one at its front; the others keep their distance from it in memory.
        let base = files.iter().find(|file| file.path == path).map_or(start, |file| file.base);
        files.push(Mapped { path: path.to_owned(), base, start, end });
    }
    files
}

/// Functions of a process and how often each was found, by name.
pub fn by_function(process_id: u32, places: &Places) -> Result<BTreeMap<String, u64>> {
    let maps = std::fs::read_to_string(format!("/proc/{process_id}/maps")).context("the process is gone")?;
    let files = mapped(&maps);
    let mut by_file: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    let mut functions = BTreeMap::new();
    for (&address, &count) in places {
        match files.iter().find(|file| (file.start..file.end).contains(&address)) {
            Some(file) => by_file.entry(&file.path).or_default().push((address - file.base, count)),
            None => *functions.entry("(not mapped any more)".to_owned()).or_default() += count,
        }
    }
    for (path, found) in by_file {
        let names = names(path, found.iter().map(|(address, _)| *address));
        for (index, (_, count)) in found.iter().enumerate() {
            let name = names.get(index).filter(|name| *name != "??").map_or(path, String::as_str);
            *functions.entry(name.to_owned()).or_default() += count;
        }
    }
    Ok(functions)
}

/// The innermost function at each of these addresses of a file, `??` where it is not known; nothing at all where the
/// file is none that has functions.
fn names(path: &str, addresses: impl Iterator<Item = u64>) -> Vec<String> {
    let addresses = addresses.map(|address| format!("{address:#x}"));
    let found = Command::new("addr2line").args(["-f", "-C", "-e", path]).args(addresses).output();
    let Some(found) = found.ok().filter(|output| output.status.success()) else { return Vec::new() };
    // Two lines for each: the function, then the file and the line.
    String::from_utf8_lossy(&found.stdout).lines().step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn a_function_to_be_found() -> u64 {
        std::hint::black_box(7)
    }

    #[test]
    fn a_function_of_a_running_process_is_named_by_an_address_in_it() {
        assert_eq!(a_function_to_be_found(), 7);
        let address = a_function_to_be_found as fn() -> u64 as usize as u64;
        let functions = by_function(std::process::id(), &Places::from([(address, 3), (1, 2)])).expect("it runs");
        let (name, count) = functions.iter().find(|(_, count)| **count == 3).expect("it was found");
        assert!(name.contains("a_function_to_be_found"), "{name}");
        assert_eq!((functions["(not mapped any more)"], *count), (2, 3));
    }

    #[test]
    fn pieces_of_a_file_count_from_its_front() {
        let maps = "1000-2000 r--p 00000000 00:00 1 /a\n2000-3000 r-xp 00001000 00:00 1 /a\n4000-5000 rw-p 0 0:0 0\n";
        let files = mapped(maps);
        let bases: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.base, file.start)).collect();
        assert_eq!(bases, [("/a", 0x1000, 0x1000), ("/a", 0x1000, 0x2000)]);
    }
}
