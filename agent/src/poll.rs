//! The poller: one task a device, which owns timing, retry and back-off.
//!
//! A poller opens a session, reads its poll groups on an absolute schedule, takes what the device sends
//! by itself, and hands every reading to the device's [`Pipeline`]. When the session breaks, each tag
//! gets one bad sample for each failed attempt, the device is reported lost once, and a new session is
//! tried under a jittered, growing pause. Nothing that goes wrong here reaches another device.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Buffer, Ticket};
use millrace_drivers::{PollGroup, Session, SessionError};
use millrace_tags::{
    Clock, Event, EventDetail, EventState, Moment, Reading, Reason, Receipt, Sample, SourceId,
};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::device::{Device, chain};
use crate::events::EventLog;
use crate::pipeline::Pipeline;
use crate::report::DeviceState;

/// Everything that one device's poller owns.
pub(crate) struct Poller {
    /// Whom to poll.
    pub(crate) device: Arc<Device>,
    /// The device's number line.
    pub(crate) source: SourceId,
    /// Where its samples go.
    pub(crate) pipeline: Pipeline,
    /// Where its receipts wait for the commit.
    pub(crate) buffer: Buffer,
    /// Turns at each commit.
    pub(crate) commits: watch::Receiver<u64>,
    /// Where comms events go.
    pub(crate) events: Arc<EventLog>,
    /// Stamps bad samples and events.
    pub(crate) clock: Arc<dyn Clock>,
}

/// Why a session is no longer served.
enum Served {
    /// The agent stops.
    Shutdown,
    /// An operator paused the device.
    Paused,
    /// The session is broken.
    Broken(SessionError),
}

impl Poller {
    /// Polls until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut backoff = Backoff::for_devices();
        let mut comms = Comms::Unknown;
        let mut paused = self.device.pause_switch();
        loop {
            if *paused.borrow_and_update() {
                self.say_bad(Reason::Paused);
                let resumed = async { paused.wait_for(|paused| !paused).await.is_ok() };
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = resumed => continue,
                }
            }
            let error = match self.open(&shutdown).await {
                None => return,
                Some(Err(error)) => error,
                Some(Ok(mut session)) => {
                    let served = self
                        .serve(session.as_mut(), &mut comms, &mut backoff, &shutdown)
                        .await;
                    session.close().await;
                    match served {
                        Served::Shutdown => return,
                        Served::Paused => continue,
                        Served::Broken(error) => error,
                    }
                }
            };
            self.lost(&error, &mut comms);
            let pause = if error.is_refusal() {
                backoff.next_refused()
            } else {
                backoff.next()
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = paused.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Opens a session; `None` when the agent stops first.
    async fn open(
        &self,
        shutdown: &CancellationToken,
    ) -> Option<Result<Box<dyn Session>, SessionError>> {
        tokio::select! {
            () = shutdown.cancelled() => None,
            opened = self.device.driver.open() => Some(opened),
        }
    }

    /// Reads on schedule and takes notifications until the session breaks.
    async fn serve(
        &mut self,
        session: &mut dyn Session,
        comms: &mut Comms,
        backoff: &mut Backoff,
        shutdown: &CancellationToken,
    ) -> Served {
        let mut schedule = Schedule::new(self.device.driver.poll_groups());
        let mut receipts = Receipts::default();
        let mut paused = self.device.pause_switch();
        self.commits.mark_unchanged();
        loop {
            let due = schedule.next_due();
            let step = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Served::Shutdown,
                _ = paused.wait_for(|paused| *paused) => return Served::Paused,
                _ = self.commits.changed() => {
                    receipts.settle(&self.buffer, session);
                    continue;
                }
                () = sleep_until(due) => schedule.take(Instant::now()),
                notified = session.notified() => {
                    match notified {
                        Ok(reading) => {
                            self.take(session, reading, &mut receipts);
                            self.good_news(comms, backoff);
                        }
                        Err(error) => return Served::Broken(error),
                    }
                    continue;
                }
            };
            let started = Instant::now();
            let reading = match session.read(step.group).await {
                Ok(reading) => reading,
                Err(error) => return Served::Broken(error),
            };
            self.take(session, reading, &mut receipts);
            self.pipeline.end_scan(self.clock.now());
            self.device.update(|status| {
                status.read_ms = started.elapsed().as_secs_f64() * 1e3;
                status.overruns_total += step.missed;
            });
            self.good_news(comms, backoff);
        }
    }

    /// Hands a reading to the pipeline and keeps its receipt until the commit.
    fn take(&mut self, session: &mut dyn Session, reading: Reading, receipts: &mut Receipts) {
        let ticket = self.pipeline.accept(reading.samples);
        if let Some(receipt) = reading.receipt {
            receipts.keep(ticket, receipt);
            receipts.settle(&self.buffer, session);
        }
        let remarks = session.remarks();
        self.device.update(|status| {
            status.reads_total += 1;
            status.remarks = remarks;
        });
    }

    /// The device answers: back-off is forgotten, and a lost device is reported back.
    fn good_news(&mut self, comms: &mut Comms, backoff: &mut Backoff) {
        backoff.reset();
        let now = self.clock.now();
        match std::mem::replace(comms, Comms::Good) {
            Comms::Good => return,
            Comms::Unknown => {}
            Comms::Lost { since, message } => {
                tracing::info!(device = %self.device.name, "device is back");
                self.report(EventState::End, since, Some(now), message);
            }
        }
        self.device.update(|status| {
            status.state = DeviceState::Online;
            status.error = None;
        });
    }

