//! Who may ask what, how often, and what happens to the rest.

use millrace_tags::{TestClock, Timestamp};

use super::*;

struct Echo;

impl RunCommand for Echo {
    async fn run(&self, command: &Command) -> Result<Ran, Undone> {
        match command.op.as_str() {
            "read" => Ok(Ran::Done(command.args.clone())),
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
    let local = crate::config::Local {
        commands: ["read", "status", "restart", "write"]
            .map(str::to_owned)
            .to_vec(),
        ..crate::config::Local::default()
    };
    Commands::channel("cloud", Admission::new(&local), journal, clock, run)
}

fn command(id: &str, op: &str, expires: Option<i64>) -> Command {
    let args = serde_json::json!({"tags": ["a/b"]});
    Command {
        id: id.to_owned(),
        op: op.to_owned(),
        args,
        expires,
        ..Command::default()
    }
}

#[tokio::test]
async fn runs_an_id_once_and_repeats_the_answer_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let first = task(dir.path(), Some(Timestamp(0)))
        .answer(&command("1", "read", None))
        .await
        .unwrap();
    assert_eq!(first.status, ReplyStatus::Done);
    let again = task(dir.path(), Some(Timestamp(0)))
        .answer(&command("1", "status", None))
        .await
        .unwrap();
    assert_eq!(again, first);
}

#[tokio::test]
async fn interrupted_command_is_not_run_again() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Journal::open(dir.path())
        .begin("cloud", "7", &ReplyTo::default(), None)
        .await
        .unwrap();
    assert!(matches!(begun, Claim::Begun));
    let task = task(dir.path(), Some(Timestamp(0)));
    let answer = task.answer(&command("7", "read", None)).await.unwrap();
    assert_eq!(
        (answer.status, answer.error.as_deref()),
        (ReplyStatus::Failed, Some("interrupted"))
    );
}

#[tokio::test]
async fn what_is_not_granted_unknown_or_late_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let task = task(dir.path(), Some(Timestamp::from_unix_ms(5_000)));
    let status = async |c: Command| task.answer(&c).await.unwrap().status;
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
        task.answer(&command("a", "restart", None))
            .await
            .unwrap()
            .status,
        ReplyStatus::Rejected
    );
    assert_eq!(
        task.answer(&command("b", "read", Some(1)))
            .await
            .unwrap()
            .status,
        ReplyStatus::Done
    );
}

#[tokio::test]
async fn time_in_the_queue_counts() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let (mut commands, mut task) = channel(dir.path(), clock.clone(), Echo);
    commands.take(Ok(command("a", "read", None)));
    clock.advance(std::time::Duration::from_secs(61));
    let Some(Work::Run(waited)) = task.incoming.recv().await else {
        panic!("no command");
    };
    let answer = task.answer(&waited).await.unwrap();
    assert_eq!(answer.status, ReplyStatus::Expired);
}

#[tokio::test]
async fn too_many_commands_are_refused_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let (mut commands, _task) = channel(dir.path(), clock, Echo);
    for number in 0..=COMMANDS_WAITING_MAX {
        commands.take(Ok(command(&number.to_string(), "read", None)));
    }
    let Some(Said::Reply(reply, _)) = commands.next() else {
        panic!("no reply");
    };
    assert_eq!(reply.id, COMMANDS_WAITING_MAX.to_string());
    assert_eq!(reply.status, ReplyStatus::Rejected);
}

/// An operation that never comes to its end.
struct Hang;

impl RunCommand for Hang {
    async fn run(&self, _: &Command) -> Result<Ran, Undone> {
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
    let (mut commands, task) = channel(dir.path(), clock, Hang);
    let journal = task.journal.clone();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(task.run(shutdown.clone()));
    commands.take(Ok(command("a", "read", None)));
    while !journal.knows("cloud", "a") {
        tokio::task::yield_now().await;
    }
    shutdown.cancel();
    running.await.unwrap();
    let interrupted = Journal::open(dir.path()).find("cloud", "a").unwrap();
    assert_eq!(interrupted.error.as_deref(), Some("interrupted"));
}

#[tokio::test]
async fn without_a_journal_nothing_runs_and_the_core_hears_why() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("commands.journal")).unwrap();
    let task = task(dir.path(), Some(Timestamp(0)));
    let answer = task.answer(&command("a", "read", None)).await.unwrap();
    assert_eq!(answer.status, ReplyStatus::Rejected);
    assert!(answer.error.unwrap().contains("journal"));
}

#[tokio::test]
async fn ids_of_a_connection_count_on_it_only() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let (mut commands, mut task) = channel(dir.path(), clock, Echo);
    let mut fleeting = command("5", "read", None);
    fleeting.fleeting = true;
    fleeting.reply_to.fleeting = true;
    let mut ids = Vec::new();
    for _ in 0..2 {
        commands.connected();
        commands.take(Ok(fleeting.clone()));
        let Some(Work::Run(taken)) = task.incoming.recv().await else {
            panic!("no command");
        };
        task.take(*taken.clone()).await;
        ids.push(taken.id);
    }
    assert_ne!(ids[0], ids[1]);
    // The answers of the connection before are gone, those of this one are there.
    assert!(matches!(commands.next(), Some(Said::Begun(_))));
    assert!(matches!(commands.next(), Some(Said::Reply(reply, _)) if reply.id == ids[1]));
    assert_eq!(commands.next(), None);
}

#[tokio::test]
async fn an_unsigned_command_learns_nothing_of_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let open = task(dir.path(), Some(Timestamp(0)));
    open.answer(&command("1", "read", None)).await.unwrap();
    let mut keyed = task(dir.path(), Some(Timestamp(0)));
    let local = crate::config::Local {
        commands: vec!["read".to_owned()],
        command_key: Some(millrace_uplink::SecretSource::Given(
            millrace_uplink::Secret::new("key"),
        )),
        ..crate::config::Local::default()
    };
    keyed.admission = Admission::new(&local);
    let answer = keyed.answer(&command("1", "read", None)).await.unwrap();
    assert_eq!(
        (answer.status, answer.result),
        (ReplyStatus::Rejected, None)
    );
}
