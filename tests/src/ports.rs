//! Ports for the servers that tests start; a module of other rooms' tests, too.
#![allow(unreachable_pub)]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Error, Result};
use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports are picked below those that Linux gives to outgoing connections (from 32768 on): a port that the system picks may
/// be another test's connection before the server that it was meant for has bound it, or while that server is restarted.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A TCP port of the loopback interface that nobody listens on; each call of one process gets another.
///
/// # Errors
/// When the machine has none left.
pub fn free_port() -> Result<u16> {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Processes of tests that run beside each other begin at different places.
    let random = || RandomState::new().build_hasher().finish() as u16;
    let next = NEXT.get_or_init(|| AtomicU16::new(random()));
    for _ in 0..COUNT {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    let last = FIRST + COUNT - 1;
    Err(Error::other(format!(
        "no port from {FIRST} to {last} is free"
    )))
}
