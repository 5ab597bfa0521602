//! The plain segment file: the least that a durable log must do, as a measure for the buffer.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use millrace_tags::{Moment, Reason, Sample, TagId, Value};

/// Bytes in front of each record: length and CRC32C.
const HEAD_BYTES: usize = 8;

/// Bytes of a raw record.
pub(crate) const RECORD_BYTES: usize = 22;

/// One file; records with length and checksum; an fdatasync a commit.
pub struct Segment {
    file: File,
    out: Vec<u8>,
}

impl Segment {
    /// Begins a file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Self {
            file,
            out: Vec::new(),
        })
    }

    /// Adds a record to the next commit.
    pub fn put(&mut self, record: &[u8]) {
        self.out.extend((record.len() as u32).to_le_bytes());
        self.out.extend(crc32c::crc32c(record).to_le_bytes());
        self.out.extend_from_slice(record);
    }

    /// Writes what was put, durably.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn commit(&mut self) -> io::Result<()> {
        self.file.write_all(&self.out)?;
        self.out.clear();
        self.file.sync_data()
    }

    /// Hands out the intact records of a file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let bytes = std::fs::read(path)?;
        let mut rest = bytes.as_slice();
        while let Some((head, tail)) = rest.split_at_checked(HEAD_BYTES) {
            let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| head[at + i]));
            let Some((record, tail)) = tail.split_at_checked(number(0) as usize) else {
                break;
            };
            if crc32c::crc32c(record) == number(4) {
                each(record);
            }
            rest = tail;
        }
        Ok(())
    }
}

/// Samples as records of 22 bytes: tag, time, number, quality.
pub fn raw_records(samples: &[Sample]) -> Vec<u8> {
    let mut out = Vec::with_capacity(samples.len() * RECORD_BYTES);
    for sample in samples {
        out.extend_from_slice(&sample.tag.0.to_le_bytes());
        out.extend_from_slice(&sample.gateway_time.0.to_le_bytes());
        let value = sample.value.as_ref().and_then(Value::as_f64);
        out.extend_from_slice(&value.unwrap_or(0.0).to_le_bytes());
        out.extend_from_slice(&[u8::from(!sample.quality.is_good()), 0]);
    }
    out
}

/// What [`raw_records`] wrote; numbers come back as f64.
pub(crate) fn raw_samples(records: &[u8]) -> Vec<Sample> {
    let field = |record: &[u8], at: usize| {
        u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|i| record[at + i]))
    };
    let sample = |record: &[u8]| {
        let tag = TagId(field(record, 0) as u32);
        let at = Moment(field(record, 4) as i64);
        match record[20] {
            0 => Sample::good(tag, Value::F64(f64::from_bits(field(record, 12))), at),
            _ => Sample::bad(tag, Reason::Timeout, at),
        }
    };
    records.chunks_exact(RECORD_BYTES).map(sample).collect()
}

/// The chunk frames in the files of a store, as its crate documentation describes them: what it holds, in
/// bytes that are its own and not the engine's.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn frames(dir: &Path, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    const MAGIC: [u8; 4] = [0xF1, b'M', b'R', b'c'];
    const HEADER_BYTES: usize = 86;
    for log in ["alarm", "data"] {
        for epoch in std::fs::read_dir(dir.join(log))? {
            let bytes = std::fs::read(epoch?.path().join("db")).unwrap_or_default();
            let mut at = 0;
            while at + HEADER_BYTES <= bytes.len() {
                if bytes[at..at + 4] != MAGIC {
                    at += 1;
                    continue;
                }
                let field = |nth: usize| {
                    u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + nth + i])) as usize
                };
                let len = HEADER_BYTES + field(70) + field(78);
                let Some(frame) = bytes.get(at..at.saturating_add(len)) else {
                    at += 1;
                    continue;
                };
                let head = crc32c::crc32c_append(crc32c::crc32c(&frame[..82]), &[0; 4]);
                if crc32c::crc32c_append(head, &frame[86..]) as usize == field(82) {
                    each(frame);
                    at += len;
                } else {
                    at += 1;
                }
            }
        }
    }
    Ok(())
}
