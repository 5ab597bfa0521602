//! Which commands ran: a file of JSON lines (`line.rs`), one when a command begins and one when it ends. An id is that of the
//! core behind one uplink, and so is its answer.
//!
//! The first line names the format and its version. A line is on disk before what it announces happens. An id is kept for
//! 10,000 commands, seven days at most, with its answer, as far as answers fit into `RESULTS_BYTES_MAX`, and with the way back, so that an
//! answer that the core has not acknowledged is told again after a restart. The file is rewritten when it is opened and
//! whenever it has grown past [`FILE_BYTES_MAX`].

mod ids;
mod line;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use millrace_tags::{Reply, ReplyStatus, ReplyTo};
use tokio::sync::watch;

pub(super) use ids::ID_LIFE_MS;
use ids::{Entry, Ids, Key};
use line::{Line, began, bytes, ended};

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
    /// Turns when an answer is there that no session has queued.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// `None` until the file can be opened.
    file: Option<File>,
    bytes: u64,
    /// Whether `ids` has what the file had: it must not be replaced before.
    is_read: bool,
    ids: Ids,
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
        Self {
            path,
            inner: Arc::new(Mutex::new(inner)),
            news: watch::Sender::new(0),
        }
    }

    /// Whether it is the journal under `data_dir`.
    pub(crate) fn is_under(&self, data_dir: &Path) -> bool {
        self.path.parent() == Some(data_dir)
    }

    /// A new session of this uplink has nothing in its queue.
    pub(crate) fn unqueue(&self, uplink: &str) {
        self.locked(|inner| {
            for (key, entry) in &mut inner.ids.answers {
                if key.uplink == uplink {
                    entry.queued = false;
                }
            }
        });
    }

    /// The answers of this uplink that no session has queued and no core has: each once.
    pub(crate) fn untold(&self, uplink: &str) -> Vec<(Reply, ReplyTo)> {
        self.locked(|inner| inner.ids.untold(uplink))
    }

    /// Turns when there may be such an answer.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The answer of a command that was taken before.
    pub(crate) fn find(&self, uplink: &str, id: &str) -> Option<Reply> {
        let key = Key::new(uplink, id);
        self.locked(|inner| inner.ids.answers.get(&key)?.reply.clone())
    }

    /// Forgets ids that are too old to come again.
    pub(crate) fn forget_old(&self, now_ms: Option<i64>) {
        if let Some(now) = now_ms {
            self.locked(|inner| inner.ids.forget_old(now));
        }
    }

    /// Whether the command has begun.
    #[cfg(test)]
    pub(crate) fn knows(&self, uplink: &str, id: &str) -> bool {
        let key = Key::new(uplink, id);
        self.locked(|inner| inner.ids.answers.contains_key(&key))
    }

    /// The command is about to run, at this time (Unix ms, where the clock is set), unless its id is taken.
    ///
    /// # Errors
    /// Where that cannot be written down: then it must not run.
    pub(crate) async fn begin(
        &self,
        uplink: &str,
        id: &str,
        to: &ReplyTo,
        at: Option<i64>,
    ) -> Result<Claim, JournalError> {
        let (key, to) = (Key::new(uplink, id), to.clone());
        self.write(move |inner, path| {
            inner.be_ready(path)?;
            match inner.ids.answers.get(&key).map(|entry| &entry.reply) {
                Some(Some(answer)) => return Ok(Claim::Taken(answer.clone())),
                Some(None) => return Ok(Claim::Taken(runs_already(&key.id))),
                None => {}
            }
            let entry = Entry {
                to,
                at,
                ..Entry::default()
            };
            inner.append(path, &began(&key, &entry), true)?;
            inner.ids.remember(key, entry);
            Ok(Claim::Begun)
        })
        .await
    }

    /// The command ended. Whoever calls has the answer sent, unless `elsewhere`: then the uplink's session is told to.
    ///
    /// # Errors
    /// Where that cannot be written down: after a crash it counts as interrupted.
    pub(crate) async fn end(
        &self,
        uplink: &str,
        reply: &Reply,
        elsewhere: bool,
    ) -> Result<(), JournalError> {
        let (key, reply) = (Key::new(uplink, &reply.id), reply.clone());
        let written = self
            .write(move |inner, path| {
                let known = inner.ids.answers.get(&key).cloned();
                let entry = Entry {
                    reply: Some(reply.clone()),
                    told: false,
                    queued: !elsewhere,
                    ..known.unwrap_or_default()
                };
                let line = ended(&key, &reply, &entry);
                inner.ids.remember(key, entry);
                inner.append(path, &line, true)
            })
            .await;
        if elsewhere {
            self.news.send_modify(|turn| *turn += 1);
        }
        written
    }

    /// The core has the answer.
    pub(crate) async fn told(&self, uplink: &str, id: &str) {
        let key = Key::new(uplink, id);
        let written = self.write(move |inner, path| {
            let Some(entry) = inner.ids.answers.get_mut(&key) else {
                return Ok(());
            };
            entry.told = true;
            let line = Line::Told {
                uplink: key.uplink.clone(),
                told: key.id.clone(),
            };
            // Lost in a crash it is told twice.
            inner.append(path, &line, false)
        });
        if let Err(error) = written.await {
            tracing::debug!(error = %crate::device::chain(&error), "an answer may be told twice");
        }
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

    fn append(&mut self, path: &Path, line: &Line, sync: bool) -> std::io::Result<()> {
        self.be_ready(path)?;
        let line = bytes(line)?;
        if let Some(file) = &mut self.file {
            self.bytes += line.len() as u64;
            file.write_all(&line)?;
            if sync {
                file.sync_data()?;
            }
        }
        Ok(())
    }

    /// Writes a fresh journal in place of the old one and opens it for more.
    fn rewrite(&mut self, path: &Path) -> std::io::Result<()> {
        if !self.is_read {
            self.ids = Ids::read(path)?;
            self.ids.end_interrupted();
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

/// Answers may hold values of the plant.
const JOURNAL_MODE: u32 = 0o640;

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

    pub(super) fn done(id: &str, result: &str) -> Reply {
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
        let to = ReplyTo::default();
        assert!(matches!(
            journal.begin("cloud", "1", &to, None).await.unwrap(),
            Claim::Begun
        ));
        let Claim::Taken(refusal) = journal.begin("cloud", "1", &to, None).await.unwrap() else {
            panic!("claimed twice");
        };
        assert_eq!(refusal.status, ReplyStatus::Rejected);
        journal.end("cloud", &done("1", "x"), false).await.unwrap();
        let Claim::Taken(answer) = journal.begin("cloud", "1", &to, None).await.unwrap() else {
            panic!("claimed again");
        };
        assert_eq!(answer, done("1", "x"));
    }

    #[tokio::test]
    async fn an_id_is_kept_for_seven_days() {
        const DAY_MS: i64 = 24 * 3_600_000;
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path());
        let (nobody, core) = (
            ReplyTo::default(),
            ReplyTo {
                topic: "reply".to_owned(),
                ..ReplyTo::default()
            },
        );
        for (id, to, at) in [
            ("told", &core, Some(0)),
            ("untold", &core, Some(0)),
            ("no clock", &nobody, None),
            ("later", &nobody, Some(2 * DAY_MS)),
        ] {
            journal.begin("cloud", id, to, at).await.unwrap();
            journal.end("cloud", &done(id, "x"), false).await.unwrap();
        }
        journal
            .begin("cloud", "runs", &nobody, Some(0))
            .await
            .unwrap();
        journal.told("cloud", "told").await;
        let known = |journal: &Journal| {
            let ids = ["told", "untold", "no clock", "later", "runs"];
            ids.map(|id| journal.knows("cloud", id))
        };
        // Over a restart, too.
        let journal = Journal::open(dir.path());
        journal.forget_old(None);
        journal.forget_old(Some(7 * DAY_MS));
        assert_eq!(known(&journal), [true; 5]);
        journal.forget_old(Some(7 * DAY_MS + 1));
        assert_eq!(
            known(&journal),
            [false, true, true, true, false],
            "a crash ended what ran"
        );
        assert!(matches!(
            journal
                .begin("cloud", "told", &core, Some(7 * DAY_MS + 1))
                .await
                .unwrap(),
            Claim::Begun
        ));
        journal.told("cloud", "untold").await;
        journal.forget_old(Some(14 * DAY_MS));
        assert_eq!(
            known(&journal),
            [true, false, true, false, false],
            "it runs, and began without a clock"
        );
        journal.forget_old(Some(14 * DAY_MS + 2));
        assert_eq!(known(&journal), [true, false, false, false, false]);
    }

    #[tokio::test]
    async fn the_file_is_rewritten_before_it_fills_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path());
        journal.end("cloud", &done("1", "x"), false).await.unwrap();
        journal.locked(|inner| inner.bytes = FILE_BYTES_MAX + 1);
        journal.end("cloud", &done("2", "y"), false).await.unwrap();
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
        let interrupted = journal.find("cloud", "1").unwrap();
        assert_eq!(interrupted.error.as_deref(), Some("interrupted"));
        assert!(!journal.knows("cloud", "2"));
    }

    #[tokio::test]
    async fn ids_and_answers_are_those_of_one_uplink() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path());
        let to = ReplyTo::default();
        journal.begin("cloud", "1", &to, None).await.unwrap();
        assert!(matches!(
            journal.begin("plant", "1", &to, None).await.unwrap(),
            Claim::Begun
        ));
        journal.end("plant", &done("1", "x"), false).await.unwrap();
        assert_eq!(journal.find("cloud", "1"), None);
        let again = Journal::open(dir.path());
        assert_eq!(
            again.find("cloud", "1").unwrap().status,
            ReplyStatus::Failed
        );
        assert_eq!(again.find("plant", "1"), Some(done("1", "x")));
    }

    #[tokio::test]
    async fn an_answer_is_told_until_the_core_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let to = |topic: &str, fleeting| ReplyTo {
            topic: topic.to_owned(),
            fleeting,
            ..ReplyTo::default()
        };
        let journal = Journal::open(dir.path());
        for (id, topic, fleeting) in [("1", "a", false), ("2", "", false), ("3", "b", true)] {
            journal
                .begin("cloud", id, &to(topic, fleeting), None)
                .await
                .unwrap();
            journal.end("cloud", &done(id, "x"), true).await.unwrap();
        }
        assert!(journal.news().borrow().to_owned() > 0);
        let first = [(done("1", "x"), to("a", false))];
        assert_eq!(journal.untold("cloud"), first);
        assert_eq!(journal.untold("cloud"), [], "it is in a queue");
        journal.unqueue("cloud");
        assert_eq!(journal.untold("cloud"), first);
        let again = Journal::open(dir.path());
        assert_eq!(again.untold("cloud"), first);
        again.told("cloud", "1").await;
        assert_eq!(Journal::open(dir.path()).untold("cloud"), []);
        assert_eq!(Journal::open(dir.path()).untold("cloud"), [], "rewritten");
    }

    #[test]
    fn a_journal_of_a_newer_version_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("commands.journal");
        std::fs::write(&path, "{\"millrace_commands\":99}\n{\"x\":1}\n").unwrap();
        let journal = Journal::open(dir.path());
        assert!(!journal.locked(|inner| inner.is_read));
        assert!(std::fs::read_to_string(&path).unwrap().contains("99"));
    }
}
