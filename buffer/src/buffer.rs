//! The handle that everybody holds.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_tags::{
    Clock, Event, EventDetail, LogKind, Quality, Reason, Sample, SourceId, SourceKind, TagId, Value,
};

use crate::catalogue::TagSpec;
use crate::chunk::Shared as Batch;
use crate::core::{CommitError, Core, Request, VerifyError};
use crate::disk::Space;
use crate::ledger::Ledger;
use crate::outbox::{Outbox, Start};
use crate::purge::{Purge, PurgeError, Purged};
use crate::recovery::Recovery;
use crate::replay::{Replay, ReplayError, Replayed};
use crate::settings::{COMMIT_INTERVAL_MIN, EPOCH_BYTES_MAX, EPOCH_BYTES_MIN, OpenError, Settings};
use crate::shared::Shared;
use crate::status::Status;

/// A value that is longer cannot be stored: a chunk would not fit into sled's log any more.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// A message of an event is cut at this length.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// This many uncommitted bytes in memory, 65,000 samples, are committed at once instead of waiting for the
/// interval.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;

/// The buffer. Clones are handles on the same one.
///
/// Nothing here waits for the disk, except [`Buffer::open`], [`Buffer::commit`], [`Buffer::verify`],
/// [`Buffer::outbox`] for an uplink that is new, and [`Buffer::close`].
#[derive(Clone)]
pub struct Buffer(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    settings: Settings,
}

/// The numbers that a source and its tags got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The source's number.
    pub source: SourceId,
    /// The tags' numbers, in the order of the specifications.
    pub tags: Vec<TagId>,
}

/// Tells whether what was appended is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    log: LogKind,
    batch: u64,
}

impl Buffer {
    /// Opens the buffer in `settings.dir`, and makes one where there is none.
    ///
    /// Damage never fails it: see [`Buffer::recovery`] for what was found.
    ///
    /// # Errors
    /// The directory cannot be created, locked or written, or a newer program wrote it.
    pub fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<Buffer, OpenError> {
        let settings = Settings {
            commit_interval: settings.commit_interval.max(COMMIT_INTERVAL_MIN),
            epoch_bytes: settings.epoch_bytes.clamp(EPOCH_BYTES_MIN, EPOCH_BYTES_MAX),
            ..settings
        };
        Self::open_exactly(settings, clock)
    }

    /// [`Buffer::open`] without limits on the settings, so that tests see rotation.
    #[doc(hidden)]
    pub fn open_exactly(settings: Settings, clock: Arc<dyn Clock>) -> Result<Buffer, OpenError> {
        let dir = settings.dir.clone();
        Self::open_on(settings, clock, move || Space::of(&dir))
    }

    /// [`Buffer::open_exactly`] on a file system that has the room that `gauge` says.
    #[doc(hidden)]
    pub fn open_on(
        settings: Settings,
        clock: Arc<dyn Clock>,
        gauge: impl Fn() -> Option<Space> + Send + 'static,
    ) -> Result<Buffer, OpenError> {
        let (mut keeper, shared) = crate::open::open(settings.clone(), clock, Box::new(gauge))?;
        // The void is durable before the first new number is given; where the disk refuses, numbers
        // are given in a stream of their own.
        let _ = keeper.commit();
        keeper.save_quietly();
        let thread = std::thread::Builder::new()
            .name("buffer".into())
            .spawn(move || keeper.run())
            .map_err(|source| OpenError::Thread { source })?;
        Ok(Buffer(Arc::new(Handle {
            shared,
            thread: Mutex::new(Some(thread)),
            settings,
        })))
    }

    /// What opening has found.
    pub fn recovery(&self) -> &Recovery {
        &self.0.shared.recovery
    }

    /// The numbers of a source and its tags: the same for the same name, type and unit, for ever.
    pub fn register(&self, source: &str, kind: SourceKind, tags: &[TagSpec]) -> Registration {
        let mut core = self.0.shared.lock();
        let source = core.registry.source(source, kind);
        let tags = tags.iter().map(|t| core.registry.tag(source, t)).collect();
        Registration { source, tags }
    }

    /// Takes samples of one source over and gives them their numbers. Never waits for the disk.
    ///
    /// The samples are put into the order of the line: by gateway time, then by tag. Where the store has
    /// no room and [`Settings::when_full`] says so, or memory is full because the disk refuses, they are
    /// counted as dropped (`newest`) and announced.
    ///
    /// Samples of a source or tag that was never registered are a mistake of the caller and are left
    /// out.
    pub fn append(&self, source: SourceId, samples: Vec<Sample>) -> Ticket {
        self.append_batch(source, samples, false)
    }

    /// [`Buffer::append`] for a source that takes nothing more from its device while
    /// [`Buffer::has_room`] says no: with [`crate::WhenFull::Block`], what it had already is not refused.
    pub fn append_held(&self, source: SourceId, samples: Vec<Sample>) -> Ticket {
        self.append_batch(source, samples, true)
    }

