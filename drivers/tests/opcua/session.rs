//! Taking notifications from a session.

use std::time::Duration;

use millrace_drivers::{Exclusion, Session, SessionError};
use millrace_tags::{Reading, Sample, TagId, Value};

/// Far longer than anything takes; a test that hits it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn next(session: &mut Box<dyn Session>) -> Result<Reading, SessionError> {
    tokio::time::timeout(PATIENCE, session.notified())
        .await
        .expect("a notification in time")
}

/// Takes and settles notifications until `count` samples are there.
pub(crate) async fn collect(session: &mut Box<dyn Session>, count: usize) -> Vec<Sample> {
    let mut samples = Vec::new();
    while samples.len() < count {
        let reading = next(session).await.expect("a reading");
        if let Some(receipt) = reading.receipt {
            session.settle(receipt);
        }
        samples.extend(reading.known);
        samples.extend(reading.samples);
    }
    samples
}

pub(crate) fn of(samples: &[Sample], tag: u32) -> Vec<&Sample> {
    samples.iter().filter(|s| s.tag == TagId(tag)).collect()
}

/// The values of a counter, in order of arrival.
pub(crate) fn counts(samples: &[Sample], tag: u32) -> Vec<u64> {
    of(samples, tag)
        .iter()
        .map(|sample| match sample.value {
            Some(Value::U64(count)) => count,
            _ => panic!("{sample:?}"),
        })
        .collect()
}

/// Nodes that the session does not bring, one in a line.
pub(crate) fn excluded(session: &dyn Session) -> String {
    let excluded = session.excluded().into_iter();
    let line = |one: Exclusion| format!("{}: {}\n", one.addresses, one.cause.unwrap_or_default());
    excluded.map(line).collect()
}
