//! `cut-model`: writes stamped sectors under snapshots, and verifies what the snapshots show.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cairn_tests::model::history::{History, Outcome};
use cairn_tests::model::verifier::{verify, Image};
use cairn_tests::model::workload::Workload;
use cairn_tests::model::writer::{self, open_direct};
use cairn_tests::model::{Result, SECTOR_BYTES};
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Writes stamped sectors under snapshots, and verifies what the snapshots show")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Stamps the whole device as it is before the first write
    Fill {
        /// Block device or file
        device: PathBuf,
        #[command(flatten)]
        shape: Shape,
    },
    /// Writes at depth, flushes, takes snapshots, and logs it
    Write {
        /// Block device or file
        device: PathBuf,
        /// The log; must not exist
        #[arg(long)]
        log: PathBuf,
        #[command(flatten)]
        shape: Shape,
        #[arg(long, default_value_t = 16)]
        depth: usize,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// The run ends as soon as this file exists
        #[arg(long)]
        stop_file: Option<PathBuf>,
        #[arg(long, default_value_t = 300)]
        flush_every_ms: u64,
        /// Shell command; finds the snapshot's name in NAME
        #[arg(long)]
        snapshot_command: Option<String>,
        #[arg(long, default_value_t = 1000)]
        snapshot_every_ms: u64,
        #[arg(long, default_value_t = u64::MAX)]
        snapshots_max: u64,
    },
    /// Verifies a snapshot, or the volume itself
    Verify {
        /// Block device or file
        device: PathBuf,
        #[arg(long)]
        log: PathBuf,
        /// Name of the snapshot; without it the volume is verified
        #[arg(long)]
        snapshot: Option<String>,
    },
    /// Lists the snapshots of a log: name, and returned, failed or in-doubt
    Snapshots {
        #[arg(long)]
        log: PathBuf,
    },
}

#[derive(Args)]
struct Shape {
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Offsets and lengths are multiples of this: 512 or 4096
    #[arg(long, default_value_t = 512)]
    granule_bytes: u64,
    #[arg(long, default_value_t = 256 * 1024)]
    write_bytes_max: u64,
}

impl Shape {
    fn workload(&self, device: &Path) -> Result<Workload> {
        let sector_bytes = SECTOR_BYTES as u64;
        let granule_sectors = self.granule_bytes / sector_bytes;
        if granule_sectors == 0 || !self.granule_bytes.is_multiple_of(sector_bytes) {
            return Err("the granule must be a multiple of 512 bytes".into());
        }
        let sectors = size_bytes(device)? / self.granule_bytes * granule_sectors;
        if sectors == 0 {
            return Err(format!("{}: smaller than one write", device.display()).into());
        }
        let write_sectors_max = self.write_bytes_max / sector_bytes;
        Ok(Workload { seed: self.seed, sectors, granule_sectors, write_sectors_max })
    }
}

/// The size of a device or file: where its end is.
fn size_bytes(device: &Path) -> Result<u64> {
    use std::io::Seek;
    let mut file = std::fs::File::open(device).map_err(|error| format!("{}: {error}", device.display()))?;
    Ok(file.seek(std::io::SeekFrom::End(0))?)
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cut-model: {error}");
            ExitCode::from(2)
        }
    }
}

/// False when an image is not what it must be.
fn run(verb: Verb) -> Result<bool> {
    match verb {
        Verb::Fill { device, shape } => writer::fill(&device, &shape.workload(&device)?)?,
        Verb::Write {
            device,
            log,
            shape,
            depth,
            seconds,
            stop_file,
            flush_every_ms,
            snapshot_command,
            snapshot_every_ms,
            snapshots_max,
        } => {
            let workload = shape.workload(&device)?;
            let options = writer::Options {
                device,
                log,
                workload,
                depth,
                duration: Duration::from_secs(seconds),
                stop_file,
                flush_every: Duration::from_millis(flush_every_ms),
                snapshot_command,
                snapshot_every: Duration::from_millis(snapshot_every_ms),
                snapshots_max,
            };
            let (writes, snapshots) = writer::run(&options)?;
            println!("{writes} writes, {snapshots} snapshots");
        }
        Verb::Verify { device, log, snapshot } => return verify_device(&device, &log, snapshot.as_deref()),
        Verb::Snapshots { log } => {
            for cut in History::load(&log)?.cuts {
                let outcome = match cut.outcome {
                    Outcome::Returned { .. } => "returned",
                    Outcome::Failed => "failed",
                    Outcome::InDoubt => "in-doubt",
                };
                println!("{} {outcome}", cut.name);
            }
        }
    }
    Ok(true)
}

fn verify_device(device: &Path, log: &Path, snapshot: Option<&str>) -> Result<bool> {
    let history = History::load(log)?;
    let file = open_direct(device, false, 0)?;
    let image = snapshot.map_or(Image::Volume, Image::Snapshot);
    let verdict = verify(&history, image, |offset_bytes, buffer| {
        file.read_exact_at(buffer, offset_bytes)
            .map_err(|error| format!("{}: read at byte {offset_bytes}: {error}", device.display()).into())
    })?;
    let what = snapshot.unwrap_or("volume");
    println!("{what}: {} sectors, newest write {}, {} wrong", verdict.sectors, verdict.newest, verdict.wrong);
    for description in &verdict.described {
        println!("  {description}");
    }
    Ok(verdict.wrong == 0)
}
