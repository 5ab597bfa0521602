//! The files of a configuration: which there are, and their texts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place::{LineIndex, Place};
use super::problem::Problem;

/// The file that is read where none is named.
pub(crate) const CONFIG_FILE: &str = "/etc/millrace/millrace.toml";

/// The name of the main file in a directory.
const MAIN_FILE: &str = "millrace.toml";

/// The directory of further files beside a main file.
const PARTS_DIR: &str = "conf.d";

/// Largest file: some hundred thousand tags. More is not a configuration.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Reads files and remembers what it read. Some may be given, and then stand for those on disk.
#[derive(Debug)]
pub(crate) struct Files {
    given: BTreeMap<PathBuf, Vec<u8>>,
    disk: bool,
    read: RefCell<Vec<SourceFile>>,
}

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceFile {
    /// Where it was.
    pub(crate) path: PathBuf,
    /// What it is.
    pub(crate) role: Role,
    /// Its text.
    pub(crate) text: String,
}

/// What a file is to the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// TOML from this machine.
    Local,
    /// TOML from the cloud.
    Cloud,
    /// A CSV of tags.
    Tags,
    /// A profile of a person's own.
    Profile,
}

impl Files {
    /// Reads what is on disk now.
    pub(crate) fn on_disk() -> Self {
        Self::over_disk(BTreeMap::new())
    }

    /// Reads what is given, and all else from disk.
    pub(crate) fn over_disk(given: BTreeMap<PathBuf, Vec<u8>>) -> Self {
        Self {
            given,
            disk: true,
            read: RefCell::default(),
        }
    }

    /// Reads what is given, and nothing else.
    pub(crate) fn only(given: BTreeMap<PathBuf, Vec<u8>>) -> Self {
        Self {
            given,
            disk: false,
            read: RefCell::default(),
        }
    }

    /// Whether there is such a file.
    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.given.contains_key(path) || (self.disk && path.exists())
    }

    /// The text of a file. The problem stands at `named_at`, where the file's name is written.
    pub(crate) fn read(
        &self,
        path: &Path,
        role: Role,
        named_at: Option<&Place>,
    ) -> Result<String, Box<Problem>> {
        let file: Arc<Path> = Arc::from(path);
        let at = || named_at.cloned().unwrap_or_else(|| Place::file(&file));
        let bytes = self.bytes(path).map_err(|error| {
            let problem = Problem::new(at(), format!("cannot read {}: {error}", path.display()));
            Box::new(problem.hint(read_hint(error.kind())))
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default());
            let (line, column) = LineIndex::new(&before).position(valid);
            let place = Place::text(&file, line, column);
            Box::new(
                Problem::new(place, "this is not UTF-8 text")
                    .hint("save the file as UTF-8; older editors on Windows write other encodings"),
            )
        })?;
        // A byte order mark is no part of the text.
        let text = match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        };
        let mut read = self.read.borrow_mut();
        if !read.iter().any(|known| known.path == path) {
            read.push(SourceFile {
                path: path.to_owned(),
                role,
                text: text.clone(),
            });
        }
        drop(read);
        Ok(text)
    }

    fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        if let Some(given) = self.given.get(path) {
            return Ok(given.clone());
        }
        if !self.disk {
            return Err(io::ErrorKind::NotFound.into());
        }
        let length = std::fs::metadata(path)?.len();
        if length > FILE_BYTES_MAX {
            return Err(io::Error::other(format!(
                "it has {length} bytes, the maximum is {FILE_BYTES_MAX}"
            )));
        }
        std::fs::read(path)
    }

    /// What was read, in the order of reading.
    pub(crate) fn into_read(self) -> Vec<SourceFile> {
        self.read.into_inner()
    }
}

fn read_hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "relative paths are relative to the file that names them",
        io::ErrorKind::PermissionDenied => "the user that runs millrace must be able to read it",
        _ => "see what the system says above",
    }
}

/// The local files that make the configuration, in the order in which later ones win.
pub(crate) fn find(path: Option<&Path>) -> Result<Vec<PathBuf>, Box<Problem>> {
    let path = path.unwrap_or(Path::new(CONFIG_FILE));
    let refuse = |message: String, hint: &str| {
        Box::new(Problem::new(Place::file(&Arc::from(path)), message).hint(hint))
    };
    let list = |directory: &Path| {
        toml_files(directory).map_err(|error| {
            let message = format!("cannot list {}: {error}", directory.display());
            refuse(message, read_hint(error.kind()))
        })
    };
    let main = match std::fs::metadata(path) {
        Err(error) => {
            return Err(refuse(
                format!("cannot read {}: {error}", path.display()),
                "name a file or directory with --config",
            ));
        }
        Ok(metadata) if !metadata.is_dir() => path.to_owned(),
        Ok(_) => {
            let main = path.join(MAIN_FILE);
            if !main.exists() {
                let files = list(path)?;
                if files.is_empty() {
                    let message = format!("there is no *.toml in {}", path.display());
                    return Err(refuse(message, "write a millrace.toml there"));
                }
                return Ok(files);
            }
            main
        }
    };
    let mut files = vec![main];
    // Only the main file has parts: a single file by another name stands alone.
    if files[0].file_name().is_some_and(|name| name == MAIN_FILE) {
        let parts = files[0].with_file_name(PARTS_DIR);
        if parts.is_dir() {
            files.extend(list(&parts)?);
        }
    }
    Ok(files)
}

fn toml_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
            && !hidden
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
