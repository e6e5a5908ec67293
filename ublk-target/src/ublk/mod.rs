//! ublk: a block device of this kernel, served by this process.
//!
//! Invariants:
//! - A device outlives its process: it is created with user recovery and re-issue, so a successor finishes what a
//!   killed process had not acknowledged, and the filesystem above sees a pause.
//! - A failure that would leave requests hanging ends the process instead, so that a successor can serve them.
//! - A device is stopped only when nobody uses it.

mod buffers;
pub mod control;
mod event_fd;
pub mod features;
mod notifier;
mod openers;
pub mod parameters;
mod queue;
mod queue_disk;
pub mod request;
pub mod service;
mod tags;
mod transfer;

pub use parameters::Shape;
pub use queue_disk::{QueueDisk, QueueRing};

use crate::device::{users_of, DeviceKind};
use cairn_engine::error::{Error, ErrorKind, Result};
use control::{block_path, driver_error};
use libublk::ctrl::UblkCtrlBuilder;
use libublk::{sys, UblkError, UblkFlags};
use parameters::{parameters, TAG_BUFFER_BYTES};
use queue_disk::FIRST_FILE;
use rustix::fs::{Mode, OFlags};
use service::ServiceFactory;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;

/// What every device of ours must be granted.
const FLAGS: u64 = (sys::UBLK_F_USER_RECOVERY | sys::UBLK_F_USER_RECOVERY_REISSUE) as u64;

/// Where a device's number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A new device with a number of the driver's choice.
    New,
    /// The device of this number, left behind by a killed process.
    Recover(u32),
}

/// How a device is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Queues; the driver caps it at the number of CPUs.
    pub queues: u16,
    /// Requests a queue holds.
    pub depth: u16,
    /// What it shows.
    pub shape: Shape,
    /// New or recovered; a recovered device keeps its queues and depth.
    pub origin: Origin,
}

/// A served device. Dropping this leaves the device served; [`UblkDevice::stop`] ends it.
#[derive(Debug)]
pub struct UblkDevice {
    id: u32,
    recovered: bool,
    server: Option<JoinHandle<()>>,
}

/// A device that was not stopped: it is served as before.
#[derive(Debug)]
pub struct Refused {
    /// The device.
    pub device: UblkDevice,
    /// Why.
    pub error: Error,
}

impl Refused {
    fn boxed(device: UblkDevice, error: Error) -> Box<Refused> {
        Box::new(Refused { device, error })
    }
}

impl UblkDevice {
    /// Creates or recovers a device and returns when /dev/ublkbN is there. `record` gets its number before that; where
    /// it fails nothing is started. Blocks; not for a queue thread.
    pub fn start<F: ServiceFactory>(
        options: Options,
        factory: F,
        record: impl FnOnce(u32) -> Result<()>,
    ) -> Result<UblkDevice> {
        let recovered = match options.origin {
            Origin::New => false,
            Origin::Recover(id) => {
                control::begin_recovery(id)?;
                true
            }
        };
        let (sender, receiver) = mpsc::channel();
        let (allow, allowed) = mpsc::channel();
        let server = std::thread::Builder::new()
            .name("ublk".to_owned())
            .spawn(move || serve(options, factory, sender, allowed))
            .map_err(|source| Error::new(ErrorKind::Io, "start", "ublk").caused_by(source))?;
        let answers = "the server answers or ends the process";
        let id = receiver.recv().expect(answers)?;
        record(id)?;
        allow.send(()).expect("the server waits for it");
        receiver.recv().expect(answers)?;
        Ok(UblkDevice { id, recovered, server: Some(server) })
    }

    /// Number N of /dev/ublkbN.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The block device.
    pub fn path(&self) -> PathBuf {
        block_path(self.id)
    }

    /// Makes the device larger while it is in use.
    pub fn grow(&self, size_bytes: u64) -> Result<()> {
        if !features::driver_has(features::Rung::UpdateSize) {
            return Err(Error::new(ErrorKind::Invalid, "grow", self.path().display().to_string()).saying(
                "this kernel cannot grow a ublk device in use (Linux 6.16 can); unmount, `cairn detach` and \
                 `cairn attach`: the volume then has its new size",
            ));
        }
        control::update_size(self.id, size_bytes)
    }

    /// Whether anybody uses the device, as an error that says who.
    pub fn check_unused(&self) -> Result<()> {
        self.claim().map(|_| ())
    }

    /// Stops and removes the device. Refused, with nothing changed, while anybody uses it.
    pub fn stop(mut self) -> std::result::Result<(), Box<Refused>> {
        // Held while the device is stopped: nothing can mount it in between.
        let claim = match self.claim() {
            Ok(claim) => claim,
            Err(error) => return Err(Refused::boxed(self, error)),
        };
        if let Err(error) = control::stop(self.id) {
            return Err(Refused::boxed(self, error));
        }
        drop(claim);
        if let Some(server) = self.server.take() {
            server.join().expect("a server ends the process rather than panic");
        }
        if self.recovered {
            // libublk removes only what it has added itself.
            if let Err(error) = control::delete(self.id) {
                tracing::warn!(%error, "a stopped device could not be removed");
            }
        }
        Ok(())
    }

