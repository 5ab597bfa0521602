//! `millrace run`: the agent in the foreground, from the first file to the last commit.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Context;
use millrace_tags::{Clock, SystemClock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::build::{Startup, start};
use super::{Current, Running};
use crate::bootstrap;
use crate::config::{self, Config, Loaded, Problems};
use crate::report::{BootstrapStatus, ConfigStatus};

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunOptions {
    /// A file or a directory; the system's configuration where `None`.
    pub(crate) config: Option<PathBuf>,
    /// Wins over the configuration.
    pub(crate) data_dir: Option<PathBuf>,
    /// End with exit code 2 on a bad configuration.
    pub(crate) strict: bool,
    /// Where to offer the local API.
    pub(crate) socket: Option<PathBuf>,
}

/// The socket's place when systemd made its directory.
const SYSTEM_SOCKET: &str = "/run/millrace/millrace.sock";

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(options: &RunOptions) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(Agent::new(options).run())
}

/// Polling and sending beside each other; more threads only cost memory on the gateways this runs on.
const WORKER_THREADS: usize = 2;

struct Agent<'a> {
    options: &'a RunOptions,
    clock: Arc<dyn Clock>,
    started: Instant,
    bootstrap: Arc<Mutex<Option<BootstrapStatus>>>,
}

impl<'a> Agent<'a> {
    fn new(options: &'a RunOptions) -> Self {
        Self {
            options,
            clock: Arc::new(SystemClock::new()),
            started: Instant::now(),
            bootstrap: Arc::default(),
        }
    }

    async fn run(&self) -> anyhow::Result<ExitCode> {
        let (config, status) = match self.load() {
            Ok(loaded) => self.configured(loaded),
            Err(problems) if self.options.strict => {
                eprint!("{problems}");
                return Ok(ExitCode::from(2));
            }
            Err(problems) => self.fall_back(&problems),
        };
        let mut running = self.start(config, status).await?;
        let current = Current::new(running.gateway.clone());
        let shutdown = CancellationToken::new();
        let api = self.offer_api(&running.gateway.config, &current, &shutdown);
        let (reload, mut reloads) = mpsc::channel(1);
        self.begin_bootstrap(&running.gateway.config, reload, &shutdown);
        notify(&[sd_notify::NotifyState::Ready]);
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => running = self.reload(running, &current).await?,
                Some(()) = reloads.recv() => running = self.reload(running, &current).await?,
            }
        }
        tracing::info!("stopping");
        notify(&[sd_notify::NotifyState::Stopping]);
        shutdown.cancel();
        running
            .stop()
            .await
            .context("the last samples are not on disk")?;
        if let Some(api) = api {
            // Its only failure is logged by itself.
            let _ = api.await;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn load(&self) -> Result<Loaded, Problems> {
        config::load(
            self.options.config.as_deref(),
            self.options.data_dir.as_deref(),
        )
    }

    /// A good configuration: kept as the last good one.
    fn configured(&self, loaded: Loaded) -> (Config, ConfigStatus) {
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        if let Err(error) = config::last_good::save(&loaded) {
            tracing::warn!(error = %crate::device::chain(&error), "the last good configuration was not kept");
        }
        let notes = loaded.warnings.iter().map(ToString::to_string).collect();
        (
            loaded.config,
            ConfigStatus {
                source: "configured".to_owned(),
                problems: Vec::new(),
                notes,
            },
        )
    }

    /// A bad configuration: the last good one, else no devices.
    fn fall_back(&self, problems: &Problems) -> (Config, ConfigStatus) {
        tracing::error!("the configuration cannot be used:\n{problems}");
        let data_dir = self.data_dir(problems);
        let said = problems.iter().map(ToString::to_string).collect();
        match config::last_good::load(&data_dir) {
            Ok(loaded) => {
                tracing::warn!("the last good configuration runs instead");
                (
                    loaded.config,
                    ConfigStatus {
                        source: "last-good".to_owned(),
                        problems: said,
                        notes: Vec::new(),
                    },
                )
            }
            Err(_) => {
                tracing::warn!("there is no last good configuration: running without devices");
                (
                    Config::empty(&data_dir),
                    ConfigStatus {
                        source: "none".to_owned(),
                        problems: said,
                        notes: Vec::new(),
                    },
                )
            }
        }
    }

    fn data_dir(&self, problems: &Problems) -> PathBuf {
        let told = self
            .options
            .data_dir
            .clone()
            .or_else(|| problems.data_dir().map(Path::to_owned));
        told.unwrap_or_else(|| PathBuf::from(config::DATA_DIR))
    }

    async fn start(&self, config: Config, config_status: ConfigStatus) -> anyhow::Result<Running> {
        let clock = self.clock.clone();
        let startup = Startup {
            config,
            config_status,
            clock,
            started: self.started,
            bootstrap: self.bootstrap.clone(),
        };
        Ok(start(startup).await?)
    }

    /// Applies the configuration as it is now on disk; a bad one changes nothing.
    async fn reload(&self, running: Running, current: &Current) -> anyhow::Result<Running> {
        let loaded = match self.load() {
            Ok(loaded) => loaded,
            Err(problems) => {
                tracing::error!(
                    "the changed configuration cannot be used, the old one runs on:\n{problems}"
                );
                return Ok(running);
            }
        };
        tracing::info!("applying the changed configuration");
        notify(&[sd_notify::NotifyState::Reloading]);
        running
            .stop()
            .await
            .context("the samples of the old configuration are not on disk")?;
        let (config, status) = self.configured(loaded);
        let running = self.start(config, status).await?;
        current.replace(running.gateway.clone());
        notify(&[sd_notify::NotifyState::Ready]);
        Ok(running)
    }

    /// Offers the local API; without it the agent still polls and delivers.
    fn offer_api(
        &self,
        config: &Config,
        current: &Arc<Current>,
        shutdown: &CancellationToken,
    ) -> Option<tokio::task::JoinHandle<()>> {
        let path = self.socket(config);
        match crate::api::serve(&path, current.clone(), shutdown.clone()) {
            Ok(task) => {
                tracing::info!(socket = %path.display(), "local API");
                Some(task)
            }
            Err(error) => {
                tracing::error!(error = %crate::device::chain(&error), "no local API");
                None
            }
        }
    }

    fn socket(&self, config: &Config) -> PathBuf {
        let told = self
            .options
            .socket
            .clone()
            .or_else(|| std::env::var_os("MILLRACE_SOCKET").map(PathBuf::from));
        told.unwrap_or_else(|| {
            let system = Path::new(SYSTEM_SOCKET);
            // A gateway in a directory of its own keeps its socket there, beside one that systemd runs.
            let by_systemd = std::env::var_os("RUNTIME_DIRECTORY").is_some();
            if by_systemd {
                system.to_owned()
            } else {
                config.gateway.data_dir.join("millrace.sock")
            }
        })
    }

    fn begin_bootstrap(
        &self,
        config: &Config,
        reload: mpsc::Sender<()>,
        shutdown: &CancellationToken,
    ) {
        let Some(settings) = config.bootstrap.clone() else {
            return;
        };
        let data_dir = config.gateway.data_dir.clone();
        let task = bootstrap::Bootstrap {
            settings,
            data_dir,
            config: self.options.config.clone(),
            status: self.bootstrap.clone(),
            reload,
        };
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task.run() => {}
            }
        });
    }
}

/// Tells systemd, where it listens.
fn notify(state: &[sd_notify::NotifyState]) {
    // Not started by systemd: nobody listens, and that is fine.
    let _ = sd_notify::notify(false, state);
}
