//! A broker that does everything wrong that a broker, and the way to it, can do; one seed repeats a run as far as a
//! clock can.
//!
//! It speaks MQTT 3.1.1 and 5 by a few lines of its own ([`wire`]), so that it shares no mistake with the session that it
//! tries. What it promises is little and exact: a message is in its custody before the first byte of its PUBACK is
//! written, and nothing else ever is. Everything else is drawn from the [`Script`], connection by connection.
//!
//! This file is also part of the tests of `uplink` and `agent`, by its path: their tests may not import this crate.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "three crates compile this file, and none uses all of it"
)]

// By their paths, since this file is a module of other crates, too.
#[path = "fault_broker/connection.rs"]
mod connection;
#[path = "fault_broker/wire.rs"]
mod wire;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What goes wrong. `one_in` are odds: 0 is never.
#[derive(Debug, Clone)]
pub struct Script {
    /// Draws everything.
    pub seed: u64,
    /// Each connection ends, at any byte of either direction, after up to so many of them; 0: none does.
    pub cut_bytes_max: u64,
    /// CONNECT is refused, with a code that a later attempt may not get.
    pub refuse_one_in: u32,
    /// CONNECT is read, and the connection closed without a word.
    pub slam_one_in: u32,
    /// The CONNACK says that a session is there. There never is one: every connection begins with nothing.
    pub false_session_one_in: u32,
    /// A message is taken, and its PUBACK never sent.
    pub lose_ack_one_in: u32,
    /// A message is neither taken nor acknowledged.
    pub swallow_one_in: u32,
    /// A PUBACK comes twice, the second time at once or much later.
    pub duplicate_one_in: u32,
    /// A PUBACK comes for an id that nobody uses.
    pub stray_one_in: u32,
    /// PUBACKs are held back, and come in another order.
    pub reorder: bool,
    /// A connection is slow: a few bytes at a time.
    pub slow_one_in: u32,
    /// A connection stalls now and then: nothing moves in either direction for a while.
    pub stall_one_in: u32,
    /// The broker takes fewer unacknowledged messages with each connection: MQTT 5 is told, and held to it.
    pub shrink_window: bool,
    /// With MQTT 5 a message is refused with the reason of a moment (quota, no reason, not now).
    pub reason_one_in: u32,
    /// A larger message closes the connection; MQTT 5 is told the limit, and held to it.
    pub message_bytes_max: Option<usize>,
    /// A connection over which nothing comes is cut after this: nobody else would bring lost messages back.
    pub idle_cut_ms: u64,
    /// MQTT 5 is refused.
    pub only_v4: bool,
}

impl Script {
    /// A broker that behaves.
    pub fn calm() -> Self {
        Self {
            seed: 0,
            cut_bytes_max: 0,
            refuse_one_in: 0,
            slam_one_in: 0,
            false_session_one_in: 0,
            lose_ack_one_in: 0,
            swallow_one_in: 0,
            duplicate_one_in: 0,
            stray_one_in: 0,
            reorder: false,
            slow_one_in: 0,
            stall_one_in: 0,
            shrink_window: false,
            reason_one_in: 0,
            message_bytes_max: None,
            idle_cut_ms: 0,
            only_v4: false,
        }
    }

    /// Everything at once; connections live for half of `cut_bytes_max` on average.
    pub fn chaos(seed: u64, cut_bytes_max: u64) -> Self {
        Self {
            seed,
            cut_bytes_max,
            refuse_one_in: 30,
            slam_one_in: 30,
            false_session_one_in: 5,
            lose_ack_one_in: 300,
            swallow_one_in: 300,
            duplicate_one_in: 5,
            stray_one_in: 50,
            reorder: true,
            slow_one_in: 25,
            stall_one_in: 25,
            shrink_window: true,
            reason_one_in: 200,
            message_bytes_max: None,
            idle_cut_ms: 250,
            only_v4: false,
        }
    }
}

/// What went wrong so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that began.
    pub connections: u64,
    /// Of these refused or closed before a CONNACK.
    pub refused: u64,
    /// Cut at a byte, or because nothing came any more.
    pub cuts: u64,
    /// PUBACKs that were never sent.
    pub lost_acks: u64,
    /// Messages that were not taken.
    pub swallowed: u64,
    /// PUBACKs that came again, at once or late.
    pub duplicates: u64,
    /// PUBACKs for nothing.
    pub strays: u64,
    /// Times that PUBACKs came in another order.
    pub reorders: u64,
    /// Slow connections, and pauses of others.
    pub slow: u64,
    /// Pauses.
    pub stalls: u64,
    /// Messages refused with a reason (MQTT 5).
    pub reasons: u64,
    /// Messages that were too large.
    pub oversize: u64,
    /// What a client of MQTT 5 may not do: more under way than it was told, a larger packet than it was told.
    pub violations: u64,
}

type Tap = Box<dyn Fn(&str, &[u8]) + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    /// Counted up when everybody is thrown out.
    era: AtomicU64,
    stopping: AtomicBool,
    custody: Mutex<HashSet<u64>>,
    tally: Mutex<Tally>,
    taps: Mutex<Vec<Tap>>,
}

impl Shared {
    fn script(&self) -> Script {
        self.script
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes custody.
    fn take(&self, topic: &str, payload: &[u8]) {
        for tap in self
            .taps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            tap(topic, payload);
        }
        let mut custody = self.custody.lock().unwrap_or_else(PoisonError::into_inner);
        custody.insert(fingerprint(topic, payload));
    }
}

fn fingerprint(topic: &str, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, payload).hash(&mut hasher);
    hasher.finish()
}

/// What the broker has taken, for whoever checks acknowledgements.
#[derive(Clone)]
pub struct Custody(Arc<Shared>);

impl Custody {
    /// Whether this message is in custody.
    pub fn holds(&self, topic: &str, payload: &[u8]) -> bool {
        let custody = self
            .0
            .custody
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        custody.contains(&fingerprint(topic, payload))
    }
}

/// The broker; ends when it is dropped.
pub struct FaultBroker {
    /// Where it listens, on loopback.
    pub port: u16,
    shared: Arc<Shared>,
}

impl FaultBroker {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// When there is none.
    pub fn start(script: Script) -> io::Result<FaultBroker> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            era: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            custody: Mutex::default(),
            tally: Mutex::default(),
            taps: Mutex::default(),
        });
        let listening = Arc::clone(&shared);
        std::thread::spawn(move || listen(&listener, &listening));
        Ok(FaultBroker { port, shared })
    }

    /// Calls `tap` with topic and payload of every message before it is taken, copies too.
    pub fn tap(&self, tap: impl Fn(&str, &[u8]) + Send + Sync + 'static) {
        let mut taps = self
            .shared
            .taps
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taps.push(Box::new(tap));
    }

    /// What it has taken.
    pub fn custody(&self) -> Custody {
        Custody(Arc::clone(&self.shared))
    }

    /// What went wrong so far.
    pub fn tally(&self) -> Tally {
        *self
            .shared
            .tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on by another script, and ends every connection.
    pub fn set_script(&self, script: Script) {
        *self
            .shared
            .script
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = script;
        self.shared.era.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for FaultBroker {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.era.fetch_add(1, Ordering::SeqCst);
        // Wakes the thread that listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    for (number, stream) in (1..).zip(listener.incoming()) {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || connection::serve(stream, number, &shared));
    }
}
