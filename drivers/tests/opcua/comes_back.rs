//! The recovery matrix: what happens to a device, against foreign servers, with their history and without.
//!
//! A server that keeps history: every value of its journal is delivered, none twice, none marked. One that does
//! not: each jump of the counter has its mark, and nothing comes twice. There is never more than one session.
//!
//! `MILLRACE_OPCUA_FULL` makes each outage as long as it should be, and runs every case (`make soak-opcua-recovery`).

use std::time::Duration;

use millrace_drivers::opcua::{Discard, Mode, Policy, Security};

use crate::follow::{Account, Followed, Step, account, follow};
use crate::link::Link;
use crate::plant::{Kind, Options, Plant, is_full};

const ENCRYPTED: Security = Security::Policy {
    policy: Policy::Basic256Sha256,
    mode: Mode::SignAndEncrypt,
};

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The link is down for a while.
    Cut,
    /// Nothing passes, and nobody says so.
    Blackhole,
    /// kill -9 and a start, with more counts in between than one page of history has.
    Killed,
    /// The same with another certificate, which is trusted a little later.
    Certificate,
    /// The same with namespaces in another order.
    Namespaces,
    /// The server comes up after us.
    DownAtStart,
    /// The server has another password, which our file has a little later.
    Password,
    /// The link is down for longer than the server's queue lasts.
    Overrun,
    /// The same where the server was asked to keep what came first.
    OverrunNewest,
}

/// What every run has time for: each trouble once with history, and what differs between servers or without it.
fn is_short(kind: Kind, trouble: Trouble, history: bool) -> bool {
    let telling = matches!(
        trouble,
        Trouble::Killed | Trouble::Overrun | Trouble::OverrunNewest
    );
    match (kind, history) {
        (Kind::Asyncua, true) => true,
        (Kind::NodeOpcua, true) => telling || trouble == Trouble::Password,
        (_, false) => telling && kind == Kind::Asyncua,
    }
}

fn long(full: u64, short: u64) -> Duration {
    Duration::from_millis(if is_full() { full } else { short })
}

async fn comes_back(kind: Kind, trouble: Trouble, history: bool) {
    let options = Options {
        no_history: !history,
        ..Options::default()
    };
    if !is_full() && !is_short(kind, trouble, history) {
        eprintln!(
            "skipped: {kind:?}, {trouble:?}, history {history} runs with MILLRACE_OPCUA_FULL"
        );
        return;
    }
    let Some(mut plant) = Plant::new(kind, options) else {
        return;
    };
    let link = Link::to(&plant.url()).await;
    // One start makes the certificate.
    plant.start();
    plant.pin();
    let mut settings = plant.settings(&link.url(), ENCRYPTED);
    settings.auth = plant.login(&plant.password);
    if matches!(trouble, Trouble::Overrun | Trouble::OverrunNewest) {
        settings.queue_size = 20;
    }
    if trouble == Trouble::OverrunNewest {
        settings.discard = Discard::Newest;
    }
    if trouble == Trouble::DownAtStart {
        plant.kill();
    }
    let followed = follow(settings, &["Fixed"]);
    match trouble {
        Trouble::DownAtStart => followed.until_broken(2).await,
        _ => {
            followed.until_opened(1).await;
            begin(&mut plant, &followed).await;
        }
    }
    trouble_with(trouble, &mut plant, &link, &followed).await;
    begin(&mut plant, &followed).await;
    plant.run(false);
    let last = plant.ask("counter");
    followed.until_counted(last).await;
    assert_eq!(plant.sessions_max(), 1, "sessions at a time");
    assert_eq!(plant.ask("sessions"), 1);
    let account = account(&followed.steps());
    check(&plant, &account, history);
    let certain = matches!(
        trouble,
        Trouble::Killed
            | Trouble::Certificate
            | Trouble::Password
            | Trouble::Overrun
            | Trouble::OverrunNewest
    );
    if certain {
        assert!(history == account.marked.is_empty(), "{:?}", account.marked);
        assert!(
            !history || plant.ask("histories") > 0,
            "history was asked for"
        );
        let said = match history {
            true => "were read from the server's history",
            false => "a bad sample (lost) marks each",
        };
        assert!(followed.remarks().contains(said), "{}", followed.remarks());
    }
    println!(
        "{trouble:?}, history {history}: {} values, {} marks, {} opened",
        account.values.len(),
        account.marked.len(),
        opened(&followed)
    );
}

/// The counter runs, and we see it.
async fn begin(plant: &mut Plant, followed: &Followed) {
    let sought = plant.ask("counter") + 10;
    plant.run(true);
    followed.until_counted(sought).await;
}

