//! At QoS 0: what the answers to pings prove, what order holds, and how a feed ends a connection.

use super::*;

fn unacked() -> SessionSettings {
    SessionSettings {
        unacked: true,
        ..settings()
    }
}

fn one(lane: Lane, token: u64, topics: &[&str]) -> Consignment {
    Consignment {
        token,
        lane,
        messages: topics
            .iter()
            .map(|topic| Message::new(*topic, "x"))
            .collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_went_before_a_ping_is_proved_by_its_answer() {
    let (link, mut peer) = connection();
    let mailbox = Mailbox::default();
    let outside = mailbox.clone();
    let acked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut feed = Told(mailbox, acked.clone());
    let (settings, shutdown) = (unacked(), CancellationToken::new());
    let post = |consignment| {
        outside.waiting.lock().unwrap().push(consignment);
        outside.ready.notify_one();
    };
    post(one(Lane::Live, 1, &["a", "b"]));
    let script = async {
        for topic in ["a", "b"] {
            let Packet::Publish(publish) = peer.packet().await else {
                panic!("no publish")
            };
            assert_eq!((publish.topic.as_str(), publish.id), (topic, None));
        }
        assert_eq!(peer.packet().await, Packet::PingReq);
        post(one(Lane::Live, 2, &["c"]));
        assert_eq!(
            peer.publishes().await.len(),
            1,
            "and no second ping while the first is open"
        );
        assert!(acked.lock().unwrap().is_empty());
        peer.send(Packet::PingResp).await;
        assert_eq!(peer.packet().await, Packet::PingReq);
        assert_eq!(*acked.lock().unwrap(), [1]);
        peer.send(Packet::PingResp).await;
        // One that nobody asked for proves nothing.
        peer.send(Packet::PingResp).await;
        assert!(peer.publishes().await.is_empty());
        assert_eq!(*acked.lock().unwrap(), [1, 2]);
    };
    let (terms, ids) = (Terms::default(), Default::default());
    let live = Live::new(link, &terms, &settings, &mut feed, ids, Pace::open());
    tokio::select! {
        (outcome, _) = live.run(&shutdown) => panic!("{outcome:?}"),
        () = script => {}
    }
}

/// A mailbox that writes down what was acked, and hangs up when the flag is set.
struct Told(Mailbox, Arc<std::sync::Mutex<Vec<u64>>>);

impl Feed for Told {
    fn greeting(&mut self) -> Vec<Message> {
        Vec::new()
    }

    fn next(&mut self, window: Window) -> Option<Consignment> {
        self.0.next(window)
    }

    fn acked(&mut self, token: u64) {
        self.1.lock().unwrap().push(token);
    }

    fn refused(&mut self, _token: u64, _why: Refusal) {}

    fn postponed(&mut self, _token: u64) {}

    fn received(&mut self, _message: Inbound) {}

    fn state(&mut self, _state: &SessionState) {}

    fn hangs_up(&self) -> bool {
        self.1.lock().unwrap().contains(&HANG_UP)
    }

    fn pause(&self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }

    fn ready(&self) -> Arc<Notify> {
        self.0.ready()
    }
}

const HANG_UP: u64 = 99;

#[tokio::test(start_paused = true)]
async fn nothing_overtakes_and_the_feed_is_asked_again_by_itself() {
    let (link, mut peer) = connection();
    let mailbox = Mailbox::default();
    let waiting = mailbox.waiting.clone();
    let mut feed = Told(mailbox, Arc::default());
    let (mut settings, shutdown) = (unacked(), CancellationToken::new());
    settings.max_inflight = 4;
    let script = async {
        assert!(peer.publishes().await.is_empty());
        // Nobody rings.
        waiting.lock().unwrap().extend([
            one(Lane::Live, 2, &["late"]),
            one(Lane::Backlog, 1, &["b1", "b2", "b3", "b4", "b5"]),
        ]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut topics = Vec::new();
        while topics.len() < 6 {
            match peer.packet().await {
                Packet::Publish(publish) => topics.push(publish.topic),
                Packet::PingReq => peer.send(Packet::PingResp).await,
                other => panic!("{other:?}"),
            }
        }
        topics
    };
    let (terms, ids) = (Terms::default(), Default::default());
    let live = Live::new(link, &terms, &settings, &mut feed, ids, Pace::open());
    let topics = tokio::select! {
        (outcome, _) = live.run(&shutdown) => panic!("{outcome:?}"),
        topics = script => topics,
    };
    assert_eq!(topics, ["b1", "b2", "b3", "b4", "b5", "late"]);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_hangs_up_says_goodbye_at_once() {
    let (link, mut peer) = connection();
    let acked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut feed = Told(Mailbox::default(), acked.clone());
    let (settings, shutdown) = (unacked(), CancellationToken::new());
    let (terms, ids) = (Terms::default(), Default::default());
    let live = Live::new(link, &terms, &settings, &mut feed, ids, Pace::open())
        .say_at_the_end(vec![Message::new("death", "x")]);
    let script = async {
        assert!(peer.publishes().await.is_empty());
        acked.lock().unwrap().push(HANG_UP);
        let Packet::Publish(publish) = peer.packet().await else {
            panic!("no farewell")
        };
        assert_eq!(publish.topic, "death");
        peer.send(puback(publish.id.expect("QoS 1"))).await;
        let goodbye = Packet::Disconnect(Goodbye::default());
        assert_eq!(peer.packet().await, goodbye);
    };
    let ((outcome, _), ()) = tokio::join!(live.run(&shutdown), script);
    assert!(matches!(outcome, Err(LostError::HungUp)), "{outcome:?}");
}
