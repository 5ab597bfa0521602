//! pproxy, a proxy that we did not write: it speaks HTTP CONNECT and SOCKS5 at one port, and wants a login.
//!
//! This file is also part of the tests of `uplink`, by its path: their tests may not import this crate.
#![allow(unreachable_pub)]

use std::io::{Error, Result};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Who may use it.
pub const USER: &str = "me";
/// The password of [`USER`].
pub const PASSWORD: &str = "secret";

/// A start takes a second on an idle machine.
const START_MAX: Duration = Duration::from_secs(60);

/// A running pproxy; killed on drop, and its connections with it.
#[derive(Debug)]
pub struct Pproxy {
    process: Child,
    /// Where it listens, on loopback.
    pub port: u16,
}

impl Pproxy {
    /// Starts one on this port by a Python that has the package, and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(python: &Path, port: u16) -> Result<Pproxy> {
        let process = Command::new(python)
            // Else it remembers for a month that this address logged in.
            .args(["-m", "pproxy", "--auth", "0", "-l"])
            .arg(format!("http+socks5://127.0.0.1:{port}#{USER}:{PASSWORD}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut proxy = Pproxy { process, port };
        let end = Instant::now() + START_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > end || proxy.process.try_wait()?.is_some() {
                return Err(Error::other("pproxy does not listen"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(proxy)
    }
}

impl Drop for Pproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
