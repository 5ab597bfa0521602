//! Which commands are known: the newest ids, with the answers that fit.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use millrace_tags::{Reply, ReplyTo};

use super::failed;
use super::line::{Line, VERSION, began, bytes, ended};

/// Ids that are remembered; a core does not repeat one that is older.
const IDS_KEPT: usize = 10_000;

/// Seven days: as far ahead as a signed command may expire, so that none is taken a second time. An answer that still is
/// to be told is kept beyond.
pub(crate) const ID_LIFE_MS: i64 = 7 * 24 * 3_600_000;

/// Results that are kept to be told again: some hundred of the largest kind, a whole ledger.
const RESULTS_BYTES_MAX: usize = 4 << 20;

/// Answers that are told again after a restart: the queue of a session.
const UNTOLD_MAX: usize = 64;

/// What is known of a command that began.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub(super) to: ReplyTo,
    /// When it began, Unix ms; `None`: the clock was not set then.
    pub(super) at: Option<i64>,
    /// `None`: it has not ended.
    pub(super) reply: Option<Reply>,
    /// The core has the answer, or nobody waits for it.
    pub(super) told: bool,
    /// A session has the answer in its queue.
    pub(super) queued: bool,
}

/// A command: two cores may use the same id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) uplink: String,
    pub(super) id: String,
}

impl Key {
    pub(super) fn new(uplink: &str, id: &str) -> Self {
        Self {
            uplink: uplink.to_owned(),
            id: id.to_owned(),
        }
    }
}

/// The newest ids with what is known of them.
#[derive(Default)]
pub(super) struct Ids {
    order: VecDeque<Key>,
    pub(super) answers: HashMap<Key, Entry>,
    /// Ids of answers that have their result still, and its size; oldest first.
    results: VecDeque<(Key, usize)>,
    result_bytes: usize,
}

impl Ids {
    pub(super) fn read(path: &Path) -> std::io::Result<Self> {
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
                Line::Head { millrace_commands } if millrace_commands > VERSION => {
                    return Err(std::io::Error::other(format!(
                        "it is of a newer version of millrace (form {millrace_commands}, this one reads {VERSION}); install that one again"
                    )));
                }
                Line::Head { .. } => {}
                Line::Began {
                    uplink,
                    began,
                    to,
                    at,
                } => {
                    let entry = Entry {
                        to,
                        at,
                        ..Entry::default()
                    };
                    ids.remember(Key::new(&uplink, &began), entry);
                }
                Line::Ended {
                    uplink,
                    reply,
                    to,
                    at,
                } => {
                    let key = Key::new(&uplink, &reply.id);
                    let entry = Entry {
                        to,
                        at,
                        reply: Some(reply),
                        ..Entry::default()
                    };
                    ids.remember(key, entry);
                }
                Line::Told { uplink, told } => {
                    if let Some(entry) = ids.answers.get_mut(&Key::new(&uplink, &told)) {
                        entry.told = true;
                    }
                }
            }
        }
        Ok(ids)
    }

    pub(super) fn remember(&mut self, id: Key, entry: Entry) {
        let result = entry.reply.as_ref().and_then(|reply| reply.result.as_ref());
        if let Some(result) = result {
            let size = result.to_string().len();
            self.result_bytes += size;
            self.results.push_back((id.clone(), size));
        }
        if self.answers.insert(id.clone(), entry).is_none() {
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

    /// Forgets what began so long ago that it cannot be asked again, but what runs or still is to be told. What began
    /// while the clock was not set counts from now.
    pub(super) fn forget_old(&mut self, now: i64) {
        let since = now.saturating_sub(ID_LIFE_MS);
        // In order of age but for jumps of the clock: mostly there is nothing to do.
        let oldest = self.order.front().and_then(|key| self.answers.get(key)?.at);
        if oldest.is_some_and(|oldest| oldest >= since) {
            return;
        }
        let answers = &mut self.answers;
        answers.retain(|_, entry| {
            let over = entry.told || entry.to.fleeting || entry.to.topic.is_empty();
            let over = over && entry.reply.is_some();
            *entry.at.get_or_insert(now) >= since || !over
        });
        self.order.retain(|key| answers.contains_key(key));
    }

    /// An answer of an earlier connection that means nothing on this one counts as told.
    pub(super) fn untold(&mut self, uplink: &str) -> Vec<(Reply, ReplyTo)> {
        let mut untold = Vec::new();
        for key in self.order.iter().rev().filter(|key| key.uplink == uplink) {
            let Some(entry) = self.answers.get_mut(key) else {
                continue;
            };
            let waits = !entry.told && !entry.queued && !entry.to.topic.is_empty();
            if let Some(reply) = entry.reply.as_ref().filter(|_| waits && !entry.to.fleeting) {
                entry.queued = true;
                untold.push((reply.clone(), entry.to.clone()));
            }
            if untold.len() == UNTOLD_MAX {
                break;
            }
        }
        untold.reverse();
        untold
    }

    /// That the command ran stays known.
    fn forget_a_result(&mut self) {
        let (id, size) = self.results.pop_front().unwrap_or_default();
        self.result_bytes = self.result_bytes.saturating_sub(size);
        if let Some(answer) = self.answers.get_mut(&id).and_then(|it| it.reply.as_mut()) {
            answer.result = None;
            answer.error = Some("it ran; its result is not kept any more".to_owned());
        }
    }

    /// Gives those that never ended their answer.
    pub(super) fn end_interrupted(&mut self) {
        for (key, entry) in &mut self.answers {
            if entry.reply.is_none() {
                entry.reply = Some(failed(&key.id, "interrupted"));
            }
        }
    }

    pub(super) fn lines(&self) -> std::io::Result<Vec<u8>> {
        let mut lines = bytes(&Line::Head {
            millrace_commands: VERSION,
        })?;
        for key in &self.order {
            let Some(entry) = self.answers.get(key) else {
                continue;
            };
            lines.extend(bytes(&match &entry.reply {
                Some(answer) => ended(key, answer, entry),
                None => began(key, entry),
            })?);
            if entry.told {
                lines.extend(bytes(&Line::Told {
                    uplink: key.uplink.clone(),
                    told: key.id.clone(),
                })?);
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use millrace_tags::ReplyStatus;

    use super::super::tests::done;
    use super::*;

    #[test]
    fn ids_outlive_large_results() {
        let mut ids = Ids::default();
        let large = "x".repeat(RESULTS_BYTES_MAX / 2);
        for id in ["1", "2", "3"] {
            let entry = Entry {
                reply: Some(done(id, &large)),
                ..Entry::default()
            };
            ids.remember(Key::new("cloud", id), entry);
        }
        assert!(ids.result_bytes <= RESULTS_BYTES_MAX);
        let first = ids.answers[&Key::new("cloud", "1")].reply.as_ref().unwrap();
        assert_eq!((first.status, &first.result), (ReplyStatus::Done, &None));
        assert!(
            ids.answers[&Key::new("cloud", "3")]
                .reply
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
            ids.remember(Key::new("cloud", &id.to_string()), Entry::default());
        }
        assert_eq!((ids.order.len(), ids.answers.len()), (IDS_KEPT, IDS_KEPT));
        assert!(!ids.answers.contains_key(&Key::new("cloud", "0")));
    }
}
