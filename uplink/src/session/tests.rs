//! One connection against a peer that the test plays itself, in virtual time.

mod unacked;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
use crate::message::{Inbound, Message, Properties};
use crate::packet::{self, Goodbye, Packet, Protocol, Publish, Reason, Terms};

/// Serves lanes of equal messages, and writes down what it is told.
#[derive(Default)]
struct Lanes {
    urgent: usize,
    backlog: usize,
    queue: VecDeque<Consignment>,
    next_token: u64,
    acked: Vec<u64>,
    refused: Vec<(u64, Refusal)>,
    postponed: Vec<u64>,
    unsubscribed: Vec<(String, Reason)>,
    states: Vec<SessionState>,
    received: Vec<Inbound>,
    /// What it finds that it has to listen to, when it is asked for messages.
    wish: Option<Listening>,
    listening: Option<Listening>,
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
        if let Some(wish) = self.wish.take() {
            self.listening = Some(wish);
            return None;
        }
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

    fn postponed(&mut self, token: u64) {
        self.postponed.push(token);
    }

    fn received(&mut self, message: Inbound) {
        self.received.push(message);
    }

    fn subscribed(&mut self, refused: &[(String, Reason)]) {
        self.unsubscribed = refused.to_vec();
    }

    fn listening(&mut self) -> Option<Listening> {
        self.listening.take()
    }

    fn state(&mut self, state: &SessionState) {
        self.states.push(state.clone());
    }

    fn ready(&self) -> Arc<Notify> {
        Arc::clone(&self.ready)
    }
}

/// The broker's end of a connection.
struct Peer {
    wire: DuplexStream,
    inbound: BytesMut,
    protocol: Protocol,
}

impl Peer {
    async fn packet(&mut self) -> Packet {
        loop {
            if let Some(packet) = packet::read(self.protocol, &mut self.inbound, 1 << 20).unwrap() {
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
                got.push((publish.topic, publish.id.unwrap_or(0)));
            }
        }
        got
    }

    async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        packet::write(self.protocol, &mut out, packet).unwrap();
        self.wire.write_all(&out).await.unwrap();
    }

    /// Reads and never answers.
    async fn swallow(mut self) {
        loop {
            self.packet().await;
        }
    }
}

fn puback(id: u16) -> Packet {
    let reason = Reason::SUCCESS;
    Packet::PubAck { id, reason }
}

