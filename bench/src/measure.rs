//! One run of a load.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use millrace_drivers::sim::modbus::{Faults, RegisterMap, SimModbus, print_tags_csv};
use millrace_tests::agent::Gateway;
use millrace_tests::broker::Broker;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde::Serialize;

use crate::load::Load;
use crate::usage::Usage;

/// Connections, first chunks and first pages are not what a load is about.
const WARM_UP: Duration = Duration::from_secs(5);

/// What a run brought.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The load.
    pub load: &'static str,
    /// Seconds measured.
    pub seconds: f64,
    /// Values that reached the subscriber.
    pub values: u64,
    /// Of those that the load asks for, the share that reached it.
    pub share: f64,
    /// CPU seconds of the agent for a million of them.
    pub cpu_s_per_million: f64,
    /// Largest resident set, MB.
    pub rss_peak_mb: f64,
    /// Bytes written to storage for each value.
    pub written_per_value: f64,
    /// Device reply to subscriber, milliseconds, median.
    pub latency_ms_p50: f64,
    /// The same, 99 of 100.
    pub latency_ms_p99: f64,
}

/// Runs the load for `span` after a warm-up.
///
/// # Errors
/// When a part cannot be started.
pub async fn measure(load: Load, span: Duration) -> Result<Figures> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(directory.path())?;
    let mut devices = Vec::new();
    for _ in 0..load.devices {
        let map = RegisterMap::ticks(load.tags, load.stride, load.interval)?;
        devices.push(SimModbus::bind("127.0.0.1:0", map, Faults::default())?);
    }
    let mut gateway = Gateway::new(directory.path());
    configure(&gateway, &load, &devices, broker.port)?;
    let counted = subscribe(broker.port, vec!["millrace/+/data/#".to_owned()]);
    gateway.start()?;
    let pid = gateway.pid().context("the agent is gone")?;
    tokio::time::sleep(WARM_UP).await;
    let before = Usage::of(pid)?;
    counted.reset();
    let started = Instant::now();
    tokio::time::sleep(span).await;
    let (after, took) = (Usage::of(pid)?, started.elapsed());
    let counted = counted.taken();
    gateway.terminate()?;
    let values = counted.values;
    let millions = values as f64 / 1e6;
    Ok(Figures {
        load: load.name,
        seconds: took.as_secs_f64(),
        values,
        share: values as f64 / (load.values_per_second() * took.as_secs_f64()),
        cpu_s_per_million: (after.cpu - before.cpu).as_secs_f64() / millions,
        rss_peak_mb: after.rss_peak as f64 / 1e6,
        written_per_value: (after.written - before.written) as f64 / values as f64,
        latency_ms_p50: counted.percentile(0.5),
        latency_ms_p99: counted.percentile(0.99),
    })
}

/// Tags are in a CSV, as in a plant: written inline, reading them would set the peak of memory.
pub(crate) fn configure(
    gateway: &Gateway,
    load: &Load,
    devices: &[SimModbus],
    broker: u16,
) -> Result<()> {
    let map = RegisterMap::ticks(load.tags, load.stride, load.interval)?;
    gateway.write("tags.csv", &print_tags_csv(&map))?;
    let mut text = format!("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{broker}\"\n");
    for (nth, device) in devices.iter().enumerate() {
        let (address, interval) = (device.local_addr(), load.interval.as_millis());
        text.push_str(&format!(
            "\n[[device]]\nname = \"d{nth}\"\ndriver = \"modbus-tcp\"\naddress = \"{address}\"\n\
             poll_interval = \"{interval}ms\"\ntags_file = \"tags.csv\"\n"
        ));
    }
    gateway.configure(&text)
}

/// What the subscriber saw.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counted {
    values: u64,
    latencies_ms: Vec<f64>,
}

/// What the subscriber has seen so far.
#[derive(Default, Clone)]
pub(crate) struct Counting(Arc<Mutex<Counted>>);

impl Counting {
    fn locked(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins anew.
    pub(crate) fn reset(&self) {
        *self.locked() = Counted::default();
    }

    /// What came since.
    pub(crate) fn taken(&self) -> Counted {
        self.locked().clone()
    }
}

impl Counted {
    fn take(&mut self, payload: &str) {
        let (Some(first), Some(last)) = (
            number(payload, "\"first_seq\":"),
            number(payload, "\"last_seq\":"),
        ) else {
            return;
        };
        self.values += (last - first) as u64 + 1;
        let newest = payload
            .rfind("\"t\":")
            .and_then(|at| number(&payload[at..], "\"t\":"));
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.latencies_ms
            .extend(newest.map(|t| now.as_secs_f64() * 1e3 - t));
    }

    /// The latency that this share of the messages stays below, milliseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.latencies_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let index = (sorted.len() as f64 * share) as usize;
        sorted
            .get(index.min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

fn number(text: &str, key: &str) -> Option<f64> {
    let rest = &text[text.find(key)? + key.len()..];
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// A subscriber to these filters that counts.
pub(crate) fn subscribe(port: u16, filters: Vec<String>) -> Counting {
    let counting = Counting::default();
    let shared = counting.clone();
    let mut options = MqttOptions::new("load-subscriber", "127.0.0.1", port);
    options.set_max_packet_size(16 << 20, 16 << 20);
    let (client, mut events) = AsyncClient::new(options, 64);
    tokio::spawn(async move {
        // The first poll connects; the requests wait for it in the client.
        for filter in filters {
            if client.subscribe(filter, QoS::AtMostOnce).await.is_err() {
                return;
            }
        }
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Packet::Publish(publish)) = event {
                let payload = String::from_utf8_lossy(&publish.payload);
                shared.locked().take(&payload);
            }
        }
    });
    counting
}
