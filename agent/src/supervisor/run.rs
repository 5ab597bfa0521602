//! `millrace run`: the agent in the foreground, from the first file to the last commit.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::build::{Startup, start};
use super::exchange::can_store;
use super::trial::{LOOK_EVERY, Trial};
use super::watchdog::Watchdog;
use super::{Current, Running};
use crate::apply::refused::Refused;
use crate::apply::{Change, Changes, Wish};
use crate::bootstrap::{self, Desk, Turn};
use crate::clock::WatchedClock;
use crate::command::Journal;
use crate::config::{self, Config, Loaded, Problems};
use crate::report::{BootstrapStatus, ConfigStatus, LastChange};

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
    let outcome = runtime.block_on(Agent::new(options).run());
    // What still runs hangs: a model that cannot be built, a core that does not answer. It must not keep
    // the agent from ending.
    runtime.shutdown_background();
    match outcome? {
        End::Exit(code) => Ok(code),
        End::Restart => Err(start_anew()),
    }
}

/// How the program ends.
enum End {
    Exit(ExitCode),
    /// By beginning anew.
    Restart,
}

/// The program in the place of this process, as it is on disk now: its number stays, so that whoever watches it does
/// not mind. Returns only where that fails; whoever started us starts us again.
fn start_anew() -> anyhow::Error {
    use std::os::unix::process::CommandExt;
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return anyhow::Error::new(error).context("cannot find the program itself"),
    };
    // An upgrade has removed the file that runs, and put another one there.
    let text = program.to_string_lossy();
    let program = match text.strip_suffix(" (deleted)") {
        Some(replaced) => PathBuf::from(replaced),
        None => program.clone(),
    };
    let args = std::env::args_os().skip(1);
    let error = std::process::Command::new(program).args(args).exec();
    anyhow::Error::new(error).context("cannot start the program anew")
}

/// A configuration that is not to be started with.
struct Bad {
    data_dir: PathBuf,
    /// Why, for people.
    said: Vec<String>,
}

/// What a restart waits for answers to reach the core; they are told after it otherwise.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Polling and sending beside each other; more threads only cost memory on the gateways this runs on.
const WORKER_THREADS: usize = 2;

/// How often it is looked whether an installer has brought a claim: a stick that is put in years later.
const CLAIM_INTERVAL: Duration = Duration::from_secs(3);

/// How often the store on the disk is tried while samples are kept in memory.
const STORE_INTERVAL: Duration = Duration::from_secs(10);

pub(super) struct Agent<'a> {
    options: &'a RunOptions,
    clock: Arc<WatchedClock>,
    started: Instant,
    bootstrap: Arc<Desk>,
    /// The way to the main loop.
    pub(super) changes: Changes,
    asked: Mutex<Option<mpsc::Receiver<Change>>>,
    journal: Mutex<Option<Arc<Journal>>>,
    last_change: Mutex<Option<LastChange>>,
}

impl<'a> Agent<'a> {
    fn new(options: &'a RunOptions) -> Self {
        let (changes, asked) = Changes::channel(options.config.clone(), options.data_dir.clone());
        Self {
            options,
            clock: WatchedClock::new(),
            started: Instant::now(),
            bootstrap: Arc::default(),
            changes,
            asked: Mutex::new(Some(asked)),
            journal: Mutex::default(),
            last_change: Mutex::default(),
        }
    }

