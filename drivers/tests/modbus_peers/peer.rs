//! Foreign devices as processes, and the cables and converters between them and us.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::net::{TcpListener, TcpStream};
use tokio_serial::{SerialPort, SerialStream};

/// How a device, or our simulated one, is reached.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// Modbus TCP at `host:port`.
    Tcp(String),
    /// RTU frames at `host:port`.
    RtuOverTcp(String),
    /// RTU frames on the serial port of this path.
    Rtu(String),
}

impl Way {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Way::Tcp(_) => "TCP",
            Way::RtuOverTcp(_) => "RTU over TCP",
            Way::Rtu(_) => "RTU on a pty",
        }
    }
}

/// A running peer; it ends with the test.
pub(crate) struct Peer {
    process: Child,
    pub(crate) way: Way,
    /// Ports that nobody holds open hang up.
    _held: Vec<File>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where the programs of the peers are.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

/// Starts a program and gives it the tables; its first line is the port.
fn start(command: &mut Command, tables: &str) -> (Child, u16) {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(tables.as_bytes()).unwrap();
    let mut port = String::new();
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    stdout.read_line(&mut port).unwrap();
    (process, port.trim().parse().unwrap())
}

/// A server of Modbus TCP; it is called with `args`.
pub(crate) fn on_tcp(program: &[PathBuf], tables: &str) -> Peer {
    let (process, port) = start(&mut command(program), tables);
    Peer {
        process,
        way: Way::Tcp(format!("127.0.0.1:{port}")),
        _held: Vec::new(),
    }
}

/// The same with RTU frames over TCP by itself.
pub(crate) fn on_rtu_over_tcp(program: &[PathBuf], tables: &str) -> Peer {
    let (process, port) = start(command(program).arg("rtu"), tables);
    Peer {
        process,
        way: Way::RtuOverTcp(format!("127.0.0.1:{port}")),
        _held: Vec::new(),
    }
}

/// The same on a serial port.
pub(crate) fn on_line(program: &[PathBuf], tables: &str) -> Peer {
    let (mut near, near_held, port) = pty();
    let (mut far, far_held, far_port) = pty();
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
    let (process, _) = start(command(program).arg(far_port), tables);
    Peer {
        process,
        way: Way::Rtu(port),
        _held: vec![near_held, far_held],
    }
}

/// The same on a serial port behind a converter to TCP, which the test is itself.
pub(crate) async fn behind_converter(program: &[PathBuf], tables: &str) -> Peer {
    let (line, held, port) = pty();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(convert(line, listener));
    let (process, _) = start(command(program).arg(port), tables);
    Peer {
        process,
        way: Way::RtuOverTcp(address),
        _held: vec![held],
    }
}

/// Passes bytes on between a line and one connection after the other.
async fn convert(mut line: SerialStream, listener: TcpListener) {
    while let Ok((mut socket, _)) = listener.accept().await {
        let (mut from_line, mut to_line) = tokio::io::split(&mut line);
        let (mut from_socket, mut to_socket) = socket.split();
        tokio::select! {
            _ = tokio::io::copy(&mut from_line, &mut to_socket) => {}
            _ = tokio::io::copy(&mut from_socket, &mut to_line) => {}
        }
    }
}

/// The path of a serial port whose other end is a socket at this address.
pub(crate) async fn port_to(address: &str) -> (String, File) {
    let (mut line, held, port) = pty();
    let mut socket = TcpStream::connect(address).await.unwrap();
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut line, &mut socket).await });
    (port, held)
}

/// What starts it.
pub(crate) fn command(program: &[PathBuf]) -> Command {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]);
    command
}

/// Our end, the file that keeps it open, the path of the other end.
fn pty() -> (SerialStream, File, String) {
    let (outer, inner) = SerialStream::pair().unwrap();
    let name = inner.name().unwrap();
    // Held without the lock that a serial port has.
    let held = File::open(&name).unwrap();
    (outer, held, name)
}

/// A program of pymodbus; `None` where no Python is named.
pub(crate) fn pymodbus(script: &str) -> Option<Vec<PathBuf>> {
    let Some(python) = std::env::var_os("MILLRACE_TEST_PYTHON") else {
        println!(
            "skipped: MILLRACE_TEST_PYTHON names no Python with pymodbus; `make test` sets it"
        );
        return None;
    };
    Some(vec![python.into(), sources().join(script)])
}

/// Compiles a program of libmodbus; `None` where there is no compiler or no header.
pub(crate) fn libmodbus(source: &str, directory: &Path) -> Option<Vec<PathBuf>> {
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs", "libmodbus"])
        .output()
        .ok()
        .filter(|output| output.status.success());
    let Some(flags) = flags else {
        println!("skipped: no pkg-config or libmodbus-dev; `make test` installs them");
        return None;
    };
    let flags = String::from_utf8(flags.stdout).unwrap();
    let program = directory.join(source).with_extension("");
    let compiled = Command::new("cc")
        .arg("-o")
        .arg(&program)
        .arg(sources().join(source))
        .args(flags.split_whitespace())
        .status()
        .unwrap();
    assert!(compiled.success(), "{source} does not compile");
    Some(vec![program])
}
