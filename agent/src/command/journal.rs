//! Which commands ran: a file of JSON lines, one when a command begins and one when it ends. An id is that of the
//! core behind one uplink, and so is its answer.
//!
//! A line is on disk before what it announces happens. The newest ids are kept with their answers, as far
//! as these fit into [`RESULTS_BYTES_MAX`]; the file is rewritten when it is opened and whenever it has
//! grown past [`FILE_BYTES_MAX`].

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_tags::{Reply, ReplyStatus};
use serde::{Deserialize, Serialize};

/// Ids that are remembered; a core does not repeat one that is older.
const IDS_KEPT: usize = 10_000;

/// Results that are kept to be told again: some hundred of the largest kind, a whole ledger.
const RESULTS_BYTES_MAX: usize = 4 << 20;

/// Some four times what is worth keeping: rewriting is rare, and the disk is not filled.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The journal cannot be read or written: commands are refused until it can.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the command journal {}", .path.display())]
pub(crate) struct JournalError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Whether a command may run.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It may: nobody else has its id.
    Begun,
    /// It ran, or runs now: this is its answer.
    Taken(Reply),
}

/// Which commands ran. Clones are the same journal.
#[derive(Clone)]
pub(crate) struct Journal {
    path: PathBuf,
    inner: Arc<Mutex<Inner>>,
    interrupted: Vec<(String, Reply)>,
}

#[derive(Default)]
struct Inner {
    /// `None` until the file can be opened.
    file: Option<File>,
    bytes: u64,
    /// Whether `ids` has what the file had: it must not be replaced before.
    is_read: bool,
    ids: Ids,
    interrupted: Vec<(String, Reply)>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Ended {
        uplink: String,
        #[serde(flatten)]
        reply: Reply,
    },
    Began {
        uplink: String,
        began: String,
    },
}

/// A command: two cores may use the same id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Key {
    uplink: String,
    id: String,
}

impl Key {
    fn new(uplink: &str, id: &str) -> Self {
        Self {
            uplink: uplink.to_owned(),
            id: id.to_owned(),
        }
    }
}

impl Journal {
    /// Opens the journal under `data_dir`. A damaged line is skipped: its command was never answered, and
    /// the core asks again under a new id. Where the file cannot be used, each command says so.
    pub(crate) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("commands.journal");
        let mut inner = Inner::default();
        if let Err(error) = inner.rewrite(&path) {
            tracing::error!(path = %path.display(), error = %error, "no command journal: commands are refused");
        }
        let interrupted = std::mem::take(&mut inner.interrupted);
        Self {
            path,
            inner: Arc::new(Mutex::new(inner)),
            interrupted,
        }
    }

    /// The answers of commands of this uplink that began before the last stop and never ended.
    pub(crate) fn interrupted(&self, uplink: &str) -> Vec<Reply> {
        let of_uplink = self.interrupted.iter().filter(|(from, _)| from == uplink);
        of_uplink.map(|(_, reply)| reply.clone()).collect()
    }

    /// The answer of a command that was taken before.
    pub(crate) fn find(&self, uplink: &str, id: &str) -> Option<Reply> {
        let key = Key::new(uplink, id);
        self.locked(|inner| inner.ids.answers.get(&key).cloned().flatten())
    }

    /// Whether the command has begun.
    #[cfg(test)]
    pub(crate) fn knows(&self, uplink: &str, id: &str) -> bool {
        let key = Key::new(uplink, id);
        self.locked(|inner| inner.ids.answers.contains_key(&key))
    }

    /// The command is about to run, unless its id is taken.
    ///
    /// # Errors
    /// Where that cannot be written down: then it must not run.
    pub(crate) async fn begin(&self, uplink: &str, id: &str) -> Result<Claim, JournalError> {
        let key = Key::new(uplink, id);
        self.write(move |inner, path| {
            inner.be_ready(path)?;
            match inner.ids.answers.get(&key) {
                Some(Some(answer)) => return Ok(Claim::Taken(answer.clone())),
                Some(None) => return Ok(Claim::Taken(runs_already(&key.id))),
                None => {}
            }
            inner.append(path, &began(&key))?;
            inner.ids.remember(key, None);
            Ok(Claim::Begun)
        })
        .await
    }

    /// The command ended.
    ///
    /// # Errors
    /// Where that cannot be written down: after a crash it counts as interrupted.
    pub(crate) async fn end(&self, uplink: &str, reply: &Reply) -> Result<(), JournalError> {
        let (key, reply) = (Key::new(uplink, &reply.id), reply.clone());
        self.write(move |inner, path| {
            let line = ended(&key, &reply);
            inner.ids.remember(key, Some(reply));
            inner.append(path, &line)
        })
        .await
    }

    /// Waits for the disk on a thread that may.
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Inner, &Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let journal = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            journal.locked(|inner| write(inner, &journal.path))
        });
        let written = written.await.unwrap_or_else(|error| Err(error.into()));
        written.map_err(|source| JournalError {
            path: self.path.clone(),
            source,
        })
    }

    fn locked<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn be_ready(&mut self, path: &Path) -> std::io::Result<()> {
        if self.file.is_none() || self.bytes > FILE_BYTES_MAX {
            self.rewrite(path)?;
        }
        Ok(())
    }

    fn append(&mut self, path: &Path, line: &Line) -> std::io::Result<()> {
        self.be_ready(path)?;
        let line = bytes(line)?;
        if let Some(file) = &mut self.file {
            self.bytes += line.len() as u64;
            file.write_all(&line).and_then(|()| file.sync_data())?;
        }
        Ok(())
    }

    /// Writes a fresh journal in place of the old one and opens it for more.
    fn rewrite(&mut self, path: &Path) -> std::io::Result<()> {
        if !self.is_read {
            self.ids = Ids::read(path)?;
            self.interrupted = self.ids.end_interrupted();
            self.is_read = true;
        }
        self.file = None;
        let lines = self.ids.lines()?;
        crate::durable::write(path, &lines, JOURNAL_MODE)?;
        self.file = Some(OpenOptions::new().append(true).open(path)?);
        self.bytes = lines.len() as u64;
        Ok(())
    }
}

