//! A line that several units share, and its arbiter: one task, one exchange at a time.
//!
//! Each session has a *seat*. The arbiter gives turns:
//! - **Fair**: by the time that a seat has used, weighed by what it needs. A unit that is slow, or whose
//!   holes are searched for, uses its own share.
//! - **Writes first**, but no more than [`WRITES_IN_A_ROW`] while reads wait, and none later than
//!   [`WRITE_WITHIN`] after it was asked for.
//! - **The dead do not block**: a unit that twice did not answer rests. It is probed with growing
//!   pauses, and all probes together take at most [`PROBE_SHARE`] of the line while any unit lives. Where none
//!   does there is nobody to protect: only the pauses hold. Whoever asks a resting unit is told at once.
//! - **A lease** hands the whole link to a tool (a scan) between two turns.
//!
//! The port is opened with the first request and closed with the last seat, so that a changed
//! configuration finds it free.

mod seat;
mod turns;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use millrace_tags::{Clock, Moment};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_modbus::ExceptionCode;

use super::dial_in::DialIn;
use super::fault::FaultCounts;
use super::link::{Framing, Link, Owed, Peer, Transport};
use super::pace::{FIXED_SILENCE, Pace};
use super::reply::Answer;
use super::request::Request;
use super::serial::SerialSettings;
use super::tap::Tap;
use super::tcp::connect;
use crate::SessionError;
pub(crate) use seat::Seat;
use turns::{Turn, Turns};

/// While reads wait, one of them gets a turn after so many writes.
pub(crate) const WRITES_IN_A_ROW: u32 = 4;

/// A write that did not get its turn by then is not sent any more: whoever asked has given up.
pub(crate) const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// So long the line waits for the rest of a write, where its own silences are shorter.
const WRITE_GOES_ON: Duration = Duration::from_millis(1);

/// What probing all dead units may take of the line.
pub(crate) const PROBE_SHARE: f64 = 0.02;

/// A line whose port, when it was found closed, is opened by this.
type Open =
    Box<dyn Fn() -> BoxFuture<'static, Result<Box<dyn Transport>, SessionError>> + Send + Sync>;

type LineLink = Link<Box<dyn Transport>>;

/// A line; clones are the same line.
#[derive(Clone)]
pub struct Line(Arc<Shared>);

struct Shared {
    name: String,
    pace: Pace,
    open: Open,
    faults: FaultCounts,
    tap: Tap,
    clock: Arc<dyn Clock>,
    turns: Mutex<Turns>,
    /// What units owed when the transport last broke.
    owed: Mutex<Owed>,
    /// Something was asked, or somebody left.
    work: Notify,
}

/// An answer that outlives the link.
#[derive(Debug)]
struct Answered {
    data: Vec<u8>,
    kind: Kind,
    at: Moment,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Data,
    Written,
    Exception(ExceptionCode),
}

/// A request that waits for its turn.
struct Job {
    peer: Peer,
    request: Request,
    /// A write, or the reads around one.
    writing: bool,
    /// Not sent after this.
    until: Option<Instant>,
    done: oneshot::Sender<Result<Answered, SessionError>>,
}

impl Line {
    /// A line over whatever `open` opens.
    pub fn new<F>(name: impl Into<String>, pace: Pace, clock: Arc<dyn Clock>, open: F) -> Self
    where
        F: Fn() -> BoxFuture<'static, Result<Box<dyn Transport>, SessionError>>
            + Send
            + Sync
            + 'static,
    {
        Self(Arc::new(Shared {
            name: name.into(),
            pace,
            open: Box::new(open),
            faults: FaultCounts::default(),
            tap: Tap::new(Arc::clone(&clock)),
            clock,
            turns: Mutex::default(),
            owed: Mutex::default(),
            work: Notify::new(),
        }))
    }

    /// A serial port.
    pub fn serial(
        name: impl Into<String>,
        settings: SerialSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::new(name, settings.pace(), clock, move || {
            Box::pin(std::future::ready(settings.connect()))
        })
    }

