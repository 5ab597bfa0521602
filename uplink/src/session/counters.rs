//! What a session counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a session has done since it began.
#[derive(Debug, Default)]
pub struct SessionCounters {
    pub(super) connects: AtomicU64,
    pub(super) acked: AtomicU64,
    pub(super) acked_bytes: AtomicU64,
    pub(super) unknown_acks: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unheard: AtomicU64,
    traffic: AtomicU64,
}

impl SessionCounters {
    /// Connections that the broker accepted.
    pub fn connects_total(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Bytes that were moved in either direction, with an allowance for the headers of TCP and IP, for TLS and for
    /// connecting: an estimate of what a link charges.
    pub fn traffic_total(&self) -> u64 {
        self.traffic.load(Ordering::Relaxed)
    }

    /// Adds to [`SessionCounters::traffic_total`].
    pub fn count_traffic(&self, bytes: u64) {
        self.traffic.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Messages that got their PUBACK.
    pub fn messages_acked_total(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Bytes of the messages that got their PUBACK.
    pub fn bytes_acked_total(&self) -> u64 {
        self.acked_bytes.load(Ordering::Relaxed)
    }

    /// PUBACKs that nobody waited for: duplicates, or a broker's mistake.
    pub fn unknown_acks_total(&self) -> u64 {
        self.unknown_acks.load(Ordering::Relaxed)
    }

    /// Consignments refused because a message cannot be sent at all.
    pub fn refused_total(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Messages that the broker took although nobody was subscribed; only MQTT 5 tells.
    pub fn unheard_total(&self) -> u64 {
        self.unheard.load(Ordering::Relaxed)
    }
}
