//! mosquitto over each transport, with each trouble of a broker and of the way to it: what was acknowledged came, and
//! what was not came in the end; what it refuses is named where its MQTT has words for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_uplink::{Protocol, ProtocolChoice, SessionSettings, TlsFiles, run};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cutter::Cutter;
use crate::log_feed::{LogFeed, Progress, TOPIC};
use crate::mosquitto::Mosquitto;

/// Messages of each cell.
const MESSAGES: u64 = 1_500;
/// Of a topic that we may not publish to.
const REFUSED: u64 = 100;
/// The run must get on; how fast is the machine's affair.
const STILL_MAX: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Drop,
    SlowLink,
    Restart,
    Kill,
    SlowConsumer,
}

/// A subscriber that we did not write, with a session that the broker keeps.
struct Reader {
    got: Arc<Mutex<BTreeSet<u64>>>,
    /// It reads nothing while this is set.
    idle: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Reader {
    async fn start(port: u16) -> Self {
        let mut options = MqttOptions::new("reader", "127.0.0.1", port);
        options.set_clean_session(false);
        options.set_keep_alive(Duration::from_secs(300));
        let (client, mut events) = AsyncClient::new(options, 16);
        let got = Arc::<Mutex<BTreeSet<u64>>>::default();
        let idle = Arc::<AtomicBool>::default();
        let (seen, still) = (Arc::clone(&got), Arc::clone(&idle));
        let (ready, subscribed) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut ready = Some(ready);
            loop {
                while still.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        let _ = client.try_subscribe(TOPIC, QoS::AtLeastOnce);
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        let _ = ready.take().map(|ready| ready.send(()));
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let text = std::str::from_utf8(&publish.payload).unwrap();
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.insert(text.parse().unwrap());
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        timeout(STILL_MAX, subscribed).await.unwrap().unwrap();
        Self { got, idle, task }
    }

    fn count(&self) -> u64 {
        self.got
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len() as u64
    }

    fn idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits for `goal` as long as something goes on.
async fn until(what: &str, at: impl Fn() -> u64, goal: u64) {
    let (mut before, mut since) = (at(), Instant::now());
    while at() < goal {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if at() > before {
            (before, since) = (at(), Instant::now());
        }
        assert!(since.elapsed() < STILL_MAX, "{what}: {before} of {goal}");
    }
}

/// One cell. Returns how many acknowledged messages the broker lost.
async fn cell(broker: &mut Mosquitto, settings: SessionSettings, trouble: Trouble) -> u64 {
    let seed = 7 + trouble as u64;
    let reader = Reader::start(broker.plain).await;
    let cutter = match trouble {
        Trouble::Drop => Some(Cutter::start(settings.endpoint.port, 20_000, false, seed).await),
        Trouble::SlowLink => Some(Cutter::start(settings.endpoint.port, 0, true, seed).await),
        _ => None,
    };
    let mut settings = settings;
    if let Some(cutter) = &cutter {
        settings.endpoint.port = cutter.port;
    }
    // Slow enough that the trouble meets something.
    settings.max_inflight = 10;
    let feed = LogFeed::new(MESSAGES, seed);
    let progress = feed.progress();
    let acked = |progress: &Progress| progress.acked();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    match trouble {
        Trouble::Drop | Trouble::SlowLink => {}
        Trouble::Restart => {
            until("acks", || acked(&progress), MESSAGES / 10).await;
            broker.restart().await;
        }
        Trouble::Kill => {
            until("acks", || acked(&progress), MESSAGES / 10).await;
            broker.kill();
            broker.launch().await;
        }
        Trouble::SlowConsumer => reader.idle(true),
    }
    until("all acknowledged", || acked(&progress), MESSAGES).await;
    reader.idle(false);
    shutdown.cancel();
    timeout(STILL_MAX, session).await.unwrap().unwrap();
    match trouble {
        // What it had acknowledged and not passed on is gone: that is what `replay` is for.
        Trouble::Kill => tokio::time::sleep(Duration::from_millis(300)).await,
        _ => until("all delivered", || reader.count(), MESSAGES).await,
    }
    if let Some(cutter) = &cutter
        && trouble == Trouble::Drop
    {
        assert!(cutter.cuts() > 0, "nothing was cut");
    }
    MESSAGES - reader.count()
}

fn over(protocol: Protocol, mut settings: SessionSettings) -> SessionSettings {
    settings.protocol = ProtocolChoice::Only(protocol);
    settings
}

/// A topic that we may not publish to. MQTT 5 says so of each message; what 3.1.1 acknowledges and throws away no client can
/// see (docs/decisions/0006-refusals.md).
async fn refused(settings: impl Fn(&Mosquitto) -> SessionSettings) {
    let directory = tempfile::tempdir().unwrap();
    let acl = directory.path().join("acl");
    std::fs::write(&acl, "topic read #\ntopic write status\n").unwrap();
    // Without a limit of queued messages, mosquitto 2.0.11 hangs up after each refusal.
    let lines = format!("max_queued_messages 100000\nacl_file {}", acl.display());
    let Some(broker) = Mosquitto::start_with(&lines).await else {
        return;
    };
    let reader = Reader::start(broker.plain).await;
    let settings = settings(&broker);
    let silent = settings.protocol == ProtocolChoice::Only(Protocol::V311);
    let feed = LogFeed::new(REFUSED, 3);
    let progress = feed.progress();
    let shutdown = CancellationToken::new();
    let session = tokio::spawn(run(settings, feed, shutdown.clone()));
    let answered = || progress.refused() + progress.acked();
    until("all answered", answered, REFUSED).await;
    shutdown.cancel();
    timeout(STILL_MAX, session).await.unwrap().unwrap();
    let acked = if silent { REFUSED } else { 0 };
    assert_eq!(progress.acked(), acked);
    assert_eq!(reader.count(), 0);
}

async fn row(transport: &str, settings: impl Fn(&Mosquitto) -> SessionSettings) {
    for trouble in [
        Trouble::Drop,
        Trouble::SlowLink,
        Trouble::Restart,
        Trouble::Kill,
        Trouble::SlowConsumer,
    ] {
        let Some(mut broker) = Mosquitto::start().await else {
            return;
        };
        let began = Instant::now();
        let settings = settings(&broker);
        let lost = cell(&mut broker, settings, trouble).await;
        println!(
            "{transport}, {trouble:?}: lost by the broker {lost}, {:?}",
            began.elapsed()
        );
    }
    let began = Instant::now();
    refused(settings).await;
    println!("{transport}, refused topic: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_over_tcp() {
    row("tcp, 3.1.1", |broker| {
        over(Protocol::V311, broker.settings())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_over_tcp_by_mqtt_5() {
    row("tcp, 5", |broker| over(Protocol::V5, broker.settings())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_over_tls() {
    let settings = |broker: &Mosquitto| {
        let mut settings = broker.tls_settings();
        settings.endpoint.port = broker.tls_open;
        settings.tls = TlsFiles::default();
        settings.tls.ca_file = broker.tls_settings().tls.ca_file;
        settings
    };
    row("tls, 3.1.1", |broker| {
        over(Protocol::V311, settings(broker))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_over_mutual_tls() {
    row("mutual tls, 5", Mosquitto::tls_settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_over_websockets() {
    row("ws, 3.1.1", |broker| {
        over(Protocol::V311, broker.ws_settings())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_over_websockets_by_mqtt_5() {
    row("ws, 5", |broker| over(Protocol::V5, broker.ws_settings())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquitto_over_mutual_tls_and_websockets() {
    row("wss, 5", Mosquitto::wss_settings).await;
}
