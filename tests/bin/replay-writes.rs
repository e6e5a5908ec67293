//! `replay-writes`: builds the disk as a power cut would have left it, from a log of dm-log-writes.
//!
//! Invariants:
//! - The log is read once, entry by entry: its size is no matter.
//! - An entry is applied whole or, behind the last flush, not at all if so told: each of these is a legal disk.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::ExitCode;

use cairn_tests::log_writes::{
    ENTRY_BYTES, FLAG_DISCARD, FLAG_FLUSH, FLAG_FUA, FLAG_MARK, FLAG_METADATA, MAGIC, VERSION,
};
use cairn_tests::model::Result;
use clap::{Parser, Subcommand};

const HEADER_BYTES: u64 = ENTRY_BYTES as u64;

#[derive(Parser)]
#[command(about = "Builds the disk as a power cut would have left it, from a log of dm-log-writes")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Lists the entries at which something became durable, and the marks: number, and flush, fua or the mark's text
    List {
        /// The log device or file
        log: PathBuf,
    },
    /// Applies a log to a disk
    Apply {
        /// The log device or file
        log: PathBuf,
        /// The disk, as it was when the log began or where an earlier call ended
        disk: PathBuf,
        /// First entry to apply, counted from 0
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// First entry not to apply
        #[arg(long)]
        to: u64,
        /// Of the writes behind the last flush that are not durable by themselves, leave out those that this number
        /// chooses, about half
        #[arg(long)]
        lose: Option<u64>,
        /// Leave out about one write in eight, durable or not: no power cut does that, and a test must see it
        #[arg(long)]
        damage: bool,
    },
}

/// One entry, without its data.
#[derive(Clone, Debug)]
struct Entry {
    number: u64,
    offset_bytes: u64,
    length_bytes: u64,
    flags: u64,
    data_place: u64,
    mark: String,
}

impl Entry {
    fn is(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Whether a crash right behind the last flush may lose it.
    fn is_volatile(&self) -> bool {
        !self.is(FLAG_FLUSH | FLAG_FUA)
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replay-writes: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::List { log } => {
            for entry in entries(&mut File::open(log)?)? {
                if entry.is(FLAG_MARK) {
                    println!("{} {}", entry.number, entry.mark);
                } else if !entry.is_volatile() {
                    println!("{} {}", entry.number, if entry.is(FLAG_FLUSH) { "flush" } else { "fua" });
                }
            }
            Ok(())
        }
        Verb::Apply { log, disk, from, to, lose, damage } => {
            let mut log = File::open(log)?;
            let mut entries = entries(&mut log)?;
            if entries.len() < to as usize {
                return Err(format!("the log has {} entries", entries.len()).into());
            }
            entries.truncate(to as usize);
            let flushed = entries.iter().rposition(|entry| entry.is(FLAG_FLUSH)).map_or(0, |flush| flush as u64 + 1);
            let disk = OpenOptions::new().write(true).open(disk)?;
            let mut lost = 0;
            for entry in entries.iter().filter(|entry| entry.number >= from) {
                let dice = |seed: u64| (seed ^ entry.number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
                let may_be_lost = entry.number >= flushed && entry.is_volatile();
                if may_be_lost && lose.is_some_and(|seed| dice(seed) < 4) || damage && dice(0) == 0 {
                    lost += 1;
                    continue;
                }
                apply(&log, &disk, entry)?;
            }
            disk.sync_all()?;
            println!("{} entries, {lost} writes lost", to - from);
            Ok(())
        }
    }
}

fn apply(log: &File, disk: &File, entry: &Entry) -> Result<()> {
    if entry.is(FLAG_MARK) || entry.length_bytes == 0 {
        return Ok(());
    }
    let mut data = vec![0; entry.length_bytes as usize];
    if !entry.is(FLAG_DISCARD) {
        log.read_exact_at(&mut data, entry.data_place)?;
    }
    // The content of what was discarded is anything; zeroes are what differs most from what was there.
    Ok(disk.write_all_at(&data, entry.offset_bytes)?)
}

fn entries(log: &mut File) -> Result<Vec<Entry>> {
    let mut reader = BufReader::new(log);
    let [magic, version, count, sector_bytes] = header(&mut reader)?;
    let sector_bytes = sector_bytes & u64::from(u32::MAX);
    if (magic, version) != (MAGIC, VERSION) || !sector_bytes.is_power_of_two() || sector_bytes < 512 {
        return Err(format!("no log of writes: magic {magic:x}, version {version}, sector {sector_bytes}").into());
    }
    let mut entries = Vec::new();
    let mut place = sector_bytes;
    for number in 0..count {
        reader.seek(SeekFrom::Start(place))?;
        let [sector, sectors, flags, extra_bytes] = header(&mut reader)?;
        if flags & !(FLAG_FLUSH | FLAG_FUA | FLAG_DISCARD | FLAG_MARK | FLAG_METADATA) != 0 {
            return Err(format!("no entry at byte {place}: flags {flags:x}").into());
        }
        let mut mark = String::new();
        if flags & FLAG_MARK != 0 {
            let mut text = vec![0; extra_bytes.min(sector_bytes - HEADER_BYTES) as usize];
            reader.read_exact(&mut text)?;
            mark = String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned();
        }
        let length_bytes = sectors * sector_bytes;
        let data_place = place + sector_bytes;
        entries.push(Entry { number, offset_bytes: sector * sector_bytes, length_bytes, flags, data_place, mark });
        // The text of a mark is in the sector of its entry, and a discard has no data.
        place = data_place + if flags & FLAG_DISCARD == 0 { length_bytes } else { 0 };
    }
    Ok(entries)
}

fn header(reader: &mut impl Read) -> Result<[u64; 4]> {
    let mut bytes = [0; HEADER_BYTES as usize];
    reader.read_exact(&mut bytes)?;
    let mut words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    Ok(std::array::from_fn(|_| words.next().expect("four words")))
}
