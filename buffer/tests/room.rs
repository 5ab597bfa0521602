//! Who gives way where there is no room, and what stays for a replay.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_buffer::{Buffer, Settings, Space, Start, WhenFull};
use millrace_tags::{
    DropReason, Event, EventDetail, EventState, Moment, SourceId, TagId, TestClock, Timestamp,
};
use receiver::{MIB, Receiver, clock, drain, drain_empty, fill, register, samples, settings};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Lets the buffer look after its limits now.
fn tend(buffer: &Buffer) {
    buffer.retain_uplinks(&["cloud"]);
    buffer.commit().unwrap();
}

/// Fills until a figure of the status says so.
fn fill_until(
    buffer: &Buffer,
    source: SourceId,
    tag: TagId,
    next: &mut u64,
    done: impl Fn(&millrace_buffer::Status) -> bool,
) {
    for _ in 0..500 {
        if done(&buffer.status()) {
            return;
        }
        fill(buffer, source, tag, next, 1);
    }
    panic!("never: {:?}", buffer.status());
}

/// What `du` would say.
fn disk_use(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).unwrap();
    let mut sum = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            sum += disk_use(&entry.unwrap().path());
        }
    }
    sum
}

#[test]
fn the_newest_are_refused_counted_and_announced() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        when_full: WhenFull::DropNewest,
        ..settings(dir.path(), 8 * MIB)
    };
    let buffer = Buffer::open_exactly(settings.clone(), clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut next = 1;
    fill_until(&buffer, source, tag, &mut next, |s| s.data.full);
    let taken = buffer.ledger().devices["boiler"].acquired;
    let chunks = buffer.status().data.chunks;
    for i in 0..50 {
        let ticket = buffer.append(source, samples(tag, 1 << (50 + i % 5), 2000));
        // Nobody waits for what was refused.
        assert!(buffer.durable(ticket));
    }
    buffer.commit().unwrap();
    let status = buffer.status();
    assert!(status.bytes <= 8 * MIB, "{status:?}");
    // Refusing takes next to nothing: one entry, however much it stands for.
    assert_eq!(status.data.chunks, chunks + 1);
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert_eq!(
        (row.queued, row.dropped[&DropReason::Newest]),
        (taken, 100_000)
    );
    assert!(row.balances(), "{row:?}");

    // It outlives a crash, and there is room again when the backlog has gone.
    buffer.crash();
    drop(outbox);
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    assert!(buffer.status().data.full);
    outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    drain(&mut outbox, &mut receiver);
    receiver.check_lines();
    assert_eq!(receiver.values("boiler").len() as u64, taken);
    let announced = receiver.holes.values().flatten();
    let refused = (taken + 1, taken + 100_000);
    assert!(
        announced.clone().any(|hole| *hole == refused),
        "{refused:?}"
    );
    tend(&buffer);
    assert!(!buffer.status().data.full);
    next += 1 << 60;
    buffer.append(source, samples(tag, next, 10));
    buffer.commit().unwrap();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    assert!(receiver.values("boiler").contains(&(next + 9)));
}

#[test]
fn sources_that_can_wait_are_held_back() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        when_full: WhenFull::Block,
        ..settings(dir.path(), 8 * MIB)
    };
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    buffer.on_room(Box::new(move |room| tell.lock().unwrap().push(room)));
    assert!(buffer.has_room());
    let mut next = 1;
    fill_until(&buffer, source, tag, &mut next, |s| s.data.full);
    assert!(!buffer.has_room() && buffer.status().held_back);
    assert_eq!(*told.lock().unwrap(), [false]);
    // What cannot wait is refused; what a waiting source had read already is taken.
    let refused = buffer.append(source, samples(tag, 1 << 60, 7));
    assert!(buffer.durable(refused));
    let held = buffer.append_held(source, samples(tag, 1 << 61, 5));
    assert!(!buffer.durable(held));
    buffer.commit().unwrap();
    assert!(buffer.durable(held));
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert_eq!(row.dropped[&DropReason::Newest], 7);
    assert!(row.balances(), "{row:?}");

    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    tend(&buffer);
    assert!(buffer.has_room());
    assert_eq!(*told.lock().unwrap(), [false, true]);
    receiver.check_lines();
    assert!(receiver.values("boiler").contains(&((1 << 61) + 4)));
}