    /// A line behind a TCP gateway that passes RTU frames on.
    pub fn over_tcp(address: impl Into<String>, timeout: Duration, clock: Arc<dyn Clock>) -> Self {
        let address = address.into();
        Self::new(address.clone(), Pace::behind_network(), clock, move || {
            let address = address.clone();
            Box::pin(async move {
                let stream = connect(&address, timeout).await?;
                Ok(Box::new(stream) as Box<dyn Transport>)
            })
        })
    }

    /// A line behind a modem that dials in. `name` is whom `dial_in` may know by its source.
    pub fn dialled_in(
        name: impl Into<String>,
        dial_in: DialIn,
        timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let name = name.into();
        Self::new(name.clone(), Pace::behind_network(), clock, move || {
            let (dial_in, name) = (dial_in.clone(), name.clone());
            Box::pin(async move {
                let dialled = dial_in.take(&name, timeout).await?;
                Ok(Box::new(dialled.accept()) as Box<dyn Transport>)
            })
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The time of its bytes.
    pub fn pace(&self) -> &Pace {
        &self.0.pace
    }

    /// What went wrong so far, over all units.
    pub fn faults(&self) -> &FaultCounts {
        &self.0.faults
    }

    /// Where to listen in on all its units.
    pub fn tap(&self) -> &Tap {
        &self.0.tap
    }

    /// A seat for one session with this unit. `need` is the share of the line that its polling takes.
    pub(crate) fn sit(&self, peer: Peer, need: f64) -> Seat {
        let id = self.0.turns().sit(need);
        Seat::new(self.clone(), id, peer)
    }

    /// The whole link, between two turns; everybody else waits until the lease is dropped. `longest` is how long
    /// the others wait at most.
    ///
    /// # Errors
    /// The port cannot be opened.
    pub async fn lease(&self, longest: Duration) -> Result<Lease, SessionError> {
        let (granted, grant) = oneshot::channel();
        self.0.turns().ask_lease(granted, longest);
        self.wake();
        grant.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn submit(&self, seat: u64, job: Job) {
        self.0.turns().submit(seat, job);
        self.wake();
    }

    fn leave(&self, seat: u64) {
        self.0.turns().leave(seat);
        self.0.work.notify_one();
    }

    /// Sees to it that the arbiter runs.
    fn wake(&self) {
        if self.0.turns().start() {
            let shared = Arc::clone(&self.0);
            tokio::spawn(shared.arbitrate());
        }
        self.0.work.notify_one();
    }

    /// The arbiter ended by a mistake in this program.
    fn gone(&self) -> SessionError {
        SessionError::Lost {
            device: self.0.name.clone(),
            source: std::io::ErrorKind::BrokenPipe.into(),
        }
    }
}

/// The link of a line, for one holder at a time.
pub struct Lease {
    link: Option<LineLink>,
    back: Option<oneshot::Sender<LineLink>>,
    until: Instant,
    line: Arc<Shared>,
}

impl Lease {
    /// One exchange with any unit.
    ///
    /// # Errors
    /// As [`Link::exchange`], and [`SessionError::Lost`] once the lease has run out.
    pub async fn exchange(
        &mut self,
        peer: &Peer,
        request: &Request,
    ) -> Result<super::reply::Reply<'_>, SessionError> {
        match &mut self.link {
            Some(link) if Instant::now() < self.until => {
                link.exchange(peer, request, &*self.line.clock).await
            }
            _ => Err(SessionError::Lost {
                device: peer.device.clone(),
                source: std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "the lease of the line has run out",
                ),
            }),
        }
    }

    /// Closes the port until the lease ends, for a tool that opens it with other settings.
    pub fn close_port(&mut self) {
        self.link = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let (Some(link), Some(back)) = (self.link.take(), self.back.take()) {
            // An arbiter that does not wait any more opens the port again.
            let _ = back.send(link);
        }
    }
}

impl Shared {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        // Whole between any two statements that could panic.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The arbiter: runs while anybody has a seat.
    async fn arbitrate(self: Arc<Self>) {
        let _running = Running(&self);
        let mut link: Option<LineLink> = None;
        loop {
            let turn = self.turns().next(Instant::now(), link.as_ref());
            match turn {
                Turn::Exchange { seat, job } => self.serve(seat, job, &mut link).await,
                Turn::Lease { granted, longest } => self.lend(granted, longest, &mut link).await,
                Turn::Wait(None) => self.work.notified().await,
                Turn::Wait(Some(until)) => {
                    tokio::select! {
                        () = self.work.notified() => {}
                        () = sleep_until(until) => {}
                    }
                }
                Turn::Leave => {
                    // The port is free before anybody is told that nobody holds it.
                    drop(link.take());
                    if self.turns().stop() {
                        return;
                    }
                }
            }
        }
    }

    async fn serve(&self, seat: u64, job: Job, link: &mut Option<LineLink>) {
        let mut begun = Instant::now();
        let outcome = match self.opened(link).await {
            Ok(link) => {
                // What was before it is not its fault.
                begun = begun.max(link.usable_at(&self.pace));
                self.exchange(&job, link).await
            }
            Err(error) => Err(error),
        };
        if matches!(outcome, Err(SessionError::Lost { .. }))
            && let Some(lost) = link.take()
        {
            *self.owed() = lost.into_owed();
        }
        let now = Instant::now();
        let (silent_at, usable_at) = match link {
            Some(link) => (link.silent_at(&self.pace), link.usable_at(&self.pace)),
            None => (now, now),
        };
        self.turns()
            .settle(seat, job.peer.unit, begun, usable_at.max(now), &outcome);
        let writing = job.writing;
        // Whoever asked may have gone.
        let _ = job.done.send(outcome);
        // The line has to be silent before the next request anyway. What is asked meanwhile has its say in who is
        // next: a write asks for three things, one after the other.
        let next_at = if writing {
            silent_at.max(now + WRITE_GOES_ON)
        } else {
            silent_at
        };
        wait_until(next_at).await;
    }

    async fn exchange(&self, job: &Job, link: &mut LineLink) -> Result<Answered, SessionError> {
        let reply = link.exchange(&job.peer, &job.request, &*self.clock).await?;
        let (data, kind) = match reply.answer {
            Answer::Data(data) => (data.to_vec(), Kind::Data),
            Answer::Exception(code) => (Vec::new(), Kind::Exception(code)),
            // A link brings nothing else.
            Answer::Written | Answer::Spoilt(_) => (Vec::new(), Kind::Written),
        };
        Ok(Answered {
            data,
            kind,
            at: reply.at,
        })
    }

    async fn opened<'l>(
        &self,
        link: &'l mut Option<LineLink>,
    ) -> Result<&'l mut LineLink, SessionError> {
        let open = match link.take() {
            Some(open) => open,
            None => {
                let stream = (self.open)().await?;
                let link = Link::new(stream, Framing::Rtu(self.pace), self.faults.clone());
                link.tapped(&self.tap)
                    .owing(std::mem::take(&mut *self.owed()))
            }
        };
        Ok(link.insert(open))
    }

