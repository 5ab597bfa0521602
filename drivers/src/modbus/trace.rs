//! What was heard of a link, understood: pieces are cut into frames, frames are held against what was asked.
//!
//! All of it happens where somebody looks at it, not where devices are polled. It shares the codec with the
//! transaction layer and not its judgement: a reply that was dropped there is shown here, with what is wrong with it.

mod cut;
mod meaning;

use millrace_tags::Moment;

use super::request::Request;
use super::tap::Way;

pub use cut::Cutter;
pub use meaning::{Checksum, Exception, Meaning, Read};

/// How frames look on this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Modbus TCP.
    Tcp,
    /// A serial line, or RTU frames over TCP.
    Rtu,
}

impl Kind {
    /// `tcp` or `rtu`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Rtu => "rtu",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Kind::Tcp, Kind::Rtu]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A frame, or bytes that are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When its first bytes were there.
    pub at: Moment,
    /// Which connection.
    pub link: u64,
    /// Which way.
    pub way: Way,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// So many pieces before it were not heard.
    pub missed: u64,
    /// What it answers; what was asked last where that cannot be told.
    pub asked: Option<Asked>,
    /// Whether it is the first reply to that.
    pub is_answer: bool,
}

/// A request that was seen on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Whom.
    pub unit: u8,
    /// Which; 0 on a serial line.
    pub transaction: u16,
    /// What; `None` where it is nothing that this program sends.
    pub request: Option<Request>,
}

impl Asked {
    /// Whether a good reply can be the request itself.
    fn is_confirmed_by_echo(&self) -> bool {
        let request = self.request.as_ref();
        request.is_some_and(Request::is_confirmed_by_echo)
    }
}

impl Frame {
    /// Whether it belongs to the talk with this unit.
    pub fn concerns(&self, unit: u8) -> bool {
        let asked = self.asked.as_ref();
        self.way == Way::Lost || asked.is_some_and(|asked| asked.unit == unit)
    }
}

#[cfg(test)]
mod tests;
