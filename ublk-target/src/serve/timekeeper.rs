//! Tells the engine, which has no clock, the time: on a thread of its own, which waits for no disk that may be stuck.
//!
//! Invariants:
//! - The time is told at least four times in a save deadline, and once a second.

use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::lateness::SaveDeadline;
use cairn_engine::volume::Volume;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often in a save deadline.
const TICKS_IN_A_DEADLINE: u64 = 8;
const TICK_MS_MAX: u64 = 1000;

/// Starts the thread. It lasts as long as the process.
pub fn start(volume: Arc<Volume>, deadline: SaveDeadline) -> Result<()> {
    let failed = |source: std::io::Error| Error::new(ErrorKind::Io, "start", "the timekeeper").caused_by(source);
    let tick = Duration::from_millis((deadline.deadline_ms / TICKS_IN_A_DEADLINE).clamp(1, TICK_MS_MAX));
    let started = Instant::now();
    let keep_time = move || loop {
        std::thread::sleep(tick);
        volume.keep_time(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    };
    std::thread::Builder::new().name("time".to_owned()).spawn(keep_time).map(drop).map_err(failed)
}
