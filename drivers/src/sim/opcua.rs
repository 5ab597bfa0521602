//! A simulated OPC UA server.
//!
//! Its variables follow [`Signal`](super::signal::Signal)s, and can be written; it keeps their history, has methods,
//! and misbehaves on request ([`Faults`], [`SimOpcua::happen`]). It counts every value that it hands out, so
//! that a test outside can hold what arrived against what was served ([`SimOpcua::served`]): the initial
//! value of a monitored item, every change after it, every value of a Read. What was handed to a
//! subscription and never fetched counts too, so [`SimOpcua::freeze`] it and let it drain before comparing.
//!
//! The server is async-opcua's; what it says about itself is ours (`core.rs`), and its standard nodes are data
//! (`standard.rs`).
//!
//! Nothing of it is for a plant: it trusts every client certificate.

mod clock;
mod core;
mod endpoints;
mod faults;
mod front;
mod history;
mod machine;
mod method;
mod node;
mod plant;
mod space;
mod standard;
mod structure;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use faults::Timetable;
pub use faults::{FaultError, Faults, Timed, Upset, When};
use machine::Machine;
pub use node::{NodeError, SimNode, SimType, nodes_from_csv};
use plant::Plant;
pub use plant::Served;

/// The namespace of the simulated nodes; they are `s=<name>` in it.
pub const NAMESPACE_URI: &str = "urn:millrace:sim";

/// The unit of the protocol's times is 100 ns.
const TICKS_PER_MS: i64 = 10_000;

/// Upsets that wait for their turn.
const UPSETS_MAX: usize = 16;

/// Until an upset that a client has asked for.
const ANSWER_TIME: Duration = Duration::from_millis(100);

/// What to simulate, and where.
#[derive(Debug, Clone)]
pub struct SimOpcuaSettings {
    /// Where to listen; port 0 lets the system choose.
    pub address: SocketAddr,
    /// The variables.
    pub nodes: Vec<SimNode>,
    /// How often the signals move on.
    pub interval: Duration,
    /// Where the server keeps certificate and key; there are secured endpoints only with it.
    pub pki_dir: Option<PathBuf>,
    /// User name and password, taken besides anonymous logins.
    pub user: Option<(String, String)>,
    /// Values of each node that are kept for HistoryRead; none are where it is 0.
    pub history: usize,
    /// How it misbehaves.
    pub faults: Faults,
    /// Equal seeds give equal courses, and equal faults.
    pub seed: u64,
}

impl SimOpcuaSettings {
    /// Well-behaved nodes that move on every 100 ms, without history, open to everybody.
    pub fn new(address: SocketAddr, nodes: Vec<SimNode>) -> Self {
        Self {
            address,
            nodes,
            interval: Duration::from_millis(100),
            pki_dir: None,
            user: None,
            history: 0,
            faults: Faults::default(),
            seed: 1,
        }
    }
}

/// Why a simulated server does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimOpcuaError {
    /// Somebody else listens there, or the address is not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server does not take its settings.
    #[error("cannot set the server up: {0}")]
    SetUp(String),
}

/// A value that a node had, as HistoryRead gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recorded {
    /// When, in 100 ns since 1601.
    pub ticks: i64,
    /// The number; what is none is not a number here either.
    pub number: f64,
}

/// A simulated server. Dropping it stops it.
pub struct SimOpcua {
    address: SocketAddr,
    plant: Arc<Mutex<Plant>>,
    machine: Arc<Machine>,
    missing: Vec<String>,
    happened: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    upsetting: JoinHandle<()>,
}

impl Drop for SimOpcua {
    fn drop(&mut self) {
        self.upsetting.abort();
    }
}

impl SimOpcua {
    /// Starts serving.
    ///
    /// # Errors
    /// Where the address cannot be bound or the settings contradict each other.
    pub async fn start(settings: SimOpcuaSettings) -> Result<Self, SimOpcuaError> {
        let faults = &settings.faults;
        let renewed = |timed: &Timed| timed.upset == Upset::NewCertificate;
        if settings.pki_dir.is_none() && faults.timed.iter().any(renewed) {
            return Err(machine::no_pki_dir());
        }
        let mut plant = Plant::new(&settings);
        let missing = plant.take_away(faults.bad_nodes, settings.seed);
        let plant = Arc::new(Mutex::new(plant));
        let listener = listen(settings.address).await?;
        let address = listener.local_addr().map_err(|source| {
            let address = settings.address;
            SimOpcuaError::Listen { address, source }
        })?;
        let timetable = Timetable::new(&faults.timed, settings.seed);
        let (sender, asked) = mpsc::channel(UPSETS_MAX);
        let machine = Arc::new(Machine::new(settings, plant.clone(), sender));
        machine.start(listener).await?;
        let happened: Arc<Mutex<BTreeMap<&'static str, u64>>> = Arc::default();
        let mut upsetter = Upsetter {
            machine: machine.clone(),
            address,
            happened: happened.clone(),
        };
        Ok(Self {
            address,
            plant,
            machine,
            missing,
            happened,
            upsetting: tokio::spawn(async move { upsetter.run(timetable, asked).await }),
        })
    }

