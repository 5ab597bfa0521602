//! Which commands ran: a file of JSON lines, one when a command begins and one when it ends.
//!
//! A line is on disk before what it announces happens. Opening keeps the newest ids and rewrites the
//! file, so it stays small.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use millrace_tags::{Reply, ReplyStatus};
use serde::{Deserialize, Serialize};

/// Ids that are remembered; a core does not repeat one that is older.
const IDS_KEPT: usize = 10_000;

/// The journal cannot be read or written: commands are refused until it can.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the command journal {}", .path.display())]
pub(crate) struct JournalError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Which commands ran.
pub(crate) struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
    interrupted: Vec<String>,
}

struct Inner {
    file: File,
    ids: Ids,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Ended(Reply),
    Began { began: String },
}

impl Journal {
    /// Opens the journal under `data_dir`. A damaged line is skipped: its command was never answered, and
    /// the core asks again under a new id.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, JournalError> {
        let path = data_dir.join("commands.journal");
        let failed = |source| JournalError {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(data_dir).map_err(failed)?;
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut ids = Ids::default();
        for line in text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
        {
            match line {
                Line::Began { began } => ids.remember(began, None),
                Line::Ended(reply) => ids.remember(reply.id.clone(), Some(reply)),
            }
        }
        let interrupted = ids.end_interrupted();
        let file = ids.write(&path).map_err(failed)?;
        Ok(Self {
            path,
            inner: Mutex::new(Inner { file, ids }),
            interrupted,
        })
    }

    /// Commands that began before the last stop and never ended.
    pub(crate) fn interrupted(&self) -> Vec<String> {
        self.interrupted.clone()
    }

    /// The answer of a command that was taken before.
    pub(crate) fn find(&self, id: &str) -> Option<Reply> {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ids
            .answers
            .get(id)?
            .clone()
    }

    /// The command is about to run.
    pub(crate) fn begin(&self, id: &str) -> Result<(), JournalError> {
        self.note(
            id,
            &Line::Began {
                began: id.to_owned(),
            },
            None,
        )
    }

    /// The command ended.
    pub(crate) fn end(&self, reply: &Reply) -> Result<(), JournalError> {
        self.note(&reply.id, &Line::Ended(reply.clone()), Some(reply.clone()))
    }

    fn note(&self, id: &str, line: &Line, answer: Option<Reply>) -> Result<(), JournalError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let appended = write_line(&mut inner.file, line).and_then(|()| inner.file.sync_data());
        appended.map_err(|source| JournalError {
            path: self.path.clone(),
            source,
        })?;
        inner.ids.remember(id.to_owned(), answer);
        Ok(())
    }
}

/// The newest ids with their answers; `None` where a command began and did not end.
#[derive(Default)]
struct Ids {
    order: VecDeque<String>,
    answers: HashMap<String, Option<Reply>>,
}

impl Ids {
    fn remember(&mut self, id: String, answer: Option<Reply>) {
        if self.answers.insert(id.clone(), answer).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > IDS_KEPT {
            self.answers
                .remove(&self.order.pop_front().unwrap_or_default());
        }
    }

    /// Gives those that never ended their answer, and names them.
    fn end_interrupted(&mut self) -> Vec<String> {
        let mut interrupted = Vec::new();
        for id in &self.order {
            if let Some(answer @ None) = self.answers.get_mut(id) {
                let error = Some("interrupted".to_owned());
                *answer = Some(Reply {
                    id: id.clone(),
                    status: ReplyStatus::Failed,
                    result: None,
                    error,
                });
                interrupted.push(id.clone());
            }
        }
        interrupted
    }

    /// Writes a fresh journal in place of the old one and opens it for more.
    fn write(&self, path: &Path) -> std::io::Result<File> {
        let mut lines = Vec::new();
        for reply in self
            .order
            .iter()
            .filter_map(|id| self.answers.get(id)?.as_ref())
        {
            write_line(&mut lines, &Line::Ended(reply.clone()))?;
        }
        crate::durable::write(path, &lines, JOURNAL_MODE)?;
        OpenOptions::new().append(true).open(path)
    }
}

/// Answers may hold values of the plant.
const JOURNAL_MODE: u32 = 0o640;

fn write_line(out: &mut impl Write, line: &Line) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    out.write_all(&bytes)
}