    async fn lend(
        self: &Arc<Self>,
        granted: oneshot::Sender<Result<Lease, SessionError>>,
        longest: Duration,
        link: &mut Option<LineLink>,
    ) {
        if let Err(error) = self.opened(link).await {
            let _ = granted.send(Err(error));
            return;
        }
        let (back, returned) = oneshot::channel();
        let until = Instant::now() + longest;
        let lease = Lease {
            link: link.take(),
            back: Some(back),
            until,
            line: Arc::clone(self),
        };
        // A lease that nobody waits for comes back at once.
        drop(granted.send(Ok(lease)));
        *link = tokio::time::timeout_at(until, returned)
            .await
            .ok()
            .and_then(Result::ok);
    }
}

/// Waits for a moment. Timers tick by the millisecond, even for what has just passed, which on a fast line is much of
/// its silence: that is slept where a thread may block.
async fn wait_until(moment: Instant) {
    let left = moment.saturating_duration_since(Instant::now());
    if !left.is_zero() && left <= FIXED_SILENCE {
        // If there is no such thread, the timer below does it.
        let _ = tokio::task::spawn_blocking(move || std::thread::sleep(left)).await;
    }
    if Instant::now() < moment {
        sleep_until(moment).await;
    }
}

/// A mistake in this program must not leave a line that nobody serves.
struct Running<'s>(&'s Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.turns().stopped();
    }
}

#[cfg(test)]
mod tests;
