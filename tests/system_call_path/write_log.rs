//! The log of writes that QEMU's `blklogwrites` keeps, in the format of the kernel's dm-log-writes, version 1.
//!
//! Invariants:
//! - Entries stand in the order in which their requests completed; QEMU does not hold them back until the next flush.
//! - So everything behind the last flush is volatile, but for writes that were durable by themselves.

use cairn_tests::log_writes::{ENTRY_BYTES, FLAG_DISCARD, FLAG_FLUSH, FLAG_FUA, FLAG_MARK, MAGIC, VERSION};

/// One request that completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the entry starts in the log.
    pub place_bytes: u64,
    /// What completed before is durable now.
    pub is_flush: bool,
    /// What was written, if anything.
    pub write: Option<Write>,
}

/// The write of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where on the device.
    pub offset_bytes: u64,
    /// How much.
    pub length_bytes: u64,
    /// Durable by itself.
    pub is_durable: bool,
    /// Discarded; the image below the log reads as zeroes there.
    pub is_discard: bool,
    data_place: usize,
}

impl Write {
    /// Whether both touch some byte.
    pub fn overlaps(&self, other: &Write) -> bool {
        let end = |write: &Write| write.offset_bytes + write.length_bytes;
        self.offset_bytes < end(other) && other.offset_bytes < end(self)
    }
}

/// A log, read whole.
pub struct WriteLog {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads a log to its end, however many entries its header has counted so far.
    pub fn parse(bytes: Vec<u8>) -> Result<WriteLog, String> {
        let word = |place: usize| -> Result<u64, String> {
            let field = bytes.get(place..place + 8).ok_or(format!("the log ends within byte {place}"))?;
            Ok(u64::from_le_bytes(field.try_into().expect("eight bytes")))
        };
        if (word(0)?, word(8)?) != (MAGIC, VERSION) {
            return Err(format!("no log of writes: magic {:x}, version {}", word(0)?, word(8)?));
        }
        let counted = word(16)?;
        let sector_bytes = word(24)? as u32 as usize;
        if !sector_bytes.is_power_of_two() || sector_bytes < ENTRY_BYTES {
            return Err(format!("sectors of {sector_bytes} bytes"));
        }
        let mut entries = Vec::new();
        let mut place = sector_bytes;
        while place < bytes.len() {
            let [sector, sectors, flags, extra_bytes] =
                [word(place)?, word(place + 8)?, word(place + 16)?, word(place + 24)?];
            if flags & !(FLAG_FLUSH | FLAG_FUA | FLAG_DISCARD | FLAG_MARK) != 0 || (sectors == 0 && flags == 0) {
                return Err(format!("no entry at byte {place}: flags {flags:x}, {sectors} sectors"));
            }
            let is_discard = flags & FLAG_DISCARD != 0;
            let data_place = place + sector_bytes;
            let data_bytes = if is_discard { 0 } else { sectors as usize * sector_bytes };
            let write = Write {
                offset_bytes: sector * sector_bytes as u64,
                length_bytes: sectors * sector_bytes as u64,
                is_durable: flags & FLAG_FUA != 0,
                is_discard,
                data_place,
            };
            let is_flush = flags & FLAG_FLUSH != 0;
            entries.push(Entry { place_bytes: place as u64, is_flush, write: (sectors > 0).then_some(write) });
            place = data_place + data_bytes + (extra_bytes as usize).next_multiple_of(sector_bytes);
        }
        if place > bytes.len() || counted > entries.len() as u64 {
            return Err(format!(
                "{} entries up to byte {place}, {counted} counted, {} bytes",
                entries.len(),
                bytes.len()
            ));
        }
        Ok(WriteLog { bytes, entries })
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many of them had been begun when the log was `log_bytes` long.
    pub fn entries_within(&self, log_bytes: u64) -> usize {
        self.entries.partition_point(|entry| entry.place_bytes < log_bytes)
    }

    /// What a write put on the device; nothing for a discard.
    pub fn data(&self, write: &Write) -> Option<&[u8]> {
        (!write.is_discard).then(|| &self.bytes[write.data_place..write.data_place + write.length_bytes as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(words: [u64; 4]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(512, 0);
        bytes
    }

    #[test]
    fn entries_are_read_with_their_flags_and_data() {
        let mut log = sector([MAGIC, VERSION, 2, 512]);
        log.extend(sector([8, 1, FLAG_FUA, 0]));
        log.extend([7; 512]);
        log.extend(sector([0, 0, FLAG_FLUSH, 0]));
        log.extend(sector([16, 4, FLAG_DISCARD, 0]));
        let log = WriteLog::parse(log).expect("a log");
        let [write, flush, discard] = log.entries() else { panic!("{:?}", log.entries()) };
        let durable = write.write.expect("a write");
        assert!(durable.is_durable && durable.offset_bytes == 4096 && log.data(&durable) == Some(&[7; 512]));
        assert!(flush.is_flush && flush.write.is_none() && !write.is_flush);
        let discarded = discard.write.expect("a discard");
        assert!(discarded.is_discard && discarded.length_bytes == 2048 && log.data(&discarded).is_none());
        assert_eq!([512, 513, 1536, 1537].map(|bytes| log.entries_within(bytes)), [0, 1, 1, 2]);
    }

    #[test]
    fn a_log_that_is_cut_or_empty_is_refused() {
        let mut log = sector([MAGIC, VERSION, 1, 512]);
        log.extend(sector([8, 1, 0, 0]));
        assert!(WriteLog::parse(log.clone()).is_err());
        log.extend([7; 512]);
        assert!(WriteLog::parse(log.clone()).is_ok());
        log.extend(sector([0; 4]));
        assert!(WriteLog::parse(log).is_err());
        assert!(WriteLog::parse(vec![0; 4096]).is_err());
    }
}
