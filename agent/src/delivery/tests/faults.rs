//! Feed, session and store against a broker that does everything wrong: nothing is lost, nothing is settled that the
//! broker never took.
//!
//! `MILLRACE_FAULT_MESSAGES=30000` is the full run (`make soak-uplink`), `MILLRACE_SEED` repeats one.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Instant;

use millrace_uplink::{ReconnectPolicy, SessionSettings};
use tokio_util::sync::CancellationToken;

use super::checked::Checked;
use super::fault_broker::{FaultBroker, Script};
use super::*;

/// The run must get on; how fast is the machine's affair.
const STILL_MAX: Duration = Duration::from_secs(120);
/// One of these fills a message of 1 KiB.
const TEXT_BYTES: usize = 600;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Messages of one sample each.
fn uplink(dir: &std::path::Path) -> config::Uplink {
    let file = dir.join("millrace.toml");
    let text = "[gateway]\nid = \"gw\"\ndata_dir = \"data\"\n\n[[uplink]]\nname = \"cloud\"\n\
                url = \"mqtt://127.0.0.1\"\nmax_message = \"1KiB\"\n";
    std::fs::write(&file, text).unwrap();
    let mut loaded = crate::config::load(Some(&file), None).unwrap();
    loaded.config.uplinks.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_counts_what_a_faulty_broker_took_and_no_more() {
    let messages = number("MILLRACE_FAULT_MESSAGES", 500);
    let seed = number("MILLRACE_SEED", 6);
    // A connection carries 45 messages of 0.8 KiB on average, fewer as it is refused.
    let broker = FaultBroker::start(Script::chaos(seed, 75_000)).unwrap();
    let arrived = Arc::<Mutex<HashSet<u64>>>::default();
    let seen = arrived.clone();
    broker.tap(move |topic, payload| {
        if topic == "millrace/gw/data/bulk" {
            let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
            let seq = |key: &str| payload[key].as_u64().unwrap();
            let mut seen = seen.lock().unwrap();
            seen.extend(seq("first_seq")..=seq("last_seq"));
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let settings = uplink(dir.path());
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new(1, Some(Timestamp(0))));
    let buffer = Buffer::open(Settings::new(dir.path().join("buffer")), clock.clone()).unwrap();
    let bulk = buffer.register("bulk", SourceKind::Device, &[text_tag()]);
    let outbox = buffer.outbox("cloud", millrace_buffer::Start::Oldest);
    let journal = Arc::new(Journal::open(dir.path()));
    let (commands, _) =
        Commands::channel("cloud", Admission::default(), journal, clock.clone(), Echo);
    let shown = Uplink::new(&settings);
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let mut session = SessionSettings::new(url.parse().unwrap(), "gw");
    session.reconnect = ReconnectPolicy {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(5),
        refused: Duration::from_millis(5),
        ..ReconnectPolicy::default()
    };
    let delivery = Delivery::new(outbox, settings, shown, clock.clone(), commands);
    let feed = Checked::new(delivery, broker.custody());
    let account = feed.account();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(millrace_uplink::run(session, feed, shutdown.clone()));

    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut made, mut before, mut since) = (0, 0, Instant::now());
    loop {
        // Sometimes the plant is ahead, sometimes the broker: backlog and live, both.
        let count = dice.u64(1..=60).min(messages - made);
        if count > 0 {
            let text = |n: u64| format!("{n:0width$}", width = TEXT_BYTES);
            let sample = |n| {
                let value = Value::Text(text(n).as_str().into());
                millrace_tags::Sample::good(bulk.tags[0], value, clock.now())
            };
            let samples = (made + 1..=made + count).map(sample).collect();
            buffer.append(bulk.source, samples);
            made += count;
            if dice.u8(..4) == 0 {
                buffer.commit().unwrap();
            }
        }
        let row = buffer.ledger().devices["bulk"].clone();
        if row.acked == messages {
            break;
        }
        if row.acked > before {
            (before, since) = (row.acked, Instant::now());
        }
        assert!(
            since.elapsed() < STILL_MAX && !running.is_finished(),
            "seed {seed}: {row:?}, {:?}",
            broker.tally()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shutdown.cancel();
    running.await.unwrap();
    let tally = broker.tally();
    println!(
        "seed {seed}: {messages} messages, offered {} times, {} false acks, {tally:?}",
        account.offered(),
        account.false_acks()
    );
    assert_eq!(account.false_acks(), 0, "seed {seed}");
    assert_eq!(tally.violations, 0, "seed {seed}");
    assert!(
        tally.cuts >= messages / 60,
        "seed {seed}: {} cuts",
        tally.cuts
    );
    assert_eq!(buffer.set_aside(), [], "seed {seed}");
    let ledger = buffer.verify().unwrap();
    let row = &ledger.devices["bulk"];
    assert_eq!((row.acked, row.queued), (messages, 0), "seed {seed}");
    let arrived = arrived.lock().unwrap();
    let missing: Vec<u64> = (1..=messages).filter(|n| !arrived.contains(n)).collect();
    assert_eq!(missing, Vec::<u64>::new(), "seed {seed}");
}
