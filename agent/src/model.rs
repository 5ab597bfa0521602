//! Scoring beside polling: one thread a model, fed over a bounded channel.
//!
//! A poller offers samples to a [`ModelTap`] and never waits: where the model cannot keep up, samples
//! are shed and counted, and the model says that its windows are thin. Scores and events go into the
//! buffer like every other sample, under the model's own number line.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_buffer::Buffer;
use millrace_inference::{Monitor, NotScored, Output};
use millrace_tags::{Clock, EventState, Moment, Sample, SourceId, TagId, Value};

use crate::events::EventLog;
use crate::live::LiveTable;
use crate::report::ModelStatus;

/// Batches that may wait for a model: some seconds of a fast poll cycle.
const BATCHES_WAITING_MAX: usize = 256;

/// How long after its time a grid row may still get samples: a reading on its way through the channel.
const ROW_LATENESS: Duration = Duration::from_millis(100);

/// How often grid time moves on when no sample comes.
const GRID_TICK: Duration = Duration::from_millis(50);

/// What goes to a model's thread.
enum Feed {
    /// Samples with the index of the input that each belongs to.
    Samples(Vec<(usize, Sample)>),
    /// A poll cycle of the model's device is over.
    EndScan(Moment),
}

/// One model's state, as the local API shows it.
pub(crate) struct Model {
    status: Mutex<ModelStatus>,
}

impl Model {
    /// A model that has not scored yet.
    pub(crate) fn new(status: ModelStatus) -> Arc<Self> {
        Arc::new(Self {
            status: Mutex::new(status),
        })
    }

    /// The state as it is now.
    pub(crate) fn report(&self) -> ModelStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// It does not score, and will not by itself.
    pub(crate) fn fail(&self, error: String) {
        self.update(|status| {
            status.state = "failed".to_owned();
            status.error = Some(error);
        });
    }

