//! A simulated counterpart: the broker of demonstrations and tests.

mod broker;

pub use broker::{Broker, Faults, Tapped};
