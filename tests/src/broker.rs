//! mosquitto as a process of its own: a free port, its own configuration and store.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::certificates::Certificates;
use crate::ports::free_port;
use crate::process::{Process, find_program};
use crate::wait::{STEP, wait_for};

/// A mosquitto that keeps sessions and queues without limit over a restart.
#[derive(Debug)]
pub struct Broker {
    directory: PathBuf,
    process: Option<Process>,
    /// Plain TCP, on loopback.
    pub port: u16,
    /// TLS that asks for a client certificate; 0 without certificates.
    pub tls_port: u16,
    config: String,
}

impl Broker {
    /// Starts a broker that writes into `directory`.
    ///
    /// # Errors
    /// When mosquitto is missing or does not start.
    pub fn start(directory: &Path) -> Result<Broker> {
        Broker::launch(directory, None)
    }

    /// Starts a broker with a second listener that speaks TLS and admits holders of a certificate only.
    ///
    /// # Errors
    /// When mosquitto is missing or does not start.
    pub fn start_tls(directory: &Path, certificates: &Certificates) -> Result<Broker> {
        Broker::launch(directory, Some(certificates))
    }

    /// Starts a broker whose plain listener has these further lines of configuration.
    ///
    /// # Errors
    /// When mosquitto is missing or does not start.
    pub fn start_with(directory: &Path, lines: &str) -> Result<Broker> {
        let mut broker = Broker::new(directory, None)?;
        broker.restart_with(lines)?;
        Ok(broker)
    }

    /// Starts it again with other further lines.
    ///
    /// # Errors
    /// When it does not accept connections.
    pub fn restart_with(&mut self, lines: &str) -> Result<()> {
        std::fs::write(self.config_path(), format!("{}{lines}\n", self.config))?;
        self.restart()
    }

    fn launch(directory: &Path, certificates: Option<&Certificates>) -> Result<Broker> {
        let mut broker = Broker::new(directory, certificates)?;
        broker.restart_with("")?;
        Ok(broker)
    }

    fn new(directory: &Path, certificates: Option<&Certificates>) -> Result<Broker> {
        let tls_port = if certificates.is_some() {
            free_port()?
        } else {
            0
        };
        let mut broker = Broker {
            directory: directory.to_owned(),
            process: None,
            port: free_port()?,
            tls_port,
            config: String::new(),
        };
        broker.config = broker.config(certificates);
        Ok(broker)
    }

    fn config_path(&self) -> PathBuf {
        self.directory.join("mosquitto.conf")
    }

    /// The default caps of mosquitto drop what a test waits for: 1000 queued messages, 20 in flight. Without `user`,
    /// mosquitto started by root gives up root and cannot write into the temporary directory.
    fn config(&self, certificates: Option<&Certificates>) -> String {
        let mut text = format!(
            "user root\npersistence true\npersistence_location {}/\nmax_queued_messages 0\nmax_queued_bytes 0\n\
             max_inflight_messages 1000\nlog_type error\nlog_type warning\nlog_type notice\n\
             per_listener_settings true\nlistener {} 127.0.0.1\nallow_anonymous true\n",
            self.directory.display(),
            self.port
        );
        if let Some(certificates) = certificates {
            let _ = writeln!(
                text,
                "listener {} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
                 use_identity_as_username true",
                self.tls_port,
                certificates.ca().display(),
                certificates.server().display(),
                certificates.server_key().display()
            );
        }
        text
    }

    /// Starts it again on the same ports with the same store.
    ///
    /// # Errors
    /// When it does not accept connections.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(find_program("mosquitto")?);
        command.arg("-c").arg(self.config_path());
        let log = self.directory.join("mosquitto.log");
        let mut process = Process::start(&mut command, &log)?;
        let port = self.port;
        wait_for("mosquitto", STEP, || {
            (TcpStream::connect(("127.0.0.1", port)).is_ok() || !process.is_running()).then_some(())
        })?;
        anyhow::ensure!(
            process.is_running(),
            "mosquitto: {}",
            std::fs::read_to_string(&log)?
        );
        self.process = Some(process);
        Ok(())
    }

    /// Kills it: what it has not saved is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the broker does not run")?;
        process.kill();
        Ok(())
    }

    /// Stops it with SIGTERM: it writes its store first.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the broker does not run")?;
        process.terminate(STEP)?;
        Ok(())
    }
}
