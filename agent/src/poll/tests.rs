//! The poller over a device that follows a script.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use millrace_buffer::{Registration, Settings, Space, TagSpec, WhenFull};
use millrace_drivers::{Driver, PollGroup};
use millrace_tags::{Quality, Receipt, SourceKind, SystemClock, TagId, Value, ValueType};

use super::*;
use crate::live::{LiveTable, TagLabel};
use crate::report::{DeviceStatus, EventRow};

mod timing;

/// What the device does next.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Nobody takes the connection.
    Refuse,
    /// A connection is made.
    Open,
    /// A read brings this value, with a receipt.
    Value(u64),
    /// A read takes so many milliseconds.
    Slow(u64),
    /// A read breaks the session.
    Break,
    /// A read does not come back.
    Hang,
    /// A mistake in a driver.
    Panic,
}

#[derive(Default)]
struct Script {
    acts: Mutex<VecDeque<Act>>,
    settled: Mutex<Vec<Receipt>>,
    settled_early: Mutex<u64>,
    commits: Mutex<u64>,
    opened: Mutex<u64>,
    /// Whether anybody listens; `None`: it does not tell.
    listens: Mutex<Option<bool>>,
    /// Which group was read when.
    reads: Mutex<Vec<(usize, Instant)>>,
    /// The last value that the device sent by itself; `None`: it does not.
    sent: Mutex<Option<u64>>,
}