    fn claim(&self) -> Result<rustix::fd::OwnedFd> {
        let path = self.path();
        let busy = |message: String| Error::new(ErrorKind::Busy, "stop", path.display().to_string()).saying(message);
        let kind = crate::device::kind_of(&path)?;
        if let DeviceKind::Block { number } = kind {
            let users = users_of(number);
            if !users.is_empty() {
                return Err(busy(format!("it is in use: {}; free it first", users.join(", "))));
            }
            if let Some(opener) = openers::opener_of(number) {
                return Err(busy(format!("process {opener} has it open; end that first")));
            }
        }
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| {
            if errno == rustix::io::Errno::BUSY {
                busy("it is in use, perhaps mounted in a container; free it first".to_owned())
            } else {
                busy("it cannot be opened to see whether it is free".to_owned()).caused_by(std::io::Error::from(errno))
            }
        })
    }
}

/// The thread of a device: it reports the device's number, starts the queue threads once that is `allowed`, reports
/// again, and waits until the device is stopped.
fn serve<F: ServiceFactory>(
    options: Options,
    factory: F,
    report: mpsc::Sender<Result<u32>>,
    allowed: mpsc::Receiver<()>,
) {
    let failed = |error: UblkError| driver_error("start", "ublk".to_owned(), error);
    let control = match build(&options) {
        Ok(control) => control,
        Err(error) => {
            report.send(Err(failed(error))).expect("the starter waits for the report");
            return;
        }
    };
    let id = control.dev_info().dev_id;
    let granted = control.dev_info().flags;
    if granted & FLAGS != FLAGS {
        let error = Error::new(ErrorKind::Invalid, "start", "ublk")
            .saying("this kernel's driver cannot hand a device to a successor process; it takes Linux 6.1 or later");
        report.send(Err(error)).expect("the starter waits for the report");
        return;
    }
    report.send(Ok(id)).expect("the starter waits for the report");
    if allowed.recv().is_err() {
        // A device that was added here is deleted with `control`; one that was left behind keeps waiting.
        return;
    }
    let queues_run = Arc::new(AtomicBool::new(false));
    let queues_run_flag = queues_run.clone();
    let factory = Arc::new(factory);
    let all_ready = Arc::new(Barrier::new(usize::from(control.dev_info().nr_hw_queues)));
    let shape = options.shape.clone();
    let ready = report.clone();
    let files = factory.files();
    let result = control.run_target(
        move |device| {
            device.tgt.dev_size = shape.size_bytes;
            assert_eq!(device.tgt.nr_fds as usize, FIRST_FILE, "libublk tells the ring of the driver's device first");
            device.tgt.fds[FIRST_FILE..][..files.len()].copy_from_slice(&files);
            device.tgt.nr_fds += files.len() as i32;
            device.tgt.params = parameters(&shape);
            Ok(())
        },
        move |queue, device| {
            queues_run_flag.store(true, Ordering::Release);
            if let Err(error) = queue::run_queue(queue, device, &*factory, &all_ready) {
                if !matches!(error, UblkError::QueueIsDown) {
                    end_process(&format!("queue {queue} of ublk{id} failed: {error}"));
                }
            }
        },
        move |_| ready.send(Ok(id)).expect("the starter waits for the report"),
    );
    if let Err(error) = result {
        if queues_run.load(Ordering::Acquire) {
            end_process(&format!("ublk{id} could not be started: {error}"));
        }
        report.send(Err(failed(error))).expect("the starter waits for the report");
    }
}

fn build(options: &Options) -> std::result::Result<libublk::ctrl::UblkCtrl, UblkError> {
    let builder = UblkCtrlBuilder::default().name("cairn").io_buf_bytes(TAG_BUFFER_BYTES);
    match options.origin {
        Origin::New => builder
            .ctrl_flags(FLAGS | transfer::flags())
            .ctrl_target_flags(control::mark_of_this_process())
            .id(-1)
            .nr_queues(options.queues)
            .depth(options.depth)
            .dev_flags(UblkFlags::UBLK_DEV_F_ADD_DEV | UblkFlags::UBLK_DEV_F_DEL_DEV_ASYNC)
            .build(),
        Origin::Recover(id) => {
            let info = control::device_info(id).map_err(|_| UblkError::OtherError(-libc::ENODEV))?;
            builder
                .ctrl_flags(FLAGS | (info.flags & transfer::COPIED_HERE))
                .id(id as i32)
                .nr_queues(info.queues)
                .depth(info.depth)
                .dev_flags(UblkFlags::UBLK_DEV_F_RECOVER_DEV)
                .build()
        }
    }
}

/// A device whose queues are not all served hangs whoever uses it; without this process it waits for a successor.
fn end_process(why: &str) -> ! {
    eprintln!("{why}; ending the process so that a successor can take over");
    std::process::exit(70)
}
