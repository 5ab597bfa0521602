//! The buffer's own thread: commits, reads ahead, removes, saves. All file access happens here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use millrace_tags::LogKind;

use crate::commit::Committer;
use crate::core::{CommitError, Request, StoreFailure};
use crate::disk::{Gauge, Space};
use crate::epoch::StoreError;
use crate::mark::Mark;
use crate::outbox::Start;
use crate::rechunk::Rechunk;
use crate::settings::Settings;
use crate::shared::{Shared, guarded};
use crate::state::StateFile;
use crate::store::{LogStore, Names};
use crate::uplink::Directory;

pub(crate) const LOGS: [LogKind; 2] = [LogKind::Alarm, LogKind::Data];

/// How often the settled ranges are saved: what a crash makes us send again.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// After a failed commit, the next attempt waits this long at least.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// While there is no room, numbers that are refused are written down this often: a commit takes room, and
/// a crash in between only makes the count smaller than it was.
const REFUSED_INTERVAL: Duration = Duration::from_secs(600);

pub(crate) struct Keeper {
    /// No other process opens the buffer while this one works on it.
    pub(crate) _lock: std::fs::File,
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Settings,
    pub(crate) alarm: LogStore,
    pub(crate) data: LogStore,
    pub(crate) state_file: StateFile,
    /// `None` where it could not be written when the buffer opened.
    pub(crate) mark: Option<Mark>,
    pub(crate) committer: Committer,
    pub(crate) saved_at: Instant,
    /// No automatic commit before this, because the last one failed.
    pub(crate) retry_at: Option<Instant>,
    /// Asks the file system for its room.
    pub(crate) gauge: Gauge,
    /// What it said last.
    pub(crate) space: Option<Space>,
    /// What is in the directory beside epochs, for the alarm and the data log.
    pub(crate) bytes_aside: [u64; 2],
    /// When refused numbers were last written down although there is no room.
    pub(crate) refused_written_at: Instant,
    /// What sources were last told.
    pub(crate) told_room: bool,
    pub(crate) rechunk: Rechunk,
}

/// What a commit does with a log that has nothing but numbers that were refused for lack of room.
#[derive(Clone, Copy)]
enum Refused {
    Wait,
    IfItFits,
    /// A clean stop says where every line stands: what it left out would be given again.
    Now,
}

/// What the thread does next.
enum Task {
    Serve(Request),
    Commit,
    ReadAhead,
    Save,
    Rechunk,
}

impl Keeper {
    pub(crate) fn store(&mut self, kind: LogKind) -> &mut LogStore {
        match kind {
            LogKind::Alarm => &mut self.alarm,
            LogKind::Data => &mut self.data,
        }
    }

    /// Works until the buffer is closed. A panic in between is a failure like any other: were the thread
    /// to end, everything would go on but the commits.
    pub(crate) fn run(mut self) {
        loop {
            let task = self.wait();
            let work = AssertUnwindSafe(|| match task {
                Task::Serve(Request::Close(reply)) => {
                    let result = catch_unwind(AssertUnwindSafe(|| self.close()));
                    // The caller may have gone; the buffer is closed all the same.
                    let _ = reply.send(result.unwrap_or(Err(CommitError::Panicked)));
                    true
                }
                Task::Serve(Request::Crash) => true,
                Task::Serve(request) => {
                    self.serve(request);
                    false
                }
                Task::Commit => {
                    // The failure is kept for `status`; the next attempt follows by itself.
                    let _ = self.commit_what(Refused::Wait);
                    false
                }
                Task::ReadAhead => {
                    self.read_ahead();
                    false
                }
                Task::Save => {
                    self.save_quietly();
                    false
                }
                Task::Rechunk => {
                    self.rechunk_quietly();
                    false
                }
            });
            match catch_unwind(work) {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => self.recover(),
            }
        }
    }

