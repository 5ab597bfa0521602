//! The contract between a device and the agent.
//!
//! A [`Driver`] is checked settings; it opens a [`Session`]. A session reads when it is asked, or hands
//! over what its device sends by itself. It never sleeps, never retries and never reconnects on its own:
//! timing, back-off and the circuit breaker belong to the agent's poller.
//!
//! An outer [`SessionError`] means that the session is broken and must be opened again. A tag that
//! failed while the session lives is a bad-quality sample in the reading.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use millrace_tags::{Moment, Reading, Receipt, TagId, Value};

/// Checked settings of one device; opening it is the first thing that touches the network.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Tags that are read together, with their interval. A driver that subscribes has none.
    fn poll_groups(&self) -> &[PollGroup];

    /// Every tag of the device: those of the poll groups and those that are subscribed.
    fn tags(&self) -> Vec<TagId>;

    /// Whether several sessions share what leads to the device at no cost, and a session of its own brings a write
    /// ahead of reads: a serial line.
    fn shares_a_line(&self) -> bool {
        false
    }

    /// Whether somebody listens where the device should be; `None` where that costs more than an attempt to open. Bounded.
    async fn listens(&self) -> Option<bool> {
        None
    }

    /// Until something of ours has changed that a refusal may hang on, such as a file with a password: then it is worth
    /// trying again at once. For ever where there is nothing of the kind.
    async fn remedied(&self) {
        std::future::pending().await
    }

    /// Connects. Bounded by the device's own timeout. It may take up what the session before it has left, so there is
    /// one of these at a time.
    async fn open(&self) -> Result<Box<dyn Session>, SessionError>;

    /// Connects for a look of somebody else: this session takes up nothing and leaves nothing.
    async fn open_beside(&self) -> Result<Box<dyn Session>, SessionError> {
        self.open().await
    }
}

/// A live connection to a device.
#[async_trait]
pub trait Session: Send {
    /// Reads poll group number `group` of [`Driver::poll_groups`] once: one sample for each of its tags.
    ///
    /// Not cancel-safe: a session whose read was dropped must be closed.
    async fn read(&mut self, group: usize) -> Result<Reading, SessionError>;

    /// The next samples that the device sends by itself. Pending for ever where there is no subscription.
    ///
    /// Cancel-safe: what was not returned is returned by the next call.
    async fn notified(&mut self) -> Result<Reading, SessionError>;

    /// Writes a value as a read would bring it, hence without the scale and offset of the configuration, and reads it
    /// back. It is checked against the tag's type before anything is sent; where a register of the device scales it,
    /// before anything is written.
    ///
    /// Not cancel-safe: a session whose write was dropped must be closed.
    async fn write(&mut self, tag: TagId, value: &Value) -> Result<WriteReport, WriteError> {
        let _ = (tag, value);
        Err(WriteError::Unsupported)
    }

    /// The samples of this receipt are on disk: the device may forget them.
    fn settle(&mut self, receipt: Receipt);

    /// What the session knows of its device and its tags that an operator should see: one line each.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Addresses that the device does not have: left out of the requests, and tried again on a schedule.
    fn excluded(&self) -> Vec<Exclusion> {
        Vec::new()
    }

    /// What went wrong between us and the device since the driver was made, counted by name.
    fn faults(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    /// Says goodbye where the protocol has a way to.
    async fn close(&mut self);
}

/// Tags of a device that are read together at one interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollGroup {
    /// From one read to the next.
    pub interval: Duration,
    /// Whose values a read brings.
    pub tags: Vec<TagId>,
}

/// Neighbouring addresses that a device does not have, or a node that a server does not give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    /// The first and the last, as `holding:77` or `holding:77-79`; the node.
    pub addresses: String,
    /// What the device said, where it may be anything.
    pub cause: Option<String>,
    /// How many tags live there.
    pub tags: usize,
    /// When the first of them was refused.
    pub since: Moment,
    /// When they are asked for again.
    pub retry_at: Moment,
}

/// What a write did, for the audit.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteReport {
    /// What the tag held before; `None` where that was no value, or nobody answers (a broadcast).
    pub old: Option<Value>,
    /// What it holds now, as the device says; `None` after a broadcast.
    pub read_back: Option<Value>,
}

/// Why a value was not written, or not for certain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The driver has no way to write: nothing to be done about it.
    #[error("writing to this kind of device is not in this version yet")]
    Unsupported,
    /// The tag is none of this session's: a mistake of the caller.
    #[error("the tag is not one of this device")]
    UnknownTag,
    /// The address can only be read: choose another.
    #[error("{address} can only be read")]
    ReadOnly {
        /// Where.
        address: String,
    },
    /// The value does not fit the type: nothing was sent.
    #[error("{message}")]
    Unfit {
        /// The value, and what fits.
        message: String,
    },
    /// The device refused: nothing was written.
    #[error("{address} was not written: {message}")]
    Refused {
        /// Where.
        address: String,
        /// What the device said.
        message: String,
    },
    /// The device did not answer when it was asked for the old value: nothing was written, try again.
    #[error("{address} was not written: {message}")]
    Unanswered {
        /// Where.
        address: String,
        /// What came instead.
        message: String,
    },
    /// The device confirmed the write and shows another value: it clamps, or its program overwrites.
    #[error("{address} was written as {wrote} and reads back as {found}")]
    ReadBack {
        /// Where.
        address: String,
        /// What was written.
        wrote: String,
        /// What the device shows.
        found: String,
        /// What it held before, where that was a value.
        old: Option<Value>,
    },
    /// The session broke: whether the value arrived is not known. Open again and read.
    #[error("the write was cut off; whether it arrived is not known")]
    Session(#[from] SessionError),
}

/// Why a session is broken, or was never opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No connection could be made: open again after a pause.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The device did not answer in time: open again after a pause.
    #[error("{device} did not answer {request} within {} ms", .timeout.as_millis())]
    Timeout {
        /// Who.
        device: String,
        /// What was asked.
        request: String,
        /// How long we waited.
        timeout: Duration,
    },
    /// The connection broke: open again at once, then after a pause.
    #[error("lost the connection to {device}")]
    Lost {
        /// To whom.
        device: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The device sent something that is no answer to the request; nothing on this connection can be trusted.
    #[error("{device} sent {found} where {expected} was expected")]
    Protocol {
        /// Who.
        device: String,
        /// What came.
        found: String,
        /// What should have come.
        expected: String,
    },
    /// A unit on a shared line that did not answer is left alone, so that it costs its neighbours nothing:
    /// open again after a pause, the line asks the unit when its time has come.
    #[error("{device} did not answer; its line asks it again in {} s", .wait.as_secs().max(1))]
    Resting {
        /// Who.
        device: String,
        /// Until it is asked again.
        wait: Duration,
    },
    /// The device refuses us and will go on doing so until somebody changes something: retry slowly.
    #[error("{device} refuses the session: {message}; {hint}")]
    Refused {
        /// Who.
        device: String,
        /// What it said.
        message: String,
        /// What to change.
        hint: String,
    },
}

impl SessionError {
    /// Whether trying again soon is pointless and may lock an account.
    pub fn is_refusal(&self) -> bool {
        matches!(self, SessionError::Refused { .. })
    }

    /// The reason that a tag's sample carries while this error holds.
    pub fn reason(&self) -> millrace_tags::Reason {
        match self {
            SessionError::Timeout { .. } | SessionError::Resting { .. } => {
                millrace_tags::Reason::Timeout
            }
            SessionError::Protocol { .. } => millrace_tags::Reason::InvalidReply,
            _ => millrace_tags::Reason::NotConnected,
        }
    }
}
