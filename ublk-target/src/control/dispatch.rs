//! The way from the HTTP server, whose tasks may run anywhere, to the handler, which lives on one thread.
//!
//! Invariants:
//! - At most [`COMMANDS_MAX`] commands run, and as many wait; clients beyond that wait to be heard.
//! - At most [`READS_MAX`] of them read snapshots: whoever copies a disk out never keeps a snapshot from being taken.
//! - A command that was started is run to completion, even if whoever sent it has gone.

use crate::stop::Stop;
use cairn_engine::error::{Error, ErrorKind, Result};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, Semaphore};
use tokio::task::spawn_local;

/// Commands that run side by side.
const COMMANDS_MAX: u32 = 16;
/// Those of them that read snapshots or look for changes.
const READS_MAX: usize = 8;

/// Travels to the handler's thread and becomes a future there.
type Command<H> = Box<dyn FnOnce(Rc<H>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The sending end.
pub(super) struct Dispatcher<H> {
    commands: mpsc::Sender<Command<H>>,
    reads: Arc<Semaphore>,
}

/// The end on the handler's thread.
pub(super) struct Inbox<H> {
    commands: mpsc::Receiver<Command<H>>,
}

/// Both ends.
pub(super) fn dispatcher<H>() -> (Dispatcher<H>, Inbox<H>) {
    let (sender, receiver) = mpsc::channel(COMMANDS_MAX as usize);
    let reads = Arc::new(Semaphore::new(READS_MAX));
    (Dispatcher { commands: sender, reads }, Inbox { commands: receiver })
}

impl<H> Clone for Dispatcher<H> {
    fn clone(&self) -> Dispatcher<H> {
        Dispatcher { commands: self.commands.clone(), reads: self.reads.clone() }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "control", "volume").saying("the target is stopping")
}

impl<H: 'static> Dispatcher<H> {
    /// Runs `action` on the handler's thread; its result.
    pub async fn call<T, Action, Running>(&self, action: Action) -> Result<T>
    where
        T: Send + 'static,
        Action: FnOnce(Rc<H>) -> Running + Send + 'static,
        Running: Future<Output = Result<T>> + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let command: Command<H> = Box::new(move |handler| {
            Box::pin(async move {
                // The client may have gone; the command was carried out all the same.
                let _ = sender.send(action(handler).await);
            })
        });
        self.commands.send(command).await.map_err(|_| closed())?;
        receiver.await.map_err(|_| closed())?
    }

    /// The same for what reads much: only so many run side by side, and the others wait without keeping commands out.
    pub async fn read<T, Action, Running>(&self, action: Action) -> Result<T>
    where
        T: Send + 'static,
        Action: FnOnce(Rc<H>) -> Running + Send + 'static,
        Running: Future<Output = Result<T>> + 'static,
    {
        let _place = self.reads.acquire().await.expect("the semaphore is never closed");
        self.call(action).await
    }
}

impl<H: 'static> Inbox<H> {
    /// Runs commands until `stop` is raised, then waits for those that run; the others are told that the target stops.
    pub async fn run(mut self, handler: Rc<H>, stop: Stop) {
        let places = Arc::new(Semaphore::new(COMMANDS_MAX as usize));
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            let command = tokio::select! {
                biased;
                () = stop.raised() => break,
                command = self.commands.recv() => command,
            };
            let Some(command) = command else { break };
            let running = command(handler.clone());
            spawn_local(async move {
                running.await;
                drop(place);
            });
        }
        drop(self.commands);
        drop(places.acquire_many(COMMANDS_MAX).await.expect("the semaphore is never closed"));
    }
}
