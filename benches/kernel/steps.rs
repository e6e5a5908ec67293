//! Counts instructions and system calls of a running process, by stepping through it.
//!
//! Invariants:
//! - Every thread of the process is stepped. Being left may end the process: a trap that is on its way finds nobody who
//!   takes it. So it is counted last of all.
//! - Nothing of it depends on time: a process that is stepped is slow, and does the same.

use super::profile::Places;
use anyhow::{bail, Context, Result};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::thread::JoinHandle;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Instructions in user mode.
    Instructions,
    /// System calls.
    SystemCalls,
}

/// Steps through a process until it is dropped.
pub struct Steps {
    shared: Arc<Shared>,
    tracer: Option<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    /// What was counted of each thread.
    threads: Mutex<BTreeMap<i32, Stepped>>,
    /// Every instruction is a step; else every system call.
    by_instruction: AtomicBool,
    done: AtomicBool,
}

/// What was counted of a thread.
#[derive(Clone, Debug, Default)]
pub struct Stepped {
    /// How much.
    pub count: u64,
    /// Where it stood, where every instruction is a step.
    pub places: Places,
}

impl Steps {
    /// Begins to step through a process.
    pub fn begin(process_id: u32) -> Result<Steps> {
        let shared = Arc::new(Shared::default());
        let (ready, is_ready) = mpsc::channel();
        let of_tracer = shared.clone();
        // Only the thread that began to trace may go on with it.
        let tracer = std::thread::spawn(move || trace(process_id, &of_tracer, &ready));
        if is_ready.recv().is_err() {
            let ended = tracer.join().map_err(|_| anyhow::anyhow!("the tracer panicked"))?;
            return ended.and_then(|()| bail!("the tracer ended before it began"));
        }
        Ok(Steps { shared, tracer: Some(tracer) })
    }

    /// Counts what each thread of the process does while `work` runs.
    pub fn count<T>(&self, unit: Unit, work: impl FnOnce() -> Result<T>) -> Result<(BTreeMap<i32, Stepped>, T)> {
        let take = || std::mem::take(&mut *self.shared.threads.lock().expect("no holder of this lock panics"));
        self.shared.by_instruction.store(unit == Unit::Instructions, Ordering::Release);
        take();
        let result = work()?;
        let mut threads = take();
        if unit == Unit::SystemCalls {
            // Each stops a thread twice: where it begins and where it ends.
            threads.values_mut().for_each(|thread| thread.count /= 2);
        }
        Ok((threads, result))
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Release);
        if let Some(Ok(Err(error))) = self.tracer.take().map(JoinHandle::join) {
            eprintln!("the stepped process was not left as it was: {error:#}");
        }
    }
}

/// Threads that run code of the process: io_uring's workers run in the kernel only, and come and go.
fn threads_of(process_id: u32) -> Result<Vec<Pid>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process_id}/task")).context("the process is gone")? {
        let entry = entry?;
        let is_worker = std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.starts_with("iou-"));
        if is_worker {
            continue;
        }
        let name = entry.file_name();
        threads.push(Pid::from_raw(name.to_string_lossy().parse().context("a thread without a number")?));
    }
    Ok(threads)
}

fn trace(process_id: u32, shared: &Shared, ready: &mpsc::Sender<()>) -> Result<()> {
    let threads = threads_of(process_id)?;
    for thread in &threads {
        ptrace::seize(*thread, ptrace::Options::PTRACE_O_TRACESYSGOOD)?;
        ptrace::interrupt(*thread)?;
    }
    ready.send(()).context("nobody waits for the tracer")?;
    while !shared.done.load(Ordering::Acquire) {
        match next_stop(Pid::from_raw(-1), WaitPidFlag::WNOHANG)? {
            Some((thread, is_step, signal)) => {
                if is_step {
                    note_step(thread, shared)?;
                }
                go_on(thread, shared, signal)?;
            }
            None => std::thread::yield_now(),
        }
    }
    threads.into_iter().try_for_each(let_go)
}

fn note_step(thread: Pid, shared: &Shared) -> Result<()> {
    let mut threads = shared.threads.lock().expect("no holder of this lock panics");
    let stepped = threads.entry(thread.as_raw()).or_default();
    stepped.count += 1;
    if shared.by_instruction.load(Ordering::Acquire) {
        *stepped.places.entry(ptrace::getregs(thread)?.rip).or_default() += 1;
    }
    Ok(())
}

/// A thread that stopped, whether that is a step, and the signal that it was going to get.
fn next_stop(which: Pid, how: WaitPidFlag) -> Result<Option<(Pid, bool, Option<Signal>)>> {
    // Children of other threads are theirs.
    let flags = how | WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    Ok(match waitpid(which, Some(flags)) {
        Ok(WaitStatus::Stopped(thread, Signal::SIGTRAP)) => Some((thread, true, None)),
        Ok(WaitStatus::Stopped(thread, signal)) => Some((thread, false, Some(signal))),
        Ok(WaitStatus::PtraceSyscall(thread)) => Some((thread, true, None)),
        Ok(WaitStatus::PtraceEvent(thread, _, _)) => Some((thread, false, None)),
        // Threads may end; when the process does, whoever waits for its device says so.
        Ok(WaitStatus::StillAlive | WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => None,
        Ok(other) => bail!("a thread is in a state that nobody expects: {other:?}"),
        Err(Errno::EINTR) => None,
        Err(error) => return Err(error).context("stopped threads cannot be waited for"),
    })
}

fn go_on(thread: Pid, shared: &Shared, signal: Option<Signal>) -> Result<()> {
    if shared.by_instruction.load(Ordering::Acquire) {
        ptrace::step(thread, signal)?;
    } else {
        ptrace::syscall(thread, signal)?;
    }
    Ok(())
}

/// Leaves a thread running on its own. It can be left only while it stands.
fn let_go(thread: Pid) -> Result<()> {
    match ptrace::interrupt(thread) {
        Err(Errno::ESRCH) => return Ok(()),
        result => result?,
    }
    while next_stop(thread, WaitPidFlag::empty())?.is_none() {}
    Ok(ptrace::detach(thread, None::<Signal>)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    #[test]
    fn system_calls_and_instructions_of_a_process_are_counted() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat");
        let (mut input, output) = (cat.stdin.take().expect("piped"), cat.stdout.take().expect("piped"));
        let mut output = BufReader::new(output);
        let mut echo = |times: u32| {
            for _ in 0..times {
                input.write_all(b"line\n")?;
                let mut line = String::new();
                output.read_line(&mut line)?;
                assert_eq!(line, "line\n");
            }
            Ok(())
        };
        // What it does when it starts is over.
        echo(1).expect("it answers");
        let steps = Steps::begin(cat.id()).expect("it can be traced");
        let sum = |threads: BTreeMap<i32, Stepped>| threads.values().map(|thread| thread.count).sum::<u64>();
        let few = sum(steps.count(Unit::SystemCalls, || echo(10)).expect("it answers").0);
        let many = sum(steps.count(Unit::SystemCalls, || echo(30)).expect("it answers").0);
        // One read and one write for each line; the read it stood in is not seen to begin.
        assert!((38..=42).contains(&(many - few)), "{few} and {many}");
        let instructions = sum(steps.count(Unit::Instructions, || echo(3)).expect("it answers").0);
        drop(steps);
        assert!((10..10_000).contains(&instructions), "{instructions}");
        cat.kill().expect("it is ours");
        cat.wait().expect("it ends");
    }
}
