//! The old content of what is being overwritten, so that it can be put back.
//!
//! Invariants:
//! - A record is durable before the range it holds is overwritten; a torn record at the end holds what was not.
//! - Ranges ascend and do not overlap: below the end of the last one everything is held that was overwritten.
//! - Putting back can be repeated, also after it was interrupted.

use super::place::make_name_durable;
use crate::block_io::{BlockIo, STEP_BYTES};
use crate::exit::{ExitCode, Failure, Outcome};
use cairn_delta::{is_zero, Fingerprint, FINGERPRINT_BLOCK_BYTES};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"CAIRNUN1";
/// Magic, and the id of the delta.
const LEAD_BYTES: u64 = 40;
/// Offset, length, whether content follows, checksum.
const HEAD_BYTES: usize = 28;

/// The log of one receive.
pub struct UndoLog {
    path: PathBuf,
    file: File,
    /// Where the next record goes.
    end: u64,
    /// Everything overwritten below is held.
    covered_bytes: u64,
}

/// Old content.
struct Record {
    offset_bytes: u64,
    length_bytes: u64,
    /// None: zeroes.
    content: Option<Vec<u8>>,
}

impl UndoLog {
    /// An empty log. What was at `path` before is replaced.
    pub fn create(path: &Path, stream_id: &str) -> Result<UndoLog, Failure> {
        let failed = |error| Failure::io("create the undo file", path, error);
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path).map_err(failed)?;
        let mut lead = [0; LEAD_BYTES as usize];
        lead[..8].copy_from_slice(MAGIC);
        lead[8..].copy_from_slice(blake3::hash(stream_id.as_bytes()).as_bytes());
        file.write_all(&lead).and_then(|()| file.sync_all()).map_err(failed)?;
        // A log without its name is none: not every filesystem keeps that with the file.
        make_name_durable(path)?;
        Ok(UndoLog { path: path.to_owned(), file, end: LEAD_BYTES, covered_bytes: 0 })
    }

    /// The log of a receive that was begun.
    pub fn open(path: &Path, stream_id: &str) -> Result<UndoLog, Failure> {
        let failed = |error| Failure::io("open the undo file", path, error);
        let mut file = File::options().read(true).write(true).open(path).map_err(failed)?;
        let mut lead = [0; LEAD_BYTES as usize];
        file.read_exact(&mut lead).map_err(failed)?;
        if lead[..8] != *MAGIC || lead[8..] != *blake3::hash(stream_id.as_bytes()).as_bytes() {
            let message = format!("{}: not the undo file of this receive", path.display());
            return Err(Failure::new(ExitCode::Damaged, message));
        }
        let mut log = UndoLog { path: path.to_owned(), file, end: LEAD_BYTES, covered_bytes: 0 };
        let (mut end, mut covered_bytes) = (LEAD_BYTES, 0);
        log.each(|record| {
            covered_bytes = record.offset_bytes + record.length_bytes;
            end += (HEAD_BYTES + record.content.as_ref().map_or(0, Vec::len)) as u64;
            Ok(())
        })?;
        log.file.set_len(end).map_err(|error| log.failed("cut", error))?;
        (log.end, log.covered_bytes) = (end, covered_bytes);
        Ok(log)
    }

    /// Holds what `io` has in a range that is about to be overwritten.
    pub fn save(&mut self, io: &mut dyn BlockIo, offset_bytes: u64, length_bytes: u64) -> Outcome {
        let end_bytes = offset_bytes + length_bytes;
        let mut at = offset_bytes.max(self.covered_bytes);
        while at < end_bytes {
            let mut content = vec![0; (end_bytes - at).min(STEP_BYTES) as usize];
            io.read(at, &mut content)?;
            self.append(at, &content)?;
            at += content.len() as u64;
        }
        Ok(())
    }

    fn append(&mut self, offset_bytes: u64, content: &[u8]) -> Outcome {
        let stored = if is_zero(content) { &[][..] } else { content };
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(&offset_bytes.to_le_bytes());
        head.extend_from_slice(&(content.len() as u64).to_le_bytes());
        head.extend_from_slice(&(stored.len() as u64).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&head), stored);
        head.extend_from_slice(&checksum.to_le_bytes());
        self.file.seek(SeekFrom::Start(self.end)).map_err(|error| self.failed("write", error))?;
        self.file
            .write_all(&head)
            .and_then(|()| self.file.write_all(stored))
            .map_err(|error| self.failed("write", error))?;
        self.end += (head.len() + stored.len()) as u64;
        self.covered_bytes = offset_bytes + content.len() as u64;
        Ok(())
    }

    /// Makes everything durable that is held.
    pub fn make_durable(&mut self) -> Outcome {
        self.file.sync_data().map_err(|error| self.failed("flush", error))
    }

    /// Puts everything back.
    pub fn put_back(&mut self, io: &mut dyn BlockIo) -> Outcome {
        self.each(|record| match &record.content {
            Some(content) => io.write(record.offset_bytes, content),
            None => io.write_zeroes(record.offset_bytes, record.length_bytes),
        })?;
        io.make_durable()
    }

    /// What the held ranges added to the fingerprint before, and what they add now. The base had `size_before_bytes`,
    /// the result has `size_after_bytes`. None where a range is not made of whole blocks.
    pub fn difference(
        &mut self,
        io: &mut dyn BlockIo,
        size_before_bytes: u64,
        size_after_bytes: u64,
    ) -> Result<Option<(Fingerprint, Fingerprint)>, Failure> {
        let block_bytes = FINGERPRINT_BLOCK_BYTES as u64;
        let (mut old, mut new, mut whole) = (Fingerprint::EMPTY, Fingerprint::EMPTY, true);
        self.each(|record| {
            let Record { offset_bytes, length_bytes, content } = record;
            let end_bytes = offset_bytes + length_bytes;
            let ends_whole = end_bytes.is_multiple_of(block_bytes) || end_bytes >= size_after_bytes;
            whole &= offset_bytes.is_multiple_of(block_bytes) && ends_whole;
            if !whole {
                return Ok(());
            }
            if let Some(content) = content {
                let counted = size_before_bytes.saturating_sub(offset_bytes).min(length_bytes) as usize;
                old += Fingerprint::of_content(offset_bytes, &content[..counted]);
            }
            let mut now = vec![0; length_bytes as usize];
            io.read(offset_bytes, &mut now)?;
            new += Fingerprint::of_content(offset_bytes, &now);
            Ok(())
        })?;
        Ok(whole.then_some((old, new)))
    }

    /// All whole records in order; the first that is not ends them.
    fn each(&mut self, mut use_it: impl FnMut(Record) -> Outcome) -> Outcome {
        self.file.seek(SeekFrom::Start(LEAD_BYTES)).map_err(|error| self.failed("read", error))?;
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        while let Some(record) = next_record(&mut reader).map_err(|error| Failure::io("read", &self.path, error))? {
            use_it(record)?;
        }
        Ok(())
    }

    fn failed(&self, operation: &str, error: std::io::Error) -> Failure {
        Failure::io(&format!("{operation} the undo file"), &self.path, error)
    }
}

