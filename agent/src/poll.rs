//! The poller: one task a device, which owns timing, retry and back-off.
//!
//! A poller opens a session, reads its poll groups on an absolute schedule, takes what the device sends
//! by itself, and hands every reading to the device's [`Pipeline`]. When the session breaks, each tag
//! gets one bad sample for each failed attempt, the device is reported lost once, and a new session is
//! tried under a jittered, growing pause. Nothing that goes wrong here reaches another device, and nothing
//! that a device does holds up a stop for long.

mod receipts;
mod schedule;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use millrace_buffer::{Buffer, Ticket};
use millrace_drivers::{Session, SessionError};
use millrace_tags::{
    Clock, Event, EventDetail, EventState, Moment, Reading, Reason, Receipt, Sample, SourceId,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::device::{self, Device, chain};
use crate::events::EventLog;
use crate::pipeline::Pipeline;
use crate::report::DeviceState;
use crate::write::WriteOrder;
use receipts::{Receipts, Tickets};
use schedule::{Schedule, Step};

/// A stopping agent takes the samples of a read that is under way, but has 30 s in all.
const LAST_READ_MAX: Duration = Duration::from_secs(3);

/// Between two looks whether a device that was away listens again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

const HELD_BACK: &str = "not read: the buffer has no room, and when_full is block";

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
    /// Whether the buffer has room for what a device sends by itself.
    pub(crate) room: watch::Receiver<bool>,
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

/// What a session is asked next.
enum Due {
    Read(Step),
    Write(WriteOrder),
}

/// What a poller remembers from one session to the next.
struct Memory {
    backoff: Backoff,
    comms: Comms,
    /// Not bound to a session: a driver may take the next one up where the last one broke off.
    receipts: Receipts,
    /// Writes that were asked for.
    orders: Option<mpsc::Receiver<WriteOrder>>,
}

impl Poller {
    /// Polls until `shutdown`. A mistake of this program costs the session, not the device.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut memory = Memory {
            backoff: Backoff::for_devices(),
            comms: Comms::Unknown,
            receipts: Receipts::default(),
            orders: self.device.orders(),
        };
        loop {
            let polling = AssertUnwindSafe(self.poll(&mut memory, &shutdown));
            if polling.catch_unwind().await.is_ok() {
                return;
            }
            let message = "the poller failed by a mistake in this program; see its log".to_owned();
            self.lost(Reason::NotConnected, message, &mut memory.comms);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(memory.backoff.next_refused()) => {}
            }
        }
    }

    /// Opens one session after the other.
    async fn poll(&mut self, memory: &mut Memory, shutdown: &CancellationToken) {
        let mut paused = self.device.pause_switch();
        loop {
            if *paused.borrow_and_update() {
                self.pause(memory);
                let resumed = async { paused.wait_for(|paused| !paused).await.is_ok() };
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = resumed => {}
                }
            }
            let error = match self.open(shutdown).await {
                None => return,
                Some(Err(error)) => error,
                Some(Ok(mut session)) => {
                    let served = self.serve(session.as_mut(), memory, shutdown).await;
                    self.device.heed(session.as_ref());
                    device::close(session.as_mut()).await;
                    match served {
                        Served::Shutdown => return,
                        Served::Paused => continue,
                        Served::Broken(error) => error,
                    }
                }
            };
            self.lost(error.reason(), chain(&error), &mut memory.comms);
            let pause = if error.is_refusal() {
                memory.backoff.next_refused()
            } else {
                memory.backoff.next()
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = paused.changed() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.returned(&error) => {}
            }
        }
    }

    /// Until somebody listens again where nobody did, or somebody has seen to what was refused: a pause that has grown
    /// meanwhile is not waited for. For ever where somebody listens and fails for another reason.
    async fn returned(&self, error: &SessionError) {
        let mut away = matches!(error, SessionError::Connect { .. });
        if error.is_refusal() {
            return self.device.driver.remedied().await;
        }
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            match self.device.driver.listens().await {
                Some(true) if away => return,
                Some(false) => away = true,
                Some(true) | None => break,
            }
        }
        std::future::pending().await
    }

    /// An operator wants no values: each tag says so once.
    fn pause(&mut self, memory: &mut Memory) {
        self.say_bad(Reason::Paused);
        self.device
            .update(|status| status.state = DeviceState::Paused);
        if matches!(memory.comms, Comms::Good) {
            // Whoever resumes it has to see whether it answers.
            memory.comms = Comms::Unknown;
        }
    }

    /// Opens a session; `None` when the agent stops first.
    async fn open(
        &self,
        shutdown: &CancellationToken,
    ) -> Option<Result<Box<dyn Session>, SessionError>> {
        tokio::select! {
            () = shutdown.cancelled() => None,
            opened = self.device.open() => Some(opened),
        }
    }

    /// Reads on schedule and takes notifications until the session breaks.
    async fn serve(
        &mut self,
        session: &mut dyn Session,
        memory: &mut Memory,
        shutdown: &CancellationToken,
    ) -> Served {
        let mut schedule = Schedule::new(self.device.driver.poll_groups(), &self.device.name);
        let mut paused = self.device.pause_switch();
        // What was committed between two sessions settles at once.
        self.commits.mark_changed();
        let (mut subscribed, mut held) = (false, false);
        loop {
            let due = schedule.next_due();
            let room = *self.room.borrow_and_update();
            if subscribed && (held || !room) {
                held = !room;
                self.say_held(session, held);
            }
            let due = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Served::Shutdown,
                _ = paused.wait_for(|paused| *paused) => return Served::Paused,
                _ = self.commits.changed() => {
                    memory.receipts.settle(&self.buffer, session);
                    continue;
                }
                // Ahead of reads.
                order = next_order(&mut memory.orders) => Due::Write(order),
                () = sleep_until(due) => Due::Read(schedule.take(Instant::now())),
                Ok(()) = self.room.changed() => continue,
                // What is not read waits with the device, which keeps what is not acknowledged.
                notified = session.notified(), if room => {
                    match notified {
                        Ok(reading) => {
                            subscribed = true;
                            let mut samples = self.pipeline.confirm(reading.known);
                            samples.extend(reading.samples);
                            let tickets = Tickets {
                                samples: self.pipeline.accept_held(samples),
                                events: self.tell(reading.events),
                            };
                            self.taken(session, tickets, reading.receipt, memory);
                        }
                        Err(error) => return Served::Broken(error),
                    }
                    continue;
                }
            };
            let step = match due {
                Due::Read(step) => step,
                // Whoever has given up does not want it done any more.
                Due::Write(order) if order.done.is_closed() => continue,
                Due::Write(order) => {
                    let written = session.write(order.tag, &order.raw).await;
                    match order.answer(written) {
                        Some(error) => return Served::Broken(error),
                        None => continue,
                    }
                }
            };
            let started = Instant::now();
            let reading = match read(session, step.group, shutdown).await {
                None => return Served::Shutdown,
                Some(Ok(reading)) => reading,
                Some(Err(error)) => return Served::Broken(error),
            };
            self.take(session, reading, memory);
            self.pipeline.end_scan(self.clock.now());
            self.device.update(|status| {
                status.read_ms = started.elapsed().as_secs_f64() * 1e3;
                status.overruns_total += step.missed;
            });
        }
    }

    /// Hands a reading to the pipeline and keeps its receipt until the commit.
    fn take(&mut self, session: &mut dyn Session, reading: Reading, memory: &mut Memory) {
        let tickets = Tickets {
            samples: self.pipeline.accept(reading.samples),
            events: self.tell(reading.events),
        };
        self.taken(session, tickets, reading.receipt, memory);
    }

    /// Keeps what the device told of by itself; the ticket of the last.
    fn tell(&self, events: Vec<Event>) -> Option<Ticket> {
        let mut last = None;
        for event in events {
            self.events.record(&self.device.name, &event);
            last = Some(self.pipeline.tell(event, self.clock.timebase()));
        }
        last
    }

    /// Says whether the device is left waiting for the buffer.
    fn say_held(&self, session: &dyn Session, held: bool) {
        self.device.heed(session);
        if held {
            let said = HELD_BACK.to_owned();
            self.device.update(|status| status.remarks.push(said));
        }
    }

    fn taken(
        &mut self,
        session: &mut dyn Session,
        tickets: Tickets,
        receipt: Option<Receipt>,
        memory: &mut Memory,
    ) {
        if receipt.is_some() || tickets.events.is_some() {
            memory.receipts.keep(tickets, receipt);
            memory.receipts.settle(&self.buffer, session);
        }
        self.device.heed(session);
        self.device.update(|status| {
            status.state = DeviceState::Online;
            status.error = None;
            status.reads_total += 1;
        });
        memory.backoff.reset();
        self.back(&mut memory.comms);
    }

    /// The device answers: a lost one is reported back.
    fn back(&self, comms: &mut Comms) {
        if let Comms::Lost { since, message } = std::mem::replace(comms, Comms::Good) {
            tracing::info!(device = %self.device.name, "device is back");
            let now = self.clock.now();
            self.report(EventState::End, since, Some(now), message);
        }
    }

    /// There is no session: bad samples for every tag, and one event when it is news.
    fn lost(&mut self, reason: Reason, message: String, comms: &mut Comms) {
        self.say_bad(reason);
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

/// Reads a group to its end; `None` where the agent stops and the device takes too long for that.
async fn read(
    session: &mut dyn Session,
    group: usize,
    shutdown: &CancellationToken,
) -> Option<Result<Reading, SessionError>> {
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LAST_READ_MAX).await;
    };
    tokio::select! {
        biased;
        reading = session.read(group) => Some(reading),
        () = too_late => None,
    }
}

/// The next write that is asked for.
async fn next_order(orders: &mut Option<mpsc::Receiver<WriteOrder>>) -> WriteOrder {
    if let Some(orders) = orders
        && let Some(order) = orders.recv().await
    {
        return order;
    }
    std::future::pending().await
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
