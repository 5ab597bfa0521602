//! A simulated Modbus TCP device.
//!
//! It answers functions 01 to 04 for every unit id from a [`RegisterMap`], whose tags follow signals or a
//! recording, and misbehaves as [`Faults`] say. Its MBAP server is its own, since a library's cannot be
//! made to misbehave; requests are decoded by `tokio-modbus`. Addresses between tags read as 0;
//! addresses before the first and after the last of a table do not exist.
//!
//! A value counts as served when the reply that carries all its registers was written to the socket.
//! Replies that a fault spoils, and the second of a doubled one, count nothing.
//!
//! Not here yet: writing, serial lines.

mod bank;
mod encode;
mod faults;
mod map;
mod print;
mod replay;
mod server;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use bank::{Served, ServedValue};
pub use faults::{Fault, FaultError, Faults, Hole, Recurring};
pub use map::{Entry, MapError, RegisterMap, Source};
pub use print::{print_tags_csv, print_tags_toml};
pub use replay::{Advance, Replay, ReplayError};

use crate::sim::signal::Signal;
use bank::Bank;
use server::Shared;

/// Seeds the signals of a device that was given no seed, so that runs repeat by default.
const SEED: u64 = 1;

/// Outages that wait for the one that is under way.
const OUTAGES_WAITING: usize = 4;

/// A running simulated device; it stops when this is dropped.
pub struct SimModbus {
    address: SocketAddr,
    shared: Shared,
    server: Option<JoinHandle<()>>,
}

impl SimModbus {
    /// Listens on `address` (`127.0.0.1:0` for any free port) and serves the map.
    ///
    /// # Errors
    /// The port cannot be had.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn bind(address: &str, map: RegisterMap, faults: Faults) -> io::Result<Self> {
        Self::bind_seeded(address, map, faults, SEED)
    }

    /// As [`SimModbus::bind`], with a seed for everything random.
    ///
    /// # Errors
    /// The port cannot be had.
    pub fn bind_seeded(
        address: &str,
        map: RegisterMap,
        faults: Faults,
        seed: u64,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(server::listen(address)?)?;
        let address = listener.local_addr()?;
        let (outages, waiting) = mpsc::channel(OUTAGES_WAITING);
        let shared = Shared {
            bank: Arc::new(Mutex::new(Bank::new(map, faults, seed))),
            outages,
            stop: CancellationToken::new(),
        };
        let serving = server::serve(listener, address, shared.clone(), waiting);
        Ok(Self {
            address,
            shared,
            server: Some(tokio::spawn(serving)),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it has served so far.
    pub fn served(&self) -> Served {
        self.shared.bank().served()
    }

    /// From now on remembers each served value for [`SimModbus::take_log`].
    pub fn keep_log(&self) {
        self.shared.bank().keep_log();
    }

    /// The served values since the last call, in order.
    pub fn take_log(&self) -> Vec<ServedValue> {
        self.shared.bank().take_log()
    }

    /// Whether a recording has been served to its end.
    pub fn is_replayed(&self) -> bool {
        self.shared.bank().is_replayed()
    }

    /// Lets the next request meet this fault; an outage begins at once.
    pub fn inject(&self, fault: Fault) {
        match fault {
            Fault::Refuse(_) | Fault::Reboot(_) => self.shared.begin_outage(fault),
            fault => self.shared.bank().injected.push_back(fault),
        }
    }

    /// From now on misbehaves in this way.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.bank().faults = faults;
    }

    /// From now on takes so long for each reply.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.bank().faults.latency = latency;
    }

    /// Lets a tag follow another signal; false where there is no such tag.
    pub fn set_signal(&self, tag: &str, signal: Signal) -> bool {
        self.shared.bank().set_signal(tag, signal)
    }

    /// Closes the port and all connections.
    pub async fn shutdown(mut self) {
        self.shared.stop.cancel();
        if let Some(server) = self.server.take() {
            // A server that panicked is as closed as one that ended.
            let _ = server.await;
        }
    }
}

impl Drop for SimModbus {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

#[cfg(test)]
mod tests;