    fn update(&self, change: impl FnOnce(&mut ModelStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A device's connection to a model that uses some of its tags.
pub(crate) struct ModelTap {
    inputs: HashMap<TagId, Vec<usize>>,
    feed: SyncSender<Feed>,
    model: Arc<Model>,
}

impl ModelTap {
    /// Offers what the device just said; sheds it where the model is behind.
    pub(crate) fn offer(&mut self, samples: &[Sample]) {
        let mut batch = Vec::new();
        for sample in samples {
            for input in self.inputs.get(&sample.tag).into_iter().flatten() {
                batch.push((*input, sample.clone()));
            }
        }
        if !batch.is_empty() {
            let shed = batch.len() as u64;
            self.send(Feed::Samples(batch), shed);
        }
    }

    /// Tells the model that a poll cycle of the device is over.
    pub(crate) fn end_scan(&mut self, at: Moment) {
        self.send(Feed::EndScan(at), 0);
    }

    fn send(&self, feed: Feed, samples: u64) {
        if let Err(TrySendError::Full(_)) = self.feed.try_send(feed) {
            self.model
                .update(|status| status.samples_shed_total += samples);
        }
    }
}

/// The numbers that a model's results go under.
pub(crate) struct ModelTags {
    /// The model's number line.
    pub(crate) source: SourceId,
    /// Tag `score`.
    pub(crate) score: TagId,
    /// Tag `ratio`: score over threshold.
    pub(crate) ratio: TagId,
    /// Tags `share/<role>`.
    pub(crate) shares: HashMap<Arc<str>, TagId>,
}

/// Everything that a model's thread owns.
pub(crate) struct Scoring {
    /// Its name.
    pub(crate) name: String,
    /// Roles of the inputs, in order of their indexes.
    pub(crate) roles: Vec<String>,
    /// Windows, detector and decision.
    pub(crate) monitor: Monitor,
    /// Where results go.
    pub(crate) tags: ModelTags,
    /// Shown by the local API.
    pub(crate) model: Arc<Model>,
    /// Keeps results until an uplink has them.
    pub(crate) buffer: Buffer,
    /// Shows scores beside the devices' values.
    pub(crate) live: Arc<LiveTable>,
    /// Shows events.
    pub(crate) events: Arc<EventLog>,
    /// Moves grid time when no sample comes.
    pub(crate) clock: Arc<dyn Clock>,
}

/// A running model: how to make taps for it.
pub(crate) struct ModelFeed {
    roles: Vec<String>,
    feed: SyncSender<Feed>,
    model: Arc<Model>,
}

impl ModelFeed {
    /// The roles of the model's inputs, in order of their indexes.
    pub(crate) fn roles(&self) -> &[String] {
        &self.roles
    }

    /// A tap that maps these tags of one device to input indexes.
    pub(crate) fn tap(&self, inputs: HashMap<TagId, Vec<usize>>) -> ModelTap {
        ModelTap {
            inputs,
            feed: self.feed.clone(),
            model: self.model.clone(),
        }
    }
}

impl Scoring {
    /// Starts the model's thread. It ends when every tap and the feed are gone.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn spawn(self) -> std::io::Result<(ModelFeed, std::thread::JoinHandle<()>)> {
        let (feed, incoming) = sync_channel(BATCHES_WAITING_MAX);
        let model = self.model.clone();
        let roles = self.roles.clone();
        // The kernel shows the first 15 bytes of a thread's name.
        let name = format!("model-{}", self.name);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || self.run_guarded(&incoming))?;
        Ok((ModelFeed { roles, feed, model }, thread))
    }

    /// A model that makes its runtime panic ends alone, and says so.
    fn run_guarded(self, incoming: &Receiver<Feed>) {
        let (name, model) = (self.name.clone(), self.model.clone());
        let scoring = AssertUnwindSafe(|| self.run(incoming));
        if std::panic::catch_unwind(scoring).is_err() {
            tracing::error!(model = %name, "scoring failed by a mistake in this program or its model runtime");
            model.fail("scoring failed by a mistake in this program; see its log".to_owned());
        }
    }

    fn run(mut self, incoming: &Receiver<Feed>) {
        loop {
            let outputs = match incoming.recv_timeout(GRID_TICK) {
                Ok(Feed::Samples(batch)) => {
                    for (input, sample) in &batch {
                        self.monitor.feed(*input, sample);
                    }
                    self.advance()
                }
                Ok(Feed::EndScan(at)) => self.monitor.end_scan(at),
                Err(RecvTimeoutError::Timeout) => self.advance(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for output in outputs {
                self.publish(output);
            }
        }
    }

    fn advance(&mut self) -> Vec<Output> {
        let lateness = i64::try_from(ROW_LATENESS.as_nanos()).unwrap_or(i64::MAX);
        self.monitor.advance(Moment(self.clock.now().0 - lateness))
    }

    fn publish(&mut self, output: Output) {
        match output {
            Output::Score {
                at,
                score,
                ratio,
                share,
                ..
            } => {
                let number = |tag, value| Sample::good(tag, Value::F64(value), at);
                let mut samples = vec![number(self.tags.score, score)];
                samples.extend(ratio.map(|ratio| number(self.tags.ratio, ratio)));
                for (role, share) in &share {
                    samples.extend(self.tags.shares.get(role).map(|tag| number(*tag, *share)));
                }
                self.live.confirm(&samples);
                self.buffer.append(self.tags.source, samples);
                self.model.update(|status| {
                    status.state = "running".to_owned();
                    status.error = None;
                    status.score = Some(score);
                    status.ratio = ratio;
                    status.windows_total += 1;
                });
            }
            Output::NotScored { reason, .. } => self.model.update(|status| {
                status.state = state(&reason).to_owned();
                status.error = Some(reason.to_string());
            }),
            Output::Event(event) => {
                tracing::info!(model = %self.name, state = ?event.state, "anomaly");
                self.model
                    .update(|status| status.anomaly = event.state != EventState::End);
                self.events.record(&self.name, &event);
                self.buffer.append_event(self.tags.source, event);
            }
        }
    }
}

/// The word for a model that does not score.
fn state(reason: &NotScored) -> &'static str {
    match reason {
        NotScored::WarmingUp { .. } => "warming-up",
        NotScored::Training(_) => "calibrating",
        NotScored::TooFewGood { .. } | NotScored::Gap { .. } => "starved",
        NotScored::Held => "running",
        NotScored::Failed(_) => "failed",
    }
}
