//! A server process with a socket, and the files below it.

use anyhow::{ensure, Context, Result};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that ends with this value.
pub struct Server(Child);

impl Server {
    /// Starts it, and waits until its socket is there.
    pub fn start(program: &str, arguments: &[String], socket: &Path) -> Result<Server> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let server = Server(command.spawn().with_context(|| format!("{program} cannot be started"))?);
        let begun = Instant::now();
        while !socket.exists() {
            ensure!(begun.elapsed() < Duration::from_secs(20), "{program} {} does not listen", arguments.join(" "));
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it served is thrown away with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a file with every byte allocated.
pub fn full_file(path: &Path, size_bytes: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("{} cannot be made", path.display()))?;
    let piece = vec![0x5a_u8; 1 << 20];
    (0..size_bytes >> 20).try_for_each(|_| std::io::Write::write_all(&mut &file, &piece))?;
    Ok(())
}

/// How fio calls an export named `vol` on a socket.
pub fn nbd_target(socket: &Path) -> Vec<String> {
    vec!["--ioengine=nbd".to_owned(), format!("--uri=nbd+unix:///vol?socket={}", socket.display())]
}
