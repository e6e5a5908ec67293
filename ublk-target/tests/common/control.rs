//! A control socket in front of a handler that answers from memory, and a plain HTTP client.

use super::runs_locally;
use cairn_engine::disk::{aligned_buffer, AlignedBuffer};
use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_engine::snapshot::SnapshotName;
use cairn_target::control::api::*;
use cairn_target::control::{serve, ChangesQuery, ControlHandler, OlderPoint};
use cairn_target::stop::{stop_switch, StopSwitch};
use cairn_target::unix_socket::PrivateListener;
use serde_json::Value;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// One snapshot, `monday`, to begin with; the others come and go as a volume's would.
pub struct Memory {
    snapshots: RefCell<Vec<SnapshotReport>>,
    stop: Rc<StopSwitch>,
    finished: Arc<AtomicUsize>,
}

/// Counts as a command that came to its end when it is let go.
pub struct MemoryHold(Arc<AtomicUsize>);

impl Drop for MemoryHold {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn report(name: &str, epoch: u64, consistency: Consistency) -> SnapshotReport {
    SnapshotReport {
        name: name.to_owned(),
        epoch,
        created_at: Timestamp::from_unix_ms(1_795_262_400_000 + epoch * 1000),
        size_bytes: 1 << 30,
        consistency,
        automatic: false,
        state: SnapshotState::Whole,
        state_reason: None,
        exposed: None,
    }
}

impl Memory {
    /// With its one snapshot. `stop` is raised by a detach.
    pub fn new(stop: StopSwitch, finished: Arc<AtomicUsize>) -> Memory {
        let snapshots = RefCell::new(vec![report("monday", 1, Consistency::Filesystem)]);
        Memory { snapshots, stop: Rc::new(stop), finished }
    }

    fn find<T>(&self, name: &SnapshotName, found: impl FnOnce(&mut SnapshotReport) -> Result<T>) -> Result<T> {
        let mut snapshots = self.snapshots.borrow_mut();
        let snapshot = snapshots.iter_mut().find(|snapshot| snapshot.name == name.as_str());
        found(snapshot.ok_or_else(|| {
            let error = Error::new(ErrorKind::NotFound, "find", format!("vol@{name}"));
            error.saying("there is no snapshot of that name; `cairn list` shows those that exist")
        })?)
    }
}

impl ControlHandler for Memory {
    type Hold = MemoryHold;

    async fn volume(&self) -> Result<VolumeReport> {
        Ok(VolumeReport {
            name: "vol".to_owned(),
            volume_id: "5f0c7d0e-6a55-4b43-9d5c-2f3f3f1f6a01".to_owned(),
            store_id: "0b0e4a62-92a5-4c0b-8f0a-6d9f0f8f7b02".to_owned(),
            size_bytes: 1 << 30,
            origin: OriginReport { path: "/dev/vdb".to_owned(), size_bytes: 1 << 30, sector_bytes: 512 },
            store: StoreReport {
                path: "/var/store".to_owned(),
                size_bytes: 1 << 28,
                used_bytes: 1 << 20,
                free_bytes: (1 << 28) - (1 << 20),
            },
            state: VolumeState::Whole,
            state_reason: None,
            frontend: Frontend::Ublk,
            device: Some("/dev/cairn/vol".to_owned()),
            nbd_uri: Some("nbd+unix:///vol?socket=/run/cairn/vol/nbd.sock".to_owned()),
            clients: 0,
            snapshots: self.snapshots.borrow().len() as u64,
            restore: None,
            save_deadline: Some(SaveDeadlineReport {
                deadline_ms: 30_000,
                on_late: OnLate::Wait,
                late_for_ms: None,
                given_up: None,
            }),
            process_id: 4711,
            attached_at: Timestamp::from_unix_ms(1_795_262_400_000),
        })
    }

    async fn snapshots(&self) -> Result<SnapshotList> {
        let snapshots = self.snapshots.borrow().clone();
        Ok(SnapshotList { volume: "vol".to_owned(), snapshots, bookmarks: Vec::new() })
    }

