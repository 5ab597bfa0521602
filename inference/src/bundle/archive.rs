//! The files of a bundle: a directory or a tar file, read whole and within limits.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::BundleError;

/// The largest file that a bundle may hold. The models that suit a gateway are far below; a file that
/// is larger is not a model but a mistake, and reading it would cost the agent its memory.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// A bundle has a manifest, a model, golden vectors, a signature and papers; a tar with more entries
/// than this is something else.
const ENTRIES_MAX: usize = 256;

/// Where the files of a bundle come from.
pub(super) enum Archive {
    Directory(PathBuf),
    /// The files of a tar by their name; the tar itself is closed again.
    Tar {
        path: PathBuf,
        files: BTreeMap<String, Vec<u8>>,
    },
}

impl Archive {
    /// Opens a directory, or reads a tar file.
    pub(super) fn open(path: &Path) -> Result<Self, BundleError> {
        let metadata = std::fs::metadata(path).map_err(|source| not_readable(path, source))?;
        if metadata.is_dir() {
            return Ok(Archive::Directory(path.to_owned()));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(too_large(path));
        }
        let file = File::open(path).map_err(|source| not_readable(path, source))?;
        let files = unpack(file).map_err(|source| BundleError::Archive {
            path: path.to_owned(),
            source,
        })?;
        Ok(Archive::Tar {
            path: path.to_owned(),
            files,
        })
    }

    /// Where the bundle is.
    pub(super) fn path(&self) -> &Path {
        match self {
            Archive::Directory(path) | Archive::Tar { path, .. } => path,
        }
    }

    /// Refuses a tar with any other file. Of a directory other files are never read, whoever put them there.
    pub(super) fn holds_only(&self, names: &[&str]) -> Result<(), BundleError> {
        let Archive::Tar { files, .. } = self else {
            return Ok(());
        };
        match files.keys().find(|name| !names.contains(&name.as_str())) {
            Some(name) => Err(BundleError::Unlisted {
                path: self.place(name),
            }),
            None => Ok(()),
        }
    }

    /// A tar of these files. Times and owners are left out, so that the same files give the same bytes.
    pub(super) fn pack(&self, names: &[&str]) -> Result<Vec<u8>, BundleError> {
        let mut tar = tar::Builder::new(Vec::new());
        let failed = |source| BundleError::Archive {
            path: self.path().to_owned(),
            source,
        };
        for name in names {
            let bytes = self.read(name)?;
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes.as_slice())
                .map_err(failed)?;
        }
        tar.into_inner().map_err(failed)
    }

    /// Where a file of the bundle is, for messages.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        match self {
            Archive::Directory(directory) => directory.join(name),
            Archive::Tar { path, .. } => path.join(name),
        }
    }

    /// The bytes of one file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, BundleError> {
        let place = self.place(name);
        match self {
            Archive::Directory(_) => read_limited(&place),
            Archive::Tar { files, .. } => files
                .get(name)
                .cloned()
                .ok_or(BundleError::Missing { path: place }),
        }
    }
}

fn read_limited(path: &Path) -> Result<Vec<u8>, BundleError> {
    let file = File::open(path).map_err(|source| not_readable(path, source))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| not_readable(path, source))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(too_large(path));
    }
    Ok(bytes)
}

/// Reads all plain files of a tar. The files may lie in one directory, as `tar c pump-anomaly` packs them.
fn unpack(file: File) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut archive = tar::Archive::new(file);
    let mut files = BTreeMap::new();
    for (i, entry) in archive.entries()?.enumerate() {
        if i >= ENTRIES_MAX {
            return Err(io::Error::other(format!(
                "more than {ENTRIES_MAX} entries; a model bundle has a handful"
            )));
        }
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = match entry.path()?.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => continue,
        };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if files.insert(name.clone(), bytes).is_some() {
            return Err(io::Error::other(format!(
                "two files named {name}; a tar holds one bundle"
            )));
        }
    }
    Ok(files)
}

fn not_readable(path: &Path, source: io::Error) -> BundleError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => BundleError::Missing { path },
        _ => BundleError::Read { path, source },
    }
}

fn too_large(path: &Path) -> BundleError {
    BundleError::TooLarge {
        path: path.to_owned(),
        max: FILE_BYTES_MAX,
    }
}
