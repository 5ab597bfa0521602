//! A simulated OPC UA server.
//!
//! Its variables follow [`Signal`](super::signal::Signal)s. It counts every value that it hands out, so
//! that a test outside can hold what arrived against what was served ([`SimOpcua::served`]): the initial
//! value of a monitored item, every change after it, every value of a Read. What was handed to a
//! subscription and never fetched counts too, so [`SimOpcua::freeze`] it and let it drain before comparing.
//!
//! Nothing of it is for a plant: it trusts every client certificate.

mod node;
mod plant;
mod space;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opcua::crypto::SecurityPolicy;
use opcua::server::{
    ANONYMOUS_USER_TOKEN_ID, ServerBuilder, ServerEndpoint, ServerHandle, ServerUserToken,
};
use opcua::types::{MessageSecurityMode, VariableId, Variant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use node::{NodeError, SimNode, SimType, nodes_from_csv};
use plant::Plant;
pub use plant::Served;
use space::Space;

/// The namespace of the simulated nodes; they are `s=<name>` in it.
pub const NAMESPACE_URI: &str = "urn:millrace:sim";

/// How long a stopping server may take to say goodbye.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Room for a client that falls behind by minutes: a simulator that drops values by itself cannot be
/// compared with anything.
const QUEUED_MAX: usize = 100_000;

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
    /// Items that one subscription may have.
    pub items_max: usize,
    /// Equal seeds give equal courses.
    pub seed: u64,
}

impl SimOpcuaSettings {
    /// Nodes that move on every 100 ms, open to everybody.
    pub fn new(address: SocketAddr, nodes: Vec<SimNode>) -> Self {
        Self {
            address,
            nodes,
            interval: Duration::from_millis(100),
            pki_dir: None,
            user: None,
            items_max: QUEUED_MAX,
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

/// A simulated server. Dropping it stops it.
pub struct SimOpcua {
    settings: SimOpcuaSettings,
    plant: Arc<Mutex<Plant>>,
    running: Option<Running>,
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

impl SimOpcua {
    /// Starts serving.
    ///
    /// # Errors
    /// Where the address cannot be bound or the settings contradict each other.
    pub async fn start(settings: SimOpcuaSettings) -> Result<Self, SimOpcuaError> {
        let plant = Arc::new(Mutex::new(Plant::new(&settings.nodes, settings.seed)));
        let mut sim = Self {
            settings,
            plant,
            running: None,
        };
        sim.resume().await?;
        Ok(sim)
    }

    /// The address that clients use.
    pub fn url(&self) -> String {
        format!("opc.tcp://{}/", self.settings.address)
    }

    /// How many values were handed out so far, over all restarts.
    pub fn served(&self) -> Served {
        self.plant().served()
    }

    /// How many sessions the server keeps right now.
    pub fn sessions(&self) -> u32 {
        const COUNT: VariableId =
            VariableId::Server_ServerDiagnostics_ServerDiagnosticsSummary_CurrentSessionCount;
        let count = self
            .running
            .as_ref()
            .and_then(|running| running.handle.info().diagnostics.get(COUNT))
            .and_then(|data| data.value);
        match count {
            Some(Variant::UInt32(count)) => count,
            _ => 0,
        }
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
        if let Some(mut running) = self.running.take() {
            running.handle.cancel();
            running.ticker.abort();
            let _ = tokio::time::timeout(STOP_TIMEOUT, &mut running.server).await;
        }
    }

    /// Listens again on the same address. A server that runs goes on.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn resume(&mut self) -> Result<(), SimOpcuaError> {
        if self.running.is_some() {
            return Ok(());
        }
        let address = self.settings.address;
        let failed = |source| SimOpcuaError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        self.settings.address = listener.local_addr().map_err(failed)?;
        let builder =
            configured(&self.settings).with_node_manager(Space::builder(self.plant.clone()));
        let (server, handle) = builder.build().map_err(SimOpcuaError::SetUp)?;
        let ticker = self.tick(handle.subscriptions().clone());
        let server = tokio::spawn(async move {
            if let Err(error) = server.run_with(listener).await {
                tracing::error!(%error, "simulated OPC UA server ended");
            }
        });
        self.running = Some(Running {
            handle,
            server,
            ticker,
        });
        Ok(())
    }

    /// [`SimOpcua::stop`] and [`SimOpcua::resume`]: what a power cycle of the server looks like.
    ///
    /// # Errors
    /// Where the address cannot be bound again.
    pub async fn restart(&mut self) -> Result<(), SimOpcuaError> {
        self.stop().await;
        self.resume().await
    }

    fn plant(&self) -> MutexGuard<'_, Plant> {
        self.plant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self, subscriptions: Arc<opcua::server::SubscriptionCache>) -> JoinHandle<()> {
        let plant = self.plant.clone();
        let mut timer = tokio::time::interval(self.settings.interval);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        tokio::spawn(async move {
            loop {
                timer.tick().await;
                plant
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .tick(&subscriptions);
            }
        })
    }
}

/// A directory that cannot be made: the server goes on without a store.
const NO_PKI_DIR: &str = "/dev/null/pki";

fn configured(settings: &SimOpcuaSettings) -> ServerBuilder {
    let mut tokens = vec![ANONYMOUS_USER_TOKEN_ID.to_owned()];
    let mut builder = ServerBuilder::new()
        .application_name("Millrace simulated server")
        .application_uri("urn:millrace:sim:server")
        .product_uri("urn:millrace:sim")
        .host(settings.address.ip().to_string())
        .port(settings.address.port())
        .discovery_urls(vec!["/".to_owned()])
        .trust_client_certs(true)
        .diagnostics_enabled(true)
        // Publishing at 10 ms keeps up with what the settings of a device can ask for.
        .subscription_poll_interval_ms(10)
        .max_array_length(QUEUED_MAX);
    if let Some((user, password)) = &settings.user {
        builder = builder.add_user_token("user", ServerUserToken::user_pass(user, password));
        tokens.push("user".to_owned());
    }
    builder = builder.add_endpoint("none", ServerEndpoint::new_none("/", &tokens));
    builder = match &settings.pki_dir {
        Some(pki_dir) => secured(builder.pki_dir(pki_dir), &tokens),
        // The library would leave a store of certificates in the working directory, which nobody reads.
        None => builder.pki_dir(NO_PKI_DIR),
    };
    let limits = &mut builder.limits_mut().subscriptions;
    limits.min_sampling_interval_ms = 0.0;
    limits.min_publishing_interval_ms = 10.0;
    limits.max_monitored_items_per_sub = settings.items_max;
    limits.max_monitored_item_queue_size = QUEUED_MAX;
    limits.max_queued_notifications = QUEUED_MAX;
    builder
}

fn secured(builder: ServerBuilder, tokens: &[String]) -> ServerBuilder {
    let builder = builder
        .create_sample_keypair(true)
        .certificate_path("own/cert.der")
        .private_key_path("private/private.pem");
    [
        SecurityPolicy::Basic256Sha256,
        SecurityPolicy::Aes128Sha256RsaOaep,
        SecurityPolicy::Aes256Sha256RsaPss,
    ]
    .into_iter()
    .fold(builder, |builder, policy| {
        let endpoint = |mode| ServerEndpoint::new("/", policy, mode, tokens);
        builder
            .add_endpoint(
                format!("{policy} sign"),
                endpoint(MessageSecurityMode::Sign),
            )
            .add_endpoint(
                format!("{policy} sign and encrypt"),
                endpoint(MessageSecurityMode::SignAndEncrypt),
            )
    })
}
