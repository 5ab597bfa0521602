//! Devices that connect to us: modems behind 4G, which cannot be dialled.
//!
//! One listener for all devices of an address. A connection is a device's by its source address where the device has
//! one configured, else by the first reply: it is offered to one device after the other until one finds
//! its unit behind it. Connections that nobody takes are dropped after a while.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::SessionError;

/// Connections that wait to be taken; more are refused, the oldest first.
const WAITING_MAX: usize = 64;

/// Somebody who is no device of ours holds a socket no longer than this.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// A listener, shared by the devices that dial in to it.
#[derive(Clone)]
pub struct DialIn(Arc<Shared>);

struct Shared {
    address: String,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    /// Present while the port is held.
    listening: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Waiting {
    connections: VecDeque<Connection>,
    /// Who is known by the address that it comes from.
    sources: HashMap<String, IpAddr>,
}

/// A connection that nobody has taken.
struct Connection {
    stream: TcpStream,
    source: IpAddr,
    since: Instant,
    /// Devices that did not find themselves behind it.
    not_of: HashSet<String>,
}

/// A connection on trial.
pub(crate) struct Dialled<'d> {
    dial_in: &'d DialIn,
    device: String,
    connection: Connection,
    is_known: bool,
}

impl DialIn {
    /// A listener on `address`; the port is opened with the first session.
    pub fn new(address: impl Into<String>) -> Self {
        Self(Arc::new(Shared {
            address: address.into(),
            waiting: Mutex::default(),
            arrived: Notify::new(),
            listening: tokio::sync::Mutex::default(),
        }))
    }

    /// Whatever comes from `source` is this device's, and nothing else is.
    pub fn know(&self, device: &str, source: IpAddr) {
        self.waiting().sources.insert(device.to_owned(), source);
    }

    /// The next connection that may be this device's.
    pub(crate) async fn take(
        &self,
        device: &str,
        timeout: Duration,
    ) -> Result<Dialled<'_>, SessionError> {
        self.listen().await?;
        let until = Instant::now() + timeout;
        loop {
            let arrived = self.0.arrived.notified();
            tokio::pin!(arrived);
            // Registered before looking, so that none that comes in between is missed.
            arrived.as_mut().enable();
            if let Some((connection, is_known)) = self.waiting().take(device) {
                return Ok(Dialled {
                    dial_in: self,
                    device: device.to_owned(),
                    connection,
                    is_known,
                });
            }
            if timeout_at(until, arrived).await.is_err() {
                let nobody = io::Error::new(io::ErrorKind::TimedOut, "it has not dialled in");
                return Err(self.failed(nobody));
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Whole between any two statements that could panic.
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(&self) -> Result<(), SessionError> {
        let mut listening = self.0.listening.lock().await;
        if listening.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        let bound = TcpListener::bind(&self.0.address).await;
        let listener = bound.map_err(|source| self.failed(source))?;
        let shared = Arc::downgrade(&self.0);
        *listening = Some(tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                DialIn(shared).arrive(stream, from.ip());
            }
        }));
        Ok(())
    }

    fn arrive(&self, stream: TcpStream, source: IpAddr) {
        // A socket without it is only slower.
        let _ = stream.set_nodelay(true);
        self.waiting().add(Connection {
            stream,
            source: source.to_canonical(),
            since: Instant::now(),
            not_of: HashSet::new(),
        });
        self.0.arrived.notify_waiters();
    }

    fn failed(&self, source: io::Error) -> SessionError {
        SessionError::Connect {
            address: format!("listen:{}", self.0.address),
            source,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = self.listening.get_mut().take() {
            task.abort();
        }
    }
}

impl Waiting {
    fn add(&mut self, connection: Connection) {
        self.connections
            .retain(|waiting| waiting.since.elapsed() < WAIT_MAX);
        if self.connections.len() == WAITING_MAX {
            self.connections.pop_front();
        }
        self.connections.push_back(connection);
    }

    /// The newest connection of the device: a modem that dials again has lost the ones before.
    fn take(&mut self, device: &str) -> Option<(Connection, bool)> {
        let source = self.sources.get(device);
        let known: HashSet<IpAddr> = self.sources.values().copied().collect();
        let fits = |connection: &Connection| match source {
            Some(source) => connection.source == *source,
            None => !known.contains(&connection.source) && !connection.not_of.contains(device),
        };
        let at = self.connections.iter().rposition(fits)?;
        let is_known = source.is_some();
        let connection = self.connections.remove(at)?;
        Some((connection, is_known))
    }
}

impl Dialled<'_> {
    /// Whether its source says whose it is.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known
    }

    /// The connection, for the trial.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.connection.stream
    }

    /// It is the device's.
    pub(crate) fn accept(self) -> TcpStream {
        self.connection.stream
    }

    /// It is not; others may try it where it lives.
    pub(crate) fn give_back(self, lives: bool) {
        let mut connection = self.connection;
        if !lives {
            return;
        }
        connection.not_of.insert(self.device);
        self.dial_in.waiting().add(connection);
        self.dial_in.0.arrived.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
