//! A device as the rest of the agent sees it: its driver, its state, its pause switch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_drivers::{Driver, Exclusion, Session, SessionError};
use millrace_tags::{Clock, Moment, Sample, TagId};
use tokio::sync::{mpsc, watch};

use crate::config::Scaling;
use crate::live::LiveTable;
use crate::report::{DeviceState, DeviceStatus, ExcludedRange, Since};
use crate::write::{WRITES_WAITING_MAX, WriteOrder};
use trouble::Trouble;

mod trouble;

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
    /// Writes for the poller to do.
    pub(crate) writes: mpsc::Sender<WriteOrder>,
    /// The poller's end, until it is taken.
    orders: Mutex<Option<mpsc::Receiver<WriteOrder>>>,
    paused: watch::Sender<bool>,
    condition: Mutex<Condition>,
    clock: Arc<dyn Clock>,
}

/// How the device does.
struct Condition {
    /// But for what changes with the time.
    status: DeviceStatus,
    state_since: Moment,
    excluded: Vec<Exclusion>,
    trouble: Trouble,
}

impl Device {
    /// A device that has not been tried yet.
    pub(crate) fn new(
        name: &str,
        kind: &str,
        address: &str,
        driver: Arc<dyn Driver>,
        scalings: HashMap<TagId, Scaling>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let tags = driver.tags();
        let status = DeviceStatus {
            name: name.to_owned(),
            driver: kind.to_owned(),
            address: address.to_owned(),
            tags: tags.len(),
            ..DeviceStatus::default()
        };
        let (writes, orders) = mpsc::channel(WRITES_WAITING_MAX);
        Self {
            name: name.to_owned(),
            tags,
            driver,
            scalings,
            writes,
            orders: Mutex::new(Some(orders)),
            paused: watch::Sender::new(false),
            condition: Mutex::new(Condition {
                status,
                state_since: clock.now(),
                excluded: Vec::new(),
                trouble: Trouble::default(),
            }),
            clock,
        }
    }

    /// How it does, and its last error.
    pub(crate) fn state(&self) -> (DeviceState, Option<String>) {
        let status = &self.condition().status;
        (status.state, status.error.clone())
    }