/// The newest ids with their answers; `None` where a command began and did not end.
#[derive(Default)]
struct Ids {
    order: VecDeque<Key>,
    answers: HashMap<Key, Option<Reply>>,
    /// Ids of answers that have their result still, and its size; oldest first.
    results: VecDeque<(Key, usize)>,
    result_bytes: usize,
}

impl Ids {
    fn read(path: &Path) -> std::io::Result<Self> {
        let mut ids = Self::default();
        let text = match std::fs::read(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            text => text.unwrap_or_default(),
        };
        for line in String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
        {
            match line {
                Line::Began { uplink, began } => ids.remember(Key::new(&uplink, &began), None),
                Line::Ended { uplink, reply } => {
                    ids.remember(Key::new(&uplink, &reply.id), Some(reply));
                }
            }
        }
        Ok(ids)
    }

    fn remember(&mut self, id: Key, answer: Option<Reply>) {
        if let Some(result) = answer.as_ref().and_then(|answer| answer.result.as_ref()) {
            let size = result.to_string().len();
            self.result_bytes += size;
            self.results.push_back((id.clone(), size));
        }
        if self.answers.insert(id.clone(), answer).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > IDS_KEPT {
            self.answers
                .remove(&self.order.pop_front().unwrap_or_default());
        }
        while self.result_bytes > RESULTS_BYTES_MAX {
            self.forget_a_result();
        }
    }

    /// That the command ran stays known.
    fn forget_a_result(&mut self) {
        let (id, size) = self.results.pop_front().unwrap_or_default();
        self.result_bytes = self.result_bytes.saturating_sub(size);
        if let Some(Some(answer)) = self.answers.get_mut(&id) {
            answer.result = None;
            answer.error = Some("it ran; its result is not kept any more".to_owned());
        }
    }

    /// Gives those that never ended their answer.
    fn end_interrupted(&mut self) -> Vec<(String, Reply)> {
        let mut interrupted = Vec::new();
        for key in &self.order {
            if let Some(answer @ None) = self.answers.get_mut(key) {
                let reply = failed(&key.id, "interrupted");
                *answer = Some(reply.clone());
                interrupted.push((key.uplink.clone(), reply));
            }
        }
        interrupted
    }

    fn lines(&self) -> std::io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        for key in &self.order {
            let line = match self.answers.get(key) {
                Some(Some(answer)) => ended(key, answer),
                _ => began(key),
            };
            lines.extend(bytes(&line)?);
        }
        Ok(lines)
    }
}

/// Answers may hold values of the plant.
const JOURNAL_MODE: u32 = 0o640;