    /// The journal of this data directory: one over all configurations, since what began is known in memory, too.
    pub(super) fn journal(&self, data_dir: &Path) -> Arc<Journal> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = journal.as_ref().filter(|open| open.is_under(data_dir)) {
            return open.clone();
        }
        journal.insert(Arc::new(Journal::open(data_dir))).clone()
    }

    pub(super) fn lock_change(&self) -> std::sync::MutexGuard<'_, Option<LastChange>> {
        self.last_change
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of the last change that was tried.
    pub(super) fn last_change(&self) -> Option<LastChange> {
        self.lock_change().clone()
    }

    async fn run(&self) -> anyhow::Result<End> {
        let (config, told) = (
            self.options.config.as_deref(),
            self.options.data_dir.as_deref(),
        );
        let data_dir = config::data_dir(config, told);
        crate::audit::begin(&data_dir, self.clock.clone());
        self.take_back_trial(&data_dir).await;
        let loaded = self.load_good();
        if let (Err(bad), true) = (&loaded, self.options.strict) {
            eprintln!("{}", bad.said.join("\n"));
            return Ok(End::Exit(ExitCode::from(2)));
        }
        // A store that a power cut damaged may take long to open. Nobody waits for that, and a SIGHUP meanwhile is kept for later.
        let mut watchdog = Watchdog::new();
        let hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
        notify(&[sd_notify::NotifyState::Ready]);
        let begun = async {
            match loaded {
                Ok(loaded) => self.begin(&loaded, true).await,
                Err(bad) => {
                    let (config, status) = self.fall_back(bad);
                    self.start(config, status).await
                }
            }
        };
        let mut running = watchdog.during_opening(begun).await?;
        let current = Current::new(running.gateway.clone());
        let shutdown = CancellationToken::new();
        tokio::spawn(self.clock.clone().watch());
        let panel = crate::panel::show(current.clone());
        let api = self.offer_api(&running.gateway.config, &current, &shutdown);
        let restart;
        (running, restart) = self.turn(running, &current, (watchdog, hangup)).await?;
        tracing::info!(restart, "stopping");
        drop(panel);
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
        Ok(match restart {
            true => End::Restart,
            false => End::Exit(ExitCode::SUCCESS),
        })
    }

    /// The main loop: takes signals, enrolments and changes until it is told to stop, or (true) to start anew.
    async fn turn(
        &self,
        mut running: Running,
        current: &Arc<Current>,
        (mut watchdog, mut hangup): (Watchdog, Signal),
    ) -> anyhow::Result<(Running, bool)> {
        let asked = self
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut asked = asked.context("the main loop runs once")?;
        let mut trial: Option<Trial> = None;
        let mut restart = false;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let (enrolled, mut enrolments) = mpsc::channel(1);
        let mut first_contact = self.begin_bootstrap(&running.gateway.config, current, &enrolled);
        let mut claims = tokio::time::interval(CLAIM_INTERVAL);
        claims.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut lying = self.lying_claims(&running);
        let mut store = tokio::time::interval(STORE_INTERVAL);
        store.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = watchdog.beat() => continue,
                _ = claims.tick() => {
                    let now = self.lying_claims(&running);
                    if now == lying {
                        continue;
                    }
                    lying = now;
                }
                _ = store.tick(), if running.gateway.stand_in.is_some() => {
                    if can_store(&running.gateway).await {
                        running = watchdog.during(self.leave_memory(running, current)).await?;
                    }
                    continue;
                }
                _ = looks.tick(), if trial.is_some() => {
                    let Some(tried) = trial.take() else { continue };
                    (running, trial) = watchdog.during(self.look(running, current, tried)).await?;
                    if trial.is_some() {
                        continue;
                    }
                }
                Some(change) = asked.recv() => {
                    let Change { wish, asker } = change;
                    match wish {
                        _ if trial.is_some() => {
                            let busy = "another configuration is on trial; ask again when it is kept or taken back";
                            self.tell(&running.gateway, asker, Err(busy.to_owned())).await;
                            continue;
                        }
                        Wish::Restart => {
                            tracing::info!(target: "audit", who = asker.named(), "restart");
                            watchdog.during(tokio::time::sleep(LAST_ANSWERS)).await;
                            restart = true;
                            break;
                        }
                        Wish::Promote { model, step } => {
                            let promoted = self.promote(&running.gateway, (model, step), asker);
                            watchdog.during(promoted).await;
                            continue;
                        }
                        Wish::Try { what, watch } => {
                            let turn = match self.turn_of_configuration(&running) {
                                Ok(turn) => turn,
                                Err(busy) => {
                                    self.tell(&running.gateway, asker, Err(busy)).await;
                                    continue;
                                }
                            };
                            let tried = self.try_configuration(running, current, (what, watch), asker, turn);
                            (running, trial) = watchdog.during(tried).await?;
                        }
                    }
                    drop(first_contact);
                    first_contact = self.begin_bootstrap(&running.gateway.config, current, &enrolled);
                    continue;
                }
                // What is on disk is read once the trial is over, which is soon.
                _ = hangup.recv(), if trial.is_none() => {
                    running = watchdog.during(self.reload(running, current)).await?;
                }
                Some(()) = enrolments.recv(), if trial.is_none() => {
                    running = watchdog.during(self.reload(running, current)).await?;
                }
            }
            // The old one ends when its guard goes: what it was told may have changed.
            drop(first_contact);
            first_contact = self.begin_bootstrap(&running.gateway.config, current, &enrolled);
        }
        drop(first_contact);
        Ok((running, restart))
    }

    /// A configuration may be tried while no enrolment is put into force, nor one on trial that may be taken back.
    fn turn_of_configuration(&self, running: &Running) -> Result<Turn, String> {
        let turn = self.bootstrap.try_turn();
        let data_dir = &running.gateway.config.gateway.data_dir;
        turn.filter(|_| !bootstrap::may_be_taken_back(data_dir)).ok_or_else(|| {
            "a new enrolment of the core is on trial, ten minutes at most; ask again when it is kept or taken back"
                .to_owned()
        })
    }

    pub(super) fn load(&self) -> Result<Loaded, Problems> {
        config::load(
            self.options.config.as_deref(),
            self.options.data_dir.as_deref(),
        )
    }

    /// Starts a good configuration, and keeps it as the last good one when it has started, unless it is on trial.
    pub(super) async fn begin(&self, loaded: &Loaded, keep: bool) -> anyhow::Result<Running> {
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let status = ConfigStatus {
            source: "configured".to_owned(),
            problems: Vec::new(),
            notes: loaded.warnings.iter().map(ToString::to_string).collect(),
            last_change: self.last_change(),
        };
        let running = self
            .start_with(loaded.config.clone(), status, !keep)
            .await?;
        if keep {
            Refused::forget(&loaded.config.gateway.data_dir);
            if let Err(error) = config::last_good::save(loaded) {
                tracing::warn!(error = %crate::device::chain(&error), "the last good configuration was not kept");
            }
        }
        Ok(running)
    }

    /// The configuration on disk, where it is one to start with.
    fn load_good(&self) -> Result<Loaded, Bad> {
        let loaded = self.load().map_err(|problems| {
            tracing::error!("the configuration cannot be used:\n{problems}");
            Bad {
                data_dir: self.data_dir(&problems),
                said: sentences(&problems),
            }
        })?;
        let (data_dir, sha256) = (&loaded.config.gateway.data_dir, loaded.local_digest());
        let Some(refused) = Refused::of(data_dir, &sha256) else {
            return Ok(loaded);
        };
        if config::last_good::load(data_dir).is_err() {
            // Better than none.
            return Ok(loaded);
        }
        let why = refused.why.unwrap_or_else(|| {
            let why = "the agent restarted while they were tried";
            if let Err(error) = Refused::note(data_dir, &sha256, Some(why)) {
                tracing::error!(%error, "the end of a trial cannot be written");
            }
            self.say_change("taken-back", "", Some(why));
            why.to_owned()
        });
        let said = format!(
            "the files were tried and taken back: {why}; change them, or try them again with millrace config apply"
        );
        tracing::error!("{said}");
        Err(Bad {
            data_dir: data_dir.clone(),
            said: vec![said],
        })
    }

    /// A bad configuration: the last good one, else no devices.
    fn fall_back(&self, bad: Bad) -> (Config, ConfigStatus) {
        let Bad { data_dir, said } = bad;
        match config::last_good::load(&data_dir) {
            Ok(loaded) => {
                tracing::warn!("the last good configuration runs instead");
                (
                    loaded.config,
                    ConfigStatus {
                        source: "last-good".to_owned(),
                        problems: said,
                        last_change: self.last_change(),
                        ..ConfigStatus::default()
                    },
                )
            }
            Err(error) => {
                tracing::warn!(error = %crate::device::chain(&error), "there is no last good configuration: running without devices");
                (
                    Config::empty(&data_dir),
                    ConfigStatus {
                        source: "none".to_owned(),
                        problems: said,
                        last_change: self.last_change(),
                        ..ConfigStatus::default()
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

    pub(super) async fn start(
        &self,
        config: Config,
        config_status: ConfigStatus,
    ) -> anyhow::Result<Running> {
        self.start_with(config, config_status, false).await
    }

    async fn start_with(
        &self,
        config: Config,
        config_status: ConfigStatus,
        on_trial: bool,
    ) -> anyhow::Result<Running> {
        if config.gateway.clock_trusted {
            self.clock.trust("the configuration says that it is right");
        }
        let startup = Startup {
            journal: self.journal(&config.gateway.data_dir),
            changes: self.changes.clone(),
            config,
            config_status,
            on_trial,
            clock: self.clock.clone(),
            started: self.started,
            bootstrap: self.bootstrap.clone(),
        };
        Ok(start(startup).await?)
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

    fn lying_claims(&self, running: &Running) -> bootstrap::Lying {
        bootstrap::lying(&running.gateway.config.gateway.data_dir)
    }

    /// Begins the first contact where one is configured, or a claim was brought; it ends when the guard is dropped.
    fn begin_bootstrap(
        &self,
        config: &Config,
        current: &Arc<Current>,
        enrolled: &mpsc::Sender<()>,
    ) -> Option<DropGuard> {
        let contact = bootstrap::first_contact(config.bootstrap.clone(), &config.gateway.data_dir);
        self.bootstrap.say_claim(contact.problem.clone());
        let Some(settings) = contact.settings else {
            self.bootstrap.say(contact.problem.map(|_| BootstrapStatus {
                provider: "claim".to_owned(),
                state: "denied".to_owned(),
                ..BootstrapStatus::default()
            }));
            return None;
        };
        let current = current.clone();
        let task = bootstrap::Bootstrap {
            settings,
            gateway: config.gateway.id.to_string(),
            data_dir: config.gateway.data_dir.clone(),
            config: self.options.config.clone(),
            desk: self.bootstrap.clone(),
            changed: enrolled.clone(),
            look: Box::new(move || current.get().seen_uplinks()),
            make_provider: config::Bootstrap::provider,
        };
        let ended = CancellationToken::new();
        tokio::spawn(ended.clone().run_until_cancelled_owned(task.run()));
        Some(ended.drop_guard())
    }
}

/// As `status` shows them.
pub(super) fn sentences(problems: &Problems) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Tells systemd, where it listens.
pub(super) fn notify(state: &[sd_notify::NotifyState]) {
    // Not started by systemd: nobody listens, and that is fine.
    let _ = sd_notify::notify(false, state);
}