    /// The session is broken: bad samples for every tag, and one event when it is news.
    fn lost(&mut self, error: &SessionError, comms: &mut Comms) {
        let message = chain(error);
        self.say_bad(error.reason());
        self.device.update(|status| {
            status.state = DeviceState::Offline;
            status.read_errors_total += 1;
            status.error = Some(message.clone());
        });
        if matches!(comms, Comms::Lost { .. }) {
            return;
        }
        tracing::warn!(device = %self.device.name, error = %message, "device is lost");
        let now = self.clock.now();
        self.report(EventState::Begin, now, None, message.clone());
        *comms = Comms::Lost {
            since: now,
            message,
        };
    }

    fn say_bad(&mut self, reason: Reason) {
        let now = self.clock.now();
        let samples = self
            .device
            .tags
            .iter()
            .map(|tag| Sample::bad(*tag, reason, now))
            .collect();
        self.pipeline.accept(samples);
        self.pipeline.end_scan(now);
    }

    fn report(&self, state: EventState, start: Moment, end: Option<Moment>, message: String) {
        let detail = EventDetail::Comms { message };
        let event = Event {
            state,
            at: self.clock.now(),
            start,
            end,
            detail,
        };
        self.events.record(&self.device.name, &event);
        self.buffer.append_event(self.source, event);
    }
}

/// What was last said of the device.
enum Comms {
    Unknown,
    Good,
    Lost { since: Moment, message: String },
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Receipts of samples that are not on disk yet, oldest first.
#[derive(Default)]
struct Receipts {
    waiting: VecDeque<(Option<Ticket>, Receipt)>,
}

impl Receipts {
    /// A reading without a ticket holds nothing to wait for, but its turn comes in order.
    fn keep(&mut self, ticket: Option<Ticket>, receipt: Receipt) {
        self.waiting.push_back((ticket, receipt));
    }

    fn settle(&mut self, buffer: &Buffer, session: &mut dyn Session) {
        while let Some((ticket, receipt)) = self.waiting.front() {
            if ticket.is_some_and(|ticket| !buffer.durable(ticket)) {
                return;
            }
            session.settle(*receipt);
            self.waiting.pop_front();
        }
    }
}

/// When each poll group is due, on an absolute grid: a slow read delays the next, it never shifts it.
struct Schedule {
    groups: Vec<Due>,
}

struct Due {
    at: Instant,
    interval: Duration,
}

/// The next thing to read.
struct Step {
    group: usize,
    /// Slots of this group that passed unread because the device, or this machine, was too slow.
    missed: u64,
}

impl Schedule {
    /// Every group is due at once, then on its grid.
    fn new(groups: &[PollGroup]) -> Self {
        let now = Instant::now();
        Self {
            groups: groups
                .iter()
                .map(|group| Due {
                    at: now,
                    interval: group.interval,
                })
                .collect(),
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.groups.iter().map(|due| due.at).min()
    }

    /// Takes the group that has been due for longest and sets its next slot, the first one after `now`.
    fn take(&mut self, now: Instant) -> Step {
        let earliest = self.groups.iter().enumerate().min_by_key(|(_, due)| due.at);
        let group = earliest.map_or(0, |(group, _)| group);
        let due = &mut self.groups[group];
        let late = now.saturating_duration_since(due.at).as_nanos();
        let missed = late / due.interval.as_nanos().max(1);
        let missed = u32::try_from(missed).unwrap_or(u32::MAX - 1);
        due.at += due.interval * (missed + 1);
        Step {
            group,
            missed: u64::from(missed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(intervals_ms: &[u64]) -> Schedule {
        let groups: Vec<PollGroup> = intervals_ms
            .iter()
            .map(|ms| PollGroup {
                interval: Duration::from_millis(*ms),
                tags: Vec::new(),
            })
            .collect();
        Schedule::new(&groups)
    }

    #[test]
    fn slots_stay_on_the_grid_after_a_late_read() {
        let mut schedule = schedule(&[100]);
        let start = schedule.next_due().unwrap();
        assert_eq!(schedule.take(start + Duration::from_millis(30)).missed, 0);
        assert_eq!(
            schedule.next_due(),
            Some(start + Duration::from_millis(100))
        );
    }

    #[test]
    fn passed_slots_are_counted_not_caught_up() {
        let mut schedule = schedule(&[100]);
        let start = schedule.next_due().unwrap();
        assert_eq!(schedule.take(start + Duration::from_millis(350)).missed, 3);
        assert_eq!(
            schedule.next_due(),
            Some(start + Duration::from_millis(400))
        );
    }

    #[test]
    fn groups_take_turns_by_due_time() {
        let mut schedule = schedule(&[100, 250]);
        let start = schedule.next_due().unwrap();
        let order: Vec<usize> = (0..6)
            .map(|_| {
                let due = schedule.next_due().unwrap();
                schedule.take(due).group
            })
            .collect();
        assert_eq!(order, [0, 1, 0, 0, 1, 0]);
        assert_eq!(
            schedule.next_due(),
            Some(start + Duration::from_millis(400))
        );
    }

    #[test]
    fn device_without_groups_is_never_due() {
        assert_eq!(schedule(&[]).next_due(), None);
    }
}
