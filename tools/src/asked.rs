//! SIGUSR1: somebody wants to know how far a command is, as users of dd ask.
//!
//! Invariants:
//! - Once [`whenever_asked`] has returned the signal no longer ends the process.
//! - The answer comes at once, also while the command itself waits for a disk or a pipe.

use tokio::runtime;
use tokio::signal::unix::{signal, SignalKind};
use tokio::sync::oneshot;

/// Questions are answered while this exists.
pub struct Answering {
    _ends: oneshot::Sender<()>,
}

/// Calls `tell` at every SIGUSR1, on a thread of its own. None where that cannot be: the command works all the same.
pub fn whenever_asked(tell: impl Fn() + Send + 'static) -> Option<Answering> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build().ok()?;
    let mut questions = {
        let _entered = runtime.enter();
        signal(SignalKind::user_defined1()).ok()?
    };
    let (_ends, mut ended) = oneshot::channel();
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = &mut ended => return,
                    Some(()) = questions.recv() => tell(),
                }
            }
        });
    });
    Some(Answering { _ends })
}
