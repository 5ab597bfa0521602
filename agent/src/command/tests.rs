//! Who may ask what, how often, and what happens to the rest.

use millrace_tags::{TestClock, Timestamp};

use super::*;

struct Echo;

impl RunCommand for Echo {
    async fn run(&self, op: &str, args: &serde_json::Value) -> Result<serde_json::Value, Undone> {
        match op {
            "read" => Ok(args.clone()),
            "restart" => Err(Undone::Rejected("never".to_owned())),
            _ => Err(Undone::Failed("no such thing".to_owned())),
        }
    }

    fn knows(&self, op: &str) -> bool {
        op != "write"
    }
}

fn task(dir: &std::path::Path, wall: Option<Timestamp>) -> CommandTask<impl RunCommand> {
    channel(dir, Arc::new(TestClock::new(1, wall)), Echo).1
}

fn channel(
    dir: &std::path::Path,
    clock: Arc<TestClock>,
    run: impl RunCommand,
) -> (Commands, CommandTask<impl RunCommand>) {
    let journal = Arc::new(Journal::open(dir));
    let allowed = ["read", "status", "restart", "write"]
        .map(str::to_owned)
        .to_vec();
    Commands::channel("cloud", allowed, journal, clock, run)
}

fn command(id: &str, op: &str, expires: Option<i64>) -> Command {
    let args = serde_json::json!({"tags": ["a/b"]});
    Command {
        id: id.to_owned(),
        op: op.to_owned(),
        args,
        expires,
        sig: None,
    }
}

#[tokio::test]
async fn runs_an_id_once_and_repeats_the_answer_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let first = task(dir.path(), Some(Timestamp(0)))
        .answer(&command("1", "read", None))
        .await;
    assert_eq!(first.status, ReplyStatus::Done);
    let again = task(dir.path(), Some(Timestamp(0)))
        .answer(&command("1", "status", None))
        .await;
    assert_eq!(again, first);
}

#[tokio::test]
async fn interrupted_command_is_not_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Journal::open(dir.path()).begin("cloud", "7").await.unwrap();
    assert!(matches!(begun, Claim::Begun));
    let task = task(dir.path(), Some(Timestamp(0)));
    assert_eq!(task.journal.interrupted("cloud")[0].id, "7");
    let answer = task.answer(&command("7", "read", None)).await;
    assert_eq!(
        (answer.status, answer.error.as_deref()),
        (ReplyStatus::Failed, Some("interrupted"))
    );
}

#[tokio::test]
async fn what_is_not_granted_unknown_or_late_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let task = task(dir.path(), Some(Timestamp::from_unix_ms(5_000)));
    let status = async |c: Command| task.answer(&c).await.status;
    assert_eq!(
        status(command("a", "config.apply", None)).await,
        ReplyStatus::Rejected
    );
    assert_eq!(
        status(command("b", "write", None)).await,
        ReplyStatus::Rejected
    );
    assert_eq!(
        status(command("c", "read", Some(4_999))).await,
        ReplyStatus::Expired
    );
    assert_eq!(
        status(command("d", "read", Some(5_000))).await,
        ReplyStatus::Done
    );
    assert_eq!(
        status(command("e", "status", None)).await,
        ReplyStatus::Failed
    );
    assert_eq!(
        status(command("f", "restart", None)).await,
        ReplyStatus::Rejected
    );
}

#[tokio::test]
async fn unset_clock_allows_only_harmless_operations() {
    let dir = tempfile::tempdir().unwrap();
    let task = task(dir.path(), None);
    assert_eq!(
        task.answer(&command("a", "restart", None)).await.status,
        ReplyStatus::Rejected
    );
    assert_eq!(
        task.answer(&command("b", "read", Some(1))).await.status,
        ReplyStatus::Done
    );
}

#[tokio::test]
async fn time_in_the_queue_counts() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let (commands, mut task) = channel(dir.path(), clock.clone(), Echo);
    commands.take(Ok(command("a", "read", None)));
    clock.advance(std::time::Duration::from_secs(61));
    let waited = task.incoming.recv().await.unwrap();
    assert_eq!(task.answer(&waited).await.status, ReplyStatus::Expired);
}

#[tokio::test]
async fn too_many_commands_are_refused_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let (commands, _task) = channel(dir.path(), clock, Echo);
    for number in 0..=COMMANDS_WAITING_MAX {
        commands.take(Ok(command(&number.to_string(), "read", None)));
    }
    let reply = commands.next_reply().unwrap();
    assert_eq!(reply.id, COMMANDS_WAITING_MAX.to_string());
    assert_eq!(reply.status, ReplyStatus::Rejected);
}

/// An operation that never comes to its end.
struct Hang;

impl RunCommand for Hang {
    async fn run(&self, _: &str, _: &serde_json::Value) -> Result<serde_json::Value, Undone> {
        std::future::pending().await
    }

    fn knows(&self, _: &str) -> bool {
        true
    }
}

#[tokio::test]
async fn a_stop_interrupts_a_command_and_the_next_start_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let (commands, task) = channel(dir.path(), clock, Hang);
    let journal = task.journal.clone();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(task.run(shutdown.clone()));
    commands.take(Ok(command("a", "read", None)));
    while !journal.knows("cloud", "a") {
        tokio::task::yield_now().await;
    }
    shutdown.cancel();
    running.await.unwrap();
    let interrupted = Journal::open(dir.path()).interrupted("cloud");
    assert_eq!(interrupted[0].error.as_deref(), Some("interrupted"));
}

#[tokio::test]
async fn without_a_journal_nothing_runs_and_the_core_hears_why() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("commands.journal")).unwrap();
    let task = task(dir.path(), Some(Timestamp(0)));
    let answer = task.answer(&command("a", "read", None)).await;
    assert_eq!(answer.status, ReplyStatus::Rejected);
    assert!(answer.error.unwrap().contains("journal"));
}
