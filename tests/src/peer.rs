//! Foreign devices and services: Python scripts of `peers/` as processes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::Process;
use crate::wait::STEP;

/// A running script; killed on drop.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    /// What the script said of itself in its first line.
    pub ready: Value,
    lines: mpsc::Receiver<String>,
}

impl Peer {
    /// Starts `peers/<script>` and waits for its first line, which says that it is ready. Its errors go to `<script>.log`
    /// in `directory`, which is also its working directory.
    ///
    /// # Errors
    /// When the script ends, or says nothing.
    pub fn start(script: &str, args: &[&str], directory: &Path) -> Result<Peer> {
        let log = directory.join(format!("{script}.log"));
        let errors = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)?;
        let mut command = Command::new(python()?);
        command
            .arg(crate::fixture("peers").join(script))
            .args(args)
            .current_dir(directory);
        let mut process = Process::spawn(command.stdout(Stdio::piped()).stderr(errors))?;
        let stdout = process
            .child()
            .stdout
            .take()
            .context("a pipe was asked for")?;
        let lines = read_lines(stdout);
        let first = lines.recv_timeout(STEP).with_context(|| {
            format!(
                "{script} did not get ready: {}",
                std::fs::read_to_string(&log).unwrap_or_default()
            )
        })?;
        let ready =
            serde_json::from_str(&first).with_context(|| format!("{script} said {first:?}"))?;
        Ok(Peer {
            process,
            ready,
            lines,
        })
    }

    /// What it has printed since the last call, one JSON value a line.
    pub fn said(&self) -> Vec<Value> {
        self.lines
            .try_iter()
            .filter_map(|line| serde_json::from_str(&line).ok())
            .collect()
    }

    /// Kills it, as a device that loses power.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn read_lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The Python that has the packages of `requirements.txt`.
pub fn python() -> Result<PathBuf> {
    if let Some(python) = std::env::var_os("MILLRACE_TEST_PYTHON") {
        return Ok(python.into());
    }
    let local = crate::checkout().join(".venv/bin/python");
    anyhow::ensure!(
        local.exists(),
        "no Python environment for the tests; `make setup` makes it"
    );
    Ok(local)
}