    /// The writes that the poller has to do; its own to take, once.
    pub(crate) fn orders(&self) -> Option<mpsc::Receiver<WriteOrder>> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.take()
    }

    /// The state as it is now.
    pub(crate) fn report(&self, live: &LiveTable) -> DeviceStatus {
        let clock = self.clock.as_ref();
        let condition = self.condition();
        let excluded = condition.excluded.iter();
        DeviceStatus {
            tags_good: live.good(&self.tags),
            tags_bad: live.bad(&self.tags),
            state_since: Some(Since::new(condition.state_since, clock)),
            excluded: excluded
                .map(|range| ExcludedRange::new(range, clock))
                .collect(),
            trouble: condition.trouble.report(clock),
            ..condition.status.clone()
        }
    }

    /// Changes the state.
    pub(crate) fn update(&self, change: impl FnOnce(&mut DeviceStatus)) {
        let mut condition = self.condition();
        let before = condition.status.state;
        change(&mut condition.status);
        if condition.status.state != before {
            condition.state_since = self.clock.now();
        }
    }

    /// Takes over what a session knows of the device.
    pub(crate) fn heed(&self, session: &dyn Session) {
        let (remarks, excluded) = (session.remarks(), session.excluded());
        let faults = session.faults();
        let mut condition = self.condition();
        condition.trouble.note(faults.clone(), self.clock.now());
        condition.excluded = excluded;
        condition.status.remarks = remarks;
        condition.status.faults = faults;
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        // Whole between any two statements that could panic.
        (self.condition.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops or resumes polling. Shown at once, although the poller may be in the middle of a read.
    pub(crate) fn pause(&self, paused: bool) {
        let was_paused = self.paused.send_replace(paused);
        if was_paused != paused {
            self.update(|status| {
                status.state = if paused {
                    DeviceState::Paused
                } else {
                    DeviceState::Starting
                };
            });
        }
    }

    /// Tells the poller when the switch is turned.
    pub(crate) fn pause_switch(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Opens a session, bounded as a whole: each request of a handshake has the device's timeout, but a
    /// server can drag out one after the other.
    ///
    /// # Errors
    /// As [`Driver::open`], and a timeout after [`OPEN_MAX`].
    pub(crate) async fn open(&self) -> Result<Box<dyn Session>, SessionError> {
        tokio::time::timeout(OPEN_MAX, self.driver.open())
            .await
            .unwrap_or_else(|_| Err(self.took_too_long("the handshake", OPEN_MAX)))
    }

    /// A session beside the poller's.
    ///
    /// # Errors
    /// As [`Driver::open_beside`], and a timeout after [`OPEN_MAX`].
    pub(crate) async fn open_beside(&self) -> Result<Box<dyn Session>, SessionError> {
        tokio::time::timeout(OPEN_MAX, self.driver.open_beside())
            .await
            .unwrap_or_else(|_| Err(self.took_too_long("the handshake", OPEN_MAX)))
    }

    fn took_too_long(&self, request: &str, timeout: Duration) -> SessionError {
        SessionError::Timeout {
            device: self.name.clone(),
            request: request.to_owned(),
            timeout,
        }
    }

    /// Reads every tag once through a session of its own.
    ///
    /// # Errors
    /// Where no session can be opened, or it breaks, or the reading takes longer than [`READ_ALL_MAX`].
    pub(crate) async fn read_all(&self) -> Result<FreshRead, SessionError> {
        let started = Instant::now();
        let mut session = self.open_beside().await?;
        let connected = started.elapsed();
        let mut samples = Vec::new();
        let read = self.read_through(session.as_mut(), &mut samples);
        let outcome = tokio::time::timeout(READ_ALL_MAX, read)
            .await
            .unwrap_or_else(|_| Err(self.took_too_long("all reads", READ_ALL_MAX)));
        let mut remarks = session.remarks();
        let excluded = session.excluded();
        close(session.as_mut()).await;
        remarks.extend(
            excluded
                .iter()
                .map(|range| ExcludedRange::new(range, self.clock.as_ref()).to_string()),
        );
        outcome?;
        for sample in &mut samples {
            if let Some(scaling) = self.scalings.get(&sample.tag) {
                scaling.apply(sample);
            }
        }
        Ok(FreshRead {
            samples,
            connected,
            read: started.elapsed() - connected,
            remarks,
        })
    }

    async fn read_through(
        &self,
        session: &mut dyn Session,
        samples: &mut Vec<Sample>,
    ) -> Result<(), SessionError> {
        for group in 0..self.driver.poll_groups().len() {
            samples.extend(session.read(group).await?.samples);
        }
        let deadline = tokio::time::Instant::now() + FIRST_NOTIFICATIONS_WITHIN;
        while missing(&self.tags, samples) {
            match tokio::time::timeout_at(deadline, session.notified()).await {
                Ok(reading) => samples.extend(reading?.samples),
                Err(_) => break,
            }
        }
        Ok(())
    }
}

/// Ends a session. A goodbye is a courtesy: a device that does not take it is left behind.
pub(crate) async fn close(session: &mut dyn Session) {
    // Not taken in time: dropping the session cuts the connection.
    let _ = tokio::time::timeout(CLOSE_MAX, session.close()).await;
}

/// Above what a slow server needs to be asked for 10,000 nodes; no handshake hangs for ever.
const OPEN_MAX: Duration = Duration::from_secs(120);

/// A person waits for the answer; what was not read by then is said to have taken too long.
const READ_ALL_MAX: Duration = Duration::from_secs(60);

/// A stopping agent has 30 s in all.
const CLOSE_MAX: Duration = Duration::from_secs(2);

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