    /// The address that clients use.
    pub fn url(&self) -> String {
        format!("opc.tcp://{}/", self.address)
    }

    /// How many values were handed out so far, over all restarts.
    pub fn served(&self) -> Served {
        self.plant().served()
    }

    /// How many sessions the server keeps right now.
    pub fn sessions(&self) -> u32 {
        self.machine.sessions()
    }

    /// The most sessions that it kept at once, over all restarts.
    pub fn sessions_peak(&self) -> u32 {
        self.machine.sessions_peak()
    }

    /// The nodes that the fault `bad-nodes` has taken away.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// All that is kept of a node's history, oldest first.
    pub fn recorded(&self, name: &str) -> Vec<Recorded> {
        let plant = self.plant();
        let recorded = plant.recorded(name).map(|data| Recorded {
            ticks: data.source_timestamp.map_or(0, |time| time.ticks()),
            number: data
                .value
                .as_ref()
                .and_then(opcua::types::Variant::as_f64)
                .unwrap_or(f64::NAN),
        });
        recorded.collect()
    }

    /// How often each upset has happened, those that somebody asked for by a method, too.
    pub fn happened(&self) -> BTreeMap<&'static str, u64> {
        self.happened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Holds all values still, or lets them go on.
    pub fn freeze(&self, frozen: bool) {
        self.plant().freeze(frozen);
    }

    /// From now on the node has this status code and no value; `None` heals it. Unknown names change nothing.
    pub fn set_status(&self, name: &str, status: Option<u32>) {
        self.plant().set_status(name, status);
    }

    /// Ends all connections and forgets all sessions and subscriptions; the port is closed until [`SimOpcua::resume`].
    pub async fn stop(&mut self) {
        self.machine.stop().await;
    }

    /// Listens again on the same address. A server that runs goes on.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn resume(&mut self) -> Result<(), SimOpcuaError> {
        if self.machine.is_running() {
            return Ok(());
        }
        self.machine.start(listen(self.address).await?).await
    }

    /// [`SimOpcua::stop`] and [`SimOpcua::resume`]: what a power cycle of the server looks like.
    ///
    /// # Errors
    /// Where the address cannot be bound again.
    pub async fn restart(&mut self) -> Result<(), SimOpcuaError> {
        self.stop().await;
        self.resume().await
    }

    /// An upset at once; returns when it is over.
    ///
    /// # Errors
    /// Where the server does not come back.
    pub async fn happen(&self, upset: Upset) -> Result<(), SimOpcuaError> {
        self.machine.happen(upset, self.address).await
    }

    fn plant(&self) -> MutexGuard<'_, Plant> {
        self.plant.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, SimOpcuaError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| SimOpcuaError::Listen { address, source })
}

/// Carries out what the timetable says and what clients ask for.
struct Upsetter {
    machine: Arc<Machine>,
    address: SocketAddr,
    happened: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Upsetter {
    async fn run(&mut self, mut timetable: Timetable, mut asked: mpsc::Receiver<Upset>) {
        let began = Instant::now();
        let mut next = timetable.next();
        loop {
            let due = async {
                match next {
                    Some((at, upset)) => {
                        tokio::time::sleep_until(began + at).await;
                        upset
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                upset = due => {
                    self.carry_out(upset).await;
                    next = timetable.next();
                }
                Some(upset) = asked.recv() => {
                    // Whoever asked is to hear the answer.
                    tokio::time::sleep(ANSWER_TIME).await;
                    self.carry_out(upset).await;
                }
            }
        }
    }

    async fn carry_out(&self, upset: Upset) {
        *self
            .happened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(upset.name())
            .or_default() += 1;
        if let Err(error) = self.machine.happen(upset, self.address).await {
            tracing::error!(%error, upset = upset.name(), "the simulated server does not come back");
        }
    }
}