    async fn snapshot(
        &self,
        name: SnapshotName,
        consistency: Consistency,
        limit: Option<Duration>,
    ) -> Result<SnapshotReport> {
        if name.as_str() == "slow" {
            tokio::time::sleep(Duration::from_millis(300)).await;
            self.finished.fetch_add(1, Ordering::SeqCst);
        }
        if limit == Some(Duration::from_millis(1)) {
            return Err(Error::new(ErrorKind::TimedOut, "snapshot", "vol").saying("the cut took too long"));
        }
        if self.find(&name, |_| Ok(())).is_ok() {
            return Err(Error::new(ErrorKind::Exists, "snapshot", format!("vol@{name}")).saying("it exists already"));
        }
        let taken = report(name.as_str(), 1 + self.snapshots.borrow().len() as u64, consistency);
        self.snapshots.borrow_mut().push(taken.clone());
        Ok(taken)
    }

    async fn delete(&self, name: SnapshotName, _keep_bookmark: bool) -> Result<()> {
        self.find(&name, |snapshot| match &snapshot.exposed {
            Some(_) => Err(Error::new(ErrorKind::Busy, "delete", format!("vol@{name}"))
                .saying("it is exposed; `cairn unexpose` it first")),
            None => Ok(()),
        })?;
        self.snapshots.borrow_mut().retain(|snapshot| snapshot.name != name.as_str());
        Ok(())
    }

    async fn changes(&self, query: ChangesQuery) -> Result<ChangesPage> {
        if let Some(OlderPoint::Snapshot(name)) = &query.from {
            self.find(name, |_| Ok(()))?;
        }
        if let Some(name) = &query.to {
            self.find(name, |_| Ok(()))?;
        }
        let extent = |offset_bytes, kind| ExtentReport { offset_bytes, length_bytes: 4096, kind };
        let all = [extent(8192, ChangeKind::Data), extent(1 << 20, ChangeKind::NotInUse)];
        let behind: Vec<ExtentReport> =
            all.into_iter().filter(|extent| extent.offset_bytes >= query.offset_bytes).collect();
        let extents: Vec<ExtentReport> = behind.iter().take(query.max).copied().collect();
        let next_offset_bytes = extents.last().filter(|_| extents.len() < behind.len());
        let next_offset_bytes = next_offset_bytes.map(|last| last.offset_bytes + last.length_bytes);
        let (from, to) = (query.from.map(|from| from.to_string()), query.to.map(|to| to.to_string()));
        Ok(ChangesPage { from, to, size_bytes: 1 << 30, extents, next_offset_bytes })
    }

    async fn data(&self, name: SnapshotName, offset_bytes: u64, length_bytes: u64) -> Result<(AlignedBuffer, u64)> {
        self.find(&name, |_| Ok(()))?;
        if offset_bytes >= 1 << 30 {
            return Err(Error::new(ErrorKind::Invalid, "read", format!("vol@{name}")).saying("it ends before that"));
        }
        let mut content = aligned_buffer(length_bytes.min((1 << 30) - offset_bytes) as usize);
        content.iter_mut().zip(offset_bytes..).for_each(|(byte, index)| *byte = index as u8);
        Ok((content, 1 << 30))
    }

    async fn hold(&self, name: SnapshotName) -> Result<MemoryHold> {
        self.find(&name, |_| Ok(()))?;
        Ok(MemoryHold(self.finished.clone()))
    }

    async fn expose(&self, name: SnapshotName, scratch: bool) -> Result<ExposeReport> {
        self.find(&name, |snapshot| {
            let exposed = ExposeReport {
                snapshot: name.to_string(),
                device: Some(format!("/dev/cairn/vol@{name}")),
                nbd_uri: None,
                scratch,
            };
            snapshot.exposed = Some(exposed.clone());
            Ok(exposed)
        })
    }

