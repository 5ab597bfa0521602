//! The local API: HTTP and JSON over a Unix socket.
//!
//! The peer's uid decides what a caller may do: root and the service user everything, members of group
//! `millrace` everything that an engineer needs, others nothing. Each change is logged with its uid.

mod bootstrap;
mod buffer;
mod calibrate;
mod config;
mod line;
mod models;
mod peer;
mod routes;
mod socket;
mod stored;
mod trace;

#[cfg(test)]
mod tests;

pub(crate) use bootstrap::BootstrapRequest;
pub(crate) use calibrate::CalibrateRequest;
pub(crate) use line::TUNNEL;
pub(crate) use socket::serve;
