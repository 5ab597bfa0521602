//! Modbus: addresses, types, the read planner, and sessions over TCP, TLS and serial lines.
//!
//! | file | noun |
//! |---|---|
//! | [`address`](Address), [`datatype`](DataType), [`point`](Point) | where a value lives and how it is read |
//! | [`plan`](mod@plan) | which requests bring the points of a poll group, pure |
//! | [`request`](Request), [`reply`](Answer), [`frame`] | what is asked, what came back, and the bytes around them |
//! | [`link`](Link), [`pace`](Pace), [`fault`](Fault) | the exchange of a request for its reply; silences; what went wrong |
//! | `decode`, [`encode`] | registers to values, values to what a write sends |
//! | [`scale`](ScaleRegister), [`states`](States), [`total`](Total) | what a raw value means: scaled by another register, one of several states, a counter that rolls over |
//! | `reader`, `write` | a poll group read once, what it learned of the device; a write with read-back |
//! | `exchange`, `session`, [`tcp`](TcpDriver), [`rtu`](RtuDriver) | the way to a unit; the session; the drivers |
//! | [`tap`](Tap), [`trace`], [`tape`] | what goes over a link: heard, understood, recorded |
//! | `caller`, [`scan`], `sweep`, [`identify`](identify()), [`probe`] | for the tools of a person in the field: who is there, what can be read, what a value is |
//! | [`gateway`](serve_line) | a line as seen by such a tool while an agent holds the port |
//! | [`line`](Line), [`serial`](SerialSettings), [`tls`](TlsSettings), [`dial_in`](DialIn) | what carries frames |
//!
//! The transaction layer is ours. The client of `tokio-modbus` checks byte counts only in debug builds,
//! does not set TCP_NODELAY, and after a frame that it cannot decode takes each reply for the next
//! request's. Here every reply is checked for its transaction, unit, function and exact length, and a
//! reply that belongs to no open request never becomes a value.
//!
//! Promises:
//! - Every tag of a poll group gets one sample a read. A value is stamped when the reply that carried it
//!   had arrived.
//! - An address that the device does not have costs only itself: it is found by bisection in the same
//!   read, delivered as bad, left out afterwards, also by the next session, and tried again later.
//! - Over TCP, what is neither data nor an exception breaks the session. On a serial line it spoils the tags of
//!   its request, and what comes late is not taken for the next reply, however late it is ([`Link`]).
//! - A unit that does not answer costs its neighbours on the line a few percent at most ([`Line`]).

mod address;
mod caller;
mod datatype;
mod decode;
mod dial_in;
mod encode;
mod exchange;
mod fault;
pub mod frame;
mod gateway;
mod identify;
mod line;
mod link;
mod pace;
pub mod plan;
mod point;
pub mod probe;
mod reader;
mod reply;
mod request;
mod rtu;
mod scale;
pub mod scan;
mod serial;
mod session;
mod states;
mod sweep;
mod tap;
pub mod tape;
mod tcp;
mod tls;
mod total;
pub mod trace;
mod write;

pub use address::{Address, AddressError, Bits, Table};
pub use caller::{Caller, Heard};
pub use datatype::{DataType, Element, OrderError, TEXT_BYTES_MAX, TypeError, WordOrder};
pub use dial_in::DialIn;
pub use encode::{EncodeError, Encoded, encode};
pub use fault::{Fault, FaultCounts};
pub use gateway::serve as serve_line;
pub use identify::{Identification, identify};
pub use line::{Lease, Line};
pub use link::{Framing, Link, Peer, Transport};
pub use pace::Pace;
pub use plan::plan;
pub use point::{Meaning, Point, PointError, PointSpec};
pub use reply::{Answer, Reply};
pub use request::{ReadRequest, Request};
pub use rtu::{RtuDriver, RtuSettings};
pub use scale::{ScaleError, ScaleRegister, ScaleRule};
#[cfg(feature = "sim")]
pub(crate) use serial::ioctl;
pub use serial::{Parity, SerialSettings};
pub use states::{States, StatesError};
pub use sweep::{Readable, Sweep};
pub use tap::{Ear, Piece, Tap, Way};
pub use tcp::{TcpDriver, TcpSettings};
pub use tls::TlsSettings;
pub use total::{Count, Total, TotalError};