    async fn unexpose(&self, name: SnapshotName) -> Result<()> {
        self.find(&name, |snapshot| {
            snapshot.exposed = None;
            Ok(())
        })
    }

    async fn restore(&self, snapshot: SnapshotName, before: Option<SnapshotName>) -> Result<RestoreReport> {
        self.find(&snapshot, |_| Ok(()))?;
        let before = before.map_or("before-restore-1".to_owned(), |name| name.to_string());
        Ok(RestoreReport { restored: snapshot.to_string(), before })
    }

    async fn grow(&self, request: GrowRequest) -> Result<GrowReport> {
        let store_bytes = request.store_bytes.unwrap_or(1 << 28);
        Ok(GrowReport { size_bytes: if request.volume { 1 << 31 } else { 1 << 30 }, store_bytes, notice: None })
    }

    async fn stats(&self) -> Result<StatsReport> {
        let latency = LatencyReport {
            count: 2,
            min_us: 100,
            mean_us: 150.5,
            p50_us: 100,
            p90_us: 201,
            p99_us: 201,
            p999_us: 201,
            max_us: 201,
        };
        let report = |operation| OperationReport { operation, errors: 0, bytes: 8192, latency: latency.clone() };
        Ok(StatsReport {
            volume: "vol".to_owned(),
            since: Timestamp::from_unix_ms(1_795_262_400_000),
            operations: vec![report(Operation::Write)],
            engine: EngineReport { saves: 2, saved_blocks: 2, saved_bytes: 8192, records: 1, ..Default::default() },
            cut_pauses: LatencyReport::default(),
            cut_drains: LatencyReport::default(),
            audit: Some(AuditReport {
                volume: "vol".to_owned(),
                at: Timestamp::from_unix_ms(1_795_262_400_000),
                snapshot: "monday".to_owned(),
                since: None,
                compared_bytes: 0,
                known_bytes: 1 << 20,
                wrong_extents: 0,
                first_wrong_bytes: None,
            }),
        })
    }

    async fn check(&self, data: bool) -> Result<CheckReport> {
        let finding = FindingReport {
            severity: Severity::Warning,
            subject: "catalog".to_owned(),
            message: "one of the two copies of record 7 is damaged; the other was used".to_owned(),
        };
        Ok(CheckReport { clean: false, data, findings: vec![finding] })
    }

    async fn detach(&self) -> Result<DetachReport> {
        self.stop.raise();
        Ok(DetachReport { detached: "vol".to_owned() })
    }
}

/// The control socket and the thread behind it.
pub struct Control {
    _directory: TempDir,
    pub socket: PathBuf,
    /// How many slow commands came to their end.
    pub finished: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    pub fn start() -> Control {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("control.sock");
        let listener = PrivateListener::bind(&socket).expect("binds");
        let finished = Arc::new(AtomicUsize::new(0));
        let handler_finished = finished.clone();
        let thread = std::thread::spawn(move || {
            runs_locally(async move {
                let (switch, stop) = stop_switch();
                serve(Rc::new(Memory::new(switch, handler_finished)), listener, stop).await.expect("serves");
            });
        });
        Control { _directory: directory, socket, finished, thread: Some(thread) }
    }

    /// Sends a request; status and JSON of the answer.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        self.ask_bytes(method, path, body.as_bytes())
    }

    /// A GET with more header lines: the answer's status, head and bytes.
    pub fn get(&self, path: &str, headers: &str) -> (u16, String, Vec<u8>) {
        let mut stream = UnixStream::connect(&self.socket).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(answer[..end].to_vec()).expect("text").to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, head, answer[end + 4..].to_vec())
    }

    pub fn ask_bytes(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = UnixStream::connect(&self.socket).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        // A server that refuses an oversized body may close before it has read it all.
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let json = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"));
        (status, json)
    }

    /// Waits until the server has come to its end, which it does after a detach.
    pub fn wait(mut self) {
        self.thread.take().expect("runs").join().expect("the server must not panic");
        assert!(!self.socket.exists(), "the socket's name must go with the server");
    }
}
