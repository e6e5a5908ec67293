//! Ending an attachment: nobody uses the volume, its devices go, the store is closed.
//!
//! Invariants:
//! - Refused with nothing changed while a frontend has a user or a restore is under way.
//! - Once the volume's device is gone, the process ends, whatever else fails: the store is then as after a crash.

use super::worker::Worker;
use crate::nbd::Reservation;
use crate::process::now_unix_ms;
use cairn_engine::error::{Error, ErrorKind, Result};
use std::time::Duration;

/// How long to wait for NBD clients that are about to leave, in steps.
const LEAVING_POLL: Duration = Duration::from_millis(50);
const LEAVING_POLLS: u32 = 20;

impl Worker {
    /// Closes the volume. The caller ends the process after it.
    pub async fn detach(&self) -> Result<()> {
        let _alone = self.administration.lock().await;
        if self.volume.restore_progress().is_some() {
            return Err(self.busy("a restore is under way; wait until `cairn show` says it is done"));
        }
        self.wait_for_leaving_clients(|worker| worker.sessions.total() == 0).await;
        let clients = self.sessions.total();
        if clients > 0 {
            return Err(self.busy(&format!("{clients} NBD clients or copies under way keep it; let them end first")));
        }
        self.off_thread(|devices| devices.stop_all()).await?;
        let _still = self.background.lock().await;
        if let Err(error) = self.volume.close(&self.disks, now_unix_ms()).await {
            tracing::error!(%error, "the volume was not closed cleanly; the next attach recovers it, nothing is lost");
        }
        Ok(())
    }

    /// Keeps NBD clients away from an export. `Busy` where one has it open, and does not seem to be just leaving.
    pub(super) async fn reserve(&self, export: &str) -> Result<Reservation> {
        self.wait_for_leaving_clients(|worker| worker.sessions.count(export) == 0).await;
        self.sessions.reserve(export)
    }

    /// A client that was unmounted a moment ago is still saying goodbye.
    async fn wait_for_leaving_clients(&self, have_left: impl Fn(&Worker) -> bool) {
        for _ in 0..LEAVING_POLLS {
            if have_left(self) {
                return;
            }
            tokio::time::sleep(LEAVING_POLL).await;
        }
    }

    pub(super) fn busy(&self, message: &str) -> Error {
        Error::new(ErrorKind::Busy, "detach", self.config.name.clone()).saying(message)
    }
}
