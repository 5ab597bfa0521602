//! The feed in a real session, against a broker that hangs up on what it does not like.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use millrace_buffer::{Row, SetAside};
use millrace_tags::{SourceId, TagId};
use millrace_uplink::sim::{Broker, Faults};
use millrace_uplink::{ReconnectPolicy, SessionSettings};
use tokio_util::sync::CancellationToken;

use super::*;

/// Connections are free here.
const RECONNECT: ReconnectPolicy = ReconnectPolicy {
    first: Duration::from_millis(5),
    longest: Duration::from_millis(20),
    refused: Duration::from_millis(20),
    proven: Duration::from_millis(1),
};

/// Numbers as they arrived, by topic; a gap stands under its reason.
type Arrived = Arc<Mutex<Vec<(String, u64, u64)>>>;

struct Scene {
    dir: tempfile::TempDir,
    broker: Broker,
    arrived: Arrived,
    clock: Arc<TestClock>,
}

impl Scene {
    async fn new() -> Self {
        let broker = Broker::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let broker = broker.unwrap();
        let arrived = Arrived::default();
        let seen = arrived.clone();
        broker.tap(move |tapped| {
            let payload: serde_json::Value = serde_json::from_slice(&tapped.payload).unwrap();
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let hole = payload["holes"][0].as_object();
            let (topic, of) = match hole {
                Some(_) => (payload["reason"].to_string(), &payload["holes"][0]),
                None => (tapped.topic.clone(), &payload),
            };
            if let (Some(a), Some(b)) = (of["first_seq"].as_u64(), of["last_seq"].as_u64()) {
                seen.push((topic, a, b));
            }
        });
        Self {
            dir: tempfile::tempdir().unwrap(),
            broker,
            arrived,
            clock: Arc::new(TestClock::new(1, Some(Timestamp(0)))),
        }
    }

    /// Whether the number arrived on a topic that ends so, or in a gap of this reason.
    fn has(&self, topic: &str, number: u64) -> bool {
        let arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived
            .iter()
            .any(|(t, a, b)| t.ends_with(topic) && (*a..=*b).contains(&number))
    }

    /// From now on the broker takes everything, also of who is connected.
    async fn mend(&self) {
        self.broker.set_faults(None);
        self.broker.cut().await;
        self.broker.heal().await;
    }

    fn start(&self) -> Running {
        let settings = config(self.dir.path());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let buffer = Settings::new(self.dir.path().join("buffer"));
        let buffer = Buffer::open(buffer, clock.clone()).unwrap();
        let outbox = buffer.outbox("cloud", millrace_buffer::Start::Oldest);
        let journal = Arc::new(Journal::open(self.dir.path()));
        let (commands, _) =
            Commands::channel("cloud", Admission::default(), journal, clock.clone(), Echo);
        let uplink = Uplink::new(&settings);
        let url = format!("mqtt://{}", self.broker.local_addr());
        let mut session = SessionSettings::new(url.parse().unwrap(), "gw");
        session.reconnect = RECONNECT;
        session.counters = uplink.counters.clone();
        let delivery = Delivery::new(outbox, settings, uplink.clone(), clock, commands);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(millrace_uplink::run(session, delivery, shutdown.clone()));
        Running {
            buffer,
            uplink,
            shutdown,
            task,
            clock: self.clock.clone(),
        }
    }
}

fn config(dir: &Path) -> config::Uplink {
    let file = dir.join("millrace.toml");
    let text = "[gateway]\nid = \"gw\"\ndata_dir = \"data\"\n\n[[uplink]]\nname = \"cloud\"\n\
                url = \"mqtt://127.0.0.1\"\n";
    std::fs::write(&file, text).unwrap();
    let mut loaded = crate::config::load(Some(&file), None).unwrap();
    loaded.config.uplinks.remove(0)
}

struct Running {
    buffer: Buffer,
    uplink: Arc<Uplink>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    clock: Arc<TestClock>,
}

impl Running {
    fn register(&self, source: &str) -> (SourceId, TagId) {
        let registration = self
            .buffer
            .register(source, SourceKind::Device, &[text_tag()]);
        (registration.source, registration.tags[0])
    }

    fn append(&self, source: &str, texts: impl IntoIterator<Item = String>) {
        let (id, tag) = self.register(source);
        let sample = |text: String| {
            let value = Value::Text(text.as_str().into());
            millrace_tags::Sample::good(tag, value, self.clock.now())
        };
        self.buffer
            .append(id, texts.into_iter().map(sample).collect());
        self.buffer.commit().unwrap();
    }

    fn row(&self, source: &str) -> Row {
        self.buffer.ledger().devices[source].clone()
    }

