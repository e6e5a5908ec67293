//! Streams as files: written, read again and compared, and only then given their name.
//!
//! Invariants:
//! - What is read again is every frame, from the medium's own answer as far as the kernel gives it.

use crate::exit::{ExitCode, Failure, Outcome};
use crate::new_file::NewFile;
use crate::rate::Progress;
use crate::sending::Plan;
use crate::stream::refused;
use cairn_delta::{rbd, Compression, Frame, Reader, Writer, WriterOptions};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

/// What is read or written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A digest over what a delta does to a disk, however it is cut into frames.
#[derive(Default)]
struct Effect {
    hasher: blake3::Hasher,
    data_bytes: u64,
}

impl Effect {
    fn add(&mut self, frame: &Frame<'_>) {
        let extent = frame.extent();
        self.hasher.update(&extent.offset_bytes.to_le_bytes());
        self.hasher.update(&extent.length_bytes.to_le_bytes());
        if let Frame::Data { content, .. } = frame {
            self.hasher.update(content);
            self.data_bytes += content.len() as u64;
        }
    }

    fn compare(self, found: Effect, name: &str) -> Result<u64, Failure> {
        match self.hasher.finalize() == found.hasher.finalize() {
            true => Ok(self.data_bytes),
            false => {
                let message = format!("{name}: what was read back is not what was written; nothing was kept");
                Err(Failure::new(ExitCode::Damaged, message))
            }
        }
    }
}

fn forget(file: &NewFile) -> Outcome {
    let synced = file.file().sync_all();
    synced.map_err(|error| Failure::io("make the file durable", file.temporary(), error))?;
    // Where the kernel keeps it all the same, what is compared is what it keeps.
    let _ = rustix::fs::fadvise(file.file(), 0, None, rustix::fs::Advice::DontNeed);
    Ok(())
}

fn reopened(file: &NewFile) -> Result<BufReader<File>, Failure> {
    let opened = File::open(file.temporary()).map_err(|error| Failure::io("read", file.temporary(), error))?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, opened))
}

/// An `rbd diff`; how many bytes of data it has.
pub fn rbd(path: &Path, plan: &Plan, version: rbd::Version, progress: &mut Progress) -> Result<u64, Failure> {
    let name = path.display().to_string();
    let failed = |error: cairn_delta::Error| refused(&name, &error);
    let mut file = NewFile::create(path)?;
    let header = rbd::Header {
        version,
        from_snapshot: plan.base.as_ref().map(|base| base.name.clone()),
        to_snapshot: Some(plan.target.name.clone()),
        size_bytes: plan.target.size_bytes,
    };
    let output = BufWriter::with_capacity(BUFFER_BYTES, &mut file);
    let mut writer = rbd::Writer::new(output, &header).map_err(failed)?;
    let mut written = Effect::default();
    plan.run(|frame| {
        written.add(&frame);
        progress.add(frame.extent().length_bytes);
        writer.write(frame).map_err(failed)
    })?;
    drop(writer.finish().map_err(failed)?);
    forget(&file)?;
    let mut reader = rbd::Reader::new(reopened(&file)?).map_err(failed)?;
    let mut found = Effect::default();
    while let Some(frame) = reader.next_frame().map_err(failed)? {
        found.add(&frame);
    }
    let data_bytes = written.compare(found, &name)?;
    file.appear()?;
    Ok(data_bytes)
}

/// A stream of our own; how many bytes of data it has.
pub fn native(path: &Path, plan: &mut Plan, progress: &mut Progress) -> Result<u64, Failure> {
    plan.with_fingerprints = true;
    plan.compression = Compression::Zstd;
    let name = path.display().to_string();
    let failed = |error: cairn_delta::Error| refused(&name, &error);
    let mut file = NewFile::create(path)?;
    let output = BufWriter::with_capacity(BUFFER_BYTES, &mut file);
    let options = WriterOptions { workers: 4, ..WriterOptions::default() };
    let mut writer = Writer::new(output, &plan.header(), options).map_err(failed)?;
    let mut written = Effect::default();
    let result = plan.run(|frame| {
        written.add(&frame);
        progress.add(frame.extent().length_bytes);
        writer.write(frame).map_err(failed)
    })?;
    drop(writer.finish(result).map_err(failed)?);
    forget(&file)?;
    let mut reader = Reader::new(reopened(&file)?).map_err(failed)?;
    let mut found = Effect::default();
    while let Some(frame) = reader.next_frame().map_err(failed)? {
        found.add(&frame);
    }
    let data_bytes = written.compare(found, &name)?;
    file.appear()?;
    Ok(data_bytes)
}
