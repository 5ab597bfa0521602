//! Modbus: addresses, types, the read planner and sessions over TCP.
//!
//! | file | noun |
//! |---|---|
//! | [`address`](Address), [`datatype`](DataType), [`point`](Point) | where a value lives and how it is read |
//! | [`plan`](mod@plan) | which requests bring the points of a poll group, pure |
//! | `pdu`, [`frame`], `link` | frames, and the exchange of a request for its reply |
//! | `decode`, [`encode`] | reply bytes to values, values to what a write sends |
//! | `reader`, `tcp` | a poll group read once, what it learned of the device; the session |
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
//!   read, delivered as bad, left out afterwards and tried again later.
//! - What is neither data nor an exception breaks the session.
//!
//! Not here yet: serial lines, TLS, writing, several requests in flight.

mod address;
mod datatype;
mod decode;
mod encode;
pub mod frame;
mod link;
mod pdu;
pub mod plan;
mod point;
mod reader;
mod tcp;

pub use address::{Address, AddressError, Bits, Table};
pub use datatype::{DataType, Element, OrderError, TEXT_BYTES_MAX, TypeError, WordOrder};
pub use encode::{EncodeError, Encoded, encode};
pub use plan::plan;
pub use point::{Point, PointError, PointSpec};
pub use tcp::{TcpDriver, TcpSettings, read_once};
