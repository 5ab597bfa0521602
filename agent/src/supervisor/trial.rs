//! A configuration on trial: the steps of the transaction in the main loop (`crate::apply`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::run::Agent;
use super::{Current, Gateway, Running};
use crate::apply::layers::{Command, Layers};
use crate::apply::refused::Refused;
use crate::apply::watch::{Seen, Watch};
use crate::apply::{Asker, Outcome, Wanted};
use crate::bootstrap::Turn;
use crate::command::{rejected, reply};
use crate::config::written::{differences, digest};
use crate::config::{self, Loaded};
use crate::device::chain;
use crate::report::LastChange;
use crate::shelf::Step;
use millrace_tags::ReplyStatus;

/// How often a configuration on trial is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Keys that an outcome names; more are only counted.
const KEYS_TOLD: usize = 100;

/// A configuration that runs and is not kept yet.
pub(super) struct Trial {
    asker: Asker,
    watch: Watch,
    window: Duration,
    /// What ran before.
    before: Arc<Gateway>,
    loaded: Loaded,
    /// The layer that is tried; `None`: it is the files that are.
    layers: Option<Layers>,
    told: serde_json::Value,
    /// No enrolment is put into force meanwhile.
    _turn: Turn,
}

impl Agent<'_> {
    /// Tries a configuration. What is wrong with it at once is told at once, and changes nothing.
    ///
    /// # Errors
    /// Where neither the new configuration nor the one before it starts.
    pub(super) async fn try_configuration(
        &self,
        running: Running,
        current: &Current,
        (what, window): (Wanted, Duration),
        asker: Asker,
        turn: Turn,
    ) -> anyhow::Result<(Running, Option<Trial>)> {
        let before = running.gateway.clone();
        let prepared = match self.prepare(&before, what, &asker) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.tell(&before, asker, Err(error)).await;
                return Ok((running, None));
            }
        };
        let (loaded, layers, told) = prepared;
        let who = asker.named();
        tracing::info!(target: "audit", who, watch_s = window.as_secs(), "configuration on trial");
        self.say_change("trying", &who, None);
        let seen = Seen::of(&before);
        let (running, refused) = self.exchange(running, current, &loaded, false).await?;
        let from_core = match &asker {
            Asker::Core { uplink, .. } => Some(uplink.clone()),
            Asker::Person { .. } => None,
        };
        let trial = Trial {
            asker,
            watch: Watch::new(seen, from_core, Instant::now(), window),
            window,
            before,
            loaded,
            layers,
            told,
            _turn: turn,
        };
        match refused {
            None => Ok((running, Some(trial))),
            // The one before runs again already.
            Some(error) => {
                self.end(&running, trial, Err(error)).await;
                Ok((running, None))
            }
        }
    }

    /// Has a version of a model run; nothing else stops for it.
    pub(super) async fn promote(
        &self,
        gateway: &Gateway,
        (name, step): (String, Step),
        asker: Asker,
    ) {
        let outcome = super::versions::promote(gateway, &name, &step).await;
        self.tell(gateway, asker, outcome).await;
    }

    /// Reads it, and puts it into its place on disk.
    fn prepare(
        &self,
        before: &Gateway,
        what: Wanted,
        asker: &Asker,
    ) -> Result<(Loaded, Option<Layers>, serde_json::Value), String> {
        let (loaded, layers, sha256) = match &what {
            Wanted::Files => {
                let loaded = self.load().map_err(|problems| problems.to_string())?;
                let data_dir = &before.config.gateway.data_dir;
                let noted = Refused::note(data_dir, &loaded.local_digest(), None);
                noted.map_err(|error| format!("a trial cannot be noted on disk: {error}"))?;
                (loaded, None, None)
            }
            Wanted::Layer(layer) => {
                let text = layer.as_deref().unwrap_or_default();
                let loaded = self.changes.load_with(text)?;
                let layers = Layers::of(&before.config.gateway.data_dir);
                let command = match asker {
                    Asker::Core { uplink, id } => Some(Command {
                        uplink: uplink.clone(),
                        id: id.clone(),
                    }),
                    Asker::Person { .. } => None,
                };
                let begun = layers.begin(layer.as_deref(), command);
                begun.map_err(|error| chain(&error))?;
                (loaded, Some(layers), Some(digest(text)))
            }
        };
        let differs = differences(&before.config.written, &loaded.config.written);
        let keys: Vec<&String> = differs.iter().map(|it| &it.key).take(KEYS_TOLD).collect();
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let told = json!({
            "changed": differs.len(), "keys": keys, "sha256": sha256, "warnings": warnings,
        });
        Ok((loaded, layers, told))
    }

    /// Looks at the trial; ends it once its time is over.
    ///
    /// # Errors
    /// Where the configuration before does not start again.
    pub(super) async fn look(
        &self,
        running: Running,
        current: &Current,
        mut trial: Trial,
    ) -> anyhow::Result<(Running, Option<Trial>)> {
        let seen = Seen::of(&running.gateway);
        let Some(verdict) = trial.watch.look(Instant::now(), seen) else {
            return Ok((running, Some(trial)));
        };
        let running = match &verdict {
            Ok(()) => running,
            Err(why) => {
                tracing::error!(why, "the configuration on trial is taken back");
                let config = trial.before.config.clone();
                self.run_again(running, current, config, trial.before.config_status())
                    .await?
            }
        };
        self.end(&running, trial, verdict).await;
        Ok((running, None))
    }

    /// What is on disk follows the verdict, and whoever asked is told.
    async fn end(&self, running: &Running, trial: Trial, verdict: Result<(), String>) {
        let who = trial.asker.named();
        let failed = |error: &dyn std::error::Error| {
            tracing::error!(error = %chain(error), "the layers of the configuration cannot be written");
        };
        let outcome = match verdict {
            Ok(()) => {
                Refused::forget(&trial.before.config.gateway.data_dir);
                if let Err(error) = config::last_good::save(&trial.loaded) {
                    tracing::warn!(error = %chain(&error), "the last good configuration was not kept");
                }
                if let Some(Err(error)) = trial.layers.as_ref().map(Layers::keep) {
                    failed(&error);
                }
                let gateway = running.gateway.clone();
                let forget = move || {
                    let uplinks = gateway.config.uplinks.iter();
                    let names: Vec<&str> = uplinks.map(|uplink| uplink.name.as_str()).collect();
                    gateway.buffer.retain_uplinks(&names);
                };
                // It panics by a mistake only; then the next start forgets them.
                let _ = tokio::task::spawn_blocking(forget).await;
                self.say_change("kept", &who, None);
                let mut told = trial.told;
                told["watched_s"] = trial.window.as_secs().into();
                Ok(told)
            }
            Err(why) => {
                if let Some(Err(error)) = trial.layers.as_ref().map(Layers::take_back) {
                    failed(&error);
                }
                self.say_change("taken-back", &who, Some(&why));
                let told = format!("taken back: {why}");
                match trial.layers {
                    Some(_) => Err(told),
                    None => {
                        let data_dir = &trial.before.config.gateway.data_dir;
                        let digest = trial.loaded.local_digest();
                        if let Err(error) = Refused::note(data_dir, &digest, Some(&why)) {
                            failed(&error);
                        }
                        Err(format!(
                            "{told}; the files are as you left them, and a restart does not run them before they \
                                     change"
                        ))
                    }
                }
            }
        };
        running.gateway.set_last_change(self.last_change());
        self.tell(&running.gateway, trial.asker, outcome).await;
        // Only now: a core that was not told yet hears of it after a restart.
        if let Some(Err(error)) = trial.layers.as_ref().map(Layers::forget) {
            failed(&error);
        }
    }

    pub(super) fn say_change(&self, state: &str, who: &str, error: Option<&str>) {
        let change = LastChange {
            state: state.to_owned(),
            who: who.to_owned(),
            error: error.map(str::to_owned),
        };
        *self.lock_change() = Some(change);
    }

    /// Tells whoever asked, and the audit.
    pub(super) async fn tell(&self, gateway: &Gateway, asker: Asker, outcome: Outcome) {
        let who = asker.named();
        match &outcome {
            Ok(_) => tracing::info!(target: "audit", who, "configuration changed"),
            Err(error) => tracing::warn!(target: "audit", who, error, "configuration not changed"),
        }
        match asker {
            // They may have given up.
            Asker::Person { answer, .. } => drop(answer.send(outcome)),
            Asker::Core { uplink, id } => {
                let reply = match outcome {
                    Ok(result) => reply(&id, ReplyStatus::Done, Ok(result)),
                    Err(error) => reply(&id, ReplyStatus::Failed, Err(error)),
                };
                let journal = self.journal(&gateway.config.gateway.data_dir);
                if let Err(error) = journal.end(&uplink, &reply, true).await {
                    tracing::error!(error = %chain(&error), "the command journal cannot be written");
                }
            }
        }
    }

    /// Takes back what was on trial when the program ended, before anything is read.
    pub(super) async fn take_back_trial(&self, data_dir: &std::path::Path) {
        let layers = Layers::of(data_dir);
        let tried = match layers.take_back() {
            Ok(Some(tried)) => tried,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(error = %chain(&error), "a configuration that was on trial cannot be taken back");
                return;
            }
        };
        let why = "the agent restarted while it was tried";
        tracing::warn!(target: "audit", why, "a configuration that was on trial is taken back");
        self.say_change("taken-back", "", Some(why));
        if let Some(Command { uplink, id }) = tried.command {
            let mut failed = rejected(&id, &format!("taken back: {why}"));
            failed.status = ReplyStatus::Failed;
            let journal = self.journal(data_dir);
            if let Err(error) = journal.end(&uplink, &failed, true).await {
                tracing::error!(error = %chain(&error), "the command journal cannot be written");
            }
        }
        if let Err(error) = layers.forget() {
            tracing::error!(error = %chain(&error), "the end of a trial cannot be written");
        }
    }
}
