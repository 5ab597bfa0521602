//! One connection against a peer that the test plays itself, in virtual time.

mod unacked;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use millrace_tags::Lane;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::live::{Live, LostError};
use super::pace::Pace;
use super::*;
use crate::link::Link;
use crate::packet::{self, Packet};

/// Serves lanes of equal messages, and writes down what it is told.
#[derive(Default)]
struct Lanes {
    urgent: usize,
    backlog: usize,
    queue: VecDeque<Consignment>,
    next_token: u64,
    acked: Vec<u64>,
    refused: Vec<(u64, Refusal)>,
    received: Vec<(String, Vec<u8>, bool)>,
    ready: Arc<Notify>,
}

impl Lanes {
    fn consignment(&mut self, lane: Lane) -> Consignment {
        self.next_token += 1;
        let topic = lane.name();
        Consignment {
            token: self.next_token,
            lane,
            messages: vec![Message::new(topic, "x")],
        }
    }
}

impl Feed for &mut Lanes {
    fn greeting(&mut self) -> Vec<Message> {
        Vec::new()
    }

    fn next(&mut self, window: Window) -> Option<Consignment> {
        if let Some(consignment) = self.queue.pop_front() {
            return Some(consignment);
        }
        if self.urgent > 0 {
            self.urgent -= 1;
            return Some(self.consignment(Lane::Live));
        }
        if window.backlog && self.backlog > 0 {
            self.backlog -= 1;
            return Some(self.consignment(Lane::Backlog));
        }
        None
    }

    fn acked(&mut self, token: u64) {
        self.acked.push(token);
    }

    fn refused(&mut self, token: u64, why: Refusal) {
        self.refused.push((token, why));
    }

    fn received(&mut self, topic: &str, payload: &[u8], retained: bool) {
        self.received
            .push((topic.into(), payload.to_vec(), retained));
    }

    fn state(&mut self, _state: &SessionState) {}

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }
}

/// The broker's end of a connection.
struct Peer {
    wire: DuplexStream,
    inbound: BytesMut,
}

impl Peer {
    async fn packet(&mut self) -> Packet {
        loop {
            if let Some(packet) = packet::read(&mut self.inbound, 1 << 20).unwrap() {
                return packet;
            }
            assert_ne!(self.wire.read_buf(&mut self.inbound).await.unwrap(), 0);
        }
    }

    /// The publishes that come without an ack.
    async fn publishes(&mut self) -> Vec<(String, u16)> {
        let mut got = Vec::new();
        while let Ok(packet) = timeout(Duration::from_millis(50), self.packet()).await {
            if let Packet::Publish(publish) = packet {
                got.push((publish.topic, publish.pkid));
            }
        }
        got
    }

    async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        packet::write(&mut out, &packet).unwrap();
        self.wire.write_all(&out).await.unwrap();
    }

    /// Reads and never answers.
    async fn swallow(mut self) {
        loop {
            self.packet().await;
        }
    }
}

fn connection() -> (Link, Peer) {
    let (ours, theirs) = duplex(1 << 20);
    let peer = Peer {
        wire: theirs,
        inbound: BytesMut::new(),
    };
    (Link::new(ours), peer)
}

fn settings() -> SessionSettings {
    SessionSettings::new("mqtt://test".parse().unwrap(), "test")
}

/// Runs a connection beside the peer's script; whichever ends first ends the test's run.
async fn beside<T>(
    settings: &SessionSettings,
    lanes: &mut Lanes,
    link: Link,
    script: impl Future<Output = T>,
) -> Result<T, Result<(), LostError>> {
    let shutdown = CancellationToken::new();
    let mut feed = lanes;
    let live = Live::new(link, settings, &mut feed, Default::default(), Pace::open());
    tokio::select! {
        (outcome, _) = live.run(&shutdown) => Err(outcome),
        value = script => Ok(value),
    }
}