fn connection() -> (Link, Peer) {
    let (ours, theirs) = duplex(1 << 20);
    let peer = Peer {
        wire: theirs,
        inbound: BytesMut::new(),
        protocol: Protocol::V311,
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
    let live = Live::new(
        link,
        &Terms::default(),
        settings,
        &mut feed,
        Default::default(),
        Pace::open(),
    );
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
        peer.send(puback(backlog[3].1)).await;
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

    fn postponed(&mut self, _token: u64) {}

    fn received(&mut self, _message: Inbound) {}

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
        &Terms::default(),
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

    fn postponed(&mut self, _: u64) {}

    fn received(&mut self, _: Inbound) {}

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
        protocol: Protocol::V311,
    };
    let mut feed = Endless::default();
    let (live_now, ready) = (feed.live.clone(), feed.ready.clone());
    let (settings, shutdown) = (settings(), CancellationToken::new());
    let live = Live::new(
        Link::new(ours),
        &Terms::default(),
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
                && publish.id.unwrap() != 1
            {
                tokio::time::sleep(Duration::from_secs(1)).await;
                peer.send(puback(publish.id.unwrap())).await;
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
            peer.send(puback(id)).await;
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
        assert!(matches!(peer.packet().await, Packet::Subscribe { .. }));
        let mut command = Message::new("cmd", "do");
        command.retain = true;
        peer.send(Packet::Publish(Publish::new(command, 77))).await;
        peer.packet().await
    };
    let answer = beside(&settings, &mut lanes, link, script).await.unwrap();
    assert_eq!(answer, puback(77));
    let command = Inbound {
        topic: "cmd".into(),
        payload: "do".into(),
        retained: true,
        properties: Properties::default(),
    };
    assert_eq!(lanes.received, [command]);
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
    let live = Live::new(
        link,
        &Terms::default(),
        &settings,
        &mut feed,
        Default::default(),
        Pace::open(),
    );
    let script = async {
        let sent = peer.publishes().await;
        shutdown.cancel();
        assert!(peer.publishes().await.is_empty(), "acks are waited for");
        for (_, id) in sent {
            peer.send(puback(id)).await;
        }
        let Packet::Publish(farewell) = peer.packet().await else {
            panic!("expected the farewell");
        };
        assert_eq!(farewell.topic, "status");
        peer.send(puback(farewell.id.unwrap())).await;
        assert_eq!(peer.packet().await, Packet::Disconnect(Goodbye::default()));
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
    let live = Live::new(
        link,
        &Terms::default(),
        &settings,
        &mut feed,
        Default::default(),
        Pace::open(),
    );
    let run = timeout(Duration::from_secs(10), live.run(&shutdown));
    tokio::select! {
        outcome = run => assert!(outcome.unwrap().0.is_ok()),
        () = peer.swallow() => unreachable!(),
    }
}

/// A connection that speaks MQTT 5.
fn connection_v5() -> (Link, Peer) {
    let (mut link, mut peer) = connection();
    link.protocol = Protocol::V5;
    peer.protocol = Protocol::V5;
    (link, peer)
}

fn terms() -> Terms {
    Terms {
        protocol: Protocol::V5,
        ..Terms::default()
    }
}

/// Like [`beside`], on these terms.
async fn beside_on<T>(
    terms: &Terms,
    settings: &SessionSettings,
    lanes: &mut Lanes,
    link: Link,
    script: impl Future<Output = T>,
) -> Result<T, Result<(), LostError>> {
    let shutdown = CancellationToken::new();
    let mut feed = lanes;
    let (ids, pace) = (Default::default(), Pace::open());
    let live = Live::new(link, terms, settings, &mut feed, ids, pace);
    tokio::select! {
        (outcome, _) = live.run(&shutdown) => Err(outcome),
        value = script => Ok(value),
    }
}

fn answer(id: u16, code: u8) -> Packet {
    let reason = Reason(code);
    Packet::PubAck { id, reason }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_under_way_than_the_broker_allows() {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes {
        urgent: 100,
        ..Lanes::default()
    };
    let terms = Terms {
        receive_maximum: 7,
        ..terms()
    };
    let settings = settings();
    let script = async {
        let first = peer.publishes().await;
        peer.send(puback(first[0].1)).await;
        (first.len(), peer.publishes().await.len())
    };
    let counts = beside_on(&terms, &settings, &mut lanes, link, script).await;
    assert_eq!(counts.unwrap(), (7, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_above_the_brokers_limit_never_leaves() {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes::default();
    for (token, bytes) in [(1, 1000), (2, 900)] {
        lanes.queue.push_back(Consignment {
            token,
            lane: Lane::Live,
            messages: vec![Message::new("t", vec![0u8; bytes])],
        });
    }
    let terms = Terms {
        max_packet: Some(1000),
        ..terms()
    };
    let settings = settings();
    let script = async { peer.publishes().await.len() };
    let sent = beside_on(&terms, &settings, &mut lanes, link, script).await;
    assert_eq!(sent.unwrap(), 1);
    let limit = match &lanes.refused[..] {
        [(1, Refusal::TooLarge { limit, .. })] => *limit,
        other => panic!("{other:?}"),
    };
    assert_eq!(limit, 1000);
}

#[tokio::test(start_paused = true)]
async fn topics_are_sent_once_where_the_broker_remembers_them() {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes {
        urgent: 3,
        ..Lanes::default()
    };
    let terms = Terms {
        topic_alias_maximum: 10,
        ..terms()
    };
    let settings = settings();
    let script = async {
        let mut topics = Vec::new();
        for _ in 0..3 {
            let Packet::Publish(publish) = peer.packet().await else {
                panic!("a PUBLISH is expected");
            };
            topics.push((publish.topic, publish.alias));
        }
        topics
    };
    let topics = beside_on(&terms, &settings, &mut lanes, link, script).await;
    let later = (String::new(), Some(1));
    assert_eq!(
        topics.unwrap(),
        [("live".to_owned(), Some(1)), later.clone(), later]
    );
}

#[tokio::test(start_paused = true)]
async fn a_used_up_quota_slows_down_and_loses_nothing() {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes {
        urgent: 2,
        ..Lanes::default()
    };
    let settings = settings();
    let script = async {
        let sent = peer.publishes().await;
        assert_eq!(sent.len(), 2);
        let asked = Instant::now();
        peer.send(answer(sent[0].1, 0x97)).await;
        peer.send(puback(sent[1].1)).await;
        // What comes later, comes after the pause.
        assert!(peer.publishes().await.is_empty());
        tokio::time::sleep_until(asked + Duration::from_millis(1100)).await;
    };
    beside_on(&terms(), &settings, &mut lanes, link, script)
        .await
        .unwrap();
    assert_eq!((lanes.postponed, lanes.acked), (vec![1], vec![2]));
    let expected = [
        SessionState::Connected,
        SessionState::Slowed {
            reason: Reason(0x97),
            next_try: Duration::from_millis(500),
        },
        SessionState::Connected,
    ];
    assert_eq!(lanes.states, expected);
    assert_eq!(settings.counters.refused_total(), 0);
}

#[tokio::test(start_paused = true)]
async fn refusals_name_their_reason_and_the_others_go_on() {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes {
        urgent: 5,
        ..Lanes::default()
    };
    let settings = settings();
    let script = async {
        let sent = peer.publishes().await;
        for ((_, id), code) in sent.into_iter().zip([0x87, 0x99, 0x80, 0x10, 0x00]) {
            peer.send(answer(id, code)).await;
        }
        peer.publishes().await
    };
    beside_on(&terms(), &settings, &mut lanes, link, script)
        .await
        .unwrap();
    let expected = [
        (1, Refusal::Denied(Reason(0x87))),
        (2, Refusal::Never(Reason(0x99))),
        (3, Refusal::Unexplained(Reason(0x80))),
    ];
    assert_eq!(lanes.refused, expected);
    assert_eq!(lanes.acked, [4, 5]);
    assert_eq!(settings.counters.unheard_total(), 1);
    assert_eq!(settings.counters.messages_acked_total(), 2);
}

/// What a session says of a DISCONNECT with this reason, and whether what was under way is suspected.
async fn parted(code: u8) -> (String, bool, bool) {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes {
        urgent: 1,
        ..Lanes::default()
    };
    let settings = settings();
    let shutdown = CancellationToken::new();
    let mut feed = &mut lanes;
    let (ids, pace) = (Default::default(), Pace::open());
    let live = Live::new(link, &terms(), &settings, &mut feed, ids, pace);
    let script = async {
        peer.publishes().await;
        // As a broker writes it; ours would not carry the text.
        let bytes = [0xe0, 0x06, code, 0x04, 0x1f, 0x00, 0x01, b'!'];
        peer.wire.write_all(&bytes).await.unwrap();
        peer
    };
    let ((outcome, summary), _peer) = tokio::join!(live.run(&shutdown), script);
    let text = outcome.unwrap_err().to_string();
    (text, summary.closed, summary.oversize)
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_of_the_broker_is_named_and_blames_the_right_one() {
    let (text, closed, oversize) = parted(0x8e).await;
    assert_eq!(
        text,
        "the broker ended the connection: another client connected with the same client_id \
         (reason 0x8e); it says: !"
    );
    assert_eq!((closed, oversize), (false, false));
    let (text, closed, oversize) = parted(0x95).await;
    assert!(text.contains("larger than it takes"), "{text}");
    assert_eq!((closed, oversize), (true, true));
    let (_, closed, oversize) = parted(0x87).await;
    assert_eq!((closed, oversize), (true, false));
    let (_, closed, _) = parted(0x97).await;
    assert!(!closed, "a quota is no message's fault");
    let (_, closed, _) = parted(0x8b).await;
    assert!(!closed, "a broker that stops blames nobody");
}

#[tokio::test(start_paused = true)]
async fn the_brokers_keep_alive_holds() {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes::default();
    let settings = settings();
    let terms = Terms {
        keep_alive_s: Some(4),
        ..terms()
    };
    let started = Instant::now();
    let script = async { peer.packet().await };
    let ping = beside_on(&terms, &settings, &mut lanes, link, script).await;
    assert_eq!(ping.unwrap(), Packet::PingReq);
    assert_eq!(started.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn refused_subscriptions_are_told() {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes::default();
    let mut settings = settings();
    settings.subscribe = vec!["a".into(), "b".into()];
    let script = async {
        let Packet::Subscribe { id, .. } = peer.packet().await else {
            panic!("a SUBSCRIBE is expected");
        };
        let reasons = vec![Reason(0x01), Reason(0x87)];
        peer.send(Packet::SubAck { id, reasons }).await;
        peer.publishes().await
    };
    beside_on(&terms(), &settings, &mut lanes, link, script)
        .await
        .unwrap();
    assert_eq!(lanes.unsubscribed, [("b".to_owned(), Reason(0x87))]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_keeps_nothing_gets_nothing_to_keep() {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes::default();
    lanes.queue.push_back(Consignment {
        token: 1,
        lane: Lane::Alarm,
        messages: vec![Message::retained("status", "x")],
    });
    let terms = Terms {
        retains: false,
        ..terms()
    };
    let settings = settings();
    let script = async { peer.packet().await };
    let packet = beside_on(&terms, &settings, &mut lanes, link, script).await;
    let Packet::Publish(publish) = packet.unwrap() else {
        panic!("a PUBLISH is expected");
    };
    assert!(!publish.retain);
}

#[tokio::test(start_paused = true)]
async fn properties_go_both_ways() {
    let (link, mut peer) = connection_v5();
    let mut lanes = Lanes::default();
    let properties = Properties {
        expiry_s: Some(60),
        content_type: Some("application/json".into()),
        response_topic: Some("answers/1".into()),
        correlation: Some("abc".into()),
        user: vec![
            ("stream".into(), "6f".into()),
            ("first_seq".into(), "1".into()),
        ],
    };
    let mut message = Message::new("t", "x");
    *message.properties_mut() = properties.clone();
    lanes.queue.push_back(Consignment {
        token: 1,
        lane: Lane::Live,
        messages: vec![message.clone()],
    });
    let settings = settings();
    let script = async {
        let sent = peer.packet().await;
        peer.send(Packet::Publish(Publish::new(message.clone(), 5)))
            .await;
        (sent, peer.packet().await)
    };
    let (sent, ack) = beside_on(&terms(), &settings, &mut lanes, link, script)
        .await
        .unwrap();
    assert_eq!(sent, Packet::Publish(Publish::new(message.clone(), 1)));
    assert_eq!(ack, puback(5));
    assert_eq!(lanes.received[0].properties, properties);
}

/// A feed that has something to listen to.
fn with_a_wish() -> Lanes {
    Lanes {
        wish: Some(Listening::Begin("a".into())),
        ..Lanes::default()
    }
}

/// Mainflux hangs up on a SUBSCRIBE that it does not allow; by then it may have acknowledged all messages.
#[tokio::test(start_paused = true)]
async fn who_hangs_up_on_a_subscription_alone_has_closed_over_it() {
    let (link, mut peer) = connection_v5();
    let mut lanes = with_a_wish();
    let settings = settings();
    let shutdown = CancellationToken::new();
    let mut feed = &mut lanes;
    let (ids, pace) = (Default::default(), Pace::open());
    let live = Live::new(link, &terms(), &settings, &mut feed, ids, pace);
    let script = async {
        let packet = peer.packet().await;
        drop(peer);
        packet
    };
    let ((outcome, summary), packet) = tokio::join!(live.run(&shutdown), script);
    assert!(matches!(packet, Packet::Subscribe { .. }), "{packet:?}");
    assert!(matches!(outcome, Err(LostError::Io(_))), "{outcome:?}");
    assert!(summary.closed);
}

/// Nothing else may wake the session before the next ping.
#[tokio::test(start_paused = true)]
async fn what_the_feed_has_to_listen_to_is_subscribed_at_once() {
    let (link, mut peer) = connection_v5();
    let mut lanes = with_a_wish();
    let settings = settings();
    let started = Instant::now();
    let script = async { peer.packet().await };
    let packet = beside_on(&terms(), &settings, &mut lanes, link, script).await;
    assert!(matches!(packet, Ok(Packet::Subscribe { .. })), "{packet:?}");
    assert!(started.elapsed() < Duration::from_secs(1));
}
