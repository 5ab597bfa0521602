//! What the end-to-end tests are built from: the program as a real process, foreign devices and brokers as real
//! processes, and a subscriber that keeps account of every number that it receives.
//!
//! The tests themselves are in `it/`, the foreign devices (Python) in `peers/`. Everything listens on free loopback ports
//! and writes below a temporary directory; services of the machine are neither needed nor touched.

pub mod agent;
pub mod broker;
pub mod bundle;
pub mod certificates;
pub mod commander;
pub mod cutter;
pub mod fault_broker;
pub mod nats;
pub mod onnx;
pub mod peer;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod received;
pub mod served;
pub mod sim;
pub mod small_disk;
pub mod sparkplug;
pub mod subscriber;
pub mod wait;

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A file of this crate, such as `data/nab/…`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