fn next_record(reader: &mut impl Read) -> std::io::Result<Option<Record>> {
    let mut head = [0; HEAD_BYTES];
    match reader.read_exact(&mut head) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let (offset_bytes, length_bytes, stored_bytes) = (number(0), number(8), number(16));
    if length_bytes > STEP_BYTES || (stored_bytes != 0 && stored_bytes != length_bytes) {
        return Ok(None);
    }
    let mut content = vec![0; stored_bytes as usize];
    match reader.read_exact(&mut content) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let checksum = u32::from_le_bytes(head[24..].try_into().expect("four bytes"));
    if crc32c::crc32c_append(crc32c::crc32c(&head[..24]), &content) != checksum {
        return Ok(None);
    }
    Ok(Some(Record { offset_bytes, length_bytes, content: (stored_bytes > 0).then_some(content) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_io::PlainIo;

    fn disk(directory: &Path, content: &[u8]) -> PlainIo {
        let path = directory.join("disk");
        std::fs::write(&path, content).expect("written");
        let file = File::options().read(true).write(true).open(&path).expect("opens");
        PlainIo::of_new_file(&file, &path, content.len() as u64).expect("a disk")
    }

    #[test]
    fn what_was_held_is_put_back_also_after_a_torn_record() {
        let directory = tempfile::tempdir().expect("a directory");
        let content: Vec<u8> = (0..65_536u32).map(|index| (index / 4096) as u8).collect();
        let mut io = disk(directory.path(), &content);
        let path = directory.path().join("undo");
        let mut log = UndoLog::create(&path, "a").expect("a log");
        log.save(&mut io, 0, 8192).expect("held");
        log.save(&mut io, 16_384, 4096).expect("held");
        log.make_durable().expect("durable");
        io.write(0, &[9; 8192]).expect("written");
        io.write(16_384, &[9; 4096]).expect("written");
        log.save(&mut io, 20_480, 4096).expect("held");
        drop(log);
        let length = std::fs::metadata(&path).expect("there").len();
        File::options().write(true).open(&path).and_then(|file| file.set_len(length - 1)).expect("torn");
        assert!(UndoLog::open(&path, "b").is_err(), "the log of another receive");
        let mut log = UndoLog::open(&path, "a").expect("a log");
        assert_eq!(log.covered_bytes, 20_480);
        // Sent again after a crash: what is there now is not what was there before.
        log.save(&mut io, 16_384, 8192).expect("held");
        io.write(16_384, &[8; 8192]).expect("written");
        let (old, new) = log.difference(&mut io, 65_536, 65_536).expect("read").expect("whole blocks");
        assert_ne!(old, new);
        log.put_back(&mut io).expect("put back");
        let mut found = vec![0; content.len()];
        io.read(0, &mut found).expect("read");
        assert!(found == content);
        let (old, new) = log.difference(&mut io, 65_536, 65_536).expect("read").expect("whole blocks");
        assert_eq!(old, new);
    }
}
