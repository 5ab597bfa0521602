//! A device as the rest of the agent sees it: its driver, its state, its pause switch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_drivers::{Driver, SessionError};
use millrace_tags::{Sample, TagId};
use tokio::sync::watch;

use crate::config::Scaling;
use crate::live::LiveTable;
use crate::pipeline::scale;
use crate::report::{DeviceState, DeviceStatus};

/// One configured device. The poller writes its state, the local API reads it.
pub(crate) struct Device {
    /// Its name, which is its source's name too.
    pub(crate) name: String,
    /// Every tag.
    pub(crate) tags: Vec<TagId>,
    /// Opens sessions: the poller's, and a second one for `device test` and `read`.
    pub(crate) driver: Arc<dyn Driver>,
    /// What a reading goes through before a person sees it.
    scalings: HashMap<TagId, Scaling>,
    paused: watch::Sender<bool>,
    status: Mutex<DeviceStatus>,
}

impl Device {
    /// A device that has not been tried yet.
    pub(crate) fn new(
        name: &str,
        kind: &str,
        address: &str,
        driver: Arc<dyn Driver>,
        scalings: HashMap<TagId, Scaling>,
    ) -> Self {
        let tags = driver.tags();
        let status = DeviceStatus {
            name: name.to_owned(),
            driver: kind.to_owned(),
            address: address.to_owned(),
            tags: tags.len(),
            ..DeviceStatus::default()
        };
        Self {
            name: name.to_owned(),
            tags,
            driver,
            scalings,
            paused: watch::Sender::new(false),
            status: Mutex::new(status),
        }
    }

    /// The state as it is now.
    pub(crate) fn report(&self, live: &LiveTable) -> DeviceStatus {
        let mut status = self
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        status.tags_good = live.good(&self.tags);
        status
    }

    /// Changes the state.
    pub(crate) fn update(&self, change: impl FnOnce(&mut DeviceStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Stops or resumes polling.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.send_replace(paused);
        self.update(|status| {
            status.state = if paused {
                DeviceState::Paused
            } else {
                DeviceState::Starting
            };
        });
    }

    /// Tells the poller when the switch is turned.
    pub(crate) fn pause_switch(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Reads every tag once through a session of its own.
    pub(crate) async fn read_all(&self) -> Result<FreshRead, SessionError> {
        let started = Instant::now();
        let mut session = self.driver.open().await?;
        let connected = started.elapsed();
        let mut samples = Vec::new();
        let read = async {
            for group in 0..self.driver.poll_groups().len() {
                samples.extend(session.read(group).await?.samples);
            }
            let deadline = tokio::time::Instant::now() + FIRST_NOTIFICATIONS_WITHIN;
            while missing(&self.tags, &samples) {
                match tokio::time::timeout_at(deadline, session.notified()).await {
                    Ok(reading) => samples.extend(reading?.samples),
                    Err(_) => break,
                }
            }
            Ok(())
        };
        let outcome = read.await;
        let remarks = session.remarks();
        session.close().await;
        outcome?;
        for sample in &mut samples {
            if let Some(scaling) = self.scalings.get(&sample.tag) {
                scale(sample, *scaling);
            }
        }
        Ok(FreshRead {
            samples,
            connected,
            read: started.elapsed() - connected,
            remarks,
        })
    }
}

/// A server sends the first value of each item with its first notifications.
const FIRST_NOTIFICATIONS_WITHIN: Duration = Duration::from_secs(5);

fn missing(tags: &[TagId], samples: &[Sample]) -> bool {
    let seen: std::collections::HashSet<TagId> = samples.iter().map(|s| s.tag).collect();
    seen.len() < tags.len()
}

/// What [`Device::read_all`] brought.
pub(crate) struct FreshRead {
    /// One or more samples a tag, scaled.
    pub(crate) samples: Vec<Sample>,
    /// Time to connect.
    pub(crate) connected: Duration,
    /// Time to read.
    pub(crate) read: Duration,
    /// What the session noticed.
    pub(crate) remarks: Vec<String>,
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
