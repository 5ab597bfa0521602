//! Which sources an uplink sends.

use std::sync::Arc;

use millrace_tags::SourceId;

use crate::catalogue::Registry;

/// Answers for a source's name whether the uplink sends it.
type Ask = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The routes of one uplink; without any it sends everything.
#[derive(Clone, Default)]
pub(crate) struct Routes {
    ask: Option<Ask>,
    /// Answers so far, by source.
    known: Vec<bool>,
}

impl Routes {
    pub(crate) fn new(ask: Ask) -> Self {
        Self {
            ask: Some(ask),
            known: Vec::new(),
        }
    }

    /// Asks for the sources that are new.
    pub(crate) fn learn(&mut self, registry: &Registry) {
        if let Some(ask) = &self.ask {
            let new = registry.sources().iter().skip(self.known.len());
            self.known.extend(new.map(|source| ask(&source.name)));
        }
    }

    /// Whether it sends this source.
    pub(crate) fn takes(&self, source: SourceId) -> bool {
        let known = self.known.get(source.0 as usize);
        known.copied().unwrap_or(true)
    }
}