    /// Goes on after a mistake of this program: nothing that was begun is trusted, new numbers are given
    /// in a stream of their own, and the next attempt waits as after any failure.
    fn recover(&mut self) {
        tracing::error!("the buffer's thread panicked; it goes on with new epochs");
        for kind in LOGS {
            let _ = catch_unwind(AssertUnwindSafe(|| self.seal(kind)));
        }
        let mut core = self.shared.lock();
        for kind in LOGS {
            core.log_mut(kind).broke_down();
            core.release_delivered(kind);
        }
        for uplink in core.uplinks.values_mut() {
            // The next offer asks again.
            uplink.alarm.wants_chunk = false;
            uplink.data.wants_chunk = false;
        }
        core.failure = Some(CommitError::Panicked);
        core.open_since = core.open_since.or(Some(Instant::now()));
        drop(core);
        self.retry_at = Some(Instant::now() + RETRY_INTERVAL.max(self.settings.commit_interval));
        self.saved_at = Instant::now();
    }

    fn wait(&self) -> Task {
        let shared = self.shared.clone();
        let mut core = shared.lock();
        loop {
            if let Some(request) = core.requests.pop_front() {
                return Task::Serve(request);
            }
            let now = Instant::now();
            let commit_at = core.open_since.map(|since| {
                let at = match core.commit_now {
                    true => now,
                    false => since + self.settings.commit_interval,
                };
                at.max(self.retry_at.unwrap_or(at))
            });
            if commit_at.is_some_and(|at| at <= now) {
                return Task::Commit;
            }
            let readers = core.uplinks.values().flat_map(|u| [&u.alarm, &u.data]);
            let load_at = readers.filter_map(|reader| reader.load_at(now)).min();
            if load_at.is_some_and(|at| at <= now) {
                return Task::ReadAhead;
            }
            let save_at = self.saved_at + SAVE_INTERVAL;
            if save_at <= now {
                return Task::Save;
            }
            let rechunk_at = self.rechunk_at();
            if rechunk_at <= now {
                return Task::Rechunk;
            }
            let soonest = [Some(save_at), Some(rechunk_at), commit_at, load_at];
            let until = soonest.into_iter().flatten().min().unwrap_or(save_at);
            let timeout = until.saturating_duration_since(now);
            core.wakes_for = until.checked_sub(self.settings.commit_interval);
            core = shared
                .work
                .wait_timeout(core, timeout)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
            core.wakes_for = None;
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Commit(reply) => drop(reply.send(self.commit())),
            Request::Verify(reply) => drop(reply.send(self.verify())),
            Request::Rechunk(reply) => drop(reply.send(self.rechunk_all())),
            Request::NewUplink(name, start, reply) => self.new_uplink(&name, start, &reply),
            Request::Save => self.save_quietly(),
            Request::ClockKnown => {
                let boots = self.shared.lock().boots.clone();
                for kind in LOGS {
                    self.store(kind).date(&boots);
                }
                self.save_quietly();
            }
            Request::Purge(purge, reply) => drop(reply.send(self.purge(purge))),
            Request::Replay(uplink, replay, reply) => {
                drop(reply.send(self.replay(uplink, &replay)));
            }
            Request::Close(_) | Request::Crash => {}
        }
    }

    /// Commits both logs, the alarm log first.
    pub(crate) fn commit(&mut self) -> Result<(), CommitError> {
        self.commit_what(Refused::IfItFits)
    }

    /// Commits both logs.
    fn commit_what(&mut self, refused: Refused) -> Result<(), CommitError> {
        {
            let mut core = self.shared.lock();
            core.open_since = None;
            core.commit_now = false;
        }
        let mut result = Ok(());
        for kind in LOGS {
            if let Err(error) = self.commit_log(kind, refused) {
                result = result.and(Err(error));
            }
        }
        let mut resumed = false;
        let wakes = {
            let mut core = self.shared.lock();
            match &result {
                Ok(()) => {
                    resumed = core.failure.take().is_some();
                    core.last_commit = Some(self.shared.clock.now());
                    self.retry_at = None;
                }
                Err(error) => {
                    if core.failure.is_none() {
                        let error = error as &dyn std::error::Error;
                        tracing::error!(error, "the buffer cannot write, it goes on in memory");
                    }
                    core.failure = Some(error.clone());
                    core.open_since = core.open_since.or(Some(Instant::now()));
                    self.retry_at =
                        Some(Instant::now() + RETRY_INTERVAL.max(self.settings.commit_interval));
                }
            }
            core.wakes()
        };
        if resumed {
            tracing::info!("the buffer writes again");
            // What was delivered past the disk meanwhile is counted in the state only.
            self.save_state();
        }
        if result.is_ok() {
            self.shared.call_hooks();
        }
        self.tell_room();
        for wake in wakes {
            guarded(&*wake);
        }
        result
    }

