//! A foreign server that is restarted and cut off, and its journal of what it served.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use millrace_drivers::opcua::{Auth, NodeAddress, Security, Settings, pin};
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::peer::free_port;

const NAMESPACE: &str = "urn:millrace:plant";

/// Whether there is time for everything (`make soak-opcua-recovery`).
pub(crate) fn is_full() -> bool {
    std::env::var_os("MILLRACE_OPCUA_FULL").is_some()
}

/// The program that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Asyncua,
    NodeOpcua,
}

impl Kind {
    /// The command without arguments, or why there is none.
    fn command(self) -> Result<Command, &'static str> {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers");
        let node = peers.join("node");
        let (program, script) = match self {
            Kind::Asyncua => (
                std::env::var_os("MILLRACE_TEST_PYTHON")
                    .ok_or("MILLRACE_TEST_PYTHON names no Python with asyncua")?,
                peers.join("asyncua_plant.py"),
            ),
            Kind::NodeOpcua if node.join("node_modules/node-opcua").is_dir() => {
                ("node".into(), node.join("plant.js"))
            }
            Kind::NodeOpcua => return Err("node-opcua is not installed (tests/setup.sh)"),
        };
        let mut command = Command::new(program);
        command.arg(script);
        Ok(command)
    }
}

/// How the server is started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) no_history: bool,
    pub(crate) swapped: bool,
    pub(crate) spare: usize,
}

/// The server's directory and port, which outlive its process.
pub(crate) struct Plant {
    kind: Kind,
    pub(crate) dir: TempDir,
    port: u16,
    pub(crate) password: String,
    pub(crate) options: Options,
    process: Option<Process>,
    /// The most sessions that one of its processes has had at a time.
    sessions_max: u64,
}

struct Process {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Plant {
    /// A plant that does not run yet; `None` where there is nothing to run it with.
    pub(crate) fn new(kind: Kind, options: Options) -> Option<Self> {
        if let Err(why) = kind.command() {
            eprintln!("skipped: {why}");
            return None;
        }
        Some(Self {
            kind,
            dir: tempfile::tempdir().expect("directory"),
            port: free_port(),
            password: "correct horse".to_owned(),
            options,
            process: None,
            sessions_max: 0,
        })
    }

    pub(crate) fn start(&mut self) {
        let Options {
            no_history,
            swapped,
            spare,
        } = self.options;
        let mut command = self.kind.command().expect("it was there before");
        command
            .arg(self.port.to_string())
            .arg(self.dir.path())
            .arg(&self.password)
            .args(no_history.then_some("no-history"))
            .args(swapped.then_some("swapped"))
            .arg(format!("spare={spare}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("the plant starts");
        let asks = child.stdin.take().expect("stdin");
        let answers = BufReader::new(child.stdout.take().expect("stdout"));
        let mut process = Process {
            child,
            asks,
            answers,
        };
        assert_eq!(process.line(), "ready");
        self.process = Some(process);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.note_sessions();
        self.process = None;
    }

    pub(crate) fn tell(&mut self, line: &str) -> Json {
        let process = self.process.as_mut().expect("the plant runs");
        writeln!(process.asks, "{line}").expect("asked");
        serde_json::from_str(&process.line()).expect("an answer")
    }

    pub(crate) fn ask(&mut self, what: &str) -> u64 {
        let answer = self.tell(&format!(r#"{{"ask":"{what}"}}"#));
        answer.as_u64().expect("a number")
    }

    pub(crate) fn run(&mut self, running: bool) {
        self.tell(&format!(r#"{{"run":{running}}}"#));
    }

    fn note_sessions(&mut self) {
        if self.process.is_some() {
            self.sessions_max = self.ask("sessions_max").max(self.sessions_max);
        }
    }

    /// The most sessions at a time, over all of its processes.
    pub(crate) fn sessions_max(&mut self) -> u64 {
        self.note_sessions();
        self.sessions_max
    }

    /// The certificate of the next start is another one.
    pub(crate) fn forget_certificate(&self) {
        for file in ["key.pem", "cert.der"] {
            std::fs::remove_file(self.dir.path().join(file)).expect("removed");
        }
    }

    /// Trusts the server's certificate.
    pub(crate) fn pin(&self) {
        let der = std::fs::read(self.dir.path().join("cert.der")).expect("certificate");
        pin(&self.dir.path().join("pki"), &der).expect("pinned");
    }

    pub(crate) fn url(&self) -> String {
        format!("opc.tcp://127.0.0.1:{}/plant", self.port)
    }

    pub(crate) fn settings(&self, url: &str, security: Security) -> Settings {
        Settings {
            security,
            publish_interval: Duration::from_millis(50),
            // Every change, not what a look every now and then finds.
            sampling_interval: Some(Duration::ZERO),
            queue_size: 10_000,
            keep_alive: Duration::from_millis(500),
            timeout: Duration::from_secs(2),
            ..Settings::new("press", url, self.dir.path().join("pki"))
        }
    }

    pub(crate) fn login(&self, password: &str) -> Auth {
        let password_file = self.dir.path().join("password");
        std::fs::write(&password_file, password).expect("password file");
        Auth::UserName {
            user: "gateway".to_owned(),
            password_file,
        }
    }

    /// What it served of its counter: count and source time in nanoseconds, oldest first.
    pub(crate) fn journal(&self) -> Vec<(u64, i64)> {
        let text = std::fs::read_to_string(self.dir.path().join("journal")).expect("journal");
        let entry = |line: &str| {
            let (count, us) = line.split_once(' ')?;
            Some((count.parse().ok()?, us.parse::<i64>().ok()? * 1000))
        };
        text.lines().filter_map(entry).collect()
    }
}

impl Process {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }
}

/// A node of the plant by its name.
pub(crate) fn node(name: &str) -> NodeAddress {
    NodeAddress::named(NAMESPACE, name)
}
