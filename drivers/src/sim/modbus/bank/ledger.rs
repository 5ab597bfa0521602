//! What a simulated device has served, and what came to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::faults::Fault;

/// Served values that are remembered where that was asked for: 400 MB, hours of a demo.
const LOG_MAX: usize = 10_000_000;

/// What is counted, and what is remembered where somebody asked for it.
#[derive(Default)]
pub(in super::super) struct Ledger {
    pub(super) counts: Counts,
    pub(super) served_total: u64,
    exchanges: Option<Vec<Exchange>>,
    log: Option<Vec<ServedValue>>,
}

/// A value that a reply carried to the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedValue {
    /// The tag.
    pub tag: Arc<str>,
    /// The value's own bits: of the float, or of the integer as two's complement; 0 for a text.
    pub bits: u64,
}

/// What a device has served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Values in all.
    pub total: u64,
    /// Values by tag, in the order of the map.
    pub tags: Vec<(Arc<str>, u64)>,
}

/// What came to a device, and what it made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests by function code.
    pub requests: BTreeMap<u8, u64>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
}

/// A request and what became of it, for tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The request's PDU.
    pub request: Vec<u8>,
    /// The PDU of the right reply; `None` where a fault spoilt it or kept it back.
    pub reply: Option<Vec<u8>>,
    /// The fault that it met.
    pub fault: Option<Fault>,
}

impl Ledger {
    pub(in super::super) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    pub(in super::super) fn keep_exchanges(&mut self) {
        self.exchanges.get_or_insert_default();
    }

    pub(in super::super) fn take_exchanges(&mut self) -> Vec<Exchange> {
        self.exchanges
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    pub(in super::super) fn note(
        &mut self,
        request: &[u8],
        reply: Option<&[u8]>,
        fault: Option<Fault>,
    ) {
        if let Some(exchanges) = &mut self.exchanges {
            exchanges.push(Exchange {
                request: request.to_vec(),
                reply: reply.map(<[u8]>::to_vec),
                fault,
            });
        }
    }

    pub(in super::super) fn keep_log(&mut self) {
        self.log.get_or_insert_default();
    }

    pub(in super::super) fn take_log(&mut self) -> Vec<ServedValue> {
        self.log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A value was served.
    pub(super) fn served(&mut self, tag: &Arc<str>, bits: u64) {
        self.served_total += 1;
        if let Some(log) = self.log.as_mut().filter(|log| log.len() < LOG_MAX) {
            log.push(ServedValue {
                tag: Arc::clone(tag),
                bits,
            });
        }
    }
}
