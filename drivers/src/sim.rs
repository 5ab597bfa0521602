//! Simulated devices: well-behaved, or misbehaving on request.
//!
//! The demo, the tests and field engineers use them.

pub mod modbus;
pub mod opcua;
pub mod signal;
