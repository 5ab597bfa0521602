//! Simulated devices of the program itself, as processes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::agent::program;
use crate::ports::free_port;
use crate::process::Process;
use crate::wait::{STEP, wait_for};

/// A running `millrace sim modbus`; killed on drop.
#[derive(Debug)]
pub struct SimModbus {
    process: Process,
    /// Where it listens, on loopback.
    pub port: u16,
}

impl SimModbus {
    /// Starts the units of a serial line; the port's path comes with them.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start_line(args: &[&str], directory: &Path) -> Result<(SimModbus, String)> {
        let args = [&["--transport", "rtu"], args].concat();
        let sim = SimModbus::start(&args, directory)?;
        let log = directory.join(format!("sim-{}.log", sim.port));
        let said = std::fs::read_to_string(log)?;
        let path = said
            .split_whitespace()
            .find(|word| word.starts_with("/dev/"));
        let path = path.with_context(|| format!("no port in {said:?}"))?;
        let path = path.trim_end_matches([',', ';', '.', ':']).to_owned();
        Ok((sim, path))
    }

    /// Starts one with these further arguments; its outputs go to `directory`.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn start(args: &[&str], directory: &Path) -> Result<SimModbus> {
        let port = free_port()?;
        let log = directory.join(format!("sim-{port}.log"));
        let mut command = Command::new(program()?);
        command
            .args(["sim", "modbus", "--listen", &format!("127.0.0.1:{port}")])
            .args(args)
            .current_dir(directory);
        let mut process = Process::start(&mut command, &log)?;
        let ready = wait_for("a simulated device", STEP, || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            (said.contains("ready") || !process.is_running()).then_some(said)
        })?;
        anyhow::ensure!(process.is_running(), "millrace sim modbus: {ready}");
        Ok(SimModbus { process, port })
    }

    /// Sends a signal by name: `STOP` makes it a device that hangs, `CONT` heals it.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.process.signal(signal).context("signalling a device")
    }

    /// Kills it, as a device that loses power.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
