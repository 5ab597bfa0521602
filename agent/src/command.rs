//! Commands from the cloud: who may ask what, at most once, always answered.
//!
//! Authority comes from local files only (`[local] commands`). A command's id is written to the journal
//! before it runs, so that it runs at most once over crashes; one that was interrupted is answered
//! `failed: interrupted`. Every command leaves a line in the log.

mod journal;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_tags::{Clock, Command, Reply, ReplyStatus};
use millrace_uplink::profile::CommandError;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use journal::Claim;
pub(crate) use journal::Journal;

/// Commands that may wait: a core that asks faster than this gets `rejected`.
const COMMANDS_WAITING_MAX: usize = 64;

/// A command without `expires` is good for this long after its receipt.
const EXPIRES_AFTER_MS: i64 = 60_000;

/// Operations that a clock which may be wrong cannot make dangerous.
const SAFE_WITHOUT_CLOCK: [&str; 3] = ["read", "status", "ledger"];

/// The session's end: takes commands in, gives replies out, never waits.
pub(crate) struct Commands {
    queue: mpsc::Sender<Command>,
    replies: Arc<Replies>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct Replies {
    waiting: Mutex<VecDeque<Reply>>,
    wake: Mutex<Option<Arc<Notify>>>,
}

impl Replies {
    fn push(&self, reply: Reply) {
        tracing::info!(id = %reply.id, status = ?reply.status, error = ?reply.error, "command answered");
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= COMMANDS_WAITING_MAX
            && let Some(oldest) = waiting.pop_front()
        {
            tracing::warn!(id = %oldest.id, "too many replies are waiting; the oldest is given up");
        }
        waiting.push_back(reply);
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
    pub(crate) fn channel(
        uplink: &str,
        allowed: Vec<String>,
        journal: Arc<Journal>,
        clock: Arc<dyn Clock>,
        run: impl RunCommand,
    ) -> (Self, CommandTask<impl RunCommand>) {
        let (queue, incoming) = mpsc::channel(COMMANDS_WAITING_MAX);
        let replies = Arc::new(Replies::default());
        let task = CommandTask {
            uplink: uplink.to_owned(),
            incoming,
            replies: replies.clone(),
            allowed,
            journal,
            clock: clock.clone(),
            run,
        };
        let commands = Self {
            queue,
            replies,
            clock,
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

    /// Takes what came in on the command topic.
    pub(crate) fn take(&self, command: Result<Command, CommandError>) {
        match command {
            Ok(mut command) => {
                // From now on, not from when its turn comes.
                command.expires = command.expires.or_else(|| {
                    Some(unix_ms(self.clock.as_ref())?.saturating_add(EXPIRES_AFTER_MS))
                });
                if let Err(error) = self.queue.try_send(command) {
                    let command = error.into_inner();
                    self.replies.push(rejected(
                        &command.id,
                        "too many commands are waiting; ask again later",
                    ));
                }
            }
            Err(error) => {
                tracing::warn!(error = %error, "a command was not understood");
                // Without an id there is nobody to answer.
                if let Some(id) = error.id() {
                    self.replies.push(rejected(id, &error.to_string()));
                }
            }
        }
    }

    /// A reply that was on its way when the connection broke: it is due first.
    pub(crate) fn reply_again(&self, reply: Reply) {
        self.replies
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_front(reply);
    }

    /// The answer to this command cannot be sent: that is the answer then.
    pub(crate) fn fail(&self, id: &str, error: &str) {
        self.replies
            .push(reply(id, ReplyStatus::Failed, Err(error.to_owned())));
    }

    /// The next reply that is due.
    pub(crate) fn next_reply(&self) -> Option<Reply> {
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

/// What a command does; the agent's side.
pub(crate) trait RunCommand: Send + 'static {
    /// Runs an operation that is allowed.
    fn run(
        &self,
        op: &str,
        args: &serde_json::Value,
    ) -> impl Future<Output = Result<serde_json::Value, Undone>> + Send;

    /// Whether this version has the operation.
    fn knows(&self, op: &str) -> bool;
}

/// Runs commands one after the other.
pub(crate) struct CommandTask<R> {
    /// Whose commands: others are not answered here.
    uplink: String,
    incoming: mpsc::Receiver<Command>,
    replies: Arc<Replies>,
    allowed: Vec<String>,
    journal: Arc<Journal>,
    clock: Arc<dyn Clock>,
    run: R,
}

impl<R: RunCommand> CommandTask<R> {
    /// Runs until the session's end is gone, or `shutdown`: the command that runs then is interrupted.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        for reply in self.journal.interrupted(&self.uplink) {
            self.replies.push(reply);
        }
        let answering = async {
            while let Some(command) = self.incoming.recv().await {
                let reply = self.answer(&command).await;
                self.replies.push(reply);
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = answering => {}
        }
    }

    async fn answer(&self, command: &Command) -> Reply {
        let id = command.id.as_str();
        if let Some(earlier) = self.journal.find(&self.uplink, id) {
            return earlier;
        }
        if let Err(refusal) = self.admit(command) {
            return refusal;
        }
        match self.journal.begin(&self.uplink, id).await {
            Ok(Claim::Begun) => {}
            Ok(Claim::Taken(earlier)) => return earlier,
            Err(error) => return rejected(id, &crate::device::chain(&error)),
        }
        let answer = match self.run.run(&command.op, &command.args).await {
            Ok(result) => reply(id, ReplyStatus::Done, Ok(result)),
            Err(Undone::Rejected(error)) => rejected(id, &error),
            Err(Undone::Failed(error)) => reply(id, ReplyStatus::Failed, Err(error)),
        };
        if let Err(error) = self.journal.end(&self.uplink, &answer).await {
            tracing::error!(error = %crate::device::chain(&error), "the command journal cannot be written");
        }
        answer
    }

    fn admit(&self, command: &Command) -> Result<(), Reply> {
        let id = command.id.as_str();
        if !self.allowed.contains(&command.op) {
            let error = format!(
                "`{}` is not granted on this gateway; [local] commands in its own configuration grants it",
                command.op
            );
            return Err(rejected(id, &error));
        }
        if !self.run.knows(&command.op) {
            return Err(rejected(
                id,
                &format!("`{}` is not in this version", command.op),
            ));
        }
        match unix_ms(self.clock.as_ref()) {
            Some(now) if command.expires.is_some_and(|expires| now > expires) => Err(reply(
                id,
                ReplyStatus::Expired,
                Err("it came after `expires`".to_owned()),
            )),
            None if !SAFE_WITHOUT_CLOCK.contains(&command.op.as_str()) => Err(rejected(
                id,
                "the gateway's clock is not set, so `expires` cannot be checked",
            )),
            _ => Ok(()),
        }
    }
}

/// Now, where the clock is known.
fn unix_ms(clock: &dyn Clock) -> Option<i64> {
    let now = clock.timebase().utc(clock.now())?;
    Some(now.0 / 1_000_000)
}

fn rejected(id: &str, error: &str) -> Reply {
    reply(id, ReplyStatus::Rejected, Err(error.to_owned()))
}

fn reply(id: &str, status: ReplyStatus, outcome: Result<serde_json::Value, String>) -> Reply {
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
