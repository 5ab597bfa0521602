//! The session against a broker that does everything wrong: nothing is lost, nothing is taken for delivered that is not.
//!
//! `MILLRACE_FAULT_MESSAGES=30000` is the full run (`make soak-uplink`), `MILLRACE_SEED` repeats one.

use std::time::{Duration, Instant};

use millrace_uplink::{Protocol, ProtocolChoice, ReconnectPolicy, SessionSettings, run};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::checked::Checked;
use crate::fault_broker::{FaultBroker, Script, Tally};
use crate::log_feed::LogFeed;

/// The run must get on; how fast is the machine's affair.
const STILL_MAX: Duration = Duration::from_secs(120);

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

fn settings(port: u16, protocol: Protocol) -> SessionSettings {
    let url = format!("mqtt://127.0.0.1:{port}");
    let mut settings = SessionSettings::new(url.parse().unwrap(), "gw-1");
    settings.protocol = ProtocolChoice::Only(protocol);
    settings.reconnect = ReconnectPolicy {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(5),
        refused: Duration::from_millis(5),
        ..ReconnectPolicy::default()
    };
    settings
}

/// Delivers so many messages through the broker, and holds every acknowledgement against what it took.
async fn deliver(script: Script, protocol: Protocol, messages: u64) -> Tally {
    let seed = script.seed;
    let broker = FaultBroker::start(script).unwrap();
    let feed = Checked::new(LogFeed::new(messages, seed), broker.custody());
    let account = feed.account();
    let settings = settings(broker.port, protocol);
    let counters = settings.counters.clone();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    let (mut before, mut since) = (0, Instant::now());
    while account.acked() < messages {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if account.acked() > before {
            (before, since) = (account.acked(), Instant::now());
        }
        assert!(
            since.elapsed() < STILL_MAX && !session.is_finished(),
            "seed {seed}: {before} of {messages} acked, {:?}",
            broker.tally()
        );
    }
    shutdown.cancel();
    timeout(STILL_MAX, session).await.unwrap().unwrap();
    let tally = broker.tally();
    println!(
        "seed {seed}, {protocol:?}: {messages} messages, offered {} times, {} false acks, {} acks for nothing, {tally:?}",
        account.offered(),
        account.false_acks(),
        counters.unknown_acks_total()
    );
    // What was acked was in custody; so nothing is lost where all is acked.
    assert_eq!(account.acked(), messages, "seed {seed}");
    assert_eq!(account.false_acks(), 0, "seed {seed}");
    assert_eq!(tally.violations, 0, "seed {seed}");
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_falsely_acked_over_random_cuts() {
    chaos(Protocol::V311).await;
}

/// Also where each connection allows fewer messages under way than the last, and some are refused for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_falsely_acked_over_random_cuts_of_mqtt_5() {
    let tally = chaos(Protocol::V5).await;
    assert!(tally.reasons > 0);
}

async fn chaos(protocol: Protocol) -> Tally {
    let messages = number("MILLRACE_FAULT_MESSAGES", 3_000);
    let seed = number("MILLRACE_SEED", 6);
    // Some 25 bytes a message and its ack: a connection carries 45 messages on average, fewer as it is refused.
    let tally = deliver(Script::chaos(seed, 2_500), protocol, messages).await;
    let cuts = tally.cuts;
    assert!(cuts >= messages / 60, "seed {seed}: {cuts} cuts");
    for (what, count) in [
        ("refused", tally.refused),
        ("lost_acks", tally.lost_acks),
        ("swallowed", tally.swallowed),
        ("duplicates", tally.duplicates),
        ("strays", tally.strays),
        ("reorders", tally.reorders),
        ("slow", tally.slow),
        ("stalls", tally.stalls),
    ] {
        assert!(count > 0, "seed {seed}: {what} never happened");
    }
    tally
}

/// Also where there is no farewell that would be acknowledged.
#[tokio::test]
async fn a_session_without_a_farewell_leaves_at_once() {
    let broker = FaultBroker::start(Script::calm()).unwrap();
    // It waited two seconds each time for acknowledgements that nobody owed; a busy machine may do so once.
    for _ in 0..5 {
        let feed = LogFeed::new(1, 1);
        let progress = feed.progress();
        let shutdown = CancellationToken::new();
        let session = tokio::spawn(run(
            settings(broker.port, Protocol::V311),
            feed,
            shutdown.clone(),
        ));
        timeout(STILL_MAX, progress.wait_for(|p| p.acked() == 1))
            .await
            .unwrap();
        let began = Instant::now();
        shutdown.cancel();
        session.await.unwrap();
        if began.elapsed() < Duration::from_millis(1900) {
            return;
        }
    }
    panic!("it takes its time");
}

/// A broker that takes smaller packets says so with MQTT 5, and is believed.
#[tokio::test]
async fn no_packet_is_larger_than_a_broker_says() {
    let broker = FaultBroker::start(Script {
        message_bytes_max: Some(1_000),
        ..Script::calm()
    })
    .unwrap();
    let feed = LogFeed::new(100, 3).with_message(50, vec![b'x'; 2_000]);
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let settings = settings(broker.port, Protocol::V5);
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    timeout(
        STILL_MAX,
        progress.wait_for(|p| p.acked() + p.refused() == 100),
    )
    .await
    .unwrap();
    shutdown.cancel();
    session.await.unwrap();
    let tally = broker.tally();
    assert_eq!((progress.refused(), tally.violations), (1, 0));
    assert_eq!(tally.connections, 1, "the connection survives it");
}

/// The same broker without most of its faults: each by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_by_itself_costs_nothing() {
    let seed = number("MILLRACE_SEED", 6);
    let calm = || Script {
        seed,
        idle_cut_ms: 250,
        ..Script::calm()
    };
    for script in [
        calm(),
        Script {
            cut_bytes_max: 700,
            ..calm()
        },
        Script {
            refuse_one_in: 2,
            slam_one_in: 3,
            cut_bytes_max: 4_000,
            ..calm()
        },
        Script {
            lose_ack_one_in: 40,
            ..calm()
        },
        Script {
            swallow_one_in: 40,
            ..calm()
        },
        Script {
            duplicate_one_in: 1,
            stray_one_in: 1,
            reorder: true,
            ..calm()
        },
        Script {
            false_session_one_in: 1,
            cut_bytes_max: 4_000,
            ..calm()
        },
        Script {
            slow_one_in: 1,
            ..calm()
        },
        Script {
            stall_one_in: 1,
            cut_bytes_max: 4_000,
            ..calm()
        },
    ] {
        for protocol in [Protocol::V311, Protocol::V5] {
            deliver(script.clone(), protocol, 300).await;
        }
    }
}
