//! A store that has more than it may have, because its limit was lowered.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use millrace_buffer::{Buffer, Settings, Start, WhenFull};
use millrace_tags::DropReason;
use receiver::{Receiver, clock, drain_empty, fill, register, samples, settings};

const LOWERED: u64 = 480 * 1024;

/// A store of one epoch that is larger than what its successor may take.
fn filled(dir: &std::path::Path) -> Settings {
    let plenty = Settings {
        epoch_bytes: 4 << 20,
        ..settings(dir, 1 << 30)
    };
    let buffer = Buffer::open_exactly(plenty, clock()).unwrap();
    buffer.outbox("cloud", Start::Oldest);
    let (source, tag) = register(&buffer, "pump");
    fill(&buffer, source, tag, &mut 1, 40);
    assert!(buffer.status().data.bytes > LOWERED);
    buffer.close().unwrap();
    Settings {
        when_full: WhenFull::DropNewest,
        ..settings(dir, LOWERED)
    }
}

#[test]
fn what_was_refused_keeps_its_number_over_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let settings = filled(dir.path());
    let buffer = Buffer::open_exactly(settings.clone(), clock()).unwrap();
    let (source, tag) = register(&buffer, "pump");
    buffer.append(source, samples(tag, 1, 30));
    let (late, tag) = register(&buffer, "press");
    buffer.append(late, samples(tag, 1, 30));
    let before = buffer.ledger();
    let refused = |name: &str| before.devices[name].dropped[&DropReason::Newest];
    assert_eq!((refused("pump"), refused("press")), (30, 30));
    buffer.close().unwrap();

    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    assert!(buffer.recovery().clean);
    assert_eq!(buffer.ledger(), before);
    assert_eq!(buffer.verify().unwrap(), before);
}

#[test]
fn the_last_epoch_goes_when_it_is_settled_and_nothing_else_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    let settings = filled(dir.path());
    let buffer = Buffer::open_exactly(settings, clock()).unwrap();
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    let mut receiver = Receiver::default();
    assert!(buffer.status().data.full);
    drain_empty(&buffer, &mut outbox, &mut receiver);
    // Saving what is settled looks after the room, too.
    buffer.retain_uplinks(&["cloud"]);
    buffer.commit().unwrap();
    assert!(!buffer.status().data.full, "{:?}", buffer.status());

    let (source, tag) = register(&buffer, "pump");
    let acquired = buffer.ledger().devices["pump"].acquired;
    buffer.append(source, samples(tag, 1, 30));
    buffer.commit().unwrap();
    let row = buffer.ledger().devices["pump"].clone();
    assert_eq!((row.acquired, row.queued), (acquired + 30, 30), "{row:?}");
}