#[test]
fn the_alarm_log_has_limits_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        alarm_max_bytes: Some(2 * MIB),
        alarm_when_full: WhenFull::DropNewest,
        ..settings(dir.path(), 64 * MIB)
    };
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let _outbox = buffer.outbox("cloud", Start::Oldest);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let text = |_| random.alphanumeric();
        let message: String = (0..15_000).map(text).collect();
        buffer.append_event(
            source,
            Event {
                state: EventState::Begin,
                at: Moment(1),
                start: Moment(1),
                end: None,
                detail: EventDetail::alarm(message),
            },
        );
        buffer.commit().unwrap();
        if buffer.status().alarm.full {
            break;
        }
    }
    let status = buffer.status();
    assert!(status.alarm.full && !status.data.full, "{status:?}");
    assert!(status.alarm.bytes <= 2 * MIB && status.alarm.epochs >= 2);
    // Events are refused, samples are not.
    let event = Event {
        state: EventState::Begin,
        at: Moment(1),
        start: Moment(1),
        end: None,
        detail: EventDetail::alarm("hot".into()),
    };
    buffer.append_event(source, event);
    buffer.append(source, samples(tag, 1, 10));
    buffer.commit().unwrap();
    let ledger = buffer.verify().unwrap();
    assert_eq!(ledger.events["boiler"].dropped[&DropReason::Newest], 1);
    assert_eq!(ledger.devices["boiler"].queued, 10);
}

#[test]
fn settled_epochs_stay_for_a_time_and_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let settings = Settings {
        keep: DAY,
        ..settings(dir.path(), 16 * MIB)
    };
    let buffer = Buffer::open_exactly(settings.clone(), clock.clone()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    let mut next = 1;
    fill_until(&buffer, source, tag, &mut next, |s| s.data.epochs == 4);
    drain_empty(&buffer, &mut outbox, &mut receiver);
    tend(&buffer);
    let kept = buffer.status().data;
    assert_eq!(kept.epochs, 4);
    assert!(kept.kept_bytes > MIB, "{kept:?}");
    assert_eq!(buffer.verify().unwrap(), buffer.ledger());

    // Never more than a quarter of what the log may take.
    for _ in 0..16 {
        fill(&buffer, source, tag, &mut next, 10);
        drain_empty(&buffer, &mut outbox, &mut receiver);
        tend(&buffer);
    }
    let kept = buffer.status().data;
    assert!(kept.kept_bytes <= kept.max_bytes / 4, "{kept:?}");
    assert!(kept.kept_bytes > kept.max_bytes / 8, "{kept:?}");

    // An outage takes their room before it costs anything that is not sent.
    fill_until(&buffer, source, tag, &mut next, |s| s.data.kept_bytes == 0);
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert!(row.dropped.is_empty(), "{row:?}");
    assert!(buffer.status().bytes <= 16 * MIB);

    // And in a day they are gone by themselves.
    drain_empty(&buffer, &mut outbox, &mut receiver);
    tend(&buffer);
    assert!(buffer.status().data.kept_bytes > 0);
    clock.advance(DAY);
    tend(&buffer);
    // But for the one that says where the lines stand.
    assert_eq!(buffer.status().data.epochs, 1, "{:?}", buffer.status());
    assert_eq!(buffer.verify().unwrap(), buffer.ledger());
    receiver.check_lines();
}

#[test]
fn without_keep_a_full_drain_leaves_one_epoch_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 30);
    let epoch = settings.epoch_bytes;
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    tend(&buffer);
    let live = buffer.status().bytes;
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    let mut next = 1;
    fill(&buffer, source, tag, &mut next, 90);
    assert!(buffer.status().bytes > live + 2 * epoch);
    drain_empty(&buffer, &mut outbox, &mut receiver);
    tend(&buffer);
    let status = buffer.status();
    // sled grows in steps of half a megabyte: an epoch may be that much over its size.
    assert!(status.bytes <= live + epoch + MIB / 2, "{status:?}");
    assert_eq!(status.data.epochs, 1);
}

