use millrace_buffer::{Settings, TagSpec};
use millrace_drivers::opcua::NodeAddress;
use millrace_tags::{
    DeviceAlarm, Event, EventDetail, EventState, Moment, Reason, Sample, SourceKind, TagId,
    TestClock, Timestamp, Value, ValueType,
};

use super::*;

/// A gateway of one server with two tags, whose nodes are named by `nodes`.
struct Plant {
    dir: tempfile::TempDir,
    clock: Arc<TestClock>,
}

struct Started {
    delivered: Delivered,
    buffer: Buffer,
    registration: Registration,
}

impl Plant {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(TestClock::new(
                1,
                Some(Timestamp(1_795_000_000_000_000_000)),
            )),
        }
    }

    fn start(&self, nodes: [&str; 2]) -> Started {
        let text = format!(
            "[gateway]\nid = \"gw\"\ndata_dir = {:?}\n\n[[device]]\nname = \"press\"\ndriver = \"opcua\"\n\
             address = \"opc.tcp://plc:4840\"\nsecurity = \"None\"\n\n\
             [[device.tag]]\nname = \"a\"\naddress = \"{}\"\n\n[[device.tag]]\nname = \"b\"\naddress = \"{}\"\n",
            self.dir.path(),
            nodes[0],
            nodes[1]
        );
        let path = self.dir.path().join("millrace.toml");
        std::fs::write(&path, text).unwrap();
        let config = crate::config::load(Some(&path), None).unwrap().config;
        let clock: Arc<dyn Clock> = self.clock.clone();
        let buffer = Buffer::open(Settings::new(config.buffer_dir()), clock).unwrap();
        let spec = |name: &str| TagSpec {
            name: name.into(),
            value_type: ValueType::Any,
            unit: None,
        };
        let specs = [spec("a"), spec("b")];
        let registration = buffer.register("press", SourceKind::Device, &specs);
        let registered = std::slice::from_ref(&registration);
        Started {
            delivered: Delivered::open(&config, registered, &*self.clock, false),
            buffer,
            registration,
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("delivered")
    }
}

const NODES: [&str; 2] = ["ns=2;s=A", "ns=2;s=B"];

fn value(tag: TagId, number: u64, time: i64) -> Sample {
    Sample {
        source_time: Some(Timestamp(time)),
        ..Sample::good(tag, Value::U64(number), Moment(time))
    }
}

impl Started {
    fn store(&self, samples: Vec<Sample>) {
        let told = self.delivered.told("press").unwrap();
        let mut table = told.lock();
        samples.iter().for_each(|sample| table.take(sample));
        self.buffer.append(self.registration.source, samples);
    }

    fn tell(&self, state: EventState, id: &str, at: i64) {
        let event = alarm(state, id, at);
        let told = self.delivered.told("press").unwrap();
        let clock = TestClock::new(1, None);
        told.lock().take_event(&event, clock.timebase());
        self.buffer.append_event(self.registration.source, event);
    }

    /// The cursors that would be those of these values.
    fn expect(&self, values: [Option<(u64, i64)>; 2]) {
        let told = self.delivered.told("press").unwrap();
        let table = told.lock();
        let cursors: Vec<Cursor> = table.tags().map(|tag| tag.cursor.clone()).collect();
        let expected = values.map(|expected| {
            let mut cursor = Cursor::default();
            if let Some((number, time)) = expected {
                cursor.take(&value(TagId(0), number, time));
            }
            cursor
        });
        assert_eq!(cursors, expected);
    }

    fn alarms(&self, clock: &dyn Clock) -> Vec<(String, Moment)> {
        let memory = self.delivered.memories(clock).remove("press").unwrap();
        let open = memory.alarms.into_iter();
        open.map(|alarm| (alarm.id, alarm.since)).collect()
    }
}

fn alarm(state: EventState, id: &str, at: i64) -> Event {
    let told = DeviceAlarm {
        severity: 500,
        node: None,
        name: None,
        condition: None,
        id: Some(id.to_owned()),
        acked: None,
        source_time: None,
    };
    Event {
        state,
        at: Moment(at),
        start: Moment(at),
        end: None,
        detail: EventDetail::Alarm {
            message: "too high".to_owned(),
            told: Some(Box::new(told)),
        },
    }
}

#[test]
fn cursors_and_alarms_come_back() {
    let plant = Plant::new();
    let first = plant.start(NODES);
    let tags = first.registration.tags.clone();
    first.store(vec![value(tags[0], 1, 10), value(tags[0], 2, 20)]);
    first.tell(EventState::Begin, "one", 5);
    first.tell(EventState::Begin, "two", 6);
    first.tell(EventState::End, "one", 7);
    first.delivered.save(&first.buffer).unwrap();
    first.buffer.close().unwrap();

    let again = plant.start(NODES);
    again.expect([Some((2, 20)), None]);
    assert_eq!(again.alarms(&*plant.clock), [("two".to_owned(), Moment(6))]);
}

