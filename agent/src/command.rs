//! Commands from the cloud: who may ask what, at most once, always answered.
//!
//! Authority comes from local files only (`[local] commands`, `command_key_file`). A command's id is written to the
//! journal before it runs, so that it runs at most once over crashes; one that was interrupted is answered
//! `failed: interrupted`. An answer is told until the core has acknowledged it, over restarts, too. Every command
//! leaves a line in the audit.

mod admission;
mod journal;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_tags::{Clock, Command, Reply, ReplyStatus, ReplyTo};
use millrace_uplink::Garbled;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

pub(crate) use admission::Admission;
use journal::Claim;
pub(crate) use journal::Journal;

/// Commands that may wait: a core that asks faster than this gets `rejected`.
const COMMANDS_WAITING_MAX: usize = 64;

/// A command without `expires` is good for this long after its receipt.
const EXPIRES_AFTER_MS: i64 = 60_000;

/// The session's end: takes commands in, gives replies out, never waits.
pub(crate) struct Commands {
    queue: mpsc::Sender<Work>,
    replies: Arc<Replies>,
    admission: Admission,
    clock: Arc<dyn Clock>,
    /// Part of the ids that count on one connection only.
    connection: u64,
    /// Commands of this connection that came without an id.
    nameless: u64,
}

/// What the session hands to the task.
enum Work {
    Run(Box<Command>),
    /// The core has this answer.
    Told(String),
}

/// What goes to the core.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    /// The command has begun.
    Begun(ReplyTo),
    /// It ended.
    Reply(Reply, ReplyTo),
}

impl Said {
    fn is_fleeting(&self) -> bool {
        let (Said::Begun(to) | Said::Reply(_, to)) = self;
        to.fleeting
    }
}

#[derive(Default)]
struct Replies {
    waiting: Mutex<VecDeque<Said>>,
    wake: Mutex<Option<Arc<Notify>>>,
}

impl Replies {
    fn push(&self, said: Said) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= COMMANDS_WAITING_MAX
            && let Some(Said::Reply(oldest, _)) = waiting.pop_front()
        {
            tracing::warn!(id = %oldest.id, "too many replies are waiting; the oldest is given up");
        }
        waiting.push_back(said);
        drop(waiting);
        if let Some(wake) = self
            .wake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
        {
            wake.notify_one();
        }
    }
}

impl Commands {
    /// The end for the session of an uplink and the end for the task that runs its commands.
    pub(crate) fn channel<R: RunCommand>(
        uplink: &str,
        admission: Admission,
        journal: Arc<Journal>,
        clock: Arc<dyn Clock>,
        run: R,
    ) -> (Self, CommandTask<R>) {
        let (queue, incoming) = mpsc::channel(COMMANDS_WAITING_MAX);
        let replies = Arc::new(Replies::default());
        let task = CommandTask {
            uplink: uplink.to_owned(),
            incoming,
            replies: replies.clone(),
            admission: admission.clone(),
            journal,
            clock: clock.clone(),
            run,
        };
        let commands = Self {
            queue,
            replies,
            admission,
            clock,
            connection: 0,
            nameless: 0,
        };
        (commands, task)
    }

    /// Tells whom to wake when a reply is there.
    pub(crate) fn wake(&self, ready: Arc<Notify>) {
        *self
            .replies
            .wake
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(ready);
    }

