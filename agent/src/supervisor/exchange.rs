//! One configuration, or one store, in the place of another: what runs stops, the other starts, and whoever looks sees that one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::run::{Agent, notify, sentences};
use super::{Current, Gateway, Running};
use crate::apply::refused::Refused;
use crate::config::{self, Config, Loaded};
use crate::report::ConfigStatus;

/// How long polling waits for the last samples in memory to be sent. What is not sent by then stays there,
/// and polling goes on.
const LAST_SENT_MAX: Duration = Duration::from_secs(5);

/// Whether the store on the disk can take over: it can be written, and what is in memory can be sent.
pub(super) async fn can_store(gateway: &Arc<Gateway>) -> bool {
    let reached = |uplink: &Arc<crate::delivery::Uplink>| uplink.report().state == "connected";
    let backlog = gateway.buffer.status();
    let behind = backlog.uplinks.values().any(|queued| queued.backlog > 0);
    let dir = gateway.config.buffer_dir();
    let writable = tokio::task::spawn_blocking(move || super::stand_in::is_writable(&dir));
    gateway.uplinks.iter().all(reached) && !behind && writable.await.unwrap_or(false)
}

impl Agent<'_> {
    /// Sends what is in memory, and starts again on the store on the disk.
    ///
    /// # Errors
    /// Where the same configuration does not start again.
    pub(super) async fn leave_memory(
        &self,
        mut running: Running,
        current: &Current,
    ) -> anyhow::Result<Running> {
        let before = running.gateway.clone();
        running.stop_polling().await;
        let until = Instant::now() + LAST_SENT_MAX;
        while !before.is_sent() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let sent = before.is_sent();
        if let Err(error) = running.stop().await {
            tracing::error!(error = %crate::device::chain(&error), "the store in memory was not closed");
        }
        if let Some(stand_in) = before.stand_in.as_ref().filter(|_| sent) {
            tracing::info!("the store on the disk can be written again");
            stand_in.remove();
        }
        let status = before.config_status();
        let good = status.source == "configured" && status.problems.is_empty();
        let running = self.start(before.config.clone(), status).await?;
        running.gateway.events.inherit(&before.events);
        current.replace(running.gateway.clone());
        let is_tried = |loaded: &Loaded| {
            let data_dir = &loaded.config.gateway.data_dir;
            Refused::of(data_dir, &loaded.local_digest()).is_some()
        };
        let loaded = self.load().ok().filter(|_| good);
        if let Some(loaded) = loaded.filter(|loaded| !is_tried(loaded))
            && let Err(error) = config::last_good::save(&loaded)
        {
            tracing::warn!(error = %crate::device::chain(&error), "the last good configuration was not kept");
        }
        Ok(running)
    }

    /// Applies the configuration as it is now on disk; a bad one changes nothing and is shown in `status`.
    ///
    /// # Errors
    /// Where neither the new configuration nor the one before it starts.
    pub(super) async fn reload(
        &self,
        running: Running,
        current: &Current,
    ) -> anyhow::Result<Running> {
        let loaded = match self.load() {
            Ok(loaded) => loaded,
            Err(problems) => {
                tracing::error!(
                    "the changed configuration cannot be used, the old one runs on:\n{problems}"
                );
                running.gateway.set_config_problems(sentences(&problems));
                return Ok(running);
            }
        };
        let (running, _) = self.exchange(running, current, &loaded, true).await?;
        Ok(running)
    }

    /// Stops what runs and starts this. Where it does not start, the one before runs again, and why is told.
    ///
    /// # Errors
    /// Where neither starts.
    pub(super) async fn exchange(
        &self,
        running: Running,
        current: &Current,
        loaded: &Loaded,
        keep: bool,
    ) -> anyhow::Result<(Running, Option<String>)> {
        tracing::info!("applying the changed configuration");
        notify(&[sd_notify::NotifyState::Reloading]);
        let before = self.stop_for_another(running).await;
        let (running, refused) = match self.begin(loaded, keep).await {
            Ok(running) => (running, None),
            Err(error) => {
                let why = format!("it does not start: {error:#}");
                (self.go_back(&before, &error).await?, Some(why))
            }
        };
        self.show(&running, &before, current);
        Ok((running, refused))
    }

    /// Stops what runs and starts the configuration that ran before.
    ///
    /// # Errors
    /// Where it does not start again.
    pub(super) async fn run_again(
        &self,
        running: Running,
        current: &Current,
        config: Config,
        status: ConfigStatus,
    ) -> anyhow::Result<Running> {
        notify(&[sd_notify::NotifyState::Reloading]);
        let before = self.stop_for_another(running).await;
        let running = self
            .start(config, status)
            .await
            .context("the configuration before it does not start again")?;
        self.show(&running, &before, current);
        Ok(running)
    }

    async fn stop_for_another(&self, running: Running) -> Arc<Gateway> {
        let before = running.gateway.clone();
        if let Err(error) = running.stop().await {
            let error = crate::device::chain(&error);
            tracing::error!(error = %error, "the samples of the old configuration are not on disk");
        }
        before
    }

    /// From now on everybody who looks sees this one.
    fn show(&self, running: &Running, before: &Gateway, current: &Current) {
        running.gateway.events.inherit(&before.events);
        current.replace(running.gateway.clone());
        notify(&[sd_notify::NotifyState::Ready]);
    }

    /// The new configuration is good to read and does not start: the old one runs again.
    async fn go_back(&self, before: &Gateway, error: &anyhow::Error) -> anyhow::Result<Running> {
        tracing::error!(error = %format!("{error:#}"), "the changed configuration does not start, the old one runs on");
        let status = ConfigStatus {
            problems: vec![format!("it does not start: {error:#}")],
            ..before.config_status()
        };
        self.start(before.config.clone(), status)
            .await
            .context("the configuration before it does not start again either")
    }
}