    /// Tells sources that can wait when they have to, and when no more.
    pub(crate) fn tell_room(&mut self) {
        let room = self.shared.lock().has_room(self.settings.when_full);
        if std::mem::replace(&mut self.told_room, room) != room {
            self.shared.call_room_hooks(room);
        }
    }

    fn commit_log(&mut self, kind: LogKind, refused: Refused) -> Result<(), CommitError> {
        let write_refused = match refused {
            Refused::Wait => false,
            Refused::IfItFits => self.log_bytes(kind) < self.settings.log_bytes_max(kind),
            Refused::Now => true,
        };
        let (snapshot, names, streams, next_number) = {
            let mut core = self.shared.lock();
            let log = core.log_mut(kind);
            if log.open().next().is_none() || (log.only_refused() && !write_refused) {
                return Ok(());
            }
            let snapshot = log.snapshot();
            let streams = log.streams.clone();
            let (stream, next) = (streams[log.current as usize], log.last_chunk + 1);
            let names = Names {
                sources: core.registry.sources().to_vec(),
                tags: core.registry.tags().clone(),
                stream,
                now: self.shared.clock.now(),
            };
            (snapshot, names, streams, next)
        };
        let now = self.shared.clock.now();
        let (chunks, chunk_of) = self
            .committer
            .pack(kind, &snapshot, &streams, next_number, now);
        for &(source, last, limit) in snapshot.unsaid.iter().flatten() {
            // The epoch's catalogue says it, because not every line is in the chunks.
            self.store(kind)
                .set_position(names.stream, source, last, limit);
        }
        let mut written = self.store(kind).write(&names, &chunks);
        if let Err(error) = &written {
            let full = error.is_full();
            written = self.write_again(kind, &names, &chunks, full);
        }
        if let Err(source) = written {
            let traces = self.store(kind).discard(next_number).is_err();
            let mut core = self.shared.lock();
            core.log_mut(kind).failed(&snapshot, traces);
            core.release_delivered(kind);
            return Err(CommitError::Store {
                log: kind,
                source: Arc::new(StoreFailure(source)),
            });
        }
        let directories: Vec<Directory> = chunks.into_iter().map(|c| c.directory).collect();
        {
            let mut core = self.shared.lock();
            core.committed(kind, &snapshot, &chunk_of, &directories);
            for (line, limit) in &snapshot.limits {
                let log = core.log(kind);
                if line.stream == log.current {
                    let last = snapshot.batches.iter().rev().find(|b| b.line == *line);
                    let last = last.map_or(*limit, |b| b.last);
                    self_store(&mut self.alarm, &mut self.data, kind).set_position(
                        names.stream,
                        line.source,
                        last,
                        *limit,
                    );
                }
            }
        }
        self.set_mark();
        self.rotate(kind);
        self.retain(kind);
        self.publish_figures(kind);
        Ok(())
    }

