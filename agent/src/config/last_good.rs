//! The last configuration that made a good start, kept beside the data.
//!
//! `<data_dir>/config/last-good/` holds a verbatim copy of each file and `files.json`, which says where
//! each of them was: a relative path in a copy still means what it meant there. The directory is replaced
//! as a whole, so that a power cut leaves the old one or the new one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::source::{Files, Role};
use super::{Loaded, Problems, cloud_file, read_files};

/// Says what the directory holds.
const MANIFEST: &str = "files.json";

/// The form of the manifest. A newer one is refused.
const VERSION: u32 = 1;

/// What is in the directory.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    /// In the order of reading.
    files: Vec<Copy>,
}

/// One copy.
#[derive(Debug, Serialize, Deserialize)]
struct Copy {
    /// Its name in the directory.
    name: String,
    /// Where the file was.
    path: PathBuf,
    role: Role,
}

/// Why the last good configuration was not kept, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LastGoodError {
    /// There is none: no start was good yet.
    #[error("no last good configuration is kept in {}", .0.display())]
    None(PathBuf),
    /// A file of it cannot be read or written.
    #[error("cannot use {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The manifest is broken.
    #[error("{} is not a list of files", .path.display())]
    Manifest {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A newer version of the program wrote it.
    #[error("{} is of a newer version of millrace (form {version}, this one reads {VERSION}); install that one again", .path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// This version of the program does not take it any more.
    #[error("the last good configuration is not valid any more")]
    Invalid(#[from] Problems),
}

fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("config").join("last-good")
}

/// Keeps the configuration as the last good one. It does nothing where it is kept already.
///
/// # Errors
/// Where the data directory cannot be written.
pub(crate) fn save(loaded: &Loaded) -> Result<(), LastGoodError> {
    let target = directory(&loaded.config.gateway.data_dir);
    let (manifest, texts) = describe(loaded);
    if is_kept(&target, &manifest, &texts) {
        return Ok(());
    }
    let fresh = target.with_extension("new");
    let old = target.with_extension("old");
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| LastGoodError::File { path, source }
    };
    remove(&fresh).map_err(fail(&fresh))?;
    remove(&old).map_err(fail(&old))?;
    std::fs::create_dir_all(&fresh).map_err(fail(&fresh))?;
    for (name, text) in &texts {
        write_synced(&fresh.join(name), text.as_bytes()).map_err(fail(&fresh.join(name)))?;
    }
    sync_directory(&fresh).map_err(fail(&fresh))?;
    // A directory can only be renamed over an empty one, so the old one steps aside first. A power cut
    // in between leaves `.old`, which `load` takes too.
    match std::fs::rename(&target, &old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(&target)(error)),
        _ => {}
    }
    std::fs::rename(&fresh, &target).map_err(fail(&target))?;
    if let Some(parent) = target.parent() {
        sync_directory(parent).map_err(fail(parent))?;
    }
    remove(&old).map_err(fail(&old))
}

/// The last good configuration of this data directory.
///
/// # Errors
/// Where there is none, or it cannot be used any more.
pub(crate) fn load(data_dir: &Path) -> Result<Loaded, LastGoodError> {
    let data_dir = &super::absolute(data_dir);
    let target = directory(data_dir);
    let (manifest, directory) = match read_manifest(&target) {
        Err(LastGoodError::None(_)) => {
            let old = target.with_extension("old");
            (read_manifest(&old)?, old)
        }
        found => (found?, target),
    };
    let mut files = BTreeMap::new();
    let mut local = Vec::new();
    for copy in manifest.files {
        // The manifest is ours, but a name that climbs out of the directory is not.
        let name = Path::new(&copy.name).file_name().unwrap_or_default();
        let path = directory.join(name);
        let bytes = std::fs::read(&path).map_err(|source| LastGoodError::File { path, source })?;
        let stands_for = match copy.role {
            // It belongs to the data directory, wherever that is now.
            Role::Cloud => cloud_file(data_dir),
            Role::Local | Role::Tags | Role::Profile => copy.path,
        };
        if copy.role == Role::Local {
            local.push(stands_for.clone());
        }
        files.insert(stands_for, bytes);
    }
    Ok(read_files(Files::only(files), &local, Some(data_dir))?)
}

/// The manifest and the texts by name, the manifest's own among them. Paths are kept absolute, since the
/// next start may have another working directory.
fn describe(loaded: &Loaded) -> (String, Vec<(String, String)>) {
    let mut texts = Vec::with_capacity(loaded.sources.len() + 1);
    let mut copies = Vec::with_capacity(loaded.sources.len());
    for (index, source) in loaded.sources.iter().enumerate() {
        let extension = if source.role == Role::Tags {
            "csv"
        } else {
            "toml"
        };
        let name = format!("{index}.{extension}");
        copies.push(Copy {
            name: name.clone(),
            path: super::absolute(&source.path),
            role: source.role,
        });
        texts.push((name, source.text.clone()));
    }
    let manifest = Manifest {
        version: VERSION,
        files: copies,
    };
    // Plain data with text keys always has a form in JSON.
    let manifest = serde_json::to_string_pretty(&manifest).unwrap_or_default();
    texts.push((MANIFEST.to_owned(), manifest.clone()));
    (manifest, texts)
}

fn is_kept(target: &Path, manifest: &str, texts: &[(String, String)]) -> bool {
    let kept = |name: &str| std::fs::read_to_string(target.join(name)).ok();
    kept(MANIFEST).as_deref() == Some(manifest)
        && texts
            .iter()
            .all(|(name, text)| kept(name).as_ref() == Some(text))
}

fn read_manifest(directory: &Path) -> Result<Manifest, LastGoodError> {
    let path = directory.join(MANIFEST);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LastGoodError::None(directory.to_owned()));
        }
        Err(source) => return Err(LastGoodError::File { path, source }),
    };
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|source| LastGoodError::Manifest {
            path: path.clone(),
            source,
        })?;
    match manifest.version {
        VERSION => Ok(manifest),
        version => Err(LastGoodError::Newer { path, version }),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    // Addresses and user names of a plant are nobody else's business.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
