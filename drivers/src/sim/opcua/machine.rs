//! The server that runs behind the front: started, ended, started again with what has changed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opcua::types::{VariableId, Variant};
use opcua_server::{ServerHandle, SubscriptionCache};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::faults::{Faults, Upset};
use super::front::Front;
use super::plant::Plant;
use super::space::Space;
use super::{SimOpcuaError, SimOpcuaSettings, endpoints};

/// How long a stopping server may take to say goodbye.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// From one look at something that the library does soon to the next.
const LOOK: Duration = Duration::from_millis(1);

/// A simulated server, running or not.
pub(super) struct Machine {
    settings: SimOpcuaSettings,
    faults: Arc<Faults>,
    plant: Arc<Mutex<Plant>>,
    front: Front,
    running: Mutex<Option<Running>>,
    /// Starts and ends happen one after the other.
    turn: tokio::sync::Mutex<()>,
    reordered: AtomicBool,
    sessions_peak: Arc<AtomicU32>,
    upsets: mpsc::Sender<Upset>,
}

struct Running {
    handle: ServerHandle,
    server: JoinHandle<()>,
    ticker: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.cancel();
        self.ticker.abort();
    }
}

impl Machine {
    /// A machine that does not run yet. Calls for misbehaviour go to `upsets`.
    pub(super) fn new(
        settings: SimOpcuaSettings,
        plant: Arc<Mutex<Plant>>,
        upsets: mpsc::Sender<Upset>,
    ) -> Self {
        Self {
            faults: Arc::new(settings.faults.clone()),
            front: Front::new(settings.faults.clock_ahead_ms),
            settings,
            plant,
            running: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            reordered: AtomicBool::default(),
            sessions_peak: Arc::default(),
            upsets,
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_running(&self) -> bool {
        self.running().is_some()
    }

    /// How many sessions the server keeps right now.
    pub(super) fn sessions(&self) -> u32 {
        let running = self.running();
        running
            .as_ref()
            .map_or(0, |running| sessions(&running.handle))
    }

    /// The most sessions that there were at once.
    pub(super) fn sessions_peak(&self) -> u32 {
        self.sessions_peak
            .load(Ordering::Relaxed)
            .max(self.sessions())
    }

    /// Serves clients of this listener.
    pub(super) async fn start(&self, listener: TcpListener) -> Result<(), SimOpcuaError> {
        let _turn = self.turn.lock().await;
        let failed = |source| SimOpcuaError::Listen {
            address: self.settings.address,
            source,
        };
        let address = listener.local_addr().map_err(failed)?;
        let behind = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let behind = behind.map_err(failed)?;
        let inner = behind.local_addr().map_err(failed)?;
        let space = Space {
            plant: self.plant.clone(),
            faults: self.faults.clone(),
            reordered: self.reordered.load(Ordering::Relaxed),
            historizing: self.settings.history > 0,
            upsets: self.upsets.clone(),
        };
        let builder =
            endpoints::builder(&self.settings, address).with_node_manager(space.builder());
        let (server, handle) = builder.build().map_err(SimOpcuaError::SetUp)?;
        let ticker = self.tick(handle.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = server.run_with(behind).await {
                tracing::error!(%error, "simulated OPC UA server ended");
            }
        });
        // The server writes the port that it listens on into its endpoints; clients have to use the front's.
        let port = &handle.info().port;
        while port.load(Ordering::Relaxed) == 0 && !server.is_finished() {
            tokio::time::sleep(LOOK).await;
        }
        port.store(address.port(), Ordering::Relaxed);
        self.front.open(listener, inner);
        *self.running() = Some(Running {
            handle,
            server,
            ticker,
        });
        Ok(())
    }

    /// Ends all connections and forgets all sessions; the port is closed.
    pub(super) async fn stop(&self) {
        let _turn = self.turn.lock().await;
        self.front.close().await;
        let running = self.running().take();
        if let Some(mut running) = running {
            running.handle.cancel();
            running.ticker.abort();
            let _ = tokio::time::timeout(STOP_TIMEOUT, &mut running.server).await;
        }
    }

    /// Carries an upset out, and returns when it is over.
    pub(super) async fn happen(
        &self,
        upset: Upset,
        address: SocketAddr,
    ) -> Result<(), SimOpcuaError> {
        match upset {
            Upset::Drop => self.front.cut(),
            Upset::Blackhole(time) => {
                self.front.silence(true);
                tokio::time::sleep(time).await;
                self.front.silence(false);
            }
            Upset::Restart(time) => {
                self.stop().await;
                tokio::time::sleep(time).await;
                self.start(super::listen(address).await?).await?;
            }
            Upset::NewCertificate => {
                let pki_dir = self.settings.pki_dir.as_deref();
                let pki_dir = pki_dir.ok_or_else(no_pki_dir)?;
                self.stop().await;
                forget_certificate(pki_dir)?;
                self.start(super::listen(address).await?).await?;
            }
            Upset::Reorder => {
                self.stop().await;
                self.reordered.fetch_xor(true, Ordering::Relaxed);
                self.start(super::listen(address).await?).await?;
            }
        }
        Ok(())
    }

    fn tick(&self, handle: ServerHandle) -> JoinHandle<()> {
        let (plant, peak) = (self.plant.clone(), self.sessions_peak.clone());
        let subscriptions: Arc<SubscriptionCache> = handle.subscriptions().clone();
        let mut timer = tokio::time::interval(self.settings.interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        tokio::spawn(async move {
            loop {
                timer.tick().await;
                plant
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .tick(&subscriptions);
                peak.fetch_max(sessions(&handle), Ordering::Relaxed);
            }
        })
    }
}

/// A new certificate was asked for where there is none.
pub(super) fn no_pki_dir() -> SimOpcuaError {
    SimOpcuaError::SetUp("new-certificate needs a directory for certificates".to_owned())
}

/// The next start makes another.
fn forget_certificate(pki_dir: &Path) -> Result<(), SimOpcuaError> {
    for file in [endpoints::CERTIFICATE, endpoints::PRIVATE_KEY] {
        let path = pki_dir.join(file);
        std::fs::remove_file(&path).map_err(|error| {
            SimOpcuaError::SetUp(format!("cannot remove {}: {error}", path.display()))
        })?;
    }
    Ok(())
}

fn sessions(handle: &ServerHandle) -> u32 {
    const COUNT: VariableId =
        VariableId::Server_ServerDiagnostics_ServerDiagnosticsSummary_CurrentSessionCount;
    let count = handle.info().diagnostics.get(COUNT);
    match count.and_then(|data| data.value) {
        Some(Variant::UInt32(count)) => count,
        _ => 0,
    }
}
