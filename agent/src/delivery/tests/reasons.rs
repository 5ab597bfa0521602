//! What a broker that speaks MQTT 5 answers, with the session's calls made by hand.

use millrace_buffer::{Row, SetAside};
use millrace_uplink::Reason;

use super::*;

const NOT_AUTHORISED: Reason = Reason(0x87);
const UNSPECIFIED: Reason = Reason(0x80);
const PAYLOAD_INVALID: Reason = Reason(0x99);

/// What the broker does with a message.
type Answer = fn(&Message) -> Option<Refusal>;

struct Core {
    store: Store,
    _dir: tempfile::TempDir,
}

impl Core {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), "", TestClock::new(1, Some(Timestamp(0))));
        store.delivery.greeting();
        store.delivery.state(&SessionState::Connected);
        Self { store, _dir: dir }
    }

    /// So many records of a source, as one commit; `length` is that of each text at least.
    fn append(&self, source: &str, count: usize, length: usize) {
        let text = |n: usize| format!("{source} {n:0length$}");
        self.store.append(source, (0..count).map(text));
    }

    /// Answers all that goes until nothing more does. Returns what was sent.
    async fn answer(&mut self, answer: Answer) -> Vec<Message> {
        let (mut sent, mut idle) = (Vec::new(), 0);
        while idle < 20 {
            let Some(consignment) = self.store.delivery.next(WINDOW) else {
                idle += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            idle = 0;
            let refusal = consignment.messages.iter().find_map(answer);
            match refusal {
                None => self.store.delivery.acked(consignment.token),
                Some(why) => self.store.delivery.refused(consignment.token, why),
            }
            sent.extend(consignment.messages);
            assert!(sent.len() < 10_000, "it is sent again and again");
        }
        sent
    }

    fn row(&self, source: &str) -> Row {
        let ledger = self.store.buffer.verify().unwrap();
        assert_eq!(ledger, self.store.buffer.ledger(), "the recount");
        ledger.devices[source].clone()
    }

    fn set_aside(&self) -> Vec<SetAside> {
        self.store.buffer.set_aside()
    }

    fn withheld(&self) -> Vec<String> {
        self.store.uplink.report().refused_sources
    }
}

fn of_pump(message: &Message) -> bool {
    message.topic.ends_with("/data/pump")
}

