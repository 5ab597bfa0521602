//! Simulated Modbus devices: over TCP, on a serial line (a pseudo-terminal), with serial frames over TCP, or
//! in memory.
//!
//! They answer functions 01 to 06, 15, 16, 22, 23 and 43/14 from [`RegisterMap`]s, whose tags follow signals
//! or a recording, keep what is written, and misbehave as [`Faults`] say. Their server is their own, since
//! a library's cannot be made to misbehave, and shares no code with the driver; requests are decoded by
//! `tokio-modbus`. Addresses between tags read as 0 until they are written; addresses before the first and
//! after the last of a table do not exist.
//!
//! A value counts as served when the right reply that carries all its registers was written to the socket.
//! Late replies, those that a fault spoils, and the second of a doubled one count nothing. A written value
//! stays until a reboot.

pub mod adversary;
mod bank;
mod encode;
mod faults;
mod frame;
mod map;
mod print;
#[cfg(unix)]
mod pty;
mod replay;
mod server;
mod tape;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use bank::{Counts, Exchange, Served, ServedValue};
pub use faults::{Fault, FaultError, Faults, Hole, Random, Recurring};
pub use frame::Framing;
pub use map::{Entry, MapError, RegisterMap, Source};
pub use print::{print_tags_csv, print_tags_toml};
pub use replay::{Advance, Replay, ReplayError};
pub use tape::{PlayedTape, TapeCounts, TapeDevice};

use crate::modbus::SerialSettings;
use crate::sim::signal::Signal;
use bank::Bank;
use server::{Shared, Units};

/// Seeds the signals of a device that was given no seed, so that runs repeat by default.
const SEED: u64 = 1;

/// Outages that wait for the one that is under way.
const OUTAGES_WAITING: usize = 4;

/// Bytes on their way in memory: some frames.
const MEMORY_BYTES: usize = 4096;

/// A unit of a simulated line or gateway.
#[derive(Debug, Clone)]
pub struct SimUnit {
    /// Its id; `None` answers every id that no other unit has.
    pub id: Option<u8>,
    /// Its registers.
    pub map: RegisterMap,
    /// How it misbehaves.
    pub faults: Faults,
}

/// Where simulated devices are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Modbus TCP at `host:port`; port 0 takes a free one.
    Tcp(String),
    /// Serial frames over TCP.
    RtuOverTcp(String),
    /// A pseudo-terminal, whose path [`SimModbus::address`] tells.
    #[cfg(unix)]
    Pty,
    /// The same for devices that only understand these settings; the port is ignored.
    #[cfg(unix)]
    PtyAt(SerialSettings),
    /// Only [`SimModbus::connect`] reaches them.
    Memory(Framing),
}

/// Running simulated devices behind one address; they stop when this is dropped.
pub struct SimModbus {
    address: String,
    socket: SocketAddr,
    shared: Shared,
    server: Option<JoinHandle<()>>,
}

