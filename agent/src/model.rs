//! Models at work: scoring beside polling, and changing versions without a restart.
//!
//! A poller offers samples to a [`ModelTap`] and never waits. Each version of a model that runs has them in its own inbox
//! ([`slot`]); a few threads at low priority score for all of them ([`pool`]), within a share of the processor ([`budget`]). What they
//! say goes to one task, the desk ([`desk`]), which knows which version counts ([`roles`]), tells the rest of the program, and takes
//! a promoted version back that fails its trial ([`trial`]).

mod budget;
mod desk;
mod feed;
mod learned;
mod pool;
mod priority;
mod publish;
mod roles;
mod shadow;
mod slot;
mod trial;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_inference::{Grid, ModelSpec, Monitor, Scorer};
use millrace_tags::{Clock, TagId};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use crate::report::ModelStatus;
use budget::Budget;
use desk::{Desk, Message, Order, SharedFeeds, ToDesk};
use feed::{Feeds, Reach};
use pool::Pool;
use roles::Roles;

pub(crate) use desk::TakeVerdict;
pub(crate) use feed::ModelTap;
pub(crate) use learned::Keeper;
pub(crate) use publish::{ModelTags, Publisher};
pub(crate) use roles::Verdict;
pub(crate) use trial::Bounds;

/// A version takes over within this, or it fills its first window beside the one before.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Which version of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VersionId {
    /// As its manifest says.
    pub(crate) version: String,
    /// SHA-256 of its model.
    pub(crate) sha256: String,
    /// What the shelf calls it; `None`: it is the configured bundle.
    pub(crate) shelf: Option<String>,
}

/// A version that can run.
pub(crate) struct Built {
    id: VersionId,
    monitor: Monitor,
    /// The roles of its inputs, in their order.
    roles: Vec<String>,
    reach: Reach,
    lateness: Duration,
    keeper: Option<Keeper>,
}

impl Built {
    /// A version, with what scores for it.
    pub(crate) fn new(spec: &ModelSpec, scorer: impl Into<Scorer>, shelf: Option<String>) -> Self {
        let window = &spec.window;
        // A quarter more, for what comes late and for the window that is being filled.
        let rows = window.len + window.len / 4 + 4;
        let reach = match window.grid {
            Grid::Scan => Reach {
                time: Duration::ZERO,
                scans: rows,
            },
            Grid::Every(grid) => Reach {
                time: grid * u32::try_from(rows).unwrap_or(u32::MAX)
                    + window.max_gap
                    + window.lateness
                    + spec.memory(),
                scans: 0,
            },
        };
        Self {
            id: VersionId {
                version: spec.version.clone(),
                sha256: spec.sha256.clone(),
                shelf,
            },
            monitor: Monitor::of(spec, scorer),
            roles: spec.inputs.iter().map(|it| it.role.clone()).collect(),
            reach,
            lateness: window.lateness,
            keeper: None,
        }
    }

    /// Goes on from what is kept of what it has learned, and has the rest kept.
    pub(crate) fn keep(mut self, data_dir: &Path, spec: &ModelSpec, model: &str) -> Self {
        self.keeper = Keeper::open(data_dir, spec, model, &mut self.monitor);
        self
    }

    /// Which version it is.
    pub(crate) fn id(&self) -> &VersionId {
        &self.id
    }

    fn reach(&self) -> Reach {
        self.reach
    }
}

/// What became of a version that was to score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swapped {
    /// It scores from the next window on.
    Scores,
    /// It fills its first window; the version before scores until then.
    Filling,
}

/// A model that runs: its state, as the local API shows it, and the way to change its version.
pub(crate) struct Model {
    status: Mutex<ModelStatus>,
    desk: ToDesk,
    feeds: SharedFeeds,
    /// Held by whoever changes its versions, on the shelf and here.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Model {
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

    pub(crate) fn update(&self, change: impl FnOnce(&mut ModelStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Has a version score from the next window on, without a gap and without a window told twice. On trial, it is
    /// taken back where it fails.
    ///
    /// # Errors
    /// Why it does not; the version before goes on.
    pub(crate) async fn swap(&self, built: Built, on_trial: bool) -> Result<Swapped, String> {
        let (answer, told) = oneshot::channel();
        self.desk.order(Order::Swap {
            built: Box::new(built),
            on_trial,
            answer: Some(answer),
        });
        match tokio::time::timeout(ANSWER_MAX, told).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) => Err("the agent stops".to_owned()),
            // It is on its way.
            Err(_) => Ok(Swapped::Filling),
        }
    }

