//! The mark: which chunks were durable last, as a cheap witness against a damaged tail.
//!
//! It is written after each commit but never waited for: a few bytes that the kernel brings to the disk
//! in its own time. It may lag behind the truth after a power cut, and never runs ahead of it. A tail
//! that ends below it was damaged, not torn, so numbers beyond it may have been used.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::epoch::{StoreError, sync_directory};
use crate::patience::patiently;
use crate::wire::Cursor;

const FILE: &str = "mark";

pub(crate) struct Mark {
    file: File,
}

impl Mark {
    /// The last chunks of the alarm and the data log; `None` where the mark is missing or damaged.
    ///
    /// # Errors
    /// One that says nothing of the file.
    pub(crate) fn read(dir: &Path) -> Result<Option<[u64; 2]>, StoreError> {
        let path = dir.join(FILE);
        let bytes = patiently(|| std::fs::read(&path));
        let bytes = bytes.map_err(StoreError::io("cannot read", &path))?;
        Ok(bytes.and_then(|bytes| Self::parse(&bytes)))
    }

    fn parse(bytes: &[u8]) -> Option<[u64; 2]> {
        let mut input = Cursor::new(bytes);
        let last = [input.u64().ok()?, input.u64().ok()?];
        (crc32c::crc32c(&bytes[..16]) == input.u32().ok()?).then_some(last)
    }

    /// Begins a durable mark.
    pub(crate) fn begin(dir: &Path, last: [u64; 2]) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("cannot open", &path))?;
        let mark = Self { file };
        mark.write(last)
            .and_then(|()| mark.file.sync_all())
            .map_err(StoreError::io("cannot write", &path))?;
        sync_directory(dir)?;
        Ok(mark)
    }

    /// Moves the mark. A failure only makes the witness worse.
    pub(crate) fn set(&self, last: [u64; 2]) {
        if let Err(error) = self.write(last) {
            tracing::debug!(error = &error as &dyn std::error::Error, "no mark");
        }
    }

    fn write(&self, last: [u64; 2]) -> std::io::Result<()> {
        let mut out = Vec::with_capacity(20);
        out.extend_from_slice(&last[0].to_le_bytes());
        out.extend_from_slice(&last[1].to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        self.file.write_all_at(&out, 0)
    }
}
