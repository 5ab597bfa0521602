//! Everything that a demonstration runs: plant, broker, agent.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use millrace_tags::SystemClock;
use millrace_uplink::sim::Broker;

use super::plant::{ANY_PORT, DRAIN, PUMP_STATION, Plant};
use super::pump::ROLES;
use super::screen::{Screen, View, headline};
use super::tally::Tally;
use super::timeline::{Span, Timeline};
use super::verdict::{Evidence, Verdict};
use crate::config;
use crate::report::ConfigStatus;
use crate::supervisor::{self, Running, Startup};

/// The bundle of the model, as it lies in the repository.
const BUNDLE: [(&str, &[u8]); 3] = [
    (
        "model.toml",
        include_bytes!("../../../models/pump-anomaly/model.toml"),
    ),
    (
        "model.onnx",
        include_bytes!("../../../models/pump-anomaly/model.onnx"),
    ),
    (
        "golden.json",
        include_bytes!("../../../models/pump-anomaly/golden.json"),
    ),
];
/// The name of the model.
const MODEL: &str = "pump-anomaly";
/// The gateway's id, and so the second level of its topics.
const GATEWAY: &str = "demo";
/// The most that a loaded machine should need to send what is queued.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// A running demonstration.
pub(super) struct Site {
    pub(super) timeline: Timeline,
    plant: Plant,
    broker: Broker,
    tally: Arc<Mutex<Tally>>,
    agent: Running,
    /// When the broker was cut off, while it is.
    cut_since: Option<Instant>,
    cut_total: Duration,
    stopped: Option<Instant>,
}

impl Site {
    /// Starts plant and broker, writes a configuration into the directory, and starts an agent with it.
    pub(super) async fn open(directory: &Path, timeline: Timeline) -> anyhow::Result<Self> {
        let broker = Broker::bind(ANY_PORT)
            .await
            .context("the broker does not start")?;
        let tally = Arc::new(Mutex::new(Tally::default()));
        let tapped = tally.clone();
        broker.tap(move |message| lock(&tapped).take(&message.topic, &message.payload));
        write_bundle(&directory.join(MODEL))?;
        let plant = Plant::start(&timeline).await?;
        let path = directory.join("millrace.toml");
        let text = configuration(&plant, &timeline, &broker)?;
        std::fs::write(&path, text).context("cannot write the configuration")?;
        let agent = start_agent(&path).await?;
        Ok(Self {
            timeline,
            plant,
            broker,
            tally,
            agent,
            cut_since: None,
            cut_total: Duration::ZERO,
            stopped: None,
        })
    }

    /// How long the plant has been running.
    pub(super) fn at(&self) -> Duration {
        self.plant.began.elapsed()
    }

    /// Cuts the broker off and heals it when its time has come.
    pub(super) async fn follow_timeline(&mut self) {
        self.plant.collect();
        match (self.timeline.is_cut(self.at()), self.cut_since) {
            (true, None) => {
                self.broker.cut().await;
                self.cut_since = Some(Instant::now());
            }
            (false, Some(since)) => {
                self.broker.heal().await;
                self.cut_total += since.elapsed();
                self.cut_since = None;
            }
            _ => {}
        }
    }

    /// Shows how it stands; without a headline that of the timeline.
    pub(super) fn show(&self, screen: &mut Screen, said: Option<&str>) -> anyhow::Result<()> {
        if screen.is_silent() {
            return Ok(());
        }
        let at = self.at();
        let gateway = &self.agent.gateway;
        let mut pump = gateway.tag_rows(&format!("{PUMP_STATION}/*"));
        let role = |tag: &str| {
            ROLES
                .iter()
                .position(|(role, _)| tag.ends_with(&format!("/{role}")))
        };
        pump.retain(|row| role(&row.tag).is_some());
        pump.sort_by_key(|row| role(&row.tag));
        Ok(screen.show(&View {
            at,
            timeline: &self.timeline,
            headline: said.unwrap_or_else(|| headline(self.timeline.phase(at))),
            status: &gateway.status(),
            pump: &pump,
            served: self.plant.served_total(),
        })?)
    }

    /// Lets the plant come to rest and stops reading it, so that all that was served was also taken.
    pub(super) async fn stop_devices(&mut self) {
        self.plant.freeze();
        tokio::time::sleep(DRAIN).await;
        self.agent.stop_polling().await;
        self.plant.collect();
        self.stopped = Some(Instant::now());
    }

    /// Whether the broker has everything, or will not get it any more.
    pub(super) fn is_drained(&self) -> bool {
        let queued = self.agent.gateway.buffer_report().queued;
        let late = self
            .stopped
            .is_some_and(|stopped| stopped.elapsed() > DRAIN_LIMIT);
        late || queued.values().all(|queued| *queued == 0)
    }

    /// Ends everything and counts.
    pub(super) async fn close(self) -> anyhow::Result<Verdict> {
        let faults: Vec<(f64, f64)> = self
            .timeline
            .faults
            .iter()
            .map(|fault| unix_ms(self.plant.began_wall, fault))
            .collect();
        self.agent
            .stop()
            .await
            .context("the last samples are not on disk")?;
        let served = self.plant.stop().await;
        self.broker.shutdown();
        let broker_cut_ms = u64::try_from(self.cut_total.as_millis()).unwrap_or(u64::MAX);
        Ok(Verdict::of(&Evidence {
            served: &served,
            tally: &lock(&self.tally),
            faults: &faults,
            broker_cut_ms,
        }))
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_ms(began: SystemTime, span: &Span) -> (f64, f64) {
    let began = began
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let ms = |at: Duration| (began + at).as_secs_f64() * 1e3;
    (ms(span.begin), ms(span.end))
}

fn write_bundle(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(directory).context("cannot make the model's directory")?;
    for (name, bytes) in BUNDLE {
        std::fs::write(directory.join(name), bytes)
            .with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

/// What an installer would write, with the ports of this run.
fn configuration(plant: &Plant, timeline: &Timeline, broker: &Broker) -> anyhow::Result<String> {
    let inputs: String = ROLES
        .iter()
        .map(|(role, _)| format!("{role} = \"{PUMP_STATION}/{role}\"\n"))
        .collect();
    Ok(format!(
        "[gateway]\nid = \"{GATEWAY}\"\ndata_dir = \"data\"\n\n\
         [buffer]\nmax_bytes = \"256MiB\"\n\n\
         {devices}\n\
         [[model]]\nname = \"{MODEL}\"\nbundle = \"{MODEL}\"\n[model.inputs]\n{inputs}\n\
         [[uplink]]\nname = \"cloud\"\nprofile = \"generic\"\nurl = \"mqtt://{broker}\"\n",
        devices = plant.device_tables(timeline)?,
        broker = broker.local_addr()
    ))
}

async fn start_agent(path: &Path) -> anyhow::Result<Running> {
    let loaded = config::load(Some(path), None).map_err(|problems| {
        anyhow::anyhow!("the demonstration's configuration is bad:\n{problems}")
    })?;
    // Nobody asks for changes here, and nobody would take them.
    let (changes, _) = crate::apply::Changes::channel(None, None);
    let journal = crate::command::Journal::open(&loaded.config.gateway.data_dir);
    Ok(supervisor::start(Startup {
        journal: journal.into(),
        changes,
        on_trial: false,
        config: loaded.config,
        config_status: ConfigStatus {
            source: "configured".to_owned(),
            ..ConfigStatus::default()
        },
        clock: Arc::new(SystemClock::new()),
        started: Instant::now(),
        bootstrap: Arc::default(),
    })
    .await?)
}