    async fn until(&self, what: &str, ask: impl Fn(&Self) -> bool) {
        for _ in 0..6000 {
            if ask(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (aside, ledger) = (self.buffer.set_aside(), self.buffer.ledger());
        panic!("{what}: {aside:?}, {ledger:?}, {:?}", self.uplink.report());
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
        self.buffer.close().unwrap();
    }
}

fn spans(rows: &[SetAside]) -> Vec<(&str, u64, u64)> {
    let span = |row: &SetAside| (row.first_seq, row.last_seq);
    rows.iter()
        .map(|row| (&*row.source, span(row).0, span(row).1))
        .collect()
}

/// So many records; those of the numbers in `bad` hold what the broker hates.
fn texts(count: u64, bad: &[u64]) -> Vec<String> {
    let text = |n| match bad.contains(&n) {
        true => format!("a curse, the {n}th"),
        false => format!("fine {n}"),
    };
    (1..=count).map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_hates_is_set_aside_to_the_record_and_goes_once_it_may() {
    let scene = Scene::new().await;
    scene.broker.set_faults(Some(Faults {
        hates: Some(b"curse".to_vec()),
        ..Faults::default()
    }));
    let running = scene.start();
    running.append("pump", texts(300, &[17, 222]));
    running.append("fan", texts(50, &[]));
    running
        .until("the rest arrives", |r| {
            let aside = r.buffer.set_aside().len();
            (r.row("pump").queued, r.row("fan").queued, aside) == (2, 0, 2)
        })
        .await;
    let aside = running.buffer.set_aside();
    let mut found = spans(&aside);
    found.sort_unstable();
    assert_eq!(found, [("pump", 17, 17), ("pump", 222, 222)]);
    assert!(aside.iter().all(|row| row.tries >= 5), "{aside:?}");
    assert!(!scene.has("/pump", 17) && !scene.has("/pump", 222));
    assert!(scene.has("/pump", 16) && scene.has("/pump", 300));
    running.stop().await;

    let running = scene.start();
    assert_eq!(running.buffer.set_aside(), aside);
    running.append("fan", texts(1, &[]));
    running
        .until("what comes later", |r| r.row("fan").queued == 0)
        .await;
    let id_of = |number| aside.iter().find(|row| row.first_seq == number).unwrap().id;
    assert!(running.buffer.discard(id_of(17)));
    running
        .until("the gap is told", |_| scene.has("\"poison\"", 17))
        .await;
    scene.mend().await;
    assert!(running.buffer.retry(id_of(222)));
    running
        .until("all is settled", |r| r.row("pump").queued == 0)
        .await;
    assert!(scene.has("/pump", 222) && !scene.has("/pump", 17));
    let pump = running.row("pump");
    assert_eq!((pump.acked, pump.dropped[&DropReason::Poison]), (299, 1));
    assert_eq!(
        running.buffer.verify().unwrap(),
        running.buffer.ledger(),
        "the recount"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_large_for_the_broker_go_in_parts() {
    let scene = Scene::new().await;
    scene.broker.set_faults(Some(Faults {
        message_bytes_max: Some(2_000),
        ..Faults::default()
    }));
    let running = scene.start();
    running.append("pump", texts(400, &[]));
    running
        .until("all of it", |r| r.row("pump").queued == 0)
        .await;
    // From now on they are smaller from the start.
    let connects = running.uplink.report().connects_total;
    running.append("pump", texts(400, &[]));
    running
        .until("all of it", |r| r.row("pump").queued == 0)
        .await;
    assert_eq!(running.uplink.report().connects_total, connects);
    assert!(running.buffer.set_aside().is_empty());
    running.append("pump", ["x".repeat(3_000)]);
    running.append("pump", texts(5, &[]));
    running
        .until("all but one", |r| {
            r.row("pump").queued == 1 && r.buffer.set_aside().len() == 1
        })
        .await;
    assert_eq!(spans(&running.buffer.set_aside()), [("pump", 801, 801)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_which_the_broker_takes_nothing_stops_no_other() {
    let scene = Scene::new().await;
    scene.broker.set_faults(Some(Faults {
        denies: Some("millrace/gw/data/pump".to_owned()),
        ..Faults::default()
    }));
    let running = scene.start();
    for _ in 0..5 {
        running.append("pump", texts(40, &[]));
        running.append("fan", texts(40, &[]));
    }
    // A plant does not wait: there is always a fresh message before the one that is looked into.
    let mut fresh = 0;
    while running.uplink.report().refused_sources.is_empty() {
        running.append("pump", texts(2, &[]));
        running.append("fan", texts(2, &[]));
        fresh += 2;
        assert!(fresh < 20_000, "{:?}", running.buffer.set_aside());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(running.uplink.report().refused_sources, ["pump"]);
    running
        .until("the other source", |r| r.row("fan").queued == 0)
        .await;
    let connects = running.uplink.report().connects_total;
    assert!(connects > 3, "{connects}");
    for _ in 0..20 {
        running.append("pump", texts(10, &[]));
        running.append("fan", texts(10, &[]));
        running
            .until("the other source goes on", |r| r.row("fan").queued == 0)
            .await;
    }
    let after = running.uplink.report();
    // What was under way when the source was barred may cost one more.
    assert!(after.connects_total <= connects + 1, "{after:?}");
    assert_eq!(running.row("pump").acked, 0);
    assert_eq!(running.row("pump").queued, 400 + fresh);
    running
        .until("all of it is withheld", |r| {
            let rows = r.buffer.set_aside();
            rows.len() <= 3 && rows.iter().map(|row| row.records).sum::<u64>() == 400 + fresh
        })
        .await;
    running.stop().await;

    // A trial of one record, which is refused again: all is in one row now.
    let running = scene.start();
    assert_eq!(running.uplink.report().refused_sources, ["pump"]);
    running.append("pump", texts(5, &[]));
    running
        .until("one row", |r| {
            let rows = r.buffer.set_aside();
            matches!(&rows[..], [row] if (row.records, row.tries) == (405 + fresh, 0))
        })
        .await;

    // Somebody mends the policy; the next trial shows it.
    scene.mend().await;
    scene.clock.advance(Duration::from_secs(7_200));
    running.append("pump", texts(5, &[]));
    running
        .until("all of it", |r| r.row("pump").queued == 0)
        .await;
    assert_eq!(running.buffer.verify().unwrap(), running.buffer.ledger());
    assert_eq!(running.row("pump").acquired, 410 + fresh);
    assert_eq!(running.row("pump").acked, 410 + fresh);
    assert!(running.uplink.report().refused_sources.is_empty());
    assert!(running.buffer.set_aside().is_empty());
    running.stop().await;
}
