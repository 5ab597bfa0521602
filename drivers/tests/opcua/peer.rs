//! Foreign servers as child processes: asyncua and node-opcua, with the same nodes and the same questions.
//!
//! `MILLRACE_TEST_PYTHON` names a Python that has asyncua; node-opcua lies in `tests/peers/node/node_modules`, where
//! `tests/setup.sh` puts it. Where one is missing, its tests say so and pass.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::opcua::{
    Auth, Item, Mode, NodeAddress, OpcuaDriver, Policy, Security, Settings, pin,
};
use millrace_tags::{SystemClock, TagId};
use tempfile::TempDir;

use crate::session::PATIENCE;

pub(crate) const NAMESPACE: &str = "urn:millrace:peer";
pub(crate) const USER: &str = "gateway";
pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) const ENCRYPTED: Security = Security::Policy {
    policy: Policy::Basic256Sha256,
    mode: Mode::SignAndEncrypt,
};

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    Asyncua,
    NodeOpcua,
}

impl Make {
    /// The command without arguments, or why there is none.
    fn command(self) -> Result<Command, String> {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
        let (program, script) = match self {
            Make::Asyncua => (
                std::env::var_os("MILLRACE_TEST_PYTHON")
                    .ok_or("MILLRACE_TEST_PYTHON names no Python with asyncua")?,
                peers.join("asyncua_server.py"),
            ),
            Make::NodeOpcua if peers.join("node/node_modules/node-opcua").is_dir() => {
                ("node".into(), peers.join("node/server.js"))
            }
            Make::NodeOpcua => return Err("node-opcua is not installed (tests/setup.sh)".into()),
        };
        let mut command = Command::new(program);
        command.arg(script);
        Ok(command)
    }
}

/// A running server; it ends with the test.
pub(crate) struct Peer {
    make: Make,
    arguments: Vec<String>,
    running: Running,
    port: u16,
    dir: TempDir,
}

impl Peer {
    /// `None` where there is nothing to run it with.
    pub(crate) fn start(make: Make) -> Option<Self> {
        Self::with(make, &[], |_| ())
    }

    /// With further options of its script, in a directory that is prepared before it starts.
    pub(crate) fn with(
        make: Make,
        arguments: &[&str],
        prepare: impl FnOnce(&Path),
    ) -> Option<Self> {
        let dir = tempfile::tempdir().expect("directory");
        prepare(dir.path());
        let port = free_port();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let running = match Running::start(make, port, dir.path(), &arguments) {
            Ok(running) => running,
            Err(why) => {
                eprintln!("skipped: {why}");
                return None;
            }
        };
        Some(Self {
            make,
            arguments,
            running,
            port,
            dir,
        })
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.running.end();
    }

    /// Starts a killed server again: the same port, certificate and options.
    pub(crate) fn restart(&mut self) {
        self.running.end();
        self.running = Running::start(self.make, self.port, self.dir.path(), &self.arguments)
            .expect("it ran before");
    }

    /// Starts it again with another certificate, as if it had been installed anew.
    pub(crate) fn restart_anew(&mut self) {
        self.running.end();
        self.dir = tempfile::tempdir().expect("directory");
        self.restart();
    }

    /// A line of JSON; what the scripts understand is written at their top.
    pub(crate) fn ask(&mut self, line: &str) -> u64 {
        self.running.ask(line)
    }

    pub(crate) fn url(&self) -> String {
        format!("opc.tcp://127.0.0.1:{}/peer", self.port)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its certificate.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        std::fs::read(self.dir().join("cert.der")).expect("certificate")
    }

    /// Settings with a directory of keys in which its certificate is pinned.
    pub(crate) fn settings(&self, security: Security) -> Settings {
        let pki = self.dir().join("pki");
        pin(&pki, &self.certificate()).expect("pinned");
        Settings {
            security,
            publish_interval: Duration::from_millis(50),
            sampling_interval: Some(Duration::from_millis(20)),
            timeout: PATIENCE,
            ..Settings::new("press", &self.url(), pki)
        }
    }

    /// The login of the one user, with this password.
    pub(crate) fn password(&self, password: &str) -> Auth {
        let password_file: PathBuf = self.dir().join("password");
        std::fs::write(&password_file, password).expect("password file");
        Auth::UserName {
            user: USER.to_owned(),
            password_file,
        }
    }
}

struct Running {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Running {
    fn start(make: Make, port: u16, dir: &Path, arguments: &[String]) -> Result<Self, String> {
        let mut command = make.command()?;
        command
            .args(["--port", &port.to_string(), "--dir"])
            .arg(dir);
        command.args(["--user", USER, "--password", PASSWORD]);
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The servers tell a lot, most of it of what the tests do to them on purpose.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{make:?} does not start: {error}"))?;
        let asks = child.stdin.take().expect("stdin");
        let mut answers = BufReader::new(child.stdout.take().expect("stdout"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "ready", "{make:?} {arguments:?}");
        Ok(Self {
            child,
            asks,
            answers,
        })
    }

    fn ask(&mut self, line: &str) -> u64 {
        writeln!(self.asks, "{line}").expect("asked");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        answer.trim().parse().unwrap_or(0)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn free_port() -> u16 {
    crate::ports::free_port().expect("a free port")
}

pub(crate) fn node(name: &str) -> NodeAddress {
    NodeAddress::named(NAMESPACE, name)
}

pub(crate) fn driver(settings: Settings, names: &[&str]) -> OpcuaDriver {
    let items = names
        .iter()
        .zip(0..)
        .map(|(name, tag)| Item::new(TagId(tag), node(name), Duration::from_millis(100)));
    OpcuaDriver::new(settings, items.collect(), Arc::new(SystemClock::new()))
}