impl Script {
    /// The next act; when the script is over the device goes on as it did last.
    fn next(&self) -> Act {
        let mut acts = lock(&self.acts);
        if acts.len() > 1 {
            acts.pop_front().unwrap_or(Act::Hang)
        } else {
            acts.front().copied().unwrap_or(Act::Hang)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Scripted {
    script: Arc<Script>,
    groups: Vec<PollGroup>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Driver for Scripted {
    fn poll_groups(&self) -> &[PollGroup] {
        &self.groups
    }

    fn tags(&self) -> Vec<TagId> {
        self.groups.iter().flat_map(|g| g.tags.clone()).collect()
    }

    async fn listens(&self) -> Option<bool> {
        *lock(&self.script.listens)
    }

    async fn open(&self) -> Result<Box<dyn Session>, SessionError> {
        match self.script.next() {
            Act::Refuse => Err(SessionError::Connect {
                address: "nowhere".to_owned(),
                source: std::io::ErrorKind::ConnectionRefused.into(),
            }),
            Act::Hang => std::future::pending().await,
            _ => {
                *lock(&self.script.opened) += 1;
                Ok(Box::new(ScriptedSession {
                    script: self.script.clone(),
                    tags: self.tags(),
                    clock: self.clock.clone(),
                }))
            }
        }
    }
}

struct ScriptedSession {
    script: Arc<Script>,
    tags: Vec<TagId>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Session for ScriptedSession {
    async fn read(&mut self, group: usize) -> Result<Reading, SessionError> {
        lock(&self.script.reads).push((group, Instant::now()));
        match self.script.next() {
            Act::Slow(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(Reading::default())
            }
            Act::Value(value) => {
                let now = self.clock.now();
                let good = |tag: &TagId| Sample::good(*tag, Value::U64(value), now);
                Ok(Reading {
                    samples: self.tags.iter().map(good).collect(),
                    receipt: Some(Receipt(value)),
                    ..Reading::default()
                })
            }
            Act::Hang => std::future::pending().await,
            Act::Panic => panic!("the script says so"),
            _ => Err(SessionError::Timeout {
                device: "pump".to_owned(),
                request: "a read".to_owned(),
                timeout: Duration::from_secs(1),
            }),
        }
    }

    async fn notified(&mut self) -> Result<Reading, SessionError> {
        if lock(&self.script.sent).is_none() {
            return std::future::pending().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut sent = lock(&self.script.sent);
        let value = sent.map_or(0, |sent| sent + 1);
        *sent = Some(value);
        Ok(Reading {
            samples: vec![Sample::good(
                self.tags[0],
                Value::U64(value),
                self.clock.now(),
            )],
            receipt: Some(Receipt(value)),
            ..Reading::default()
        })
    }

    fn settle(&mut self, receipt: Receipt) {
        if *lock(&self.script.commits) == 0 {
            *lock(&self.script.settled_early) += 1;
        }
        lock(&self.script.settled).push(receipt);
    }

    async fn close(&mut self) {
        // A goodbye that nobody takes.
        std::future::pending().await
    }
}

/// A poller of two tags at work.
struct Scene {
    /// Free bytes of the buffer's disk.
    free: Arc<AtomicU64>,
    script: Arc<Script>,
    device: Arc<Device>,
    live: Arc<LiveTable>,
    buffer: Buffer,
    events: Arc<EventLog>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Scene {
    /// `commit_interval` decides when receipts may settle.
    fn start(acts: &[Act], interval_ms: u64, commit_interval: Duration) -> Self {
        Self::with_intervals(acts, &[interval_ms], commit_interval)
    }

    /// As many poll groups, each with its share of the two tags.
    fn with_intervals(acts: &[Act], intervals_ms: &[u64], commit_interval: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let settings = Settings {
            commit_interval,
            when_full: WhenFull::Block,
            ..Settings::new(dir.path())
        };
        let free = Arc::new(AtomicU64::new(1 << 40));
        let gauge = free.clone();
        let space = move || {
            Some(Space {
                free: gauge.load(Ordering::Relaxed),
                total: 1 << 40,
            })
        };
        let buffer = Buffer::open_on(settings, clock.clone(), space).unwrap();
        let live = Arc::new(LiveTable::default());
        let registration = register(&buffer, &live);
        let script = Arc::new(Script {
            acts: Mutex::new(acts.iter().copied().collect()),
            ..Script::default()
        });
        let tags = registration.tags.chunks(2 / intervals_ms.len());
        let groups = tags.zip(intervals_ms).map(|(tags, ms)| PollGroup {
            interval: Duration::from_millis(*ms),
            tags: tags.to_vec(),
        });
        let driver = Scripted {
            script: script.clone(),
            groups: groups.collect(),
            clock: clock.clone(),
        };
        let device = Device::new(
            "pump",
            "scripted",
            "nowhere",
            Arc::new(driver),
            HashMap::new(),
            clock.clone(),
        );
        let device = Arc::new(device);
        let events = Arc::new(EventLog::new(clock.clone()));
        let commits = watch::Sender::new(0);
        let room = watch::Sender::new(true);
        let poller = Poller {
            device: device.clone(),
            source: registration.source,
            pipeline: Pipeline::new(
                registration.source,
                buffer.clone(),
                live.clone(),
                Vec::new(),
                registration
                    .tags
                    .iter()
                    .map(|tag| (*tag, Default::default()))
                    .collect(),
            ),
            buffer: buffer.clone(),
            commits: commits.subscribe(),
            room: room.subscribe(),
            events: events.clone(),
            clock,
        };
        let counted = script.clone();
        buffer.on_commit(Box::new(move || {
            *lock(&counted.commits) += 1;
            commits.send_modify(|count| *count += 1);
        }));
        buffer.on_room(Box::new(move |has_room| {
            room.send_replace(has_room);
        }));
        let shutdown = CancellationToken::new();
        Self {
            free,
            script,
            device,
            live,
            buffer,
            events,
            task: tokio::spawn(poller.run(shutdown.clone())),
            shutdown,
            _dir: dir,
        }
    }

    /// Sets the disk's free bytes and lets the buffer see to it.
    fn leave(&self, free: u64) {
        self.free.store(free, Ordering::Relaxed);
        self.buffer.retain_uplinks(&[]);
        self.buffer.commit().unwrap();
    }

    fn status(&self) -> DeviceStatus {
        self.device.report(&self.live)
    }

    fn acquired(&self) -> u64 {
        self.buffer
            .ledger()
            .devices
            .get("pump")
            .map_or(0, |row| row.acquired)
    }

    async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let reached = async {
            while !reached(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let limit = Duration::from_secs(30);
        assert!(
            tokio::time::timeout(limit, reached).await.is_ok(),
            "{what}: {:?}",
            self.status()
        );
    }

    async fn stop(self) -> Vec<EventRow> {
        self.shutdown.cancel();
        self.task.await.unwrap();
        self.events.report()
    }
}

fn register(buffer: &Buffer, live: &LiveTable) -> Registration {
    let spec = |name: &str| TagSpec {
        name: name.into(),
        value_type: ValueType::U64,
        unit: None,
    };
    let registration = buffer.register("pump", SourceKind::Device, &[spec("a"), spec("b")]);
    for tag in &registration.tags {
        let label = TagLabel {
            full_name: format!("pump/{}", tag.0),
            unit: None,
        };
        live.add(*tag, label);
    }
    registration
}

const SOON: Duration = Duration::from_millis(10);
const NEVER: Duration = Duration::from_secs(3_600);

#[tokio::test]
async fn each_failed_attempt_gives_one_bad_sample_a_tag_and_a_loss_one_event() {
    let acts = [
        Act::Refuse,
        Act::Refuse,
        Act::Open,
        Act::Value(1),
        Act::Hang,
    ];
    let scene = Scene::start(&acts, 1, SOON);
    scene
        .until("a value", |scene| scene.status().reads_total == 1)
        .await;
    // Two attempts and one read, two tags each.
    assert_eq!(scene.acquired(), 6);
    let status = scene.status();
    assert_eq!(
        (status.state, status.read_errors_total),
        (DeviceState::Online, 2)
    );
    assert_eq!((status.error, status.tags_good), (None, 2));
    let events = scene.stop().await;
    let states: Vec<&str> = events.iter().map(|event| event.state.as_str()).collect();
    assert_eq!(states, ["begin", "end"]);
}

#[tokio::test]
async fn a_broken_read_makes_values_bad_and_a_new_session() {
    let acts = [
        Act::Open,
        Act::Value(1),
        Act::Break,
        Act::Open,
        Act::Value(2),
        Act::Hang,
    ];
    let scene = Scene::start(&acts, 1, SOON);
    scene
        .until("the loss", |scene| scene.status().read_errors_total == 1)
        .await;
    assert_eq!(scene.status().tags_good, 0);
    let rows = scene.live.report(&SystemClock::new(), |_| true);
    assert!(
        rows.iter()
            .all(|row| row.reason.as_deref() == Some("timeout"))
    );
    scene
        .until("a value", |scene| scene.status().reads_total == 2)
        .await;
    assert_eq!(*lock(&scene.script.opened), 2);
    assert_eq!(scene.acquired(), 6);
    assert_eq!(scene.stop().await.len(), 2);
}

#[tokio::test]
async fn receipts_settle_in_order_once_on_disk_over_a_session_change() {
    let acts = [
        Act::Open,
        Act::Value(1),
        Act::Break,
        Act::Open,
        Act::Value(2),
        Act::Value(3),
    ];
    let scene = Scene::start(&acts, 5, NEVER);
    scene
        .until("three reads", |scene| scene.status().reads_total >= 3)
        .await;
    scene.buffer.commit().unwrap();
    scene
        .until("settled", |scene| lock(&scene.script.settled).len() >= 3)
        .await;
    // The first was given by the session before, and nothing was settled before it was on disk.
    assert_eq!(lock(&scene.script.settled)[..3], [1, 2, 3].map(Receipt));
    assert_eq!(*lock(&scene.script.settled_early), 0);
    scene.stop().await;
}

#[tokio::test]
async fn a_paused_device_says_so_once_and_is_no_loss() {
    let scene = Scene::start(&[Act::Open, Act::Value(1)], 1, SOON);
    scene
        .until("values", |scene| scene.status().reads_total > 3)
        .await;
    scene.device.pause(true);
    let is_paused = |scene: &Scene| {
        let rows = scene.live.report(&SystemClock::new(), |_| true);
        rows.iter()
            .all(|row| row.reason.as_deref() == Some("paused"))
    };
    scene.until("paused samples", is_paused).await;
    assert_eq!(scene.status().state, DeviceState::Paused);
    let acquired = scene.acquired();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(scene.acquired(), acquired);
    scene.device.pause(false);
    scene
        .until("online again", |scene| {
            let status = scene.status();
            status.state == DeviceState::Online && status.tags_good == 2
        })
        .await;
    assert!(scene.stop().await.is_empty());
}

#[tokio::test]
async fn a_hanging_read_and_a_hanging_goodbye_do_not_hold_up_a_stop_for_ever() {
    let scene = Scene::start(&[Act::Open, Act::Value(1), Act::Hang], 1, SOON);
    scene
        .until("a value", |scene| scene.status().reads_total == 1)
        .await;
    let stopped = tokio::time::timeout(Duration::from_secs(25), scene.stop());
    assert!(stopped.await.is_ok());
}

#[tokio::test]
async fn a_panic_of_a_driver_is_a_lost_device() {
    let scene = Scene::start(&[Act::Open, Act::Panic, Act::Hang], 1, SOON);
    scene
        .until("the loss", |scene| {
            scene.status().state == DeviceState::Offline
        })
        .await;
    assert!(scene.status().error.unwrap().contains("mistake"));
    let events = scene.stop().await;
    assert_eq!(events.len(), 1);
}

#[tokio::test]
async fn bad_samples_have_the_reason_of_the_failure() {
    let scene = Scene::start(&[Act::Refuse], 1, SOON);
    scene
        .until("the loss", |scene| scene.status().read_errors_total > 0)
        .await;
    let rows = scene.live.report(&SystemClock::new(), |_| true);
    let bad = Quality::Bad(Reason::NotConnected);
    assert!(rows.iter().all(|row| row.quality == bad.severity()));
    assert!(
        rows.iter()
            .all(|row| row.reason.as_deref() == Some("not-connected"))
    );
    scene.stop().await;
}

#[tokio::test]
async fn a_device_that_sends_by_itself_waits_for_room() {
    let acts = [Act::Open, Act::Value(0)];
    let scene = Scene::start(&acts, 3_600_000, Duration::from_millis(10));
    *lock(&scene.script.sent) = Some(0);
    // The poller asks again once something else has happened.
    scene.leave(1 << 40);
    let sent = |scene: &Scene| lock(&scene.script.sent).unwrap();
    let settled = |scene: &Scene| lock(&scene.script.settled).last().copied();
    scene.until("values", |scene| sent(scene) > 3).await;
    scene.leave(0);
    assert!(!scene.buffer.has_room());
    let held = |scene: &Scene| scene.status().remarks.iter().any(|r| r == HELD_BACK);
    scene.until("held back", held).await;
    let last = sent(&scene);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(sent(&scene), last);
    // What had been read is stored, nothing was refused, and the device is told.
    scene.buffer.commit().unwrap();
    scene
        .until("settled", |scene| settled(scene) == Some(Receipt(last)))
        .await;
    let row = scene.buffer.ledger().devices["pump"].clone();
    assert!(row.dropped.is_empty(), "{row:?}");
    scene.leave(1 << 40);
    scene
        .until("more values", |scene| sent(scene) > last + 3)
        .await;
    assert!(!held(&scene));
    scene.stop().await;
}
