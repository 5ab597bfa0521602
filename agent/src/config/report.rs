//! What a reading brings besides values: problems, notes, and the files that are named.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::FileReference;
use super::place::Place;
use super::problem::{Note, Problem};

/// What a reading brought besides values.
#[derive(Debug, Default)]
pub(crate) struct Report {
    problems: RefCell<Vec<Problem>>,
    notes: RefCell<Vec<Note>>,
    files: RefCell<Vec<FileReference>>,
    cloud: Option<CloudBounds>,
}

/// Where files may lie that the cloud layer names.
#[derive(Debug)]
pub(crate) struct CloudBounds {
    /// The file of the cloud layer.
    pub(crate) file: Arc<Path>,
    /// The directory that its files must be in.
    pub(crate) data_dir: PathBuf,
}

impl Report {
    /// An empty report; `cloud` is where the cloud layer was read from.
    pub(crate) fn new(cloud: Option<CloudBounds>) -> Self {
        Self {
            cloud,
            ..Self::default()
        }
    }

    /// Adds a problem.
    pub(crate) fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Adds something that is only worth saying.
    pub(crate) fn note(&self, place: &Place, key: &str, message: String, hint: Option<String>) {
        self.notes.borrow_mut().push(Note {
            place: place.clone(),
            key: key.to_owned(),
            message,
            hint,
        });
    }

    /// Remembers a file that is named.
    pub(super) fn file(&self, reference: FileReference) {
        self.files.borrow_mut().push(reference);
    }

    /// The problems, the notes and the files named, each in the order of reading.
    pub(crate) fn into_parts(self) -> (Vec<Problem>, Vec<Note>, Vec<FileReference>) {
        (
            self.problems.into_inner(),
            self.notes.into_inner(),
            self.files.into_inner(),
        )
    }

    /// Whether something was written by the cloud.
    pub(crate) fn is_from_cloud(&self, place: &Place) -> bool {
        self.cloud_bounds_at(place).is_some()
    }

    /// Where the cloud's files may lie, if the place is in the cloud layer.
    pub(super) fn cloud_bounds_at(&self, place: &Place) -> Option<&CloudBounds> {
        self.cloud.as_ref().filter(|cloud| cloud.file == place.file)
    }
}
