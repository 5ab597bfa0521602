//! An edge node's feed: what waits for whom, what is held, what is sent again.

use millrace_uplink::Parting;

use super::*;

const STATE: &str = "spBv1.0/STATE/scada";
const REBIRTH: &[u8] = b"\x12\x18\x0a\x14Node Control/Rebirth\x70\x01";

struct Scene {
    buffer: Buffer,
    delivery: Delivery,
    clock: Arc<TestClock>,
    _commands: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// A source `pump` with two samples in the log, and an uplink that waits for a primary host.
fn scene(clock: TestClock, models: &[&str]) -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("millrace.toml");
    let text = "[gateway]\nid = \"gw\"\ndata_dir = \"data\"\n\n[[uplink]]\nname = \"scada\"\n\
                profile = \"sparkplug-b\"\nvars = { group = \"g\", primary_host = \"scada\" }\n\
                url = \"mqtt://127.0.0.1\"\n";
    std::fs::write(&config, text).unwrap();
    let loaded = crate::config::load(Some(&config), None).unwrap();
    let settings = loaded.config.uplinks[0].clone();
    let test_clock = Arc::new(clock);
    let clock: Arc<dyn Clock> = test_clock.clone();
    let buffer = Buffer::open(Settings::new(dir.path().join("buffer")), clock.clone()).unwrap();
    let outbox = buffer.outbox("scada", millrace_buffer::Start::Oldest);
    let registration = buffer.register("pump", SourceKind::Model, &[text_tag()]);
    let sample = |text: &str| {
        millrace_tags::Sample::good(registration.tags[0], Value::Text(text.into()), clock.now())
    };
    buffer.append(registration.source, vec![sample("a"), sample("b")]);
    buffer.commit().unwrap();
    let journal = Arc::new(Journal::open(dir.path()));
    let (commands, task) = Commands::channel("scada", granted(), journal, clock.clone(), Echo);
    let running = tokio::spawn(task.run(tokio_util::sync::CancellationToken::new()));
    let uplink = Uplink::new(&settings);
    let plant = Plant {
        live: Arc::default(),
        devices: std::collections::BTreeMap::new(),
        tags: HashMap::new(),
        models: models.iter().map(|model| (*model).to_owned()).collect(),
    };
    let delivery = Delivery::new(outbox, settings, uplink, clock, commands);
    Scene {
        delivery: delivery.with_node(plant, dir.path()),
        buffer,
        clock: test_clock,
        _commands: running,
        _dir: dir,
    }
}

impl Scene {
    fn known() -> Self {
        scene(TestClock::new(1, Some(Timestamp(0))), &["pump"])
    }

    async fn connect(&mut self) -> Parting {
        let parting = self.delivery.connecting().await.unwrap();
        assert_eq!(self.delivery.greeting(), []);
        parting
    }

    fn hears(&mut self, topic: &str, payload: Vec<u8>, retained: bool) {
        self.delivery.received(Inbound {
            topic: topic.to_owned(),
            payload: payload.into(),
            retained,
            properties: millrace_uplink::Properties::default(),
        });
    }

    fn host(&mut self, online: bool, timestamp: u64) {
        let state = format!("{{\"online\":{online},\"timestamp\":{timestamp}}}");
        self.hears(STATE, state.into_bytes(), false);
    }

