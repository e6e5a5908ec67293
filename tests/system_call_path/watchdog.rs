//! Ends a test that hangs, and says where.
//!
//! Invariants:
//! - The engine's futures are not dropped: the kernel may own their memory. So the process ends, loudly.

use std::time::Duration;
use tokio::task::JoinHandle;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Watches until it is dropped.
pub struct Watchdog {
    task: JoinHandle<()>,
}

impl Watchdog {
    /// Starts watching `what`; to be called inside a `LocalSet`.
    pub fn start(what: &'static str) -> Watchdog {
        let task = tokio::task::spawn_local(async move {
            tokio::time::sleep(PATIENCE).await;
            eprintln!("{what} hangs: no end after {PATIENCE:?}");
            std::process::abort();
        });
        Watchdog { task }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.task.abort();
    }
}
