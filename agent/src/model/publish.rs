//! Where a model's scores and events go: the buffer, the live table, the list of events, its status.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_buffer::{Buffer, TagSpec};
use millrace_inference::{NotScored, Output};
use millrace_tags::{
    Event, EventState, Reason, Sample, SourceId, SourceKind, TagId, Value, ValueType,
};

use super::Model;
use crate::events::EventLog;
use crate::live::{LiveTable, TagLabel};

/// The numbers that a model's results go under.
pub(crate) struct ModelTags {
    /// The model's number line.
    pub(crate) source: SourceId,
    /// Tag `score`.
    pub(crate) score: TagId,
    /// Tag `ratio`: score over threshold.
    pub(crate) ratio: TagId,
    /// Tags of what some models say beside them, such as `share/<role>`, `t2` and `q` of a PCA, or the predicted values of a
    /// forecast, as they come.
    pub(crate) others: Mutex<HashMap<Arc<str>, TagId>>,
}

/// Tells what the version says that counts.
pub(crate) struct Publisher {
    /// The model's name.
    pub(crate) name: String,
    /// Where results go.
    pub(crate) tags: ModelTags,
    /// Keeps results until an uplink has them.
    pub(crate) buffer: Buffer,
    /// Shows scores beside the devices' values.
    pub(crate) live: Arc<LiveTable>,
    /// Shows events.
    pub(crate) events: Arc<EventLog>,
}

impl Publisher {
    pub(super) fn tell(&self, output: Output, model: &Model) {
        match output {
            Output::Score {
                at,
                score,
                ratio,
                share,
                values,
                ..
            } => {
                let number = |tag, value| Sample::good(tag, Value::F64(value), at);
                let mut samples = vec![number(self.tags.score, score)];
                samples.extend(ratio.map(|ratio| number(self.tags.ratio, ratio)));
                for (role, share) in &share {
                    let tag = self.tag(&format!("share/{role}").into());
                    samples.push(number(tag, *share));
                }
                for (name, value) in &values {
                    let tag = self.tag(name);
                    samples.push(match value {
                        Some(value) => number(tag, *value),
                        None => Sample::bad(tag, Reason::Missed, at),
                    });
                }
                self.live.confirm(&samples);
                self.buffer.append(self.tags.source, samples);
                model.update(|status| {
                    let state = if ratio.is_some() {
                        "running"
                    } else {
                        "calibrating"
                    };
                    state.clone_into(&mut status.state);
                    status.error = None;
                    status.score = Some(score);
                    status.ratio = ratio;
                    status.windows_total += 1;
                });
            }
            // It is counted; the model runs.
            Output::NotScored {
                reason: NotScored::Held,
                ..
            } => {}
            Output::NotScored { reason, .. } => model.update(|status| {
                state(&reason).clone_into(&mut status.state);
                status.error = Some(reason.to_string());
            }),
            Output::Event(event) => {
                tracing::info!(model = %self.name, state = ?event.state, "anomaly");
                model.update(|status| status.anomaly = event.state != EventState::End);
                self.event(event);
            }
        }
    }

    /// The number of a further value of this name; it gets one when it comes first.
    fn tag(&self, name: &Arc<str>) -> TagId {
        let mut others = self
            .tags
            .others
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *others.entry(name.clone()).or_insert_with(|| {
            let spec = TagSpec {
                name: name.clone(),
                value_type: ValueType::F64,
                unit: None,
            };
            let registration = self.buffer.register(&self.name, SourceKind::Model, &[spec]);
            let tag = registration
                .tags
                .first()
                .copied()
                .unwrap_or(TagId(u32::MAX));
            let full_name = format!("{}/{name}", self.name);
            self.live.add(
                tag,
                TagLabel {
                    full_name,
                    unit: None,
                },
            );
            tag
        })
    }

    /// Keeps and shows an event.
    pub(super) fn event(&self, event: Event) {
        self.events.record(&self.name, &event);
        self.buffer.append_event(self.tags.source, event);
    }
}

/// The word for a model that does not score.
fn state(reason: &NotScored) -> &'static str {
    match reason {
        NotScored::WarmingUp { .. } => "warming-up",
        NotScored::Training(_) => "calibrating",
        NotScored::TooFewGood { .. } | NotScored::Gap { .. } | NotScored::Unmeasured { .. } => {
            "starved"
        }
        NotScored::Held => "running",
        NotScored::Failed(_) => "failed",
    }
}