#[test]
fn what_was_committed_after_the_file_counts_and_what_was_not_does_not() {
    let plant = Plant::new();
    let first = plant.start(NODES);
    let tags = first.registration.tags.clone();
    first.store(vec![value(tags[0], 1, 10)]);
    first.tell(EventState::Begin, "one", 5);
    first.delivered.save(&first.buffer).unwrap();
    first.store(vec![value(tags[0], 2, 20), value(tags[1], 7, 15)]);
    first.tell(EventState::End, "one", 6);
    first.tell(EventState::Begin, "two", 7);
    first.buffer.commit().unwrap();
    first.store(vec![value(tags[0], 3, 30)]);
    first.tell(EventState::Begin, "three", 8);
    first.buffer.crash();

    let again = plant.start(NODES);
    again.expect([Some((2, 20)), Some((7, 15))]);
    assert_eq!(again.alarms(&*plant.clock), [("two".to_owned(), Moment(7))]);
}

#[test]
fn a_file_without_a_commit_is_never_written() {
    let plant = Plant::new();
    let first = plant.start(NODES);
    first.buffer.crash();
    assert!(first.delivered.save(&first.buffer).is_err());
    assert!(!plant.file().exists());
}

#[test]
fn another_node_begins_anew_and_a_tag_that_was_away_does_not() {
    let plant = Plant::new();
    let first = plant.start(NODES);
    let tags = first.registration.tags.clone();
    first.store(vec![value(tags[0], 1, 10), value(tags[1], 2, 10)]);
    first.delivered.save(&first.buffer).unwrap();
    // Only the store knows of these.
    first.store(vec![value(tags[0], 3, 30), value(tags[1], 4, 40)]);
    first.buffer.close().unwrap();

    let moved = plant.start(["ns=2;s=A", "ns=3;s=B"]);
    moved.expect([Some((3, 30)), None]);
    moved.delivered.save(&moved.buffer).unwrap();
    moved.buffer.close().unwrap();
    let back = plant.start(NODES);
    back.expect([Some((3, 30)), None]);
}

#[test]
fn a_tag_that_is_bad_for_whoever_listens_is_told_again() {
    let plant = Plant::new();
    let first = plant.start(NODES);
    let tags = first.registration.tags.clone();
    first.store(tags.iter().map(|tag| value(*tag, 1, 10)).collect());
    first.delivered.save(&first.buffer).unwrap();
    first.store(vec![Sample::bad(tags[1], Reason::NotConnected, Moment(50))]);
    first.buffer.close().unwrap();
    let again = plant.start(NODES);
    let told = again.delivered.told("press").unwrap();
    assert_eq!(
        tags.iter()
            .map(|tag| told.lock().is_bad(*tag))
            .collect::<Vec<_>>(),
        [false, true]
    );
}

#[test]
fn damage_begins_anew_and_another_version_is_left_alone() {
    let plant = Plant::new();
    let first = plant.start(NODES);
    let tags = first.registration.tags.clone();
    first.store(vec![value(tags[0], 1, 10)]);
    first.delivered.save(&first.buffer).unwrap();
    first.buffer.close().unwrap();
    let whole = std::fs::read(plant.file()).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(plant.file(), &damaged).unwrap();
        let (found, ours) = file::read(&plant.file());
        assert!(found.is_none(), "byte {at}");
        assert_eq!(ours, at != 4, "byte {at}");
    }
    let again = plant.start(NODES);
    again.expect([None, None]);
    // The last byte was damaged: it is replaced.
    again.delivered.save(&again.buffer).unwrap();
    again.buffer.close().unwrap();
    let mut newer = std::fs::read(plant.file()).unwrap();
    newer[4] = 2;
    std::fs::write(plant.file(), &newer).unwrap();
    let again = plant.start(NODES);
    again.delivered.save(&again.buffer).unwrap();
    assert_eq!(std::fs::read(plant.file()).unwrap(), newer);
}

#[test]
fn fifty_thousand_tags_take_few_bytes() {
    let node: NodeAddress = "nsu=http://vendor.example/plant;s=Pump.Flow"
        .parse()
        .unwrap();
    let tag = |number: u64| {
        let mut cursor = Cursor::default();
        cursor.take(&value(TagId(0), number, 10));
        Tag {
            name: number,
            node: name_print(&node.to_string()),
            cursor,
        }
    };
    let contents = Contents {
        tags: (0..50_000).map(tag).collect(),
        ..Contents::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("delivered");
    contents.write(&path, &contents.body()).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < 2 << 20);
    assert_eq!(file::read(&path).0, Some(contents));
}
