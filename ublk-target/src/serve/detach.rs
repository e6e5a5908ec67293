//! Ending an attachment: nobody uses the volume, its devices go, the store is closed.
//!
//! Invariants:
//! - Refused with nothing changed while a frontend has a user or a restore is under way.
//! - Once the volume's device is gone, the process ends, whatever else fails: the store is then as after a crash.

use super::worker::Worker;
use crate::process::now_unix_ms;
use cairn_engine::error::{Error, ErrorKind, Result};

impl Worker {
    /// Closes the volume. The caller ends the process after it.
    pub async fn detach(&self) -> Result<()> {
        let _alone = self.administration.lock().await;
        if self.volume.restore_progress().is_some() {
            return Err(self.busy("a restore is under way; wait until `cairn show` says it is done"));
        }
        let clients = self.sessions.total();
        if clients > 0 {
            return Err(self.busy(&format!("{clients} NBD clients are connected; disconnect them first")));
        }
        self.off_thread(|devices| devices.stop_all()).await?;
        let _still = self.background.lock().await;
        if let Err(error) = self.volume.close(&self.disks, now_unix_ms()).await {
            tracing::error!(%error, "the volume was not closed cleanly; the next attach recovers it, nothing is lost");
        }
        Ok(())
    }

    pub(super) fn busy(&self, message: &str) -> Error {
        Error::new(ErrorKind::Busy, "detach", self.config.name.clone()).saying(message)
    }
}