#[test]
fn what_is_written_is_sealed_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let settings = Settings {
        keep: DAY,
        ..settings(dir.path(), 1 << 30)
    };
    let buffer = Buffer::open_exactly(settings, clock.clone()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    for hour in 0..30 {
        buffer.append(source, samples(tag, 1 + hour * 10, 10));
        buffer.commit().unwrap();
        drain_empty(&buffer, &mut outbox, &mut receiver);
        clock.advance(Duration::from_secs(3600));
        tend(&buffer);
    }
    // One an hour; those that were settled a day ago have gone.
    let epochs = buffer.status().data.epochs;
    assert!((24..=26).contains(&epochs), "{epochs}");
}

/// A buffer on a disk whose free room the test sets.
struct Small {
    free: Arc<AtomicU64>,
    buffer: Buffer,
}

impl Small {
    fn open(settings: Settings, clock: Arc<TestClock>) -> Self {
        let free = Arc::new(AtomicU64::new(1 << 40));
        let gauge = free.clone();
        let space = move || {
            Some(Space {
                free: gauge.load(Ordering::Relaxed),
                total: 1 << 40,
            })
        };
        let buffer = Buffer::open_on(settings, clock, space).unwrap();
        Self { free, buffer }
    }

    fn leave(&self, free: u64) {
        self.free.store(free, Ordering::Relaxed);
    }
}

