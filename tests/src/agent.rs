//! The `millrace` program as a real process.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::Process;
use crate::wait::{STEP, wait_for};

/// A gateway: a directory with configuration and data, and the agent that runs on it now and then.
#[derive(Debug)]
pub struct Gateway {
    directory: PathBuf,
    process: Option<Process>,
    /// What the agent is started by.
    prefix: Vec<String>,
}

impl Gateway {
    /// A gateway whose files are in `directory`.
    pub fn new(directory: &Path) -> Gateway {
        Gateway {
            directory: directory.to_owned(),
            process: None,
            prefix: Vec::new(),
        }
    }

    /// Starts the agent, and no other command, by another program: these words come before it.
    pub fn start_by(&mut self, prefix: Vec<String>) {
        self.prefix = prefix;
    }

    /// Where the configuration is.
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("millrace.toml")
    }

    /// Where the agent keeps its data, if the configuration says `data_dir = "data"`.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A file beside the configuration.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file beside the configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.directory.join(name), text).with_context(|| format!("writing {name}"))
    }

    /// Writes the configuration: `[gateway]` with id `gw-1` and `data_dir = "data"`, then `rest`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, rest: &str) -> Result<()> {
        self.write(
            "millrace.toml",
            &format!("[gateway]\nid = \"{GATEWAY}\"\ndata_dir = \"data\"\n\n{rest}"),
        )
    }

    /// The agent's process id, while it runs.
    pub fn pid(&mut self) -> Option<u32> {
        Some(self.process.as_mut()?.child().id())
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("millrace.sock")
    }

    fn command(&self) -> Result<Command> {
        Ok(self.in_place(Command::new(program()?)))
    }

    fn in_place(&self, mut command: Command) -> Command {
        command
            .env("MILLRACE_SOCKET", self.socket())
            .env("NO_COLOR", "1")
            .current_dir(&self.directory);
        command
    }

    fn agent(&self) -> Result<Command> {
        let Some((first, more)) = self.prefix.split_first() else {
            return self.command();
        };
        let mut command = Command::new(first);
        command.args(more).arg(program()?);
        Ok(self.in_place(command))
    }

    /// Starts `millrace run` and returns at once.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn launch(&mut self, args: &[&str]) -> Result<()> {
        ensure!(self.process.is_none(), "the agent runs already");
        let mut command = self.agent()?;
        command
            .arg("run")
            .arg("--config")
            .arg(self.config_path())
            .args(args);
        self.process = Some(Process::start(
            &mut command,
            &self.directory.join("millrace.log"),
        )?);
        Ok(())
    }

    /// Starts `millrace run` and waits until it answers on its socket.
    ///
    /// # Errors
    /// When it ends or does not answer; the message has its log.
    pub fn start(&mut self) -> Result<()> {
        self.launch(&[])?;
        let ready = wait_for("an answer of the agent", STEP, || {
            let running = self.process.as_mut().is_some_and(Process::is_running);
            let answered = self
                .cli(&["status", "--json"])
                .is_ok_and(|output| output.status.success());
            (answered || !running).then_some(running)
        });
        let running = ready.with_context(|| self.log())?;
        ensure!(running, "the agent ended: {}", self.log());
        Ok(())
    }

    /// Whether the agent runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not run or does not end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.terminate(STEP).with_context(|| self.log())
    }

    /// Sends a signal to the agent.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.process
            .as_ref()
            .context("the agent does not run")?
            .signal(signal)
    }

    /// Runs another subcommand beside the agent.
    ///
    /// # Errors
    /// When it cannot be started; a failing command is not an error here.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.command()?
            .args(args)
            .output()
            .with_context(|| format!("millrace {}", args.join(" ")))
    }

    /// Starts a subcommand that goes on until the agent ends; see [`Gateway::followed`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn follow(&self, args: &[&str]) -> Result<Process> {
        let name = args.first().copied().unwrap_or_default();
        let log = self.directory.join(format!("follow-{name}.log"));
        Process::start(self.command()?.args(args), &log)
    }

    /// What a followed subcommand has printed.
    pub fn followed(&self, name: &str) -> String {
        let log = self.directory.join(format!("follow-{name}.log"));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    /// Runs a subcommand with `--json` and reads its answer.
    ///
    /// # Errors
    /// When it fails, or prints no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.push("--json");
        let output = self.cli(&all)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "millrace {}: {}: {text}{errors}",
            args.join(" "),
            output.status
        );
        serde_json::from_str(&text)
            .with_context(|| format!("millrace {} printed {text:?}", args.join(" ")))
    }

    /// What the agent has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("millrace.log")).unwrap_or_default()
    }
}

/// The id of the gateway in every test.
pub const GATEWAY: &str = "gw-1";

/// The program under test: `$MILLRACE_BIN`, else the one that was built beside this test.
///
/// # Errors
/// When it was not built.
pub fn program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("MILLRACE_BIN") {
        return Ok(program.into());
    }
    let test = std::env::current_exe()?;
    let profile = test
        .ancestors()
        .nth(2)
        .context("the test is in target/<profile>/deps")?;
    let program = profile.join("millrace");
    ensure!(
        program.exists(),
        "{} is missing; `cargo build --workspace --bins` makes it",
        program.display()
    );
    Ok(program)
}