#[tokio::test(start_paused = true)]
async fn backlog_fills_half_of_the_window_and_live_the_rest() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes {
        backlog: 1000,
        ..Lanes::default()
    };
    let settings = settings();
    let script = async {
        let backlog = peer.publishes().await;
        // One ack makes room for one more backlog message, although the window is half empty.
        peer.send(packet::puback(backlog[3].1)).await;
        let more = peer.publishes().await;
        (backlog, more)
    };
    let (backlog, more) = beside(&settings, &mut lanes, link, script).await.unwrap();
    assert_eq!(backlog.len(), 50);
    assert_eq!(more.len(), 1);
    assert_eq!(lanes.acked, [4]);
}

/// Has nothing until somebody puts it in and rings.
#[derive(Clone, Default)]
struct Mailbox {
    waiting: Arc<std::sync::Mutex<Vec<Consignment>>>,
    ready: Arc<Notify>,
}

impl Feed for Mailbox {
    fn greeting(&mut self) -> Vec<Message> {
        Vec::new()
    }

    fn next(&mut self, _window: Window) -> Option<Consignment> {
        self.waiting.lock().unwrap().pop()
    }

    fn acked(&mut self, _token: u64) {}

    fn refused(&mut self, _token: u64, _why: Refusal) {}

    fn received(&mut self, _topic: &str, _payload: &[u8], _retained: bool) {}

    fn state(&mut self, _state: &SessionState) {}

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }
}

#[tokio::test(start_paused = true)]
async fn the_bell_wakes_an_idle_session() {
    let (link, mut peer) = connection();
    let mut mailbox = Mailbox::default();
    let outside = mailbox.clone();
    let settings = settings();
    let shutdown = CancellationToken::new();
    let live = Live::new(
        link,
        &settings,
        &mut mailbox,
        Default::default(),
        Pace::open(),
    );
    let script = async {
        for token in 0..3 {
            assert!(peer.publishes().await.is_empty());
            outside.waiting.lock().unwrap().push(Consignment {
                token,
                lane: Lane::Live,
                messages: vec![Message::new("bell", "x")],
            });
            outside.ready.notify_one();
            assert_eq!(peer.publishes().await.len(), 1);
        }
    };
    tokio::select! {
        (outcome, _) = live.run(&shutdown) => panic!("{outcome:?}"),
        () = script => {}
    }
}

/// Backlog without an end, and a live message when somebody asks for one.
#[derive(Default)]
struct Endless {
    live: Arc<std::sync::atomic::AtomicBool>,
    ready: Arc<Notify>,
}

impl Feed for Endless {
    fn greeting(&mut self) -> Vec<Message> {
        Vec::new()
    }

    fn next(&mut self, window: Window) -> Option<Consignment> {
        let lane = match self.live.swap(false, Ordering::Relaxed) {
            true => Lane::Live,
            false => window.backlog.then_some(Lane::Backlog)?,
        };
        Some(Consignment {
            token: fastrand::u64(..),
            lane,
            messages: vec![Message::new(lane.name(), vec![b'x'; 20_000])],
        })
    }

    fn acked(&mut self, _: u64) {}

    fn refused(&mut self, _: u64, _: Refusal) {}

    fn received(&mut self, _: &str, _: &[u8], _: bool) {}

    fn state(&mut self, _: &SessionState) {}

