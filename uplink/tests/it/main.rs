//! The room against brokers and bootstrap servers: our own small ones, and mosquitto where it is there.
#![cfg(feature = "sim")]
// A failed unwrap is a failed test, in its helpers too.
#![allow(clippy::unwrap_used)]

mod bootstrap;
mod broker;
mod codecs;
mod log_feed;
mod mosquitto;
mod pki;
mod session;
mod sparkplug;
mod subscriber;
mod zoo;
