//! An export in memory that tells volatile from durable, so that a missing flush shows.

use cairn_engine::error::{Error, ErrorKind, Result};
use cairn_target::nbd::{status, Context, Export, ExportSource, Extent, Extents, Subject};
use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// The disk behind the exports.
pub struct Image {
    /// What reads show.
    pub content: Vec<u8>,
    /// What a power cut would leave.
    pub durable: Vec<u8>,
    pub sector_bytes: u32,
    /// How often a request gives way to others before it acts, so that requests overlap.
    pub yields: usize,
    /// Every request fails with this.
    pub failing: Option<ErrorKind>,
    /// Writes that were begun, and those of them that came to their end.
    pub writes_begun: usize,
    pub writes_done: usize,
    /// Flushes served.
    pub flushes: usize,
    /// Discards served, as (offset, length).
    pub discards: Vec<(u64, u64)>,
    /// Writes of zeroes served, as (length, durable, may unmap).
    pub zeroes: Vec<(u64, bool, bool)>,
    /// Ranges that are not in use, ascending.
    pub holes: Vec<Range<u64>>,
    /// Ranges that changed since each of the older snapshots, ascending, by the snapshot's name.
    pub changed: Vec<(String, Vec<Range<u64>>)>,
    /// Questions about the status of blocks fail with this.
    pub status_failing: Option<ErrorKind>,
    /// Reads served, as (offset, length).
    pub reads: Vec<(u64, u64)>,
}

impl Image {
    pub fn new(size_bytes: usize) -> Image {
        Image {
            content: vec![0; size_bytes],
            durable: vec![0; size_bytes],
            sector_bytes: 512,
            yields: 1,
            failing: None,
            writes_begun: 0,
            writes_done: 0,
            flushes: 0,
            discards: Vec::new(),
            zeroes: Vec::new(),
            holes: Vec::new(),
            changed: Vec::new(),
            status_failing: None,
            reads: Vec::new(),
        }
    }
}

/// `vol`, read-write, also by the empty name; `vol@snap`, read-only, over the same image.
pub struct MemorySource {
    pub image: Arc<Mutex<Image>>,
}

/// One of the two.
pub struct MemoryExport {
    image: Arc<Mutex<Image>>,
    read_only: bool,
}

impl ExportSource for MemorySource {
    type Export = MemoryExport;

    async fn names(&self) -> Vec<String> {
        vec!["vol".to_owned(), "vol@snap".to_owned()]
    }

    fn full_name<'a>(&'a self, name: &'a str) -> &'a str {
        if name.is_empty() {
            "vol"
        } else {
            name
        }
    }

    async fn open(&self, name: &str) -> Result<Rc<MemoryExport>> {
        let read_only = match name {
            "vol" => false,
            "vol@snap" => true,
            _ => return Err(Error::new(ErrorKind::NotFound, "open", name).saying("there is no such export")),
        };
        Ok(Rc::new(MemoryExport { image: self.image.clone(), read_only }))
    }
}

impl MemoryExport {
    async fn begin(&self) -> Result<()> {
        let (yields, failing) = {
            let image = self.image.lock().expect("not poisoned");
            (image.yields, image.failing)
        };
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        failing.map_or(Ok(()), |kind| Err(Error::new(kind, "serve", "memory").saying("told to fail")))
    }

    fn store(&self, offset_bytes: u64, data: &[u8], durable: bool) {
        let image = &mut *self.image.lock().expect("not poisoned");
        assert!(!self.read_only, "a read-only export was written");
        let sector_bytes = image.sector_bytes as usize;
        assert!((offset_bytes as usize).is_multiple_of(sector_bytes) && data.len().is_multiple_of(sector_bytes));
        let range = offset_bytes as usize..offset_bytes as usize + data.len();
        image.content[range.clone()].copy_from_slice(data);
        if durable {
            image.durable[range].copy_from_slice(data);
        }
    }
}

impl Export for MemoryExport {
    fn size_bytes(&self) -> u64 {
        self.image.lock().expect("not poisoned").content.len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        self.image.lock().expect("not poisoned").sector_bytes
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn can_discard(&self) -> bool {
        true
    }

    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        assert_eq!(buffer.as_ptr() as usize % 4096, 0, "buffers are fit for direct I/O");
        self.begin().await?;
        let range = offset_bytes as usize..offset_bytes as usize + buffer.len();
        let image = &mut *self.image.lock().expect("not poisoned");
        image.reads.push((offset_bytes, buffer.len() as u64));
        buffer.copy_from_slice(&image.content[range]);
        Ok(())
    }

    async fn write(&self, offset_bytes: u64, data: &[u8], durable: bool) -> Result<()> {
        assert_eq!(data.as_ptr() as usize % 4096, 0, "buffers are fit for direct I/O");
        self.image.lock().expect("not poisoned").writes_begun += 1;
        self.begin().await?;
        self.store(offset_bytes, data, durable);
        self.image.lock().expect("not poisoned").writes_done += 1;
        Ok(())
    }

    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, durable: bool, may_unmap: bool) -> Result<()> {
        self.begin().await?;
        self.store(offset_bytes, &vec![0; length_bytes as usize], durable);
        self.image.lock().expect("not poisoned").zeroes.push((length_bytes, durable, may_unmap));
        Ok(())
    }

    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.begin().await?;
        assert!(!self.read_only, "a read-only export was discarded");
        self.image.lock().expect("not poisoned").discards.push((offset_bytes, length_bytes));
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        // What completed before the flush began is what it must cover; it takes longer than a write.
        let content = self.image.lock().expect("not poisoned").content.clone();
        self.begin().await?;
        self.begin().await?;
        let image = &mut *self.image.lock().expect("not poisoned");
        image.durable = content;
        image.flushes += 1;
        Ok(())
    }

    async fn contexts(&self) -> Vec<Context> {
        let image = self.image.lock().expect("not poisoned");
        let mut contexts = vec![Context::allocation()];
        if self.read_only {
            let numbered = image.changed.iter().zip(0..);
            contexts.extend(numbered.flat_map(|((since, _), number)| Context::changed(since, number, "snap")));
        }
        contexts
    }

    async fn block_status(
        &self,
        subject: Subject,
        offset_bytes: u64,
        length_bytes: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        self.begin().await?;
        let image = self.image.lock().expect("not poisoned");
        if let Some(kind) = image.status_failing {
            return Err(Error::new(kind, "ask", "memory").saying("told to fail"));
        }
        let (marked, status) = match subject {
            Subject::Allocation if self.read_only => (&image.holes, status::HOLE | status::ZERO),
            Subject::Allocation => (&image.holes, status::HOLE),
            Subject::ChangedSince(number) => (&image.changed[number as usize].1, status::DIRTY),
        };
        let within = offset_bytes..offset_bytes + length_bytes;
        Ok(Extents::of_ranges(marked.iter().cloned(), status, 0, within, extents_max).into_vec())
    }
}
