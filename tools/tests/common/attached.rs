//! A volume on image files that is really attached: the built `cairn-target`, over NBD, so that no ublk is needed.

use super::nbd::Client;
use super::{Place, Ran};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub const MIB: u64 = 1 << 20;
pub const VOLUME_BYTES: u64 = 16 * MIB;

/// Volume `v` over `disk.img` and `disk.store`. Whatever it left running is ended with it.
pub struct Volume<'a> {
    pub place: &'a Place,
    pub origin: PathBuf,
    pub store: PathBuf,
}

impl<'a> Volume<'a> {
    /// Created, not attached.
    pub fn create(place: &'a Place) -> Volume<'a> {
        let (origin, store) = (place.path("disk.img"), place.path("disk.store"));
        place.image("disk.img", VOLUME_BYTES);
        let (origin_text, store_text) = (place.text("disk.img"), place.text("disk.store"));
        place.done(&["create", "v", "--origin", &origin_text, "--store", &store_text, "--store-size", "64M"]);
        Volume { place, origin, store }
    }

    /// Created and attached.
    pub fn attached(place: &'a Place) -> Volume<'a> {
        let volume = Volume::create(place);
        volume.attach();
        volume
    }

    pub fn attach(&self) -> Value {
        self.place.json(&["attach", "v", "--frontend=nbd"])
    }

    /// Attaches with more to say; expects a failure with this exit code and kind. What was said.
    pub fn attach_fails(&self, more: &[&str], code: i32, kind: &str) -> String {
        self.place.fails(&[&["attach", "v", "--frontend=nbd"], more].concat(), code, kind)
    }

    pub fn detach(&self) {
        self.place.done(&["detach", "v"]);
    }

    pub fn show(&self) -> Value {
        self.place.json(&["show", "v"])
    }

    /// An NBD connection to the volume, or to `v@NAME`.
    pub fn open(&self, export: &str) -> Client {
        Client::open(&self.place.path("run/v/nbd.sock"), export)
    }

    /// Fills the first MiB with `value`, durably.
    pub fn fill(&self, value: u8) {
        let mut client = self.open("v");
        assert_eq!(client.write(0, 0, &vec![value; MIB as usize]), 0);
        assert_eq!(client.flush(), 0);
    }

    /// Whether an export's first MiB is filled with `value`.
    pub fn holds(&self, export: &str, value: u8) -> bool {
        self.open(export).read(0, MIB as u32).expect("reads") == vec![value; MIB as usize]
    }

    /// The same of the bare disk.
    pub fn origin_holds(&self, value: u8) -> bool {
        std::fs::read(&self.origin).expect("the origin")[..MIB as usize] == vec![value; MIB as usize]
    }

    /// Ends the target without a chance to say goodbye: the supervisor first, so that nobody replaces the worker.
    pub fn kill(&self) {
        let Some(worker) = self.worker() else { return };
        for process in [parent_of(worker), Some(worker)].into_iter().flatten() {
            kill(process);
        }
        // Its sockets and devices go a moment after its process number.
        let socket = self.place.path("run/v/control.sock");
        wait_until("the target is gone", || {
            parent_of(worker).is_none() && std::os::unix::net::UnixStream::connect(&socket).is_err()
        });
    }

    /// The worker's process, where one is recorded and runs.
    pub fn worker(&self) -> Option<i32> {
        let text = std::fs::read(self.place.path("run/v/run.json")).ok()?;
        let state: Value = serde_json::from_slice(&text).expect("a run state");
        let worker = state["worker_pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())?;
        parent_of(worker).map(|_| worker)
    }

    /// The state word and reason of a snapshot.
    pub fn snapshot_state(&self, name: &str) -> (String, Option<String>) {
        let shown = self.place.json(&["show", &format!("v@{name}")]);
        let text = |key: &str| shown[key].as_str().map(str::to_owned);
        (text("state").expect("a state"), text("state_reason"))
    }
}

impl Drop for Volume<'_> {
    fn drop(&mut self) {
        if self.worker().is_some() {
            let Ran { code, .. } = self.place.cairn(&["detach", "v"]);
            if code != 0 {
                self.kill();
            }
        }
    }
}

pub fn kill(process: i32) {
    let process = rustix::process::Pid::from_raw(process).expect("a process number");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("a process of ours");
}

/// The parent of a process; none when it does not run.
fn parent_of(process: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let (state, parent) = (fields.next()?, fields.next()?);
    if state == "Z" {
        return None;
    }
    parent.parse().ok()
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(20));
    }
}
