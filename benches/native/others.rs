//! The other NBD servers: qemu-storage-daemon with a copy-before-write filter, with a qcow2 overlay and with a plain
//! file; nbdkit with its cow filter and with a plain file.

use super::server::{nbd_target, Server};
use crate::kernel::run;
use crate::turns::Stack;
use anyhow::{bail, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// One of them.
pub struct Other {
    name: String,
    directory: PathBuf,
    size_bytes: u64,
    server: Option<Server>,
}

impl Other {
    /// Starts one over the file `origin` in the directory.
    pub fn start(name: &str, directory: &Path, size_bytes: u64) -> Result<Other> {
        let mut other = Other { name: name.to_owned(), directory: directory.to_owned(), size_bytes, server: None };
        other.renew_snapshots()?;
        Ok(other)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    /// A fresh file of this name for what the snapshot needs.
    fn fresh(&self, name: &str) -> Result<String> {
        let path = self.directory.join(name);
        let _ = fs::remove_file(&path);
        let path = path.display().to_string();
        match name.ends_with("qcow2") {
            true => {
                let base = self.directory.join("origin").display().to_string();
                run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, &path])?;
            }
            false => fs::File::create(&path)?.set_len(self.size_bytes)?,
        }
        Ok(path)
    }

    fn nbdkit(&self, arguments: &[&str]) -> Result<Server> {
        let socket = self.socket().display().to_string();
        let mut all: Vec<String> = ["--foreground", "--exit-with-parent", "--unix", &socket].map(String::from).into();
        all.extend(arguments.iter().map(|one| (*one).to_owned()));
        all.extend(["file".to_owned(), self.directory.join("origin").display().to_string()]);
        Server::start("nbdkit", &all, &self.socket())
    }

    /// `nodes` make the node `top` out of the node `origin`.
    fn qemu(&self, nodes: &[String]) -> Result<Server> {
        let (socket, origin) =
            (self.socket().display().to_string(), self.directory.join("origin").display().to_string());
        let mut all = vec!["--blockdev".to_owned(), file_node("origin", &origin)];
        for node in nodes {
            all.extend(["--blockdev".to_owned(), node.clone()]);
        }
        let top = if nodes.is_empty() { "origin" } else { "top" };
        all.extend(["--nbd-server".to_owned(), format!("addr.type=unix,addr.path={socket}")]);
        all.extend(["--export".to_owned(), format!("type=nbd,id=export,node-name={top},name=vol,writable=on")]);
        Server::start("qemu-storage-daemon", &all, &self.socket())
    }
}

fn file_node(name: &str, path: &str) -> String {
    format!("driver=file,node-name={name},filename={path},cache.direct=on,aio=io_uring")
}

impl Stack for Other {
    fn target(&self) -> Vec<String> {
        nbd_target(&self.socket())
    }

    /// None of them renews its snapshot while it runs.
    fn renew_snapshots(&mut self) -> Result<()> {
        self.server = None;
        let _ = fs::remove_file(self.socket());
        self.server = Some(match self.name.as_str() {
            "raw" => self.nbdkit(&[])?,
            "nbdkit cow" => self.nbdkit(&["--filter=cow"])?,
            "qemu raw" => self.qemu(&[])?,
            "qemu copy-before-write" => {
                let saved = file_node("saved", &self.fresh("saved")?);
                self.qemu(&[saved, "driver=copy-before-write,node-name=top,file=origin,target=saved".to_owned()])?
            }
            "qemu qcow2 overlay" => {
                let overlay = file_node("overlay", &self.fresh("overlay.qcow2")?);
                self.qemu(&[overlay, "driver=qcow2,node-name=top,file=overlay,backing=origin".to_owned()])?
            }
            other => bail!("nobody is called {other}"),
        });
        Ok(())
    }

    fn process_id(&self) -> Option<u32> {
        self.server.as_ref().map(Server::id)
    }
}
