//! Files that a configuration names: whether they are there and nobody else can read the secrets.
//!
//! Apart from the configuration's own text: a missing certificate stops its uplink, never the polling,
//! so it is no reason to refuse a configuration at start. `millrace check` reports it as a problem.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::place::Place;
use super::problem::{Note, Problem};

/// A file that the configuration names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FileReference {
    /// Where it should be.
    pub(crate) path: PathBuf,
    /// Where it is named.
    pub(crate) place: Place,
    /// By which key.
    pub(crate) key: String,
    /// What for.
    pub(crate) used_as: FileUse,
}

/// What a file is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileUse {
    /// A CSV of tags: part of the configuration itself.
    Tags,
    /// A password or a private key.
    Secret,
    /// The key of the first contact; it may be gone once the gateway is enrolled.
    BootstrapKey,
    /// A certificate.
    Certificate,
    /// The directory of an LED; a machine may lack it.
    Led,
    /// A model bundle.
    Bundle {
        /// The model that it is for.
        model: String,
    },
}

/// What others on the machine could read.
const READABLE_BY_OTHERS: u32 = 0o004;

/// Looks at each file that was named.
pub(crate) fn check(references: &[FileReference]) -> (Vec<Problem>, Vec<Note>) {
    let mut problems = Vec::new();
    let mut notes = Vec::new();
    for reference in references {
        match reference.used_as {
            FileUse::Tags | FileUse::Led | FileUse::Bundle { .. } => {}
            FileUse::Certificate => problems.extend(unreadable(reference)),
            FileUse::Secret => {
                problems.extend(unreadable(reference));
                notes.extend(open_to_others(reference));
            }
            FileUse::BootstrapKey => {
                notes.extend(unreadable(reference).map(spent_key));
                notes.extend(open_to_others(reference));
            }
        }
    }
    (problems, notes)
}

fn unreadable(reference: &FileReference) -> Option<Problem> {
    let path = &reference.path;
    let error = match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => return None,
        Ok(_) => "it is not a file".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(
        Problem::new(
            reference.place.clone(),
            format!("cannot read {}: {error}", path.display()),
        )
        .key(reference.key.as_str())
        .value(path.display().to_string())
        .expected("a file that can be read")
        .hint("relative paths are relative to the file that names them"),
    )
}

fn spent_key(problem: Problem) -> Note {
    Note {
        place: problem.place,
        key: problem.key,
        message: problem.message,
        hint: Some("it is needed until the gateway is enrolled".to_owned()),
    }
}

fn open_to_others(reference: &FileReference) -> Option<Note> {
    let mode = std::fs::metadata(&reference.path)
        .ok()?
        .permissions()
        .mode();
    (mode & READABLE_BY_OTHERS != 0).then(|| Note {
        place: reference.place.clone(),
        key: reference.key.clone(),
        message: format!(
            "everybody on this machine can read the secret in {} (mode {:04o})",
            reference.path.display(),
            mode & 0o7777
        ),
        hint: Some(format!("chmod 600 {}", reference.path.display())),
    })
}
