//! OPC UA sessions against servers: our simulated one, and asyncua and node-opcua as foreign ones.

mod asyncua;
mod comes_back;
mod follow;
mod items;
mod link;
mod matrix;
mod peer;
mod plant;
#[path = "../../../tests/src/ports.rs"]
mod ports;
mod session;

#[cfg(feature = "sim")]
mod collecting;
#[cfg(feature = "sim")]
mod foreign_client;
#[cfg(feature = "sim")]
mod misbehaving;
#[cfg(feature = "sim")]
mod recovery;
#[cfg(feature = "sim")]
mod secure;
#[cfg(feature = "sim")]
mod simulated;