    /// A new connection: what had a meaning on the one before has none any more.
    pub(crate) fn connected(&mut self) {
        self.connection = fastrand::u64(..);
        self.nameless = 0;
        let mut waiting = self
            .replies
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|said| !said.is_fleeting());
    }

    /// Takes what came in on a command topic.
    pub(crate) fn take(&mut self, command: Result<Command, Garbled>) {
        let mut command = match command {
            Ok(command) => command,
            Err(Garbled { error, reply_to }) => {
                let error = crate::device::chain(&error);
                tracing::warn!(target: "audit", error, "a command was not understood");
                // Without an address there is nobody to answer.
                if let Some(to) = reply_to {
                    let reply = rejected(&to.id, &error);
                    self.replies.push(Said::Reply(reply, *to));
                }
                return;
            }
        };
        self.name(&mut command);
        // From now on, not from when its turn comes.
        command.expires = command
            .expires
            .or_else(|| Some(unix_ms(self.clock.as_ref())?.saturating_add(EXPIRES_AFTER_MS)));
        let refused = match self.queue.try_send(Work::Run(Box::new(command))) {
            Ok(()) => return,
            Err(refused) => refused.into_inner(),
        };
        if let Work::Run(command) = refused {
            let reply = rejected(
                &command.id,
                "too many commands are waiting; ask again later",
            );
            self.replies.push(Said::Reply(reply, command.reply_to));
        }
    }

    /// Gives a command an id that no other connection's has, where its own means nothing on another one.
    pub(crate) fn name(&mut self, command: &mut Command) {
        if command.fleeting {
            self.nameless += 1;
            let id = match command.id.as_str() {
                "" => self.nameless.to_string(),
                id => id.to_owned(),
            };
            command.id = format!("{:016x}:{id}", self.connection);
        }
    }

    /// Whether a command that the session itself runs brings what local files want of each, in time.
    ///
    /// # Errors
    /// The answer that it gets else.
    pub(crate) fn admit(&self, command: &Command) -> Result<(), Box<Reply>> {
        let now = unix_ms(self.clock.as_ref());
        if let Err(why) = self.admission.prove(command, now) {
            return Err(Box::new(rejected(&command.id, &why)));
        }
        match (command.expires, now) {
            (Some(expires), Some(now)) if now > expires => Err(Box::new(expired(&command.id))),
            _ => Ok(()),
        }
    }

    /// The answer to a command that the session itself has run.
    pub(crate) fn answer(&self, reply: Reply, to: ReplyTo) {
        self.replies.push(Said::Reply(reply, to));
    }

    /// A reply that was on its way when the connection broke: it is due first.
    pub(crate) fn say_again(&self, said: Said) {
        if said.is_fleeting() {
            return;
        }
        self.replies
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_front(said);
    }

    /// The answer to this command cannot be sent: that is the answer then, once.
    pub(crate) fn fail(&self, said: Said, error: &str) {
        if let Said::Reply(answer, to) = said
            && answer.result.is_some()
        {
            let answer = reply(&answer.id, ReplyStatus::Failed, Err(error.to_owned()));
            self.replies.push(Said::Reply(answer, to));
        }
    }

    /// The core has the answer, or nobody waits for it.
    pub(crate) fn told(&self, said: &Said) {
        if let Said::Reply(reply, _) = said {
            // Where the queue is full it is told again after a restart.
            let _ = self.queue.try_send(Work::Told(reply.id.clone()));
        }
    }

    /// What is to be said next.
    pub(crate) fn next(&self) -> Option<Said> {
        self.replies
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

/// Why an operation brought nothing: a sentence for the core.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Undone {
    /// It was refused, and nothing was changed: asking again brings the same answer.
    Rejected(String),
    /// It was begun, or could not be; what became of it is in the sentence.
    Failed(String),
}

impl From<String> for Undone {
    fn from(error: String) -> Self {
        Undone::Failed(error)
    }
}

/// What came of an operation that was taken.
#[derive(Debug, PartialEq)]
pub(crate) enum Ran {
    /// It is over, and brought this.
    Done(serde_json::Value),
    /// It goes on, over a new configuration; whoever ends it writes the answer into the journal.
    GoesOn,
}

/// What a command does; the agent's side.
pub(crate) trait RunCommand: Send + 'static {
    /// Runs an operation that is allowed.
    fn run(&self, command: &Command) -> impl Future<Output = Result<Ran, Undone>> + Send;

    /// Whether this version has the operation.
    fn knows(&self, op: &str) -> bool;
}

/// Runs commands one after the other.
pub(crate) struct CommandTask<R> {
    /// Whose commands: others are not answered here.
    uplink: String,
    incoming: mpsc::Receiver<Work>,
    replies: Arc<Replies>,
    admission: Admission,
    journal: Arc<Journal>,
    clock: Arc<dyn Clock>,
    run: R,
}

