//! The writer: stamped writes at depth, flushes and snapshots beside them, and the log of it all.
//!
//! Invariants:
//! - A write that would overlap one in flight waits for it, and so do those behind it.
//! - The log has a write's reservation before it starts, and a snapshot's call before its command runs.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use super::history::Log;
use super::workload::Workload;
use super::{stamp, Result, SECTOR_BYTES};

/// Writes that one reservation allows.
const RESERVATION: u64 = 4096;
/// Every so many writes one is durable by itself (O_DSYNC).
const DURABLE_EVERY: u64 = 61;

/// How to write.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device or file.
    pub device: PathBuf,
    /// The log; must not exist.
    pub log: PathBuf,
    /// The writes.
    pub workload: Workload,
    /// Writes in flight.
    pub depth: usize,
    /// How long to write.
    pub duration: Duration,
    /// Ends the run earlier, once it exists.
    pub stop_file: Option<PathBuf>,
    /// Time between flushes.
    pub flush_every: Duration,
    /// The shell command that takes a snapshot; NAME is in its environment.
    pub snapshot_command: Option<String>,
    /// Time between the starts of two snapshots.
    pub snapshot_every: Duration,
    /// No more snapshots than this.
    pub snapshots_max: u64,
}

struct State {
    next: u64,
    reserved: u64,
    in_flight: BTreeMap<u64, Range<u64>>,
    /// Distances to the floors of the writes since the last line of floors in the log.
    distances: Vec<u64>,
    durable: Vec<u64>,
    is_over: bool,
    failure: Option<String>,
    log: Log,
}

impl State {
    /// Every write below this is acknowledged.
    fn floor(&self) -> u64 {
        self.in_flight.keys().next().copied().unwrap_or(self.next)
    }

    fn overlaps(&self, write: &Range<u64>) -> bool {
        self.in_flight.values().any(|other| other.start < write.end && write.start < other.end)
    }

    fn start(&mut self, write: Range<u64>) -> Result<u64> {
        if self.next >= self.reserved {
            self.write_out()?;
            self.reserved = self.next + RESERVATION;
            self.log.reserve(self.reserved)?;
        }
        let sequence = self.next;
        self.next += 1;
        self.distances.push(sequence - self.floor().min(sequence));
        self.in_flight.insert(sequence, write);
        Ok(sequence)
    }

    fn write_out(&mut self) -> Result<()> {
        if !self.distances.is_empty() {
            self.log.floors(&std::mem::take(&mut self.distances))?;
        }
        if !self.durable.is_empty() {
            self.log.durable(&std::mem::take(&mut self.durable))?;
        }
        Ok(())
    }
}

struct Writer<'a> {
    options: &'a Options,
    device: File,
    durable_device: File,
    state: Mutex<State>,
    changed: Condvar,
}

/// Opens a device for direct I/O with more open flags.
pub fn open_direct(path: &Path, write: bool, flags: i32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(write).custom_flags(libc::O_DIRECT | flags);
    options.open(path).map_err(|error| format!("{}: open: {error}", path.display()).into())
}

/// Stamps the whole device as write 0.
pub fn fill(device: &Path, workload: &Workload) -> Result<()> {
    const FILL_SECTORS: u64 = 1024;
    let file = open_direct(device, true, 0)?;
    let mut sector = 0;
    while sector < workload.sectors {
        let range = sector..workload.sectors.min(sector + FILL_SECTORS);
        write_stamped(&file, workload.seed, 0, &range)?;
        sector = range.end;
    }
    file.sync_all()?;
    Ok(())
}

/// Writes until the time is over; returns the number of writes and of snapshots.
pub fn run(options: &Options) -> Result<(u64, u64)> {
    let log = Log::create(&options.log, &options.workload)?;
    let state = State {
        next: 1,
        reserved: 1,
        in_flight: BTreeMap::new(),
        distances: Vec::new(),
        durable: Vec::new(),
        is_over: false,
        failure: None,
        log,
    };
    let writer = Writer {
        options,
        device: open_direct(&options.device, true, 0)?,
        durable_device: open_direct(&options.device, true, libc::O_DSYNC)?,
        state: Mutex::new(state),
        changed: Condvar::new(),
    };
    let mut snapshots = 0;
    std::thread::scope(|scope| {
        for _ in 0..options.depth {
            scope.spawn(|| writer.guard(|| writer.write_on()));
        }
        scope.spawn(|| writer.guard(|| writer.flush_on()));
        writer.guard(|| {
            snapshots = writer.snapshot_on()?;
            Ok(())
        });
        writer.lock().is_over = true;
        writer.changed.notify_all();
    });
    writer.device.sync_all().map_err(|error| format!("the last flush failed: {error}"))?;
    let mut state = writer.lock();
    if let Some(failure) = state.failure.take() {
        return Err(failure.into());
    }
    let next = state.next;
    state.write_out()?;
    state.log.flushed(next)?;
    state.log.end(next)?;
    Ok((next - 1, snapshots))
}

