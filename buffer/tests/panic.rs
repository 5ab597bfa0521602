//! A mistake of ours on the buffer's own thread, or of a caller in its hook, does not stop the commits.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "support/receiver.rs"]
mod receiver;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millrace_buffer::{Buffer, Start};
use millrace_tags::{Clock, Moment, Timebase};
use receiver::{Receiver, clock, drain_empty, register, samples, settings};

/// A clock that breaks down when the buffer's thread asks it.
struct Broken {
    inner: Arc<dyn Clock>,
    broken: AtomicBool,
}

impl Clock for Broken {
    fn now(&self) -> Moment {
        let here = std::thread::current().name() == Some("buffer");
        assert!(!(here && self.broken.load(Ordering::SeqCst)), "as asked");
        self.inner.now()
    }

    fn timebase(&self) -> Timebase {
        self.inner.timebase()
    }
}

#[test]
fn a_panic_is_a_failure_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Broken {
        inner: clock(),
        broken: AtomicBool::new(false),
    });
    let buffer = Buffer::open_exactly(settings(dir.path(), 1 << 30), clock.clone()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    let mut outbox = buffer.outbox("cloud", Start::Oldest);
    buffer.append(source, samples(tag, 1, 100));
    buffer.commit().unwrap();
    for round in 1..4 {
        clock.broken.store(true, Ordering::SeqCst);
        buffer.append(source, samples(tag, round * 1_000, 100));
        assert!(buffer.commit().is_err());
        clock.broken.store(false, Ordering::SeqCst);
        let ticket = buffer.append(source, samples(tag, round * 1_000 + 100, 100));
        buffer.commit().unwrap();
        assert!(buffer.durable(ticket) && buffer.status().durable);
    }
    let mut receiver = Receiver::default();
    drain_empty(&buffer, &mut outbox, &mut receiver);
    receiver.check_lines();
    assert_eq!(receiver.values("boiler").len(), 700);
    assert_eq!(buffer.verify().unwrap(), buffer.ledger());
    clock.broken.store(true, Ordering::SeqCst);
    buffer.append(source, samples(tag, 10_000, 1));
    assert!(
        buffer.close().is_err(),
        "a stop that failed is not a clean one"
    );
}

#[test]
fn a_hook_that_panics_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let buffer = Buffer::open_exactly(settings(dir.path(), 1 << 30), clock()).unwrap();
    let (source, tag) = register(&buffer, "boiler");
    buffer.on_commit(Box::new(|| panic!("as asked")));
    let outbox = buffer.outbox("cloud", Start::Oldest);
    for round in 0..3 {
        let ticket = buffer.append(source, samples(tag, 1 + round * 10, 10));
        buffer.commit().unwrap();
        assert!(buffer.durable(ticket) && buffer.status().durable);
    }
    drop(outbox);
    buffer.close().unwrap();
}
