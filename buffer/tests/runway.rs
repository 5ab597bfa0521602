//! How long the room will last, by the rate that is seen.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::sync::Arc;
use std::time::Duration;

use millrace_buffer::{Buffer, Settings, TagSpec};
use millrace_tags::{Clock, Sample, SourceKind, TestClock, Value, ValueType};

/// Hard to compress.
fn noise(seed: u64) -> Value {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    Value::Bytes((0..20_000).map(|_| byte()).collect::<Vec<u8>>().into())
}

#[test]
fn bytes_an_hour_and_time_until_full() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::new(1, None));
    let settings = Settings {
        commit_interval: Duration::from_secs(3600),
        max_bytes: 1 << 30,
        ..Settings::new(dir.path())
    };
    let buffer = Buffer::open(settings, clock.clone()).unwrap();
    let tag = TagSpec {
        name: "t".into(),
        value_type: ValueType::Bytes,
        unit: None,
    };
    let numbers = buffer.register("pump", SourceKind::Device, &[tag]);
    assert_eq!(buffer.status().runway, None);
    // 20 kB every 10 s for an hour.
    for second in 0..360 {
        clock.advance(Duration::from_secs(10));
        let sample = Sample::good(numbers.tags[0], noise(second), clock.now());
        buffer.append(numbers.source, vec![sample]);
        buffer.commit().unwrap();
    }
    let status = buffer.status();
    let rate = status.data.bytes_per_hour.unwrap() as f64;
    let given = 360.0 * 20_000.0;
    assert!((0.9..1.5).contains(&(rate / given)), "{rate}");
    let room = (status.data.max_bytes - status.data.bytes) as f64;
    let expected = room / rate;
    let runway = status.runway.unwrap().as_secs_f64() / 3600.0;
    assert!((0.9..=1.0).contains(&(runway / expected)), "{runway}");
    assert_eq!(status.alarm.runway, None, "nothing comes");
}