    /// A second attempt after a failure: with a new epoch, and with more room where the disk is full.
    fn write_again(
        &mut self,
        kind: LogKind,
        names: &Names,
        chunks: &[crate::commit::Packed],
        full: bool,
    ) -> Result<(), StoreError> {
        self.rechunk_abandon();
        if let Err(error) = self.store(kind).seal() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the failed epoch cannot be sealed");
        }
        if full {
            self.free_disk();
        }
        let result = self.store(kind).write(names, chunks);
        if result.is_err() {
            // The next attempt needs a new epoch in any case.
            let _ = self.store(kind).seal();
        }
        result
    }

    pub(crate) fn set_mark(&self) {
        if let Some(mark) = &self.mark {
            let core = self.shared.lock();
            let last = [core.alarm.last_chunk, core.data.last_chunk];
            drop(core);
            mark.set(last);
        }
    }

    fn rotate(&mut self, kind: LogKind) {
        let limit = self.epoch_bytes(kind);
        let (now, age_max) = (self.shared.clock.now(), self.epoch_age_max());
        let due = self
            .store(kind)
            .active()
            .is_some_and(|(bytes, since)| bytes >= limit || now.since(since) >= age_max);
        if due {
            self.seal(kind);
        }
    }

    pub(crate) fn seal(&mut self, kind: LogKind) {
        let sealed = self.store(kind).seal();
        let boots = self.shared.lock().boots.clone();
        self.store(kind).date(&boots);
        match sealed {
            Ok(missing) => {
                for number in missing {
                    self.lose(kind, number, None, None);
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, log = kind.name(), "an epoch cannot be sealed");
            }
        }
    }

    pub(crate) fn publish_figures(&mut self, kind: LogKind) {
        let now = self.shared.clock.now();
        let aside = self.aside(kind);
        let store = self.store(kind);
        store.growth.note(now, store.bytes());
        let mut figures = store.figures();
        figures.bytes += aside;
        let (space, reserve) = (self.space, self.reserve());
        // One epoch stays free for the rotation.
        let cap = self.settings.log_bytes_max(kind) - self.epoch_bytes(kind);
        let waiting = figures.bytes.saturating_sub(figures.kept);
        let disk = space.map_or(u64::MAX, |s| s.free.saturating_sub(reserve));
        figures.room = cap
            .saturating_sub(waiting)
            .min(disk.saturating_add(figures.kept));
        let mut core = self.shared.lock();
        *core.figures(kind) = figures;
        (core.space, core.reserve) = (space, reserve);
    }

    fn new_uplink(&mut self, name: &Arc<str>, start: Start, reply: &Sender<()>) {
        let at_start = start == Start::Now;
        let mut core = self.shared.lock();
        if !core.uplinks.contains_key(name) {
            core.add_uplink(name.clone(), at_start);
        }
        drop(core);
        self.save_quietly();
        // The caller may have given up.
        let _ = reply.send(());
    }

    /// Saves what is settled and owed.
    pub(crate) fn save(&mut self) -> Result<(), StoreError> {
        let state = {
            let mut core = self.shared.lock();
            core.uplinks.values_mut().for_each(|u| u.owed.saving());
            core.state()
        };
        self.saved_at = Instant::now();
        self.state_file.save(state)?;
        let mut core = self.shared.lock();
        core.uplinks.values_mut().for_each(|u| u.owed.saved());
        Ok(())
    }

    fn save_state(&mut self) {
        if let Err(error) = self.save() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "the state cannot be saved; a crash now would send again"
            );
        }
    }

    pub(crate) fn save_quietly(&mut self) {
        self.shared.lock().learn(self.shared.clock.timebase());
        self.save_state();
        self.measure_aside();
        for kind in LOGS {
            self.rotate(kind);
            self.retain(kind);
            self.publish_figures(kind);
        }
        self.tell_room();
        if self.refused_written_at.elapsed() >= REFUSED_INTERVAL {
            self.refused_written_at = Instant::now();
            // The failure is kept for `status`.
            let _ = self.commit();
        }
    }

    /// Commits everything, saves the state and leaves the clean mark.
    fn close(&mut self) -> Result<(), CommitError> {
        self.rechunk_abandon();
        let result = self.commit_what(Refused::Now);
        for kind in LOGS {
            self.seal(kind);
        }
        let failed = |source| CommitError::Store {
            log: LogKind::Data,
            source: Arc::new(StoreFailure(source)),
        };
        self.save().map_err(failed)?;
        let mut core = self.shared.lock();
        core.closed = true;
        let (alarm, data) = (core.alarm.last_chunk, core.data.last_chunk);
        drop(core);
        result?;
        crate::recovery::leave_clean_mark(&self.settings.dir, alarm, data).map_err(failed)
    }
}

/// The store of a log, while other fields of the keeper are in use.
pub(crate) fn self_store<'a>(
    alarm: &'a mut LogStore,
    data: &'a mut LogStore,
    kind: LogKind,
) -> &'a mut LogStore {
    match kind {
        LogKind::Alarm => alarm,
        LogKind::Data => data,
    }
}
