//! The room against brokers and bootstrap servers: our own small ones, and mosquitto where it is there.
#![cfg(feature = "sim")]
// A failed unwrap is a failed test, in its helpers too.
#![allow(clippy::unwrap_used)]

mod aws;
mod bootstrap;
mod broker;
#[path = "../support/checked.rs"]
mod checked;
mod codecs;
mod cutter;
#[path = "../../../tests/src/fault_broker.rs"]
mod fault_broker;
mod faults;
mod log_feed;
mod matrix;
mod mosquitto;
mod pki;
#[path = "../../../tests/src/ports.rs"]
mod ports;
#[path = "../../../tests/src/proxy.rs"]
mod proxy;
mod session;
mod sparkplug;
mod subscriber;
mod transport;
mod zoo;
