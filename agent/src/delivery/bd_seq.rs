//! The number of an edge node's connections, kept over restarts: each CONNECT has the next one in its will, so that a
//! host tells the death of an earlier connection from that of this one.
//!
//! A file of nine bytes, replaced as a whole: `mrbdseq` and the version 1, then the number of the last CONNECT.

use std::path::{Path, PathBuf};

use crate::durable;

const MAGIC: &[u8; 8] = b"mrbdseq\x01";

/// The file cannot be used: numbers go on in memory, and begin again after a restart.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep the number of connections in {}", .path.display())]
pub(super) struct BdSeqError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The number of the last CONNECT.
pub(super) struct BdSeq {
    path: PathBuf,
    last: Option<u8>,
    before: Option<u8>,
}

impl BdSeq {
    /// Takes up where the file ends; without one, and where it cannot be read, at 0.
    pub(super) fn open(data_dir: &Path, uplink: &str) -> Self {
        let path = data_dir.join("sparkplug").join(format!("{uplink}.bdseq"));
        let last = match std::fs::read(&path) {
            Ok(bytes) => read(&bytes).inspect_err(|error| {
                tracing::error!(path = %path.display(), error, "numbers of connections begin again");
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "numbers of connections begin again");
                Ok(None)
            }
        };
        Self {
            path,
            last: last.unwrap_or(None),
            before: None,
        }
    }

    /// The number of the CONNECT that is about to be sent.
    pub(super) fn next(&mut self) -> u8 {
        let next = self.last.map_or(0, |last| last.wrapping_add(1));
        self.before = self.last.replace(next);
        next
    }

    /// The CONNECT was not sent: the next one has this number. (The file may be one ahead then; a kill at this moment
    /// leaves a number out.)
    pub(super) fn take_back(&mut self) {
        self.last = self.before;
    }

    /// What [`BdSeq::next`] gave last is on disk when this returns well. It waits for the disk: not on the session's task.
    pub(super) fn save(&self) -> impl FnOnce() -> Result<(), BdSeqError> + Send + use<> {
        let (path, last) = (self.path.clone(), self.last);
        move || {
            let bytes = [&MAGIC[..], last.as_slice()].concat();
            durable::write(&path, &bytes, 0o644).map_err(|source| BdSeqError { path, source })
        }
    }
}

fn read(bytes: &[u8]) -> Result<Option<u8>, &'static str> {
    match bytes.strip_prefix(MAGIC) {
        Some([last]) => Ok(Some(*last)),
        None if bytes.starts_with(&MAGIC[..7]) => Err("it is of a newer version of this program"),
        _ => Err("it is damaged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_on_over_restarts_and_round() {
        let dir = tempfile::tempdir().unwrap();
        for expected in (0..=255).chain(0..3) {
            let mut bd_seq = BdSeq::open(dir.path(), "scada");
            assert_eq!(bd_seq.next(), expected);
            bd_seq.save()().unwrap();
        }
        let mut other = BdSeq::open(dir.path(), "other");
        for _ in 0..3 {
            assert_eq!(other.next(), 0);
            other.take_back();
        }
        assert_eq!((other.next(), other.next()), (0, 1));
        other.take_back();
        assert_eq!(other.next(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_used_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparkplug/scada.bdseq");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        for bytes in [
            &b""[..],
            b"mrbdseq\x01",
            b"mrbdseq\x02\x05",
            b"mrbdseq\x01\x05\x05",
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(BdSeq::open(dir.path(), "scada").next(), 0, "{bytes:?}");
        }
        std::fs::write(&path, b"mrbdseq\x01\x05").unwrap();
        assert_eq!(BdSeq::open(dir.path(), "scada").next(), 6);
    }
}