impl SimModbus {
    /// Listens on `address` (`127.0.0.1:0` for any free port) and serves the map to every unit id.
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
        let id = None;
        let unit = SimUnit { id, map, faults };
        Self::start(&Listen::Tcp(address.to_owned()), vec![unit], seed)
    }

    /// Starts units with a seed for everything random. Of two units with one id the latter stays.
    ///
    /// # Errors
    /// The port, or a pseudo-terminal, cannot be had.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(listen: &Listen, units: Vec<SimUnit>, seed: u64) -> io::Result<Self> {
        let framing = match listen {
            Listen::Tcp(_) => Framing::Tcp,
            Listen::Memory(framing) => *framing,
            _ => Framing::Rtu,
        };
        let mut banks = Units {
            any: None,
            by_id: BTreeMap::new(),
        };
        for (nth, unit) in (0..).zip(units) {
            // Units of one map are not to count alike.
            let seed = seed.wrapping_add(nth << 32);
            let bank = Mutex::new(Bank::new(unit.map, unit.faults, seed));
            match unit.id {
                Some(id) => drop(banks.by_id.insert(id, bank)),
                None => banks.any = Some(bank),
            }
        }
        let (outages, waiting) = mpsc::channel(OUTAGES_WAITING);
        let shared = Shared {
            units: Arc::new(banks),
            framing,
            outages,
            stop: CancellationToken::new(),
        };
        let mut sim = Self {
            address: "memory".to_owned(),
            socket: SocketAddr::from(([0, 0, 0, 0], 0)),
            shared: shared.clone(),
            server: None,
        };
        match listen {
            Listen::Tcp(address) | Listen::RtuOverTcp(address) => {
                let listener = TcpListener::from_std(server::listen(address)?)?;
                sim.socket = listener.local_addr()?;
                sim.address = sim.socket.to_string();
                let serving = server::serve(listener, sim.socket, shared, waiting);
                sim.server = Some(tokio::spawn(serving));
            }
            #[cfg(unix)]
            Listen::Pty | Listen::PtyAt(_) => {
                let settings = match listen {
                    Listen::PtyAt(settings) => Some(settings.clone()),
                    _ => None,
                };
                let pty = pty::Pty::open(settings)?;
                sim.address = pty.path().display().to_string();
                sim.server = Some(tokio::spawn(server::serve_line(pty, shared, waiting)));
            }
            Listen::Memory(_) => {}
        }
        Ok(sim)
    }

    /// A connection in memory; as many as are wanted.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(MEMORY_BYTES);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let stop = shared.stop.clone();
            let mut connection = server::Connection::new(far, shared);
            // A connection ends when its client goes; there is nobody to tell.
            let _ = stop.run_until_cancelled(connection.run()).await;
        });
        near
    }

    /// Where it is found: `host:port`, or the path of a pseudo-terminal.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The socket that it listens on; port 0 where there is none.
    pub fn local_addr(&self) -> SocketAddr {
        self.socket
    }

    /// What all units have served so far, unit by unit.
    pub fn served(&self) -> Served {
        let mut served = Served::default();
        for (_, bank) in self.shared.units.all() {
            let more = bank.served();
            served.total += more.total;
            served.tags.extend(more.tags);
        }
        served
    }

    /// What came to all units, and how they misbehaved.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (_, bank) in self.shared.units.all() {
            let more = bank.ledger.counts();
            for (function, count) in more.requests {
                *counts.requests.entry(function).or_default() += count;
            }
            for (fault, count) in more.faults {
                *counts.faults.entry(fault).or_default() += count;
            }
        }
        counts
    }

    /// From now on remembers each served value for [`SimModbus::take_log`].
    pub fn keep_log(&self) {
        self.each(|bank| bank.ledger.keep_log());
    }

    /// The served values since the last call, unit by unit, in order.
    pub fn take_log(&self) -> Vec<ServedValue> {
        let units = self.shared.units.all();
        units
            .flat_map(|(_, mut bank)| bank.ledger.take_log())
            .collect()
    }

    /// From now on remembers each exchange for [`SimModbus::take_exchanges`].
    pub fn keep_exchanges(&self) {
        self.each(|bank| bank.ledger.keep_exchanges());
    }

    /// The exchanges of a unit since the last call, in order.
    pub fn take_exchanges(&self, unit: u8) -> Vec<Exchange> {
        let bank = self.shared.units.find(unit);
        bank.map_or_else(Vec::new, |bank| server::lock(bank).ledger.take_exchanges())
    }

    /// Whether every recording has been served to its end.
    pub fn is_replayed(&self) -> bool {
        self.shared.units.all().all(|(_, bank)| bank.is_replayed())
    }

    /// Lets the next request to each unit meet this fault; an outage begins at once.
    pub fn inject(&self, fault: Fault) {
        match fault {
            Fault::Refuse(_) | Fault::Reboot(_) => self.shared.begin_outage(fault),
            fault => self.each(|bank| bank.injected.push_back(fault)),
        }
    }

    /// From now on all units misbehave in this way.
    pub fn set_faults(&self, faults: Faults) {
        self.each(|bank| bank.faults = faults.clone());
    }

    /// From now on this unit misbehaves in this way; false where there is none.
    pub fn set_unit_faults(&self, unit: u8, faults: Faults) -> bool {
        let bank = self.shared.units.find(unit);
        bank.map(|bank| server::lock(bank).faults = faults)
            .is_some()
    }

    /// From now on all units take so long for each reply.
    pub fn set_latency(&self, latency: Duration) {
        self.each(|bank| bank.faults.latency = latency);
    }

    /// Lets a tag of any unit follow another signal; false where there is no such tag.
    pub fn set_signal(&self, tag: &str, signal: Signal) -> bool {
        let mut found = false;
        self.each(|bank| found |= bank.set_signal(tag, signal.clone()));
        found
    }

    fn each(&self, mut change: impl FnMut(&mut Bank)) {
        for (_, mut bank) in self.shared.units.all() {
            change(&mut bank);
        }
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
