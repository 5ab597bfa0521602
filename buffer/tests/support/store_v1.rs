//! The store of version 1 in `golden/`, as files again.

#![allow(dead_code, clippy::unwrap_used)] // each test uses what it needs; helpers of tests are tests

use std::fs;
use std::path::Path;

pub(crate) const STORE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store-v1.bin");
const UNPACKED_MAX: usize = 64 << 20;

/// Makes the directory again.
pub(crate) fn unpack(to: &Path) {
    let packed = zstd::bulk::decompress(&fs::read(STORE).unwrap(), UNPACKED_MAX).unwrap();
    let mut rest = packed.as_slice();
    let mut part = || {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (part, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
        rest = tail;
        Some(part)
    };
    while let (Some(name), Some(content)) = (part(), part()) {
        let path = to.join(std::str::from_utf8(name).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}