/// How many records the messages carry that go to the pump's topic.
fn records_of_pump(sent: &[Message]) -> u64 {
    let records = |message: &Message| {
        let payload: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        let seq = |key: &str| payload[key].as_u64().unwrap();
        seq("last_seq") + 1 - seq("first_seq")
    };
    sent.iter().filter(|m| of_pump(m)).map(records).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_authorised_is_withheld_at_once_and_tried_now_and_then() {
    let denies: Answer = |message| of_pump(message).then_some(Refusal::Denied(NOT_AUTHORISED));
    let mut core = Core::new();
    core.append("pump", 40, 1);
    core.append("fan", 40, 1);
    core.answer(denies).await;
    assert_eq!(core.withheld(), ["pump"]);
    assert_eq!((core.row("pump").acked, core.row("pump").queued), (0, 40));
    assert_eq!(core.row("fan").acked, 40);
    let aside = core.set_aside();
    assert_eq!(aside.iter().map(|row| row.records).sum::<u64>(), 40);
    assert!(
        aside
            .iter()
            .all(|row| row.reason.contains("not authorised")),
        "{aside:?}"
    );

    // What comes later waits untried, and costs the others nothing.
    core.append("pump", 10, 1);
    core.append("fan", 10, 1);
    assert_eq!(records_of_pump(&core.answer(denies).await), 0);
    assert_eq!(core.row("fan").acked, 50);
    // A minute later one record is tried, and two minutes after that another.
    for (pause, tried) in [(61, 1), (61, 0), (61, 1), (121, 0)] {
        core.store.clock.advance(Duration::from_secs(pause));
        core.append("pump", 1, 1);
        assert_eq!(records_of_pump(&core.answer(denies).await), tried);
    }
    // The right is given: all of it goes, with nothing lost on the way.
    core.store.clock.advance(Duration::from_secs(3600));
    core.append("pump", 1, 1);
    core.answer(|_| None).await;
    let pump = core.row("pump");
    assert_eq!((pump.acquired, pump.acked), (55, 55));
    assert_eq!(core.withheld(), Vec::<String>::new());
    assert_eq!(core.set_aside(), []);
}

/// A text that only one record has.
fn holds_the_culprit(message: &Message) -> bool {
    String::from_utf8_lossy(&message.payload).contains("pump 33\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_without_a_reason_is_looked_into_down_to_the_record() {
    let refuses: Answer =
        |message| holds_the_culprit(message).then_some(Refusal::Unexplained(UNSPECIFIED));
    let mut core = Core::new();
    core.append("pump", 100, 1);
    core.append("fan", 20, 1);
    core.answer(refuses).await;
    let pump = core.row("pump");
    assert_eq!((pump.acked, pump.queued), (99, 1));
    assert_eq!(core.row("fan").acked, 20);
    let aside = core.set_aside();
    let [row] = &aside[..] else {
        panic!("{aside:?}");
    };
    assert_eq!((row.first_seq, row.last_seq), (34, 34));
    // The broker may have had its reasons for a moment: it was tried often, alone.
    assert!(row.tries >= 5, "{row:?}");
    assert!(row.reason.contains("no reason"), "{row:?}");
    assert_eq!(core.withheld(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_moment_loses_and_sets_aside_nothing() {
    let mut core = Core::new();
    core.append("pump", 100, 1);
    for _ in 0..4 {
        let Some(consignment) = core.store.delivery.next(WINDOW) else {
            break;
        };
        let why = Refusal::Unexplained(UNSPECIFIED);
        core.store.delivery.refused(consignment.token, why);
    }
    core.answer(|_| None).await;
    assert_eq!(core.row("pump").acked, 100);
    assert_eq!(core.set_aside(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_as_it_is_is_set_aside_at_its_first_try_alone() {
    let refuses: Answer =
        |message| holds_the_culprit(message).then_some(Refusal::Never(PAYLOAD_INVALID));
    let mut core = Core::new();
    core.append("pump", 100, 1);
    core.answer(refuses).await;
    let aside = core.set_aside();
    let [row] = &aside[..] else {
        panic!("{aside:?}");
    };
    assert_eq!((row.first_seq, row.last_seq, row.tries), (34, 34, 1));
    let pump = core.row("pump");
    assert_eq!((pump.acked, pump.queued), (99, 1));
}

/// The broker says that what is under way was too large, and closes the connection. Returns the largest message.
async fn too_large(core: &mut Core) -> usize {
    let mut largest = 0;
    // What was sent before is read from the disk again.
    for _ in 0..500 {
        while let Some(consignment) = core.store.delivery.next(WINDOW) {
            let bytes = consignment.messages.iter().map(Message::wire_bytes);
            largest = largest.max(bytes.max().unwrap_or(0));
        }
        if largest > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    core.store.delivery.state(&SessionState::Down {
        error: "gone".to_owned(),
        refused: false,
        closed: true,
        oversize: true,
        next_try: Duration::ZERO,
    });
    core.store.delivery.greeting();
    core.store.delivery.state(&SessionState::Connected);
    largest
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_halved_each_time_that_the_broker_says_too_large_and_stay_small() {
    let mut core = Core::new();
    core.append("pump", 400, 100);
    let first = too_large(&mut core).await;
    assert!(first > 20_000, "{first}");
    let second = too_large(&mut core).await;
    assert!(
        second <= first / 2 && second > first / 4,
        "{second} of {first}"
    );
    let third = too_large(&mut core).await;
    assert!(third <= second / 2, "{third} of {second}");
    let largest = |sent: &[Message]| sent.iter().map(Message::wire_bytes).max().unwrap_or(0);
    let taken = core.answer(|_| None).await;
    assert!(largest(&taken) <= third / 2, "{}", largest(&taken));
    assert_eq!((core.row("pump").acked, core.set_aside()), (400, vec![]));

    // What comes later is small from the start.
    core.append("pump", 400, 100);
    let taken = core.answer(|_| None).await;
    assert!(largest(&taken) <= third / 2, "{}", largest(&taken));
    assert_eq!(core.row("pump").acked, 800);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_larger_than_what_was_learned_is_still_offered() {
    let mut core = Core::new();
    core.append("pump", 40, 100);
    for _ in 0..8 {
        too_large(&mut core).await;
    }
    core.append("pump", 1, 5_000);
    let sent = core.answer(|_| None).await;
    assert!(sent.iter().any(|message| message.wire_bytes() > 5_000));
    assert_eq!((core.row("pump").acked, core.set_aside()), (41, vec![]));
}