    /// What goes out until there is nothing more, all of it read by the broker.
    async fn sent(&mut self) -> Vec<String> {
        let mut kinds = Vec::new();
        // What is on disk may take a moment to come.
        for _ in 0..50 {
            while let Some(consignment) = self.delivery.next(WINDOW) {
                let messages = consignment.messages.iter();
                kinds.extend(messages.map(|m| m.topic.split('/').nth(2).unwrap().to_owned()));
                self.delivery.acked(consignment.token);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        kinds
    }

    fn queued(&self) -> u64 {
        self.buffer.ledger().uplinks["scada"].devices["pump"].queued
    }
}

#[tokio::test]
async fn nothing_goes_before_the_clock_and_the_host_are_there() {
    let mut scene = scene(TestClock::new(1, None), &["pump"]);
    scene.connect().await;
    scene.host(true, 5);
    assert_eq!(scene.sent().await, [""; 0]);
    scene.clock.set_offset(Timestamp(0));
    scene.connect().await;
    assert_eq!(scene.sent().await, [""; 0]);
    assert_eq!(scene.delivery.uplink.report().state, "waiting");
    scene.host(true, 5);
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH", "DDATA"]);
    assert_eq!(scene.delivery.uplink.report().state, "connected");
    assert!(!scene.delivery.hangs_up());
    scene.host(false, 5);
    assert!(scene.delivery.hangs_up());
    assert_eq!(scene.sent().await, [""; 0]);
}

#[tokio::test]
async fn where_the_host_is_not_the_next_endpoint_is_tried() {
    let mut scene = Scene::known();
    let waits = async |scene: &mut Scene, seconds: u64| {
        scene.clock.advance(Duration::from_secs(seconds));
        scene.sent().await;
        (scene.delivery.hangs_up(), scene.delivery.walks_on())
    };
    let connect = async |scene: &mut Scene| {
        if let Some(node) = &mut scene.delivery.node {
            node.connected();
        }
        scene.connect().await;
    };
    connect(&mut scene).await;
    assert_eq!(
        waits(&mut scene, 600).await,
        (false, false),
        "there is no other"
    );
    scene.delivery.node = scene.delivery.node.map(|node| node.walks(true));
    // Nothing is heard of it; then it is said to be offline; then it comes.
    connect(&mut scene).await;
    assert_eq!(waits(&mut scene, 29).await, (false, false));
    assert_eq!(waits(&mut scene, 1).await, (true, true));
    assert!(!scene.delivery.walks_on(), "once");
    connect(&mut scene).await;
    scene.host(false, 5);
    assert_eq!(waits(&mut scene, 4).await, (false, false));
    assert_eq!(waits(&mut scene, 1).await, (true, true));
    connect(&mut scene).await;
    scene.host(true, 6);
    assert_eq!(waits(&mut scene, 600).await, (false, false));
    scene.host(false, 6);
    assert_eq!(
        (scene.delivery.hangs_up(), scene.delivery.walks_on()),
        (true, true),
        "at once"
    );
}

#[tokio::test]
async fn what_the_broker_has_read_settles_after_a_while_on_one_connection() {
    let mut scene = Scene::known();
    scene.connect().await;
    scene.host(true, 5);
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH", "DDATA"]);
    assert_eq!(scene.queued(), 2, "read is not delivered");
    scene.clock.advance(Duration::from_secs(9));
    scene.connect().await;
    scene.host(true, 5);
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH", "DDATA"], "again");
    scene.clock.advance(Duration::from_secs(9));
    scene.sent().await;
    assert_eq!(scene.queued(), 2);
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(scene.sent().await, [""; 0]);
    assert_eq!(scene.queued(), 0);
    scene.connect().await;
    scene.host(true, 5);
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH"]);
}

#[tokio::test]
async fn a_host_that_was_away_for_a_moment_gets_it_again() {
    let mut scene = Scene::known();
    scene.connect().await;
    scene.host(true, 5);
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH", "DDATA"]);
    scene.host(true, 6);
    scene.clock.advance(Duration::from_secs(2));
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH", "DDATA"]);
    scene.clock.advance(Duration::from_secs(10));
    scene.sent().await;
    assert_eq!(scene.queued(), 0);
}

#[tokio::test]
async fn births_that_are_asked_for_twice_in_a_moment_come_once_and_surely() {
    let mut scene = Scene::known();
    scene.connect().await;
    scene.host(true, 5);
    scene.sent().await;
    let ask = |scene: &mut Scene, retained| {
        scene.hears("spBv1.0/g/NCMD/gw", REBIRTH.to_vec(), retained);
    };
    ask(&mut scene, true);
    scene.clock.advance(Duration::from_secs(2));
    assert_eq!(
        scene.sent().await,
        [""; 0],
        "retained commands mean nothing"
    );
    ask(&mut scene, false);
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH"]);
    ask(&mut scene, false);
    ask(&mut scene, false);
    assert_eq!(scene.sent().await, [""; 0], "not yet");
    scene.clock.advance(Duration::from_secs(1));
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH"]);
}

#[tokio::test]
async fn a_device_that_is_configured_no_more_is_born_for_its_history_only() {
    let mut scene = scene(TestClock::new(1, Some(Timestamp(0))), &[]);
    scene.connect().await;
    scene.host(true, 5);
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH", "DDATA"]);
    scene.clock.advance(Duration::from_millis(600));
    assert_eq!(scene.sent().await, ["DDEATH"]);
    scene.clock.advance(Duration::from_secs(60));
    assert_eq!(scene.sent().await, [""; 0]);
    assert_eq!(scene.queued(), 0);
}

#[tokio::test]
async fn births_that_the_broker_cannot_take_hold_everything_back_and_say_so() {
    let mut scene = Scene::known();
    scene.connect().await;
    scene.host(true, 5);
    let births = scene.delivery.next(WINDOW).unwrap();
    let why = Refusal::TooLarge {
        topic: "spBv1.0/g/DBIRTH/gw/pump".to_owned(),
        bytes: 500_000,
        limit: 100_000,
    };
    scene.delivery.refused(births.token, why);
    assert_eq!(scene.sent().await, [""; 0]);
    let status = scene.delivery.uplink.report();
    assert_eq!(status.state, "waiting");
    assert!(status.error.unwrap().contains("500000"));
    scene.clock.advance(Duration::from_secs(60));
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH", "DDATA"]);
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_births() {
    let mut scene = scene(
        TestClock::new(1, Some(Timestamp(60_000_000_000))),
        &["pump"],
    );
    scene.connect().await;
    scene.host(true, 5);
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH", "DDATA"]);
    scene.clock.advance(Duration::from_secs(2));
    scene.clock.set_offset(Timestamp(59_500_000_000));
    assert_eq!(scene.sent().await, [""; 0], "a small correction is none");
    scene.clock.set_offset(Timestamp(10_000_000_000));
    assert_eq!(scene.sent().await, ["NBIRTH", "DBIRTH"]);
}

#[tokio::test]
async fn each_connect_has_a_number_and_one_that_nobody_heard_gives_it_back() {
    let mut scene = Scene::known();
    let first = scene.connect().await;
    let second = scene.connect().await;
    assert_ne!(first.will, second.will);
    assert_eq!(
        second.farewell,
        second.will.clone().into_iter().collect::<Vec<_>>()
    );
    let third = scene.connect().await;
    scene.delivery.unheard();
    assert_eq!(scene.connect().await, third);
}
