//! The native format a second time, from docs/DELTA.md alone: streams byte by byte, right ones and wrong ones.

use super::snapshot;

pub const HEADER: u16 = 1;
pub const DATA: u16 = 2;
pub const ZERO: u16 = 3;
pub const NOT_IN_USE: u16 = 4;
pub const END: u16 = 5;
pub const CRITICAL: u16 = 1;

/// A stream under way.
pub struct Raw {
    pub bytes: Vec<u8>,
    pub sequence: u64,
    pub chain: [u8; 32],
    /// Data, zero, not in use; extents and bytes of each.
    pub totals: [u64; 6],
}

/// A field; a number with the highest bit set is critical.
pub fn field(number: u16, value: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes()[..], &(value.len() as u16).to_le_bytes(), value].concat()
}

fn identity(name: &str) -> Vec<u8> {
    let snapshot = snapshot(name);
    let numbers = [snapshot.epoch.to_le_bytes(), snapshot.created_unix_ms.to_le_bytes()].concat();
    [&snapshot.store_id[..], &numbers, name.as_bytes()].concat()
}

/// The fields of the same header as [`super::header`] makes.
pub fn header_fields(from: &str, to: &str, size_before_bytes: u64, size_after_bytes: u64) -> Vec<Vec<u8>> {
    let sizes = [size_before_bytes.to_le_bytes(), size_after_bytes.to_le_bytes()].concat();
    let mut fields = vec![
        field(0x8002, &[7; 16]),
        field(0x8003, &identity(from)),
        field(0x8004, &identity(to)),
        field(0x8005, &sizes),
        field(0x8006, &4096u32.to_le_bytes()),
    ];
    let stream_id = blake3::hash(&fields.concat());
    fields.insert(0, field(0x8001, &stream_id.as_bytes()[..16]));
    fields.push(field(0x8008, &[0]));
    fields
}

/// A record with its head.
pub fn record(kind: u16, flags: u16, sequence: u64, content: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend(kind.to_le_bytes());
    head.extend(flags.to_le_bytes());
    head.extend((content.len() as u32).to_le_bytes());
    head.extend(sequence.to_le_bytes());
    head.extend(crc32c::crc32c(content).to_le_bytes());
    head.extend(crc32c::crc32c(&head).to_le_bytes());
    [head, content.to_vec()].concat()
}

/// What describes a data frame.
pub fn description(offset_bytes: u64, plain: &[u8], encoding: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(offset_bytes.to_le_bytes());
    bytes.extend((plain.len() as u32).to_le_bytes());
    bytes.extend([encoding, 0, 0, 0]);
    bytes.extend(blake3::hash(plain).as_bytes());
    bytes
}

fn link(chain: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(&[&chain[..], bytes].concat()).as_bytes()
}

impl Raw {
    /// A stream with these header fields.
    pub fn new(fields: &[u8]) -> Raw {
        let bytes = [b"\x89CDL\r\n\x1a\n\x01\0\0\0", &record(HEADER, CRITICAL, 0, fields)[..]].concat();
        let chain = link(&[0; 32], &bytes);
        Raw { bytes, sequence: 1, chain, totals: [0; 6] }
    }

    /// From snapshot `L` to `M`, with 64 blocks before and after.
    pub fn usual() -> Raw {
        Raw::new(&header_fields("L", "M", 64 * 4096, 64 * 4096).concat())
    }

    /// Any record. `chained_bytes` of its content are in the chain.
    pub fn add(mut self, kind: u16, flags: u16, content: &[u8], chained_bytes: usize) -> Raw {
        let record = record(kind, flags, self.sequence, content);
        self.chain = link(&self.chain, &record[..24 + chained_bytes]);
        self.bytes.extend(record);
        self.sequence += 1;
        self
    }

    /// A record of no known kind.
    pub fn unknown(self, flags: u16, content: &[u8]) -> Raw {
        self.add(77, flags, content, content.len())
    }

    /// A data frame, as it is.
    pub fn data(self, offset_bytes: u64, plain: &[u8]) -> Raw {
        self.encoded(description(offset_bytes, plain, 0), plain, plain.len())
    }

    /// A data frame with this description, whatever is in it.
    pub fn encoded(mut self, description: Vec<u8>, content: &[u8], plain_bytes: usize) -> Raw {
        self.totals[0] += 1;
        self.totals[1] += plain_bytes as u64;
        self.add(DATA, CRITICAL, &[&description, content].concat(), 48)
    }

    /// A frame without content.
    pub fn range(mut self, kind: u16, offset_bytes: u64, length_bytes: u64) -> Raw {
        let place = if kind == ZERO { 2 } else { 4 };
        self.totals[place] += 1;
        self.totals[place + 1] = self.totals[place + 1].wrapping_add(length_bytes);
        self.add(kind, CRITICAL, &[offset_bytes.to_le_bytes(), length_bytes.to_le_bytes()].concat(), 16)
    }

    /// The end record, with further fields.
    pub fn end_with(self, further: &[u8]) -> Vec<u8> {
        let totals: Vec<u8> = self.totals.iter().flat_map(|number| number.to_le_bytes()).collect();
        let fields = [&field(0x8001, &totals)[..], further].concat();
        let content = [&fields[..], &link(&self.chain, &fields)].concat();
        [self.bytes, record(END, CRITICAL, self.sequence, &content)].concat()
    }

    /// The end record.
    pub fn end(self) -> Vec<u8> {
        self.end_with(&[])
    }
}