    fn append_batch(&self, source: SourceId, mut samples: Vec<Sample>, held: bool) -> Ticket {
        let bytes = prepare(&mut samples);
        let shared = &self.0.shared;
        let timebase = shared.clock.timebase();
        let mut core = shared.lock();
        let known = core.registry.tags().len();
        if samples.iter().any(|s| s.tag.0 as usize >= known) {
            samples.retain(|s| (s.tag.0 as usize) < known);
            tracing::error!(
                source = source.0,
                "samples of a tag that was never registered"
            );
        }
        if samples.is_empty() || core.registry.name(source).is_none() {
            return Ticket::none(LogKind::Data);
        }
        let count = samples.len() as u64;
        let batch = Batch::Samples(Arc::new(samples));
        let news = core.learn(timebase);
        let taken = core.data.append(source, batch, bytes, timebase, held);
        self.appended(core, LogKind::Data, source, taken.then_some(count), news)
    }

    /// Takes an event of one source over. Never waits for the disk.
    pub fn append_event(&self, source: SourceId, mut event: Event) -> Ticket {
        if let EventDetail::Comms { message } | EventDetail::Alarm { message, .. } =
            &mut event.detail
        {
            cut(message);
        }
        let bytes = size_of::<Event>() + MESSAGE_BYTES_MAX / 64;
        let shared = &self.0.shared;
        let timebase = shared.clock.timebase();
        let mut core = shared.lock();
        if core.registry.name(source).is_none() {
            return Ticket::none(LogKind::Alarm);
        }
        let batch = Batch::Events(Arc::new(vec![event]));
        let news = core.learn(timebase);
        let taken = core.alarm.append(source, batch, bytes, timebase, false);
        self.appended(core, LogKind::Alarm, source, taken.then_some(1), news)
    }

    /// Counts what was appended and wakes whoever waits for it; `signal`: the buffer's thread too.
    fn appended(
        &self,
        mut guard: std::sync::MutexGuard<'_, Core>,
        kind: LogKind,
        source: SourceId,
        taken: Option<u64>,
        mut signal: bool,
    ) -> Ticket {
        let core = &mut *guard;
        if let Some(count) = taken {
            for uplink in core.uplinks.values_mut() {
                uplink.reader_mut(kind).counts(source).queued += count;
            }
        }
        let log = core.log_mut(kind);
        let batch = log.newest();
        let numbers = *log.numbers(source);
        let deferred = log.only_refused();
        let ahead = !log.volatile && !deferred && numbers.last > numbers.limit;
        let large = log.open_bytes >= COMMIT_BYTES;
        if core.open_since.is_none() && !deferred {
            let now = Instant::now();
            core.open_since = Some(now);
            signal |= core.wakes_for.is_some_and(|from| now < from);
        }
        if (ahead || large) && !core.commit_now {
            core.commit_now = true;
            signal = true;
        }
        let wakes = core.wakes();
        drop(guard);
        if signal {
            self.0.shared.work.notify_one();
        }
        for wake in wakes {
            wake();
        }
        match taken {
            Some(_) => Ticket { log: kind, batch },
            // There is nothing to wait for.
            None => Ticket::none(kind),
        }
    }

    /// Whether what the ticket stands for is durable.
    pub fn durable(&self, ticket: Ticket) -> bool {
        self.0.shared.lock().log(ticket.log).durable >= ticket.batch
    }

    /// Whether sources that can wait may go on. Always so unless [`Settings::when_full`] is
    /// [`crate::WhenFull::Block`]; then not while the data log has no room or the disk refuses.
    pub fn has_room(&self) -> bool {
        let core = self.0.shared.lock();
        core.has_room(self.0.settings.when_full)
    }

    /// Sends again what `replay` names, to one uplink or to all: settled records that are still on the disk
    /// go back to the queue under their old numbers.
    ///
    /// # Errors
    /// There is no such uplink, or the store cannot be written.
    pub fn replay(&self, uplink: Option<&str>, replay: Replay) -> Result<Replayed, ReplayError> {
        let uplink = uplink.map(Arc::from);
        self.ask(|reply| Request::Replay(uplink, replay, reply))
            .unwrap_or(Err(ReplayError::Closed))
    }