#[test]
fn a_disk_that_others_fill_costs_kept_epochs_then_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        keep: DAY,
        reserve: 16 * MIB,
        ..settings(dir.path(), 64 * MIB)
    };
    let disk = Small::open(settings, clock());
    let buffer = &disk.buffer;
    let (source, tag) = register(buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    let mut next = 1;
    fill(buffer, source, tag, &mut next, 60);
    drain_empty(buffer, &mut outbox, &mut receiver);
    tend(buffer);
    fill(buffer, source, tag, &mut next, 60);
    let before = buffer.status();
    assert!(before.data.kept_bytes > 0 && before.reserve_bytes == 16 * MIB);

    // A little is short: kept data give it.
    disk.leave(16 * MIB - 1);
    fill(buffer, source, tag, &mut next, 1);
    let status = buffer.status();
    assert!(
        status.data.kept_bytes < before.data.kept_bytes,
        "{status:?}"
    );
    assert!(buffer.ledger().devices["boiler"].dropped.is_empty());

    // Nothing is left: what is not sent goes too, the newest stays, and the flow goes on.
    disk.leave(0);
    for _ in 0..3 {
        fill(buffer, source, tag, &mut next, 1);
    }
    let status = buffer.status();
    assert!(status.data.kept_bytes == 0 && status.data.epochs <= 2 && status.durable);
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert!(
        row.dropped[&DropReason::Full] > 0 && row.balances(),
        "{row:?}"
    );

    // There is room again: everything is stored.
    disk.leave(1 << 40);
    let dropped = row.dropped;
    fill(buffer, source, tag, &mut next, 60);
    assert_eq!(buffer.ledger().devices["boiler"].dropped, dropped);
    drain_empty(buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
}

#[test]
fn a_disk_that_others_fill_refuses_the_newest_where_the_settings_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        when_full: WhenFull::DropNewest,
        reserve: 16 * MIB,
        ..settings(dir.path(), 64 * MIB)
    };
    let disk = Small::open(settings, clock());
    let buffer = &disk.buffer;
    let (source, tag) = register(buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut next = 1;
    fill(buffer, source, tag, &mut next, 40);
    disk.leave(8 * MIB);
    tend(buffer);
    buffer.append(source, samples(tag, 1 << 60, 10));
    buffer.commit().unwrap();
    let row = buffer.ledger().devices["boiler"].clone();
    assert_eq!((row.queued, row.dropped[&DropReason::Newest]), (80_000, 10));
    disk.leave(1 << 40);
    tend(buffer);
    buffer.append(source, samples(tag, 1 << 61, 10));
    buffer.commit().unwrap();
    let mut receiver = Receiver::default();
    drain_empty(buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    assert_eq!(receiver.values("boiler").len(), 80_010);
}

#[test]
fn all_of_the_directory_counts() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open_exactly(settings(dir.path(), 12 * MIB), clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let _outbox = buffer.outbox("cloud", Start::Oldest);
    let mut next = 1;
    fill(&buffer, source, tag, &mut next, 40);
    let bad = dir.path().join("data/00000000000000ff.bad");
    std::fs::create_dir(&bad).unwrap();
    std::fs::write(bad.join("db"), vec![7; 3 << 20]).unwrap();
    tend(&buffer);
    let (said, real) = (buffer.status().bytes, disk_use(dir.path()));
    assert!(said.abs_diff(real) <= 64 * 1024, "{said} {real}");
    // What was set aside goes before anything that can be read.
    fill_until(&buffer, source, tag, &mut next, |_| !bad.exists());
    assert!(buffer.ledger().devices["boiler"].dropped.is_empty());
    assert!(disk_use(dir.path()) <= 12 * MIB);
}

/// Opens with a limit by age and leaves one epoch that is not full.
fn one_epoch(dir: &Path, clock: &Arc<TestClock>) -> (Buffer, Settings) {
    let settings = Settings {
        max_age: Some(Duration::from_secs(3600)),
        ..settings(dir, 1 << 30)
    };
    let buffer = Buffer::open_exactly(settings.clone(), clock.clone()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    drop(buffer.outbox("cloud", Start::Oldest));
    buffer.append(source, samples(tag, 1, 100));
    buffer.commit().unwrap();
    (buffer, settings)
}

fn aged(buffer: &Buffer) -> u64 {
    let row = buffer.verify().unwrap().devices["boiler"].clone();
    assert!(row.balances(), "{row:?}");
    row.dropped.get(&DropReason::Age).copied().unwrap_or(0)
}

#[test]
fn the_last_epoch_goes_by_age_and_the_line_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let (buffer, settings) = one_epoch(dir.path(), &clock);
    clock.advance(Duration::from_secs(3500));
    tend(&buffer);
    assert_eq!(aged(&buffer), 0);
    clock.advance(Duration::from_secs(200));
    tend(&buffer);
    assert_eq!(aged(&buffer), 100);
    // What says where the line stands does not pile up.
    for _ in 0..5 {
        clock.advance(Duration::from_secs(4000));
        tend(&buffer);
    }
    assert_eq!(buffer.status().data.epochs, 1);
    buffer.close().unwrap();
    let buffer = Buffer::open_exactly(settings, clock).unwrap();
    assert_eq!(buffer.recovery().notes, Vec::<String>::new());
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    buffer.append(source, samples(tag, 101, 5));
    buffer.commit().unwrap();
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    let line = receiver.lines.values().next().unwrap();
    assert_eq!(
        line.keys().copied().collect::<Vec<_>>(),
        [101, 102, 103, 104, 105]
    );
    let holes: Vec<_> = receiver.holes.values().flatten().copied().collect();
    assert_eq!(holes, [(1, 100)]);
}

#[test]
fn without_a_clock_age_is_known_within_a_boot_only() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, None));
    let (buffer, settings) = one_epoch(dir.path(), &clock);
    // Another process of this boot knows the age.
    buffer.close().unwrap();
    let buffer = Buffer::open_exactly(settings.clone(), clock.clone()).unwrap();
    clock.advance(Duration::from_secs(3500));
    tend(&buffer);
    assert_eq!(aged(&buffer), 0);
    // After the next boot nobody does: nothing goes.
    buffer.close().unwrap();
    let clock = Arc::new(TestClock::new(2, None));
    let buffer = Buffer::open_exactly(settings, clock.clone()).unwrap();
    clock.advance(Duration::from_secs(100_000));
    tend(&buffer);
    assert_eq!(aged(&buffer), 0);
    // Until something that was written later is too old itself.
    let (source, tag) = register(&buffer, "pump");
    buffer.append(source, samples(tag, 1, 50));
    buffer.commit().unwrap();
    assert_eq!(aged(&buffer), 0);
    clock.advance(Duration::from_secs(4000));
    tend(&buffer);
    assert_eq!(aged(&buffer), 100);
}

#[test]
fn a_step_of_the_clock_makes_nothing_old() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let (buffer, _settings) = one_epoch(dir.path(), &clock);
    clock.advance(Duration::from_secs(1000));
    tend(&buffer);
    clock.set_offset(Timestamp(4_000_000_000_000_000_000));
    tend(&buffer);
    assert_eq!(aged(&buffer), 0);
    clock.set_offset(Timestamp(0));
    clock.advance(Duration::from_secs(3000));
    tend(&buffer);
    assert_eq!(aged(&buffer), 100);
}