    fn ready(&self) -> Arc<Notify> {
        self.ready.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_message_finds_little_backlog_before_it() {
    // A socket that takes next to nothing: what is encoded ahead of it waits.
    let (ours, theirs) = duplex(1024);
    let mut peer = Peer {
        wire: theirs,
        inbound: BytesMut::new(),
    };
    let mut feed = Endless::default();
    let (live_now, ready) = (feed.live.clone(), feed.ready.clone());
    let (settings, shutdown) = (settings(), CancellationToken::new());
    let live = Live::new(
        Link::new(ours),
        &settings,
        &mut feed,
        Default::default(),
        Pace::open(),
    );
    let script = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        live_now.store(true, Ordering::Relaxed);
        ready.notify_one();
        let sent = peer.publishes().await;
        sent.iter().position(|(topic, _)| topic == "live").unwrap()
    };
    let before = tokio::select! {
        (outcome, _) = live.run(&shutdown) => panic!("{outcome:?}"),
        before = script => before,
    };
    assert!(
        before * 20_000 <= 64 * 1024,
        "{before} messages of backlog before it"
    );
}

#[tokio::test(start_paused = true)]
async fn live_passes_a_waiting_backlog() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes {
        urgent: 60,
        ..Lanes::default()
    };
    // A backlog consignment of more messages than its half of the window.
    lanes.queue.push_back(Consignment {
        token: 1000,
        lane: Lane::Backlog,
        messages: vec![Message::new("backlog", "x"); 80],
    });
    let settings = settings();
    let script = async { peer.publishes().await };
    let sent = beside(&settings, &mut lanes, link, script).await.unwrap();
    let count = |lane: &str| sent.iter().filter(|(topic, _)| topic == lane).count();
    assert_eq!((count("backlog"), count("live")), (50, 50));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_acks_is_given_up() {
    let (link, peer) = connection();
    let mut lanes = Lanes {
        urgent: 1,
        ..Lanes::default()
    };
    let started = Instant::now();
    let settings = settings();
    let lost = beside(&settings, &mut lanes, link, peer.swallow()).await;
    assert!(matches!(lost, Err(Err(LostError::Stalled))), "{lost:?}");
    assert_eq!(started.elapsed().as_secs(), 30);
    assert!(lanes.acked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn answered_pings_are_no_acks() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes {
        urgent: 1,
        ..Lanes::default()
    };
    let settings = settings();
    let script = async {
        loop {
            if peer.packet().await == Packet::PingReq {
                peer.send(Packet::PingResp).await;
            }
        }
    };
    let lost: Result<(), _> = beside(&settings, &mut lanes, link, script).await;
    assert!(matches!(lost, Err(Err(LostError::Stalled))), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_passed_over_ends_the_connection() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes {
        urgent: 1000,
        ..Lanes::default()
    };
    let settings = settings();
    let script = async {
        loop {
            if let Packet::Publish(publish) = peer.packet().await
                && publish.pkid != 1
            {
                tokio::time::sleep(Duration::from_secs(1)).await;
                peer.send(packet::puback(publish.pkid)).await;
            }
        }
    };
    let lost: Result<(), _> = beside(&settings, &mut lanes, link, script).await;
    assert!(matches!(lost, Err(Err(LostError::PassedOver))), "{lost:?}");
    assert!(!lanes.acked.contains(&1));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_and_given_up() {
    let (link, peer) = connection();
    let mut lanes = Lanes::default();
    let started = Instant::now();
    let settings = settings();
    let lost = beside(&settings, &mut lanes, link, peer.swallow()).await;
    assert!(matches!(lost, Err(Err(LostError::Silent(_)))), "{lost:?}");
    // Three quarters of the keep-alive, then half of one for the answer.
    assert_eq!(started.elapsed().as_secs(), 22 + 15);
}

#[tokio::test(start_paused = true)]
async fn pings_keep_an_idle_connection() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes::default();
    let settings = settings();
    let script = async {
        for _ in 0..100 {
            assert_eq!(peer.packet().await, Packet::PingReq);
            peer.send(Packet::PingResp).await;
        }
    };
    beside(&settings, &mut lanes, link, script).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn strange_acks_are_counted_and_harmless() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes {
        urgent: 1,
        ..Lanes::default()
    };
    let settings = settings();
    let script = async {
        let (_, id) = peer.publishes().await[0];
        for id in [id + 1, 0, 65_535, id, id] {
            peer.send(packet::puback(id)).await;
        }
        peer.publishes().await
    };
    beside(&settings, &mut lanes, link, script).await.unwrap();
    assert_eq!(lanes.acked, [1]);
    assert_eq!(settings.counters.unknown_acks_total(), 4);
    assert_eq!(settings.counters.messages_acked_total(), 1);
}

#[tokio::test(start_paused = true)]
async fn unsendable_consignments_are_refused_whole() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes::default();
    let large = Message::new("big", vec![0u8; MESSAGE_BYTES_DEFAULT]);
    let small = Message::new("small", "x");
    let consignments = [
        vec![small.clone(), large],
        vec![Message::new("a/+/b", "x")],
        vec![Message::new("", "x")],
        vec![],
        vec![small],
    ];
    for (token, messages) in (0..).zip(consignments) {
        lanes.queue.push_back(Consignment {
            token,
            lane: Lane::Live,
            messages,
        });
    }
    let settings = settings();
    let script = async { peer.publishes().await };
    let sent = beside(&settings, &mut lanes, link, script).await.unwrap();
    assert_eq!(sent.len(), 1, "nothing of a refused consignment is sent");
    let refused: Vec<u64> = lanes.refused.iter().map(|(token, _)| *token).collect();
    assert_eq!(refused, [0, 1, 2]);
    assert!(matches!(lanes.refused[0].1, Refusal::TooLarge { .. }));
    assert!(matches!(lanes.refused[1].1, Refusal::Topic { .. }));
    assert_eq!(lanes.acked, [3], "the empty one is done at once");
    assert_eq!(settings.counters.refused_total(), 3);
}

#[tokio::test(start_paused = true)]
async fn commands_are_handed_over_and_acked() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes::default();
    let mut settings = settings();
    settings.subscribe = vec!["cmd".into()];
    let script = async {
        assert!(matches!(peer.packet().await, Packet::Subscribe(_)));
        let mut command = Message::new("cmd", "do");
        command.retain = true;
        peer.send(packet::publish(command, 77)).await;
        peer.packet().await
    };
    let answer = beside(&settings, &mut lanes, link, script).await.unwrap();
    assert_eq!(answer, packet::puback(77));
    assert_eq!(lanes.received, [("cmd".into(), b"do".to_vec(), true)]);
}

#[tokio::test(start_paused = true)]
async fn garbage_ends_the_connection() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes::default();
    let settings = settings();
    let script = async {
        peer.wire.write_all(&[0xff; 64]).await.unwrap();
        std::future::pending::<()>().await;
    };
    let lost = beside(&settings, &mut lanes, link, script).await;
    assert!(matches!(lost, Err(Err(LostError::Protocol(_)))), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_acks_then_says_goodbye() {
    let (link, mut peer) = connection();
    let mut lanes = Lanes {
        urgent: 2,
        ..Lanes::default()
    };
    let mut settings = settings();
    settings.farewell = vec![Message::retained("status", "offline")];
    let shutdown = CancellationToken::new();
    let mut feed = &mut lanes;
    let live = Live::new(link, &settings, &mut feed, Default::default(), Pace::open());
    let script = async {
        let sent = peer.publishes().await;
        shutdown.cancel();
        assert!(peer.publishes().await.is_empty(), "acks are waited for");
        for (_, id) in sent {
            peer.send(packet::puback(id)).await;
        }
        let Packet::Publish(farewell) = peer.packet().await else {
            panic!("expected the farewell");
        };
        assert_eq!(farewell.topic, "status");
        peer.send(packet::puback(farewell.pkid)).await;
        assert_eq!(peer.packet().await, Packet::Disconnect);
    };
    let ((outcome, _), ()) = tokio::join!(live.run(&shutdown), script);
    outcome.unwrap();
    assert_eq!(lanes.acked, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_ever() {
    let (link, peer) = connection();
    let mut lanes = Lanes {
        urgent: 2,
        ..Lanes::default()
    };
    let settings = settings();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let mut feed = &mut lanes;
    let live = Live::new(link, &settings, &mut feed, Default::default(), Pace::open());
    let run = timeout(Duration::from_secs(10), live.run(&shutdown));
    tokio::select! {
        outcome = run => assert!(outcome.unwrap().0.is_ok()),
        () = peer.swallow() => unreachable!(),
    }
}