    /// Throws stored records away, whole epochs at a time. What an uplink has not settled of them is counted
    /// as `purged` and announced.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn purge(&self, purge: Purge) -> Result<Purged, PurgeError> {
        self.ask(|reply| Request::Purge(purge, reply))
            .unwrap_or(Err(PurgeError::Closed))
    }

    /// Calls `hook` with what [`Buffer::has_room`] says whenever that changes, on the buffer's thread: it
    /// must be quick.
    pub fn on_room(&self, hook: Box<dyn Fn(bool) + Send + Sync>) {
        self.0.shared.add_room_hook(hook);
    }

    /// Calls `hook` after every commit that succeeded, on the buffer's thread: it must be quick.
    pub fn on_commit(&self, hook: Box<dyn Fn() + Send + Sync>) {
        self.0.shared.add_hook(hook);
    }

    /// Commits now and waits for it.
    ///
    /// # Errors
    /// The store cannot be written, or the buffer is closed.
    pub fn commit(&self) -> Result<(), CommitError> {
        self.ask(Request::Commit)
            .unwrap_or(Err(CommitError::Closed))
    }

    /// The outbox of an uplink. One that is new to the buffer begins at `start`.
    pub fn outbox(&self, uplink: &str, start: Start) -> Outbox {
        let name: Arc<str> = uplink.into();
        if !self.0.shared.lock().uplinks.contains_key(&name) {
            let request = |reply| Request::NewUplink(name.clone(), start, reply);
            if self.ask(request).is_none() {
                // Closed: the outbox will be empty.
                let mut core = self.0.shared.lock();
                core.add_uplink(name.clone(), start == Start::Now);
            }
        }
        let mut core = self.0.shared.lock();
        let core = &mut *core;
        let generation = core.uplinks.get_mut(&name).map_or(0, |uplink| {
            uplink.generation += 1;
            uplink.wake = None;
            uplink.routes = Default::default();
            uplink.restart(&core.alarm, &core.data);
            uplink.generation
        });
        Outbox {
            shared: self.0.shared.clone(),
            uplink: name,
            generation,
        }
    }

    /// Whether the buffer keeps data for any uplink.
    pub fn has_uplinks(&self) -> bool {
        !self.0.shared.lock().uplinks.is_empty()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Forgets all uplinks but these: what only they had not settled is not kept for them any more.
    pub fn retain_uplinks(&self, names: &[&str]) {
        let mut core = self.0.shared.lock();
        core.uplinks.retain(|name, _| names.contains(&&**name));
        core.requests.push_back(Request::Save);
        self.0.shared.work.notify_one();
    }

    /// The balance, from running counters.
    pub fn ledger(&self) -> Ledger {
        self.0.shared.lock().ledger()
    }

    /// The balance with `queued` counted again from the chunks on the disk and what is open.
    ///
    /// # Errors
    /// A file of the store cannot be read, or the buffer is closed.
    pub fn verify(&self) -> Result<Ledger, VerifyError> {
        self.ask(Request::Verify)
            .unwrap_or(Err(VerifyError::Closed))
    }

    /// Merges at once what an outage would merge in small steps; tells how many epochs went into others.
    #[doc(hidden)]
    pub fn rechunk(&self) -> u64 {
        self.rechunk_timed().0
    }

    /// [`Buffer::rechunk`], and how long each of the small steps took.
    #[doc(hidden)]
    pub fn rechunk_timed(&self) -> (u64, Vec<Duration>) {
        self.ask(Request::Rechunk).unwrap_or_default()
    }

    /// How the buffer is doing.
    pub fn status(&self) -> Status {
        let shared = &self.0.shared;
        let now = shared.clock.now();
        Status::of(&shared.lock(), &self.0.settings, now)
    }

    /// Commits everything, saves what is settled, and leaves the mark of a clean stop. Later calls do
    /// nothing; what is appended later is lost.
    ///
    /// # Errors
    /// The store cannot be written: the next start will treat it as a crash.
    pub fn close(&self) -> Result<(), CommitError> {
        let result = self.ask(Request::Close).unwrap_or(Ok(()));
        self.0.join();
        result
    }

    /// Ends the buffer as a crash would: nothing is committed or saved.
    #[doc(hidden)]
    pub fn crash(&self) {
        self.0.shared.lock().closed = true;
        self.0.request(Request::Crash);
        self.0.join();
    }

    /// Hands a request to the thread and waits for the answer; `None` where the thread is gone.
    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = channel();
        if !self.0.request(request(reply)) {
            return None;
        }
        answer.recv().ok()
    }
}

impl Handle {
    fn request(&self, request: Request) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return false;
        }
        self.shared.lock().requests.push_back(request);
        self.shared.work.notify_one();
        true
    }

    fn join(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Its panic, if any, was printed; there is nothing left to do here.
            let _ = thread.join();
        }
        // Whoever still waits for an answer learns that none will come.
        self.shared.lock().requests.clear();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let (reply, answer) = channel();
        if self.request(Request::Close(reply)) {
            let _ = answer.recv();
        }
        self.join();
    }
}

impl Ticket {
    /// The ticket of nothing: durable from the start.
    fn none(log: LogKind) -> Self {
        Self { log, batch: 0 }
    }
}

/// Puts samples in the order of the line and checks their sizes; returns what they take in memory.
fn prepare(samples: &mut [Sample]) -> usize {
    let mut bytes = std::mem::size_of_val(samples);
    for sample in samples.iter_mut() {
        let len = match &sample.value {
            Some(Value::Text(text) | Value::Json(text)) => text.len(),
            Some(Value::Bytes(bytes)) => bytes.len(),
            _ => continue,
        };
        if len > VALUE_BYTES_MAX {
            sample.value = None;
            sample.quality = Quality::Bad(Reason::OutOfRange);
        } else {
            bytes += len;
        }
    }
    if !samples.is_sorted_by_key(|s| (s.gateway_time, s.tag)) {
        samples.sort_by_key(|s| (s.gateway_time, s.tag));
    }
    bytes
}

fn cut(message: &mut String) {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
}