impl Writer<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the lock")
    }

    /// Runs one thread's work; a failure ends the run.
    fn guard(&self, work: impl FnOnce() -> Result<()>) {
        if let Err(error) = work() {
            let mut state = self.lock();
            state.failure.get_or_insert(error.to_string());
            state.is_over = true;
            self.changed.notify_all();
        }
    }

    fn write_on(&self) -> Result<()> {
        let mut state = self.lock();
        while !state.is_over {
            let write = self.options.workload.write(state.next);
            if state.overlaps(&write) {
                state = self.changed.wait(state).expect("no thread panics while it holds the lock");
                continue;
            }
            let sequence = state.start(write.clone())?;
            drop(state);
            // Writes of zeroes are not covered by O_DSYNC.
            let is_durable = sequence.is_multiple_of(DURABLE_EVERY) && !self.options.workload.is_zeroes(sequence);
            let device = if is_durable { &self.durable_device } else { &self.device };
            if self.options.workload.is_zeroes(sequence) {
                write_zeroes(device, sequence, &write)?;
            } else {
                write_stamped(device, self.options.workload.seed, sequence, &write)?;
            }
            state = self.lock();
            state.in_flight.remove(&sequence);
            if is_durable {
                state.durable.push(sequence);
            }
            self.changed.notify_all();
        }
        Ok(())
    }

    fn flush_on(&self) -> Result<()> {
        while self.sleep_until(Instant::now() + self.options.flush_every) {
            let floor = self.lock().floor();
            self.device.sync_data().map_err(|error| format!("flush failed: {error}"))?;
            self.lock().log.flushed(floor)?;
            if self.options.stop_file.as_ref().is_some_and(|file| file.exists()) {
                self.lock().is_over = true;
                self.changed.notify_all();
            }
        }
        Ok(())
    }

    fn snapshot_on(&self) -> Result<u64> {
        let began = Instant::now();
        let end = began + self.options.duration;
        let Some(command) = &self.options.snapshot_command else {
            self.sleep_until(end);
            return Ok(0);
        };
        let mut snapshots = 0;
        let mut due = began + self.options.snapshot_every;
        while snapshots < self.options.snapshots_max && due < end && self.sleep_until(due) {
            snapshots += 1;
            self.snapshot(command, &format!("s{snapshots}"))?;
            due = (due + self.options.snapshot_every).max(Instant::now());
        }
        self.sleep_until(end);
        Ok(snapshots)
    }

    fn snapshot(&self, command: &str, name: &str) -> Result<()> {
        {
            let mut state = self.lock();
            let (next, in_flight) = (state.next, state.in_flight.keys().copied().collect::<Vec<_>>());
            state.log.call(name, next, &in_flight)?;
        }
        let status = Command::new("sh").arg("-c").arg(command).env("NAME", name).status()?;
        let mut state = self.lock();
        let next = state.next;
        state.write_out()?;
        state.log.ended_call(name, next, status.success())?;
        if status.success() {
            return Ok(());
        }
        Err(format!("the snapshot command for {name} ended with {status}").into())
    }

    /// Sleeps; false when the run is over.
    fn sleep_until(&self, due: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if state.is_over || left.is_zero() {
                return !state.is_over;
            }
            state = self.changed.wait_timeout(state, left).expect("no thread panics while it holds the lock").0;
        }
    }
}

fn write_stamped(device: &File, seed: u64, sequence: u64, write: &Range<u64>) -> Result<()> {
    let mut buffer = cairn_engine::disk::aligned_buffer((write.end - write.start) as usize * SECTOR_BYTES);
    for (sector, content) in write.clone().zip(buffer.chunks_exact_mut(SECTOR_BYTES)) {
        stamp::fill(content, seed, sequence, sector);
    }
    let offset_bytes = write.start * SECTOR_BYTES as u64;
    device
        .write_all_at(&buffer, offset_bytes)
        .map_err(|error| format!("write {sequence} at byte {offset_bytes} failed: {error}").into())
}

/// Zeroes a range: every other time the device may unmap it; what cannot be asked of the device is written out.
fn write_zeroes(device: &File, sequence: u64, write: &Range<u64>) -> Result<()> {
    let sector_bytes = SECTOR_BYTES as u64;
    let (offset_bytes, length_bytes) = (write.start * sector_bytes, (write.end - write.start) * sector_bytes);
    let unmap = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    let ways = if sequence.is_multiple_of(2) { [unmap, zero] } else { [zero, unmap] };
    for way in ways {
        match rustix::fs::fallocate(device, way, offset_bytes, length_bytes) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => {
                return Err(format!("write {sequence} of zeroes at byte {offset_bytes} failed: {error}").into());
            }
        }
    }
    let buffer = cairn_engine::disk::aligned_buffer(length_bytes as usize);
    device
        .write_all_at(&buffer, offset_bytes)
        .map_err(|error| format!("write {sequence} of zeroes at byte {offset_bytes} failed: {error}").into())
}
