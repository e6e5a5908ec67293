//! Cairn itself, as its own commands set it up.

use super::contender::open_direct;
use super::disk::Disk;
use super::run;
use crate::turns::{device_target, Stack};
use anyhow::{ensure, Context, Result};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Blocks overwritten between two of the first snapshots, so that each holds something.
const WRITES_BETWEEN: u64 = 2;

/// A volume over ublk.
pub struct Cairn {
    volume: String,
    path: PathBuf,
    origin: [Disk; 1],
    store: [Disk; 1],
    queues: u32,
    process_id: u32,
    wanted: u32,
    taken: VecDeque<u64>,
    next: u64,
    exposed: Option<[Vec<String>; 2]>,
}

impl Cairn {
    /// A volume on an origin and a store that is going to have so many snapshots.
    pub fn new(volume: &str, size_mib: u64, disks: [Disk; 2], queues: u32, snapshots: u32) -> Result<Cairn> {
        let [origin, store] = disks;
        let (origin_path, store_path) = (origin.path().display().to_string(), store.path().display().to_string());
        run("cairn", &["create", volume, "--origin", &origin_path, "--store", &store_path, "--yes"])?;
        let mut cairn = Cairn {
            volume: volume.to_owned(),
            path: Path::new("/dev/cairn").join(volume),
            origin: [origin],
            store: [store],
            queues,
            process_id: 0,
            wanted: snapshots,
            taken: VecDeque::new(),
            next: 0,
            exposed: None,
        };
        cairn.attach()?;
        cairn.take_first(size_mib << 20)?;
        Ok(cairn)
    }

    fn attach(&mut self) -> Result<()> {
        let (volume, queues) = (self.volume.as_str(), self.queues.to_string());
        run("cairn", &["attach", volume, "--frontend", "ublk", "--queues", &queues, "--depth", "128"])?;
        let shown: serde_json::Value = serde_json::from_str(&run("cairn", &["--json", "show", volume])?)?;
        let process_id = find(&shown, "process_id").and_then(serde_json::Value::as_u64);
        self.process_id = process_id.context("the volume's process is not known")? as u32;
        Ok(())
    }

    /// All snapshots but the last, which every renewal takes.
    fn take_first(&mut self, size_bytes: u64) -> Result<()> {
        let device = open_direct(&self.path)?;
        let mut random = fastrand::Rng::with_seed(u64::from(self.wanted));
        let block = cairn_engine::disk::aligned_buffer(4096);
        for _ in 1..self.wanted {
            self.take()?;
            for _ in 0..WRITES_BETWEEN {
                device.write_all_at(&block, random.u64(..size_bytes / 4096) * 4096)?;
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Result<()> {
        // Asked here, not by a command: a thousand processes would take minutes to start, and the load's time.
        let (socket, body) =
            (format!("/run/cairn/{}/control.sock", self.volume), format!(r#"{{"name":"s{}"}}"#, self.next));
        let mut connection = UnixStream::connect(socket).context("the target does not listen")?;
        let length = body.len();
        write!(
            connection,
            "POST /v1/snapshots HTTP/1.1\r\nHost: cairn\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 2"), "no snapshot: {answer}");
        self.taken.push_back(self.next);
        self.next += 1;
        Ok(())
    }
}

/// The value of a key, wherever in `value` it is.
pub fn find<'a>(value: &'a serde_json::Value, key: &str) -> Option<&'a serde_json::Value> {
    match value {
        serde_json::Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|one| find(one, key))),
        serde_json::Value::Array(list) => list.iter().find_map(|one| find(one, key)),
        _ => None,
    }
}

impl Stack for Cairn {
    fn target(&self) -> Vec<String> {
        device_target(&self.path)
    }
    fn origin(&self) -> &[Disk] {
        &self.origin
    }
    fn stores(&self) -> &[Disk] {
        &self.store
    }
    fn process_id(&self) -> Option<u32> {
        Some(self.process_id)
    }

    /// One more snapshot, and the oldest deleted, so that their number stays.
    fn renew_snapshots(&mut self) -> Result<()> {
        if self.wanted == 0 {
            return Ok(());
        }
        self.take()?;
        if self.taken.len() > self.wanted as usize {
            let oldest = self.taken.pop_front().context("there is one")?;
            run("cairn", &["delete", &format!("{}@s{oldest}", self.volume), "--yes"])?;
        }
        // What a cut and a deletion leave to the background is over before the clock runs.
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    fn forget(&mut self) -> Result<()> {
        if self.exposed.take().is_some() {
            for number in [self.taken.front(), self.taken.back()].into_iter().flatten() {
                run("cairn", &["unexpose", &format!("{}@s{number}", self.volume)])?;
            }
        }
        run("cairn", &["detach", &self.volume])?;
        self.attach()
    }

    fn cut(&mut self) -> Result<()> {
        self.take()
    }

    fn snapshot_targets(&mut self) -> Result<[Vec<String>; 2]> {
        if self.exposed.is_none() {
            let expose = |number: Option<&u64>| -> Result<Vec<String>> {
                let name = format!("{}@s{}", self.volume, number.context("it has snapshots")?);
                run("cairn", &["expose", &name])?;
                Ok(device_target(&Path::new("/dev/cairn").join(name)))
            };
            self.exposed = Some([expose(self.taken.front())?, expose(self.taken.back())?]);
        }
        Ok(self.exposed.clone().expect("they were exposed"))
    }

    fn report(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&run("cairn", &["--json", "stat", &self.volume])?)?)
    }
}
