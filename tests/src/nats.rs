//! nats-server as a process of its own: free ports, JetStream with its own store, MQTT beside it.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::ports::free_port;
use crate::process::{Process, find_program};
use crate::wait::{STEP, wait_for};

/// Users of the server: `gateway` may do what the test says, `reader` everything.
const READER: &str = "{ user: reader, password: reader }";

/// Every right. A reload that takes all limits away ends the server 2.9 of Debian 12 with a panic.
pub const EVERYTHING: &str = "publish: \">\", subscribe: \">\"";

/// A nats-server that keeps its streams over a restart.
#[derive(Debug)]
pub struct Nats {
    directory: PathBuf,
    process: Option<Process>,
    /// Where it speaks MQTT, on loopback.
    pub mqtt_port: u16,
    port: u16,
}

impl Nats {
    /// Starts a server that writes into `directory`; the user `gateway`, password `gateway`, may do everything.
    ///
    /// # Errors
    /// When nats-server is missing or does not start.
    pub fn start(directory: &Path) -> Result<Nats> {
        let mut nats = Nats {
            directory: directory.to_owned(),
            process: None,
            mqtt_port: free_port()?,
            port: free_port()?,
        };
        nats.allow(EVERYTHING)?;
        nats.restart()?;
        Ok(nats)
    }

    /// Writes the rights of `gateway`, such as `publish: { deny: ["a.b"] }`; a server that runs takes them at once.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn allow(&mut self, permissions: &str) -> Result<()> {
        let text = format!(
            "server_name: millrace-test\nlisten: 127.0.0.1:{}\njetstream {{ store_dir: \"{}\" }}\n\
             mqtt {{ listen: 127.0.0.1:{} }}\nauthorization {{ users: [\n\
             {{ user: gateway, password: gateway, permissions: {{ {permissions} }} }}\n{READER}\n] }}\n",
            self.port,
            self.directory.join("jetstream").display(),
            self.mqtt_port
        );
        std::fs::write(self.directory.join("nats.conf"), text)?;
        match &self.process {
            Some(process) => process.signal("HUP"),
            None => Ok(()),
        }
    }

    /// Starts it again on the same ports with the same store.
    ///
    /// # Errors
    /// When it does not accept connections.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(find_program("nats-server")?);
        command.arg("-c").arg(self.directory.join("nats.conf"));
        let log = self.directory.join("nats.log");
        let mut process = Process::start(&mut command, &log)?;
        let port = self.mqtt_port;
        wait_for("nats-server", STEP, || {
            (TcpStream::connect(("127.0.0.1", port)).is_ok() || !process.is_running()).then_some(())
        })?;
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        ensure!(process.is_running(), "nats-server: {}", said());
        self.process = Some(process);
        Ok(())
    }

    /// Stops it with SIGTERM.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server does not run")?;
        process.terminate(STEP)?;
        Ok(())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }
}
