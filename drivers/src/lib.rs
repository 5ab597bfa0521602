//! Device sessions (Modbus, OPC UA), the read planner, simulated devices.
//!
//! [`driver`] is the contract with the agent; each protocol has a folder; [`sim`] holds devices that
//! behave well, or badly on request.

pub mod driver;
pub mod modbus;
pub mod opcua;
#[cfg(feature = "sim")]
pub mod sim;

pub use driver::{Driver, Exclusion, PollGroup, Session, SessionError, WriteError, WriteReport};
