//! From a configuration to running tasks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use millrace_buffer::{Buffer, Outbox, Registration, Settings, TagSpec};
use millrace_tags::{Clock, SourceKind, TagId, ValueType};
use tokio::sync::watch;

use super::driver::Drivers;
use super::stand_in::StandIn;
use super::uplinks::{self, UplinkTask};
use super::versions;
use super::{Running, Stage};
use crate::apply::Changes;
use crate::bootstrap::Desk;
use crate::command::Journal;
use crate::config::{self, Config};
use crate::delivered::{Delivered, Sessions};
use crate::delivery::Uplink;
use crate::device::Device;
use crate::events::EventLog;
use crate::gateway::Gateway;
use crate::live::{LiveTable, TagLabel};
use crate::model::{Model, ModelTags, ModelTap, Models, Plan, Publisher};
use crate::pipeline::{Pipeline, Treatment};
use crate::poll::Poller;
use crate::report::ConfigStatus;
use crate::totals::Totals;

/// What a start needs besides the configuration.
pub(crate) struct Startup {
    /// As meant.
    pub(crate) config: Config,
    /// Which configuration this is.
    pub(crate) config_status: ConfigStatus,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// When the program started.
    pub(crate) started: Instant,
    /// It may be taken back: what the one before needs is not forgotten.
    pub(crate) on_trial: bool,
    /// Which commands ran.
    pub(crate) journal: Arc<Journal>,
    /// The way to the main loop.
    pub(crate) changes: Changes,
    /// First contact.
    pub(crate) bootstrap: Arc<Desk>,
}

/// The size of one epoch: small ones keep memory small on a 1 GB gateway, at a few percent more files.
const EPOCH_BYTES: u64 = 4 << 20;

