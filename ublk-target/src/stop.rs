//! A one-way switch: raised once, seen by everyone who holds a view of it, on any thread.
//!
//! Invariants:
//! - Once raised it stays raised.
//! - A switch that is dropped counts as raised: nobody waits for an owner that is gone.

use tokio::sync::watch;

/// The owner's end.
pub struct StopSwitch(watch::Sender<bool>);

/// A view of the switch.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

/// A new switch and a view of it.
pub fn stop_switch() -> (StopSwitch, Stop) {
    let (sender, receiver) = watch::channel(false);
    (StopSwitch(sender), Stop(receiver))
}

impl StopSwitch {
    /// Raises it; again does nothing.
    pub fn raise(&self) {
        self.0.send_replace(true);
    }

    /// Another view of it.
    pub fn view(&self) -> Stop {
        Stop(self.0.subscribe())
    }
}

impl Stop {
    /// Returns once the switch is raised.
    pub async fn raised(&self) {
        // The error says that the owner is gone, which counts as raised.
        let _ = self.0.clone().wait_for(|raised| *raised).await;
    }

    /// Whether it is raised now.
    pub fn is_raised(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