impl<R: RunCommand> CommandTask<R> {
    /// Runs until the session's end is gone, or `shutdown`: the command that runs then is interrupted.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        self.journal.unqueue(&self.uplink);
        let mut news = self.journal.news();
        let answering = async {
            loop {
                for (reply, to) in self.journal.untold(&self.uplink) {
                    self.replies.push(Said::Reply(reply, to));
                }
                tokio::select! {
                    work = self.incoming.recv() => match work {
                        Some(Work::Run(command)) => self.take(*command).await,
                        Some(Work::Told(id)) => self.journal.told(&self.uplink, &id).await,
                        None => return,
                    },
                    changed = news.changed() => if changed.is_err() { return },
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = answering => {}
        }
    }

    async fn take(&self, command: Command) {
        let Some(reply) = self.answer(&command).await else {
            let Command { id, op, .. } = &command;
            let uplink = self.uplink.as_str();
            tracing::info!(target: "audit", uplink, id, op, "command taken; its outcome follows");
            return;
        };
        self.audit(&command, &reply);
        self.replies.push(Said::Reply(reply, command.reply_to));
    }

    fn audit(&self, command: &Command, reply: &Reply) {
        let Command { id, op, .. } = command;
        let uplink = self.uplink.as_str();
        let status = reply.status.as_str();
        match &reply.error {
            Some(error) => {
                tracing::warn!(target: "audit", uplink, id, op, status, error, "command")
            }
            None => tracing::info!(target: "audit", uplink, id, op, status, "command"),
        }
    }

    /// The answer; `None` where it comes later.
    async fn answer(&self, command: &Command) -> Option<Reply> {
        let id = command.id.as_str();
        // Before anything is told of earlier commands.
        let now = unix_ms(self.clock.as_ref());
        if let Err(why) = self.admission.prove(command, now) {
            return Some(rejected(id, &why));
        }
        self.journal.forget_old(now);
        if let Some(earlier) = self.journal.find(&self.uplink, id) {
            return Some(earlier);
        }
        if let Err(refusal) = self.admit(command) {
            return Some(refusal);
        }
        match self
            .journal
            .begin(&self.uplink, id, &command.reply_to, now)
            .await
        {
            Ok(Claim::Begun) => {}
            Ok(Claim::Taken(earlier)) => return Some(earlier),
            Err(error) => return Some(rejected(id, &crate::device::chain(&error))),
        }
        self.replies.push(Said::Begun(command.reply_to.clone()));
        let answer = match self.run.run(command).await {
            Ok(Ran::Done(result)) => reply_of(id, Ok(result)),
            Ok(Ran::GoesOn) => return None,
            Err(undone) => reply_of(id, Err(undone)),
        };
        if let Err(error) = self.journal.end(&self.uplink, &answer, false).await {
            tracing::error!(error = %crate::device::chain(&error), "the command journal cannot be written");
        }
        Some(answer)
    }

    fn admit(&self, command: &Command) -> Result<(), Reply> {
        let id = command.id.as_str();
        if let Err(why) = self.admission.grants(&command.op) {
            return Err(rejected(id, &why));
        }
        if !self.run.knows(&command.op) {
            return Err(rejected(
                id,
                &format!("`{}` is not in this version", command.op),
            ));
        }
        match unix_ms(self.clock.as_ref()) {
            Some(now) if command.expires.is_some_and(|expires| now > expires) => Err(expired(id)),
            None if !admission::is_safe_without_clock(&command.op) => Err(rejected(
                id,
                "the gateway's clock is not set, so `expires` cannot be checked",
            )),
            _ => Ok(()),
        }
    }
}

/// Now, where the clock is known.
pub(crate) fn unix_ms(clock: &dyn Clock) -> Option<i64> {
    let now = clock.timebase().utc(clock.now())?;
    Some(now.0 / 1_000_000)
}

pub(crate) fn rejected(id: &str, error: &str) -> Reply {
    reply(id, ReplyStatus::Rejected, Err(error.to_owned()))
}

fn expired(id: &str) -> Reply {
    let why = "it came after `expires`".to_owned();
    reply(id, ReplyStatus::Expired, Err(why))
}

/// The answer to an operation that is over.
pub(crate) fn reply_of(id: &str, outcome: Result<serde_json::Value, Undone>) -> Reply {
    match outcome {
        Ok(result) => reply(id, ReplyStatus::Done, Ok(result)),
        Err(Undone::Rejected(error)) => rejected(id, &error),
        Err(Undone::Failed(error)) => reply(id, ReplyStatus::Failed, Err(error)),
    }
}

pub(crate) fn reply(
    id: &str,
    status: ReplyStatus,
    outcome: Result<serde_json::Value, String>,
) -> Reply {
    let (result, error) = match outcome {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    Reply {
        id: id.to_owned(),
        status,
        result,
        error,
    }
}

#[cfg(test)]
mod tests;
