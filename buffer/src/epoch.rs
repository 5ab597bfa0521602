//! One epoch: a small sled database of frames that is only ever appended to.
//!
//! sled is the writer of the newest epoch and nothing else. It is never asked to open what it wrote
//! before: its recovery panics on damage and destroys more while it fails, while frames can be read
//! straight from the file by their checksums ([`crate::scan`]). Trees hold at most eight keys, below
//! sled's thresholds for rewriting a page, so every frame is written once.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::manifest;

/// At eight keys a tree is neither split nor consolidated; its values are written once.
const KEYS_PER_TREE: u64 = 8;

/// sled keeps the pages of recent trees; what we read back at all is the newest chunks.
const CACHE_BYTES: u64 = 1024 * 1024;

/// The name of sled's log in an epoch's directory.
const LOG_FILE: &str = "db";

/// Why an epoch could not be written or read.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// The file system refused.
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// sled refused.
    #[error("the store at {} failed", path.display())]
    Sled {
        path: PathBuf,
        #[source]
        source: sled::Error,
    },
    /// sled panicked.
    #[error("the store at {} broke down", path.display())]
    Panicked { path: PathBuf },
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io { what, path, source }
    }

    /// Whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        let full = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        match self {
            StoreError::Io { source, .. } => full(source),
            StoreError::Sled { source, .. } => match source {
                sled::Error::Io(source) => full(source),
                _ => false,
            },
            StoreError::Panicked { .. } => false,
        }
    }
}

/// An error with its causes, for people.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The directory of the epoch that begins with chunk `first`.
pub(crate) fn directory(log_dir: &Path, first: u64) -> PathBuf {
    log_dir.join(format!("{first:016x}.ep"))
}

/// The file in an epoch's directory that holds the frames.
pub(crate) fn log_file(epoch_dir: &Path) -> PathBuf {
    epoch_dir.join(LOG_FILE)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(StoreError::io("cannot sync the directory", path))
}

/// What the files of a directory take on the disk.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum::<u64>()
        + fs::metadata(path).map_or(0, |own| own.blocks() * 512)
}

/// What a sealed epoch takes on the disk: its files by name. There may be thousands when the buffer is opened, and
/// reading their directories would take longer than all the rest.
pub(crate) fn sealed_bytes(dir: &Path) -> u64 {
    let files = ["", LOG_FILE, manifest::FILE, "conf", "blobs"];
    let bytes = files.map(|name| fs::metadata(dir.join(name)).map_or(0, |of| of.blocks() * 512));
    bytes.iter().sum()
}

/// The epoch that is being written.
pub(crate) struct Epoch {
    dir: PathBuf,
    db: sled::Db,
    /// Our own handle on sled's log, because sled's flush does not reach the disk.
    log: File,
    catalogues: u64,
    tree: Option<(u64, sled::Tree)>,
}

impl Epoch {
    /// Creates the epoch that begins with chunk `first`; replaces what an earlier attempt left there.
    pub(crate) fn create(log_dir: &Path, first: u64) -> Result<Self, StoreError> {
        Self::create_at(log_dir, directory(log_dir, first))
    }

    /// Creates an epoch in a directory of the log; replaces what an earlier attempt left there.
    pub(crate) fn create_at(log_dir: &Path, dir: PathBuf) -> Result<Self, StoreError> {
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(StoreError::io("cannot remove", &dir))?;
        }
        fs::create_dir(&dir).map_err(StoreError::io("cannot create", &dir))?;
        let db = guarded(&dir, || {
            sled::Config::default()
                .path(&dir)
                .mode(sled::Mode::LowSpace)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(None)
                .use_compression(false)
                .print_profile_on_drop(false)
                .open()
        })?;
        let path = log_file(&dir);
        let log = File::open(&path).map_err(StoreError::io("cannot open", &path))?;
        sync_directory(&dir)?;
        sync_directory(log_dir)?;
        Ok(Self {
            dir,
            db,
            log,
            catalogues: 0,
            tree: None,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a catalogue frame.
    pub(crate) fn put_catalogue(&mut self, frame: &[u8]) -> Result<(), StoreError> {
        let number = self.catalogues;
        self.catalogues += 1;
        guarded(&self.dir, || {
            let tree = self
                .db
                .open_tree(format!("k{:x}", number / KEYS_PER_TREE))?;
            tree.insert(number.to_be_bytes(), frame)
        })?;
        Ok(())
    }

    /// Adds the frame of chunk `number`.
    pub(crate) fn put(&mut self, number: u64, frame: &[u8]) -> Result<(), StoreError> {
        self.put_nth(number, number, frame)
    }

    /// Adds the frame of a chunk as the `nth` of the epoch: the numbers of merged chunks lie far apart,
    /// and each would get a tree of its own. [`Epoch::get`] does not find it.
    pub(crate) fn put_nth(
        &mut self,
        nth: u64,
        number: u64,
        frame: &[u8],
    ) -> Result<(), StoreError> {
        let bucket = nth / KEYS_PER_TREE;
        guarded(&self.dir, || {
            let tree = match &mut self.tree {
                Some((at, tree)) if *at == bucket => tree,
                slot => {
                    &mut slot
                        .insert((bucket, self.db.open_tree(tree_name(bucket))?))
                        .1
                }
            };
            tree.insert(number.to_be_bytes(), frame)
        })?;
        Ok(())
    }

    /// Makes everything that was put durable.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        guarded(&self.dir, || self.db.flush())?;
        self.log
            .sync_data()
            .map_err(StoreError::io("cannot sync", &self.dir))
    }

    /// The frame of chunk `number`, if it is here.
    pub(crate) fn get(&self, number: u64) -> Result<Option<sled::IVec>, StoreError> {
        guarded(&self.dir, || {
            let tree = self.db.open_tree(tree_name(number / KEYS_PER_TREE))?;
            tree.get(number.to_be_bytes())
        })
    }

    /// What the epoch takes on the disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.log.metadata().map_or(0, |meta| meta.blocks() * 512)
    }

    /// Lets go of the database; its directory stays.
    pub(crate) fn close(self) {
        let Self { dir, db, tree, .. } = self;
        // A failure here cannot take what a sync has made durable.
        let _ = guarded(&dir, || {
            drop(tree);
            drop(db);
            Ok(())
        });
    }
}

fn tree_name(bucket: u64) -> String {
    format!("b{bucket:x}")
}

/// Runs sled so that its panics end here.
fn guarded<T>(dir: &Path, run: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(StoreError::Sled {
            path: dir.to_owned(),
            source,
        }),
        Err(_) => Err(StoreError::Panicked {
            path: dir.to_owned(),
        }),
    }
}