    /// Has a version score, at the start of the program: there is nobody to tell.
    pub(crate) fn begin(&self, built: Built, on_trial: bool) {
        self.desk.order(Order::Swap {
            built: Box::new(built),
            on_trial,
            answer: None,
        });
    }

    /// A version is taken back before it has scored: another one goes on.
    pub(crate) fn take_back(&self, failed: VersionId, goes_on: VersionId, reason: String) {
        self.desk.order(Order::TakeBack {
            failed,
            goes_on,
            reason,
        });
    }

    /// Has a version score beside the one that counts; another one that did stops.
    pub(crate) fn shadow(&self, built: Built) {
        self.desk.order(Order::Shadow {
            built: Box::new(built),
        });
    }

    /// No version scores beside any more; gives the one that did.
    pub(crate) async fn stop_shadow(&self) -> Option<VersionId> {
        let (answer, told) = oneshot::channel();
        self.desk.order(Order::StopShadow { answer });
        told.await.ok().flatten()
    }

    /// Has the version that counts forget what it has learned, and learn anew from the next window on; `false` where it learns
    /// nothing.
    pub(crate) async fn learn_anew(&self) -> bool {
        let (answer, told) = oneshot::channel();
        self.desk.order(Order::LearnAnew { answer });
        told.await.unwrap_or(false)
    }

    /// A tap that maps tags of one device to the roles that they play.
    pub(crate) fn tap(&self, roles: HashMap<TagId, Vec<usize>>) -> ModelTap {
        ModelTap {
            roles,
            feeds: self.feeds.clone(),
        }
    }
}

/// A model that is to run.
pub(crate) struct Plan {
    /// Its name.
    pub(crate) name: String,
    /// Roles that have tags, in the order that taps count them.
    pub(crate) roles: Vec<String>,
    /// What its versions on trial are held to.
    pub(crate) bounds: Bounds,
    /// Where its results go.
    pub(crate) publisher: Publisher,
}

/// All models of a gateway: made first, started once everything else is there.
pub(crate) struct Models {
    clock: Arc<dyn Clock>,
    pool: Arc<Pool>,
    budget: Arc<Budget>,
    told: UnboundedSender<Message>,
    messages: UnboundedReceiver<Message>,
    planned: Vec<(Roles, Vec<String>)>,
}

impl Models {
    /// None yet; together they may take so many percent of one core.
    pub(crate) fn new(cpu_share: u32, clock: Arc<dyn Clock>) -> Self {
        let (told, messages) = mpsc::unbounded_channel();
        Self {
            clock,
            pool: Pool::new(told.clone()),
            budget: Budget::new(cpu_share),
            told,
            messages,
            planned: Vec::new(),
        }
    }

    /// Adds one that has no version yet.
    pub(crate) fn add(&mut self, plan: Plan) -> Arc<Model> {
        let feeds = Feeds::new(self.pool.clone(), self.clock.clone());
        let status = ModelStatus {
            name: plan.name.clone(),
            state: "warming-up".to_owned(),
            ..ModelStatus::default()
        };
        let model = Arc::new(Model {
            status: Mutex::new(status),
            desk: ToDesk(self.told.clone(), self.planned.len()),
            feeds: feeds.clone(),
            changing: tokio::sync::Mutex::default(),
        });
        let named = (plan.name, plan.bounds);
        let clock = self.clock.clone();
        let roles = Roles::new(named, model.clone(), feeds, plan.publisher, clock);
        self.planned.push((roles, plan.roles));
        model
    }

    /// Starts the threads and the desk.
    ///
    /// # Errors
    /// Where the system gives no threads.
    pub(crate) fn start(self, take_verdict: TakeVerdict) -> std::io::Result<RunningModels> {
        if !self.planned.is_empty() {
            self.pool.start()?;
        }
        let desk = Desk {
            models: self.planned,
            messages: self.messages,
            pool: self.pool.clone(),
            budget: self.budget,
            take_verdict,
            slots: 0,
        };
        Ok(RunningModels {
            pool: self.pool,
            told: self.told,
            desk: tokio::spawn(desk.run()),
        })
    }
}

/// The threads and the desk.
pub(crate) struct RunningModels {
    pool: Arc<Pool>,
    told: UnboundedSender<Message>,
    desk: tokio::task::JoinHandle<()>,
}

impl RunningModels {
    /// Ends them once what was offered is scored and told; `false` where that took longer than `most`.
    pub(crate) async fn stop(self, most: Duration) -> bool {
        let Self { pool, told, desk } = self;
        let stopped = tokio::task::spawn_blocking(move || pool.stop(most)).await;
        // Behind all that was told.
        let _ = told.send(Message::Stop);
        // It panics by a mistake only, which is in the log.
        let _ = desk.await;
        stopped.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