/// The agent cannot run at all. Bad devices, models and cores never come here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The store cannot be used: another process holds it, or there is not even room in memory.
    #[error("cannot open the buffer")]
    Buffer(#[from] millrace_buffer::OpenError),
    /// Opening the store failed by a mistake in this program.
    #[error("the buffer did not finish opening")]
    Opening(#[source] tokio::task::JoinError),
}

/// Starts everything that the configuration asks for.
///
/// # Errors
/// Where there is no store to keep samples in. A device, a model or a core that cannot be used says so in
/// its own state.
pub(crate) async fn start(startup: Startup) -> Result<Running, StartError> {
    let Startup {
        config,
        config_status,
        on_trial,
        clock,
        started,
        journal,
        changes,
        bootstrap,
    } = startup;
    // Before the first sample: what is not there when an uplink begins is not its own.
    let (buffer, stand_in) = open_buffer(&config, clock.clone()).await?;
    let (opened, wanted) = (buffer.clone(), config.uplinks.clone());
    let configured = config_status.source == "configured" && !on_trial;
    let outboxes =
        tokio::task::spawn_blocking(move || uplinks::outboxes(&opened, &wanted, configured))
            .await
            .map_err(StartError::Opening)?;
    let data_dir = config.gateway.data_dir.clone();
    let totals = tokio::task::spawn_blocking(move || Totals::open(&data_dir))
        .await
        .map_err(StartError::Opening)?;
    let mut builder = Builder {
        events: Arc::new(EventLog::new(clock.clone())),
        live: Arc::default(),
        commits: commits(&buffer),
        room: room(&buffer),
        drivers: Drivers::new(&config.lines, totals, &clock),
        delivered: Delivered::default(),
        clock: clock.clone(),
        buffer: buffer.clone(),
        polling: Stage::default(),
        sending: Stage::default(),
    };
    let registered = builder.register(&config);
    builder
        .remember(&config, &registered, stand_in.is_some())
        .await?;
    let mut planned = Models::new(config.gateway.models_cpu_percent, clock.clone());
    let models = builder.models(&config, &mut planned);
    let devices = builder.devices(&config, &registered, &models);
    let scoring = match planned.start(versions::keeper(&config, &models)) {
        Ok(scoring) => Some(scoring),
        Err(error) => {
            tracing::error!(error = %error, "no threads for models");
            let why = format!("no thread for it: {error}");
            models.iter().for_each(|model| model.fail(why.clone()));
            None
        }
    };
    builder.keep_totals();
    builder.keep_delivered();
    let uplinks: Vec<Arc<Uplink>> = config.uplinks.iter().map(Uplink::new).collect();
    let gateway = Arc::new(Gateway {
        config,
        config_status: Mutex::new(config_status),
        started,
        clock,
        buffer,
        stand_in,
        live: builder.live.clone(),
        events: builder.events.clone(),
        devices,
        lines: builder.drivers.lines(),
        taps: builder.drivers.taps(),
        models,
        uplinks,
        changes,
        bootstrap,
    });
    builder.uplinks(&gateway, outboxes, &journal);
    let mut beginning = Stage::default();
    let (begun, shutdown) = (gateway.clone(), beginning.shutdown.clone());
    beginning.spawn("models".to_owned(), async move {
        versions::begin_all(&begun, &shutdown).await;
    });
    Ok(Running {
        gateway,
        beginning,
        polling: builder.polling,
        scoring,
        sending: builder.sending,
    })
}

/// Opening may scan a damaged store, which takes its time on slow flash.
async fn open_buffer(
    config: &Config,
    clock: Arc<dyn Clock>,
) -> Result<(Buffer, Option<StandIn>), StartError> {
    let settings = buffer_settings(config);
    let opened = tokio::task::spawn_blocking(move || super::store::open(&settings, &clock)).await;
    Ok(opened.map_err(StartError::Opening)??)
}

/// What the buffer needs to know of the configuration.
fn buffer_settings(config: &Config) -> Settings {
    Settings {
        commit_interval: config.buffer.commit_interval,
        max_bytes: config.buffer.max_bytes,
        when_full: config.buffer.when_full,
        alarm_max_bytes: config.buffer.alarm_max_bytes,
        alarm_when_full: config.buffer.alarm_when_full,
        max_age: Some(config.buffer.max_age),
        keep: config.buffer.keep,
        reserve: config.buffer.reserve,
        epoch_bytes: EPOCH_BYTES,
        ..Settings::new(config.buffer_dir())
    }
}

/// A counter that turns at each commit.
fn commits(buffer: &Buffer) -> watch::Sender<u64> {
    let commits = watch::Sender::new(0);
    let turn = commits.clone();
    buffer.on_commit(Box::new(move || turn.send_modify(|count| *count += 1)));
    commits
}

/// Whether the buffer has room for what devices send by themselves.
fn room(buffer: &Buffer) -> watch::Sender<bool> {
    let room = watch::Sender::new(true);
    let turn = room.clone();
    buffer.on_room(Box::new(move |has_room| {
        turn.send_replace(has_room);
    }));
    // It may have been full from the start.
    room.send_replace(buffer.has_room());
    room
}

struct Builder {
    drivers: Drivers,
    delivered: Delivered,
    clock: Arc<dyn Clock>,
    buffer: Buffer,
    live: Arc<LiveTable>,
    events: Arc<EventLog>,
    commits: watch::Sender<u64>,
    room: watch::Sender<bool>,
    polling: Stage,
    sending: Stage,
}

impl Builder {
    /// Gives every device's tags their numbers and their rows in the live table.
    fn register(&self, config: &Config) -> Vec<Registration> {
        let register = |device: &config::Device| {
            let specs: Vec<TagSpec> = device.tags.iter().map(tag_spec).collect();
            let registration = self
                .buffer
                .register(&device.name, SourceKind::Device, &specs);
            for (tag, spec) in registration.tags.iter().zip(&device.tags) {
                let full_name = format!("{}/{}", device.name, spec.name);
                self.live.add(
                    *tag,
                    TagLabel {
                        full_name,
                        unit: spec.unit.clone(),
                    },
                );
            }
            registration
        };
        config.enabled_devices().map(register).collect()
    }

    /// Looks up what OPC UA devices have delivered before.
    async fn remember(
        &mut self,
        config: &Config,
        registered: &[Registration],
        stands_in: bool,
    ) -> Result<(), StartError> {
        let (config, registered) = (config.clone(), registered.to_vec());
        let clock = self.clock.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let delivered = Delivered::open(&config, &registered, &*clock, stands_in);
            (delivered, Sessions::open(&config.gateway.data_dir))
        });
        let (delivered, sessions) = opening.await.map_err(StartError::Opening)?;
        let memories = delivered.memories(&*self.clock);
        self.drivers.remember(memories, sessions);
        self.delivered = delivered;
        Ok(())
    }

    /// Gives every model its numbers. What they score with comes later, so that polling does not wait for it.
    fn models(&self, config: &Config, planned: &mut Models) -> Vec<Arc<Model>> {
        let plan = |model: &config::Model| Plan {
            name: model.name.clone(),
            roles: model.inputs.keys().cloned().collect(),
            bounds: model.bounds,
            publisher: Publisher {
                name: model.name.clone(),
                tags: self.model_tags(model),
                buffer: self.buffer.clone(),
                live: self.live.clone(),
                events: self.events.clone(),
            },
        };
        let models = config.models.iter();
        models.map(|model| planned.add(plan(model))).collect()
    }

    /// Starts every device's poller, tapped by the models.
    fn devices(
        &mut self,
        config: &Config,
        registered: &[Registration],
        models: &[Arc<Model>],
    ) -> Vec<Arc<Device>> {
        let mut devices = Vec::new();
        for (device, registration) in config.enabled_devices().zip(registered) {
            let taps = config.models.iter().zip(models);
            let taps = taps
                .filter_map(|(settings, model)| tap(settings, model, device, registration))
                .collect();
            devices.push(self.device(device, registration, taps));
        }
        devices
    }

    fn model_tags(&self, config: &config::Model) -> ModelTags {
        let names = ["score", "ratio"];
        let spec = |name: &&str| TagSpec {
            name: (*name).into(),
            value_type: ValueType::F64,
            unit: None,
        };
        let specs: Vec<TagSpec> = names.iter().map(spec).collect();
        let registration = self
            .buffer
            .register(&config.name, SourceKind::Model, &specs);
        for (tag, name) in registration.tags.iter().zip(&names) {
            self.live.add(
                *tag,
                TagLabel {
                    full_name: format!("{}/{name}", config.name),
                    unit: None,
                },
            );
        }
        let mut tags = registration.tags.into_iter();
        let mut next = || tags.next().unwrap_or(TagId(u32::MAX));
        ModelTags {
            source: registration.source,
            score: next(),
            ratio: next(),
            others: Mutex::default(),
        }
    }

    /// Starts a device's poller.
    fn device(
        &mut self,
        device: &config::Device,
        registration: &Registration,
        taps: Vec<ModelTap>,
    ) -> Arc<Device> {
        let driver = self.drivers.driver(device, &registration.tags);
        let treatments = device.tags.iter().map(|tag| Treatment {
            scaling: tag.scaling,
            deadband: tag.deadband,
            report_at_least: tag.report_at_least,
        });
        let treatments: Vec<(TagId, Treatment)> =
            registration.tags.iter().copied().zip(treatments).collect();
        let scalings = treatments
            .iter()
            .filter_map(|(tag, treatment)| Some((*tag, treatment.scaling?)))
            .collect();
        let shown = Arc::new(Device::new(
            &device.name,
            device.connection.kind(),
            &device.connection.address(),
            driver,
            scalings,
            self.clock.clone(),
        ));
        let poller = Poller {
            device: shown.clone(),
            source: registration.source,
            pipeline: Pipeline::new(
                registration.source,
                self.buffer.clone(),
                self.live.clone(),
                taps,
                treatments,
            )
            .noting(self.delivered.told(&device.name)),
            buffer: self.buffer.clone(),
            commits: self.commits.subscribe(),
            room: self.room.subscribe(),
            events: self.events.clone(),
            clock: self.clock.clone(),
        };
        let shutdown = self.polling.shutdown.clone();
        self.polling
            .spawn(format!("device {}", device.name), poller.run(shutdown));
        shown
    }

    /// Keeps the totals of all devices. They stop after the pollers, with the last word.
    fn keep_totals(&mut self) {
        let totals = self.drivers.take_totals();
        let shutdown = self.sending.shutdown.clone();
        self.sending
            .spawn("the totals".to_owned(), totals.save_regularly(shutdown));
    }

    /// Keeps what OPC UA devices deliver, and their sessions, in the same way.
    fn keep_delivered(&mut self) {
        let shutdown = self.sending.shutdown.clone();
        let sessions = self.drivers.take_sessions().save_always(shutdown.clone());
        self.sending.spawn("the sessions".to_owned(), sessions);
        let delivered = std::mem::take(&mut self.delivered);
        let delivered = delivered.save_regularly(self.buffer.clone(), shutdown);
        self.sending
            .spawn("what was delivered".to_owned(), delivered);
    }

    /// Starts every uplink.
    fn uplinks(&mut self, gateway: &Arc<Gateway>, outboxes: Vec<Outbox>, journal: &Arc<Journal>) {
        let config = &gateway.config;
        let each = config.uplinks.iter().zip(&gateway.uplinks).zip(outboxes);
        for ((settings, shown), outbox) in each {
            let task = UplinkTask {
                settings: settings.clone(),
                shown: shown.clone(),
                gateway: gateway.clone(),
                journal: journal.clone(),
                outbox: Some(outbox),
            };
            let shutdown = self.sending.shutdown.clone();
            self.sending
                .spawn(format!("uplink {}", settings.name), task.run(shutdown));
        }
        let shutdown = self.sending.shutdown.clone();
        let watch = super::runway::watch(gateway.clone(), shutdown);
        self.sending.spawn("the runway".to_owned(), watch);
    }
}

fn tag_spec(tag: &config::Tag) -> TagSpec {
    TagSpec {
        name: tag.name.as_str().into(),
        value_type: tag.value_type,
        unit: tag.unit.as_deref().map(Into::into),
    }
}

/// The tap between a device and a model that uses some of its tags.
fn tap(
    settings: &config::Model,
    model: &Model,
    device: &config::Device,
    registration: &Registration,
) -> Option<ModelTap> {
    let mut inputs: HashMap<TagId, Vec<usize>> = HashMap::new();
    for (index, full_name) in settings.inputs.values().enumerate() {
        let named = device.tags.iter().zip(&registration.tags);
        for (_, id) in
            named.filter(|(tag, _)| format!("{}/{}", device.name, tag.name) == *full_name)
        {
            inputs.entry(*id).or_default().push(index);
        }
    }
    (!inputs.is_empty()).then(|| model.tap(inputs))
}
