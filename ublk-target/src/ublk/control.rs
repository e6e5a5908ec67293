//! Commands to the ublk driver, each on a thread of its own, each with the driver's negative answers made errors.
//!
//! libublk's control ring belongs to a thread, and several of its calls give a negative errno as success; both are dealt
//! with here and nowhere else.
//!
//! Invariants:
//! - No command runs on a queue thread: the driver may need that queue to answer.

use cairn_engine::error::{Error, ErrorKind, Result};
use libublk::ctrl::UblkCtrl;
use libublk::UblkError;
use std::time::{Duration, Instant};

/// The driver lets go of a killed server's requests after the block layer's time-out of 30 s, before Linux 6.16.
pub const RECOVERY_WAIT: Duration = Duration::from_secs(45);

/// State of a ublk device, as the driver tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Stopped; it has no block device any more.
    Dead,
    /// Served.
    Live,
    /// Its server died; requests wait for a successor.
    Quiesced,
    /// Its server died; requests fail.
    FailIo,
}

/// What the driver knows of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Number N of /dev/ublkbN.
    pub id: u32,
    /// Its state.
    pub state: DeviceState,
    /// Queues.
    pub queues: u16,
    /// Requests a queue holds.
    pub depth: u16,
    /// `UBLK_F_` flags granted.
    pub flags: u64,
    /// The process that added it, where that was one of ours.
    pub added_by: Option<u32>,
}

/// The upper half of the mark that our devices carry from the instant they exist, "CAIR".
const MARK: u64 = 0x4341_4952;

/// What this process writes into the field that the driver keeps for servers: that it is Cairn, and which process. The
/// driver's own record of a process begins only when the device starts.
pub fn mark_of_this_process() -> u64 {
    MARK << 32 | u64::from(std::process::id())
}

fn process_of_mark(mark: u64) -> Option<u32> {
    (mark >> 32 == MARK).then_some(mark as u32)
}

/// Asks about a device. [`ErrorKind::NotFound`] when there is none of this id.
pub fn device_info(id: u32) -> Result<DeviceInfo> {
    command("ask about", id, move |control| {
        control.read_dev_info()?;
        let info = control.dev_info();
        Ok(DeviceInfo {
            id,
            state: match u32::from(info.state) {
                libublk::sys::UBLK_S_DEV_LIVE => DeviceState::Live,
                libublk::sys::UBLK_S_DEV_QUIESCED => DeviceState::Quiesced,
                libublk::sys::UBLK_S_DEV_FAIL_IO => DeviceState::FailIo,
                _ => DeviceState::Dead,
            },
            queues: info.nr_hw_queues,
            depth: info.queue_depth,
            flags: info.flags,
            added_by: process_of_mark(info.ublksrv_flags),
        })
    })
}

/// Takes over a device whose server died; waits until the driver has let go of that. A recovery that a server had begun
/// and did not live to end goes on.
pub fn begin_recovery(id: u32) -> Result<()> {
    let until = Instant::now() + RECOVERY_WAIT;
    loop {
        let begun = command("recover", id, |control| control.start_user_recover().and_then(nonnegative));
        match begun {
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(100));
            }
            // Nobody has served a queue since the last recovery began, so the driver refuses to begin another.
            Err(error) if error.kind() == ErrorKind::Invalid && waits_for_server(id) => return Ok(()),
            result => return result.map(|_| ()),
        }
    }
}

fn waits_for_server(id: u32) -> bool {
    device_info(id).is_ok_and(|info| info.state == DeviceState::Quiesced)
}

/// Stops a device: its requests are finished, then /dev/ublkbN goes away, whoever has it open.
pub fn stop(id: u32) -> Result<()> {
    command("stop", id, |control| control.kill_dev().and_then(nonnegative)).map(|_| ())
}

/// Removes a stopped device without waiting for those who still have it open.
pub fn delete(id: u32) -> Result<()> {
    command("delete", id, |control| control.del_dev_async().and_then(nonnegative)).map(|_| ())
}

/// Tells the driver of a new size, since Linux 6.16.
pub fn update_size(id: u32, size_bytes: u64) -> Result<()> {
    command("grow", id, move |control| control.update_size(size_bytes).and_then(nonnegative)).map(|_| ())
}

/// The ids of all ublk devices of this kernel, in order.
pub fn device_ids() -> Vec<u32> {
    let names = std::fs::read_dir("/sys/class/ublk-char").into_iter().flatten().flatten();
    let mut ids: Vec<u32> =
        names.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("ublkc")?.parse().ok()).collect();
    ids.sort_unstable();
    ids
}

/// Path of the block device.
pub fn block_path(id: u32) -> std::path::PathBuf {
    format!("/dev/ublkb{id}").into()
}

fn command<T, F>(operation: &'static str, id: u32, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&UblkCtrl) -> std::result::Result<T, UblkError> + Send + 'static,
{
    let name = format!("ublk{id}");
    let thread = std::thread::Builder::new().name(name.clone());
    let worker = thread
        .spawn(move || UblkCtrl::new_simple(id as i32).and_then(|control| work(&control)))
        .map_err(|source| Error::new(ErrorKind::Io, operation, name.clone()).caused_by(source))?;
    let result = worker.join().expect("a command to the driver does not panic");
    result.map_err(|error| driver_error(operation, name, error))
}

fn nonnegative(result: i32) -> std::result::Result<i32, UblkError> {
    if result < 0 {
        return Err(UblkError::UringIOError(result));
    }
    Ok(result)
}

/// The engine's error for one of libublk's.
pub fn driver_error(operation: &'static str, device: String, error: UblkError) -> Error {
    let errno = match &error {
        UblkError::UringIOError(errno) | UblkError::OtherError(errno) => -errno,
        UblkError::IOError(source) => source.raw_os_error().unwrap_or(libc::EIO),
        _ => libc::EIO,
    };
    let (kind, message) = match errno {
        libc::EBUSY => (ErrorKind::Busy, "the driver says it is in use"),
        libc::ENOENT | libc::ENODEV => (ErrorKind::NotFound, "the driver knows no such device, or is not loaded"),
        libc::EPERM | libc::EACCES => (ErrorKind::Invalid, "permission denied; run this as root"),
        libc::EOPNOTSUPP => (ErrorKind::Invalid, "this kernel's driver cannot do that"),
        libc::EINVAL => (ErrorKind::Invalid, "the driver refused the parameters"),
        _ => (ErrorKind::Io, "the ublk driver failed"),
    };
    Error::new(kind, operation, device).saying(message).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_as_ours_by_its_mark() {
        assert_eq!(process_of_mark(mark_of_this_process()), Some(std::process::id()));
        assert_eq!(process_of_mark(0), None);
        assert_eq!(process_of_mark(u64::from(std::process::id())), None);
    }
}
