//! What an operator should know of a session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_tags::Moment;
use opcua::types::DateTime;

use super::{Item, clock};
use crate::Exclusion;

/// More refused nodes than this are counted, not named.
const NAMED_MAX: usize = 100;

/// Remarks that the session and its publishing task write together. Cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct Notes(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    security: String,
    warnings: Vec<String>,
    revised: Option<String>,
    /// Place of the item that the server does not give.
    refused: BTreeMap<usize, Refused>,
    /// When those are asked for again.
    retry_at: Option<Moment>,
    /// Place of the item, and why the server does not apply its deadband.
    unfiltered: BTreeMap<usize, String>,
    overflows: u64,
    republished: u64,
    lost: u64,
    filled: u64,
    holes: u64,
    clock: Option<String>,
}

#[derive(Debug, Clone)]
struct Refused {
    node: String,
    why: String,
    since: Moment,
}

impl Notes {
    pub(super) fn new(security: &str) -> Self {
        Self(Arc::new(Mutex::new(Content {
            security: security.to_owned(),
            ..Content::default()
        })))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn warn(&self, text: &str) {
        self.content().warnings.push(text.to_owned());
    }

    /// The server grants other intervals than we asked for.
    pub(super) fn revised(&self, text: String) {
        self.content().revised = Some(text);
    }

    /// The server does not give the item.
    pub(super) fn refused(&self, place: usize, item: &Item, why: &str, at: Moment) {
        let mut content = self.content();
        let refused = content.refused.entry(place).or_insert_with(|| Refused {
            node: item.node.to_string(),
            why: String::new(),
            since: at,
        });
        why.clone_into(&mut refused.why);
    }

    /// When the server is asked again for what it does not give.
    pub(super) fn retry_at(&self, at: Moment) {
        self.content().retry_at = Some(at);
    }

    /// Whether any node is refused.
    pub(super) fn has_refused(&self) -> bool {
        !self.content().refused.is_empty()
    }

    /// The server does not apply the item's deadband.
    pub(super) fn unfiltered(&self, place: usize, item: &Item, why: &str) {
        let text = format!(
            "node {} has no deadband at the server ({why}): every change is sent",
            item.node
        );
        self.content().unfiltered.insert(place, text);
    }

    pub(super) fn accepted(&self, place: usize) {
        self.content().refused.remove(&place);
    }

    /// Of the nodes that were refused, only these still are.
    pub(super) fn only_refused(&self, places: &[usize]) {
        self.content()
            .refused
            .retain(|place, _| places.contains(place));
    }

    /// Another session goes on with the same subscriptions: what holds for them is noted there, too.
    pub(super) fn pass_on(&self, to: &Notes) {
        let from = self.content();
        let mut to = to.content();
        to.revised.clone_from(&from.revised);
        to.refused.clone_from(&from.refused);
        to.retry_at = from.retry_at;
        to.unfiltered.clone_from(&from.unfiltered);
        to.overflows = from.overflows;
        to.republished = from.republished;
        to.lost = from.lost;
        to.filled = from.filled;
        to.holes = from.holes;
        to.clock.clone_from(&from.clock);
    }

    /// What the server's clock showed while an answer took so long.
    pub(super) fn clock(&self, time: &DateTime, took: Duration) {
        self.content().clock = clock::off(time, &DateTime::now(), took);
    }

    /// So many values came from the server's history.
    pub(super) fn filled(&self, values: u64) {
        self.content().filled += values;
    }

    /// A bad sample was put where values are lost.
    pub(super) fn hole(&self) {
        self.content().holes += 1;
    }

    pub(super) fn overflowed(&self, count: u64) {
        self.content().overflows += count;
    }

    pub(super) fn republished(&self) {
        self.content().republished += 1;
    }

    pub(super) fn lost(&self, notifications: u64) {
        self.content().lost += notifications;
    }

    /// What the server does not give: each node, but for the last entry where there are very many.
    pub(super) fn excluded(&self) -> Vec<Exclusion> {
        let content = self.content();
        let exclusion = |refused: &Refused| Exclusion {
            addresses: refused.node.clone(),
            cause: Some(refused.why.clone()),
            tags: 1,
            since: refused.since,
            retry_at: content.retry_at.unwrap_or(refused.since),
        };
        let named = content.refused.values().take(NAMED_MAX).map(exclusion);
        let mut excluded: Vec<Exclusion> = named.collect();
        let further = content.refused.len() - excluded.len();
        if let Some(last) = excluded.last().filter(|_| further > 0) {
            excluded.push(Exclusion {
                addresses: format!("{further} further nodes"),
                tags: further,
                ..last.clone()
            });
        }
        excluded
    }

    /// One line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let content = self.content();
        let mut lines = vec![format!("security {}", content.security)];
        lines.extend(content.warnings.iter().cloned());
        lines.extend(content.revised.iter().cloned());
        lines.extend(content.clock.iter().cloned());
        if content.lost > 0 {
            lines.push(format!(
                "{} notifications were lost: the server did not have them any more",
                content.lost
            ));
        }
        if content.republished > 0 {
            lines.push(format!(
                "{} notifications were missing and were sent again",
                content.republished
            ));
        }
        if content.filled > 0 {
            lines.push(format!(
                "{} values were missed and were read from the server's history",
                content.filled
            ));
        }
        if content.holes > 0 {
            lines.push(format!(
                "{} times values of a tag were lost, or may have been: a bad sample (lost) marks each",
                content.holes
            ));
        }
        if content.overflows > 0 {
            lines.push(format!(
                "the server's queue ran over {} times and values were lost there: raise queue_size or shorten publish_interval",
                content.overflows
            ));
        }
        lines.extend(content.unfiltered.values().take(NAMED_MAX).cloned());
        lines
    }
}