fn bytes(line: &Line) -> std::io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn began(key: &Key) -> Line {
    Line::Began {
        uplink: key.uplink.clone(),
        began: key.id.clone(),
    }
}

fn ended(key: &Key, reply: &Reply) -> Line {
    Line::Ended {
        uplink: key.uplink.clone(),
        reply: reply.clone(),
    }
}

fn runs_already(id: &str) -> Reply {
    let mut reply = failed(id, "a command of this id runs already");
    reply.status = ReplyStatus::Rejected;
    reply
}

fn failed(id: &str, error: &str) -> Reply {
    Reply {
        id: id.to_owned(),
        status: ReplyStatus::Failed,
        result: None,
        error: Some(error.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(id: &str, result: &str) -> Reply {
        Reply {
            id: id.to_owned(),
            status: ReplyStatus::Done,
            result: Some(result.into()),
            error: None,
        }
    }

    #[tokio::test]
    async fn an_id_is_claimed_once_however_many_ask() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path());
        assert!(matches!(
            journal.begin("cloud", "1").await.unwrap(),
            Claim::Begun
        ));
        let Claim::Taken(refusal) = journal.begin("cloud", "1").await.unwrap() else {
            panic!("claimed twice");
        };
        assert_eq!(refusal.status, ReplyStatus::Rejected);
        journal.end("cloud", &done("1", "x")).await.unwrap();
        let Claim::Taken(answer) = journal.begin("cloud", "1").await.unwrap() else {
            panic!("claimed again");
        };
        assert_eq!(answer, done("1", "x"));
    }

    #[test]
    fn ids_outlive_large_results() {
        let mut ids = Ids::default();
        let large = "x".repeat(RESULTS_BYTES_MAX / 2);
        for id in ["1", "2", "3"] {
            ids.remember(Key::new("cloud", id), Some(done(id, &large)));
        }
        assert!(ids.result_bytes <= RESULTS_BYTES_MAX);
        let first = ids.answers[&Key::new("cloud", "1")].as_ref().unwrap();
        assert_eq!((first.status, &first.result), (ReplyStatus::Done, &None));
        assert!(
            ids.answers[&Key::new("cloud", "3")]
                .as_ref()
                .unwrap()
                .result
                .is_some()
        );
    }

    #[test]
    fn ids_are_bounded() {
        let mut ids = Ids::default();
        for id in 0..=IDS_KEPT {
            ids.remember(Key::new("cloud", &id.to_string()), None);
        }
        assert_eq!((ids.order.len(), ids.answers.len()), (IDS_KEPT, IDS_KEPT));
        assert!(!ids.answers.contains_key(&Key::new("cloud", "0")));
    }

    #[tokio::test]
    async fn the_file_is_rewritten_before_it_fills_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path());
        journal.end("cloud", &done("1", "x")).await.unwrap();
        journal.locked(|inner| inner.bytes = FILE_BYTES_MAX + 1);
        journal.end("cloud", &done("2", "y")).await.unwrap();
        let length = std::fs::metadata(&journal.path).unwrap().len();
        assert!(journal.locked(|inner| inner.bytes) >= length);
        let again = Journal::open(dir.path());
        assert_eq!(again.find("cloud", "1"), Some(done("1", "x")));
        assert_eq!(again.find("cloud", "2"), Some(done("2", "y")));
    }

    #[test]
    fn a_torn_line_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commands.journal");
        let text = "{\"uplink\":\"cloud\",\"began\":\"1\"}\n{\"uplink\":\"cloud\",\"began\":\"2";
        std::fs::write(&path, text).unwrap();
        let journal = Journal::open(dir.path());
        let ids: Vec<String> = journal
            .interrupted("cloud")
            .into_iter()
            .map(|r| r.id)
            .collect();
        assert_eq!(ids, ["1"]);
    }

    #[tokio::test]
    async fn ids_and_answers_are_those_of_one_uplink() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path());
        journal.begin("cloud", "1").await.unwrap();
        assert!(matches!(
            journal.begin("plant", "1").await.unwrap(),
            Claim::Begun
        ));
        journal.end("plant", &done("1", "x")).await.unwrap();
        assert_eq!(journal.find("cloud", "1"), None);
        let again = Journal::open(dir.path());
        assert_eq!(again.interrupted("cloud").len(), 1);
        assert_eq!(again.interrupted("plant"), []);
        assert_eq!(again.find("plant", "1"), Some(done("1", "x")));
    }
}