async fn trouble_with(trouble: Trouble, plant: &mut Plant, link: &Link, followed: &Followed) {
    let opened = opened(followed);
    match trouble {
        Trouble::Cut | Trouble::Overrun | Trouble::OverrunNewest => {
            link.down(true);
            tokio::time::sleep(long(3000, 1000)).await;
            link.down(false);
        }
        Trouble::Blackhole => {
            link.silence(true);
            tokio::time::sleep(long(30_000, 4000)).await;
            link.silence(false);
        }
        Trouble::DownAtStart => plant.start(),
        Trouble::Killed => {
            link.down(true);
            plant.kill();
            plant.start();
            plant.tell(r#"{"burst":2500}"#);
            link.down(false);
        }
        Trouble::Namespaces => {
            plant.kill();
            plant.options.swapped = true;
            plant.start();
            plant.run(true);
        }
        Trouble::Certificate => {
            plant.kill();
            plant.forget_certificate();
            plant.start();
            plant.run(true);
            followed
                .until("a refusal", |steps| says(steps, "is not trusted here"))
                .await;
            plant.pin();
        }
        Trouble::Password => {
            plant.kill();
            plant.password = "another horse".to_owned();
            plant.start();
            plant.run(true);
            followed
                .until("a refusal", |steps| says(steps, "password_file"))
                .await;
            plant.login("another horse");
        }
    }
    followed.until_opened(opened + 1).await;
}

fn opened(followed: &Followed) -> usize {
    let steps = followed.steps();
    steps
        .iter()
        .filter(|step| matches!(step, Step::Opened))
        .count()
}

fn says(steps: &[Step], text: &str) -> bool {
    let said = |step: &Step| matches!(step, Step::Broke(error) if error.contains(text));
    steps.iter().any(said)
}

fn check(plant: &Plant, account: &Account, history: bool) {
    let journal = plant.journal();
    let values = &account.values;
    // Before the first count the node shows 0, which is in no journal.
    let values: Vec<(u64, i64)> = values
        .iter()
        .copied()
        .filter(|(count, _)| *count > 0)
        .collect();
    let zeros = account.values.len() - values.len();
    let marked = |nth: usize| account.marked.contains(&(nth + zeros));
    let last = journal.last().copied().expect("a count");
    if history {
        let first = values[0].0;
        let expected: Vec<(u64, i64)> = journal
            .iter()
            .copied()
            .filter(|(count, _)| *count >= first)
            .collect();
        assert_eq!(values, expected);
        assert_eq!(account.marked, [0; 0], "nothing is lost");
    } else {
        assert_eq!(values.last(), Some(&last));
        let holes = (1..values.len()).filter(|&nth| values[nth].0 != values[nth - 1].0 + 1);
        for nth in holes {
            assert!(values[nth].0 > values[nth - 1].0, "{values:?}");
            assert!(marked(nth), "{:?} after {:?}", values[nth], values[nth - 1]);
        }
    }
}

macro_rules! matrix {
    ($($kind:ident $name:ident: $trouble:ident;)*) => {
        $(mod $name {
            use super::*;
            #[tokio::test]
            async fn with_history() {
                comes_back(Kind::$kind, Trouble::$trouble, true).await;
            }
            #[tokio::test]
            async fn without_history() {
                comes_back(Kind::$kind, Trouble::$trouble, false).await;
            }
        })*
    };
}

matrix! {
    Asyncua asyncua_link_cut: Cut;
    Asyncua asyncua_blackhole: Blackhole;
    Asyncua asyncua_killed: Killed;
    Asyncua asyncua_certificate_changed: Certificate;
    Asyncua asyncua_namespaces_reordered: Namespaces;
    Asyncua asyncua_down_at_start: DownAtStart;
    Asyncua asyncua_password_changed: Password;
    Asyncua asyncua_queue_overrun: Overrun;
    Asyncua asyncua_queue_overrun_keeping_the_first: OverrunNewest;
    NodeOpcua node_link_cut: Cut;
    NodeOpcua node_blackhole: Blackhole;
    NodeOpcua node_killed: Killed;
    NodeOpcua node_certificate_changed: Certificate;
    NodeOpcua node_namespaces_reordered: Namespaces;
    NodeOpcua node_down_at_start: DownAtStart;
    NodeOpcua node_password_changed: Password;
    NodeOpcua node_queue_overrun: Overrun;
    NodeOpcua node_queue_overrun_keeping_the_first: OverrunNewest;
}
