//! Modbus devices that are not ours: the whole matrix of tables, types and orders against pymodbus and
//! libmodbus.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::{
    Address, Bits, DataType, Line, Point, PointSpec, RtuDriver, RtuSettings, SerialSettings, Table,
    TcpDriver, TcpSettings, WordOrder,
};
use millrace_drivers::{Driver, Session, SessionError, WriteError};
use millrace_tags::{Quality, Reason, SystemClock, TagId, Value};
use tokio_serial::{SerialPort, SerialStream};

/// The unit that the peers answer for.
const UNIT: u8 = 7;

/// Coils and discrete inputs of the peers.
const BITS: u16 = 37;

fn is_set(bit: u16) -> bool {
    bit.is_multiple_of(3) || bit % 7 == 1
}

/// A type, a value of it, and its registers in order abcd.
fn values() -> Vec<(DataType, Value, Vec<u8>)> {
    vec![
        (DataType::Bool, Value::Bool(true), vec![0x01, 0x00]),
        (DataType::I8, Value::I64(-7), vec![0x00, 0xF9]),
        (DataType::U8, Value::U64(249), vec![0x00, 0xF9]),
        (
            DataType::I16,
            Value::I64(-12_345),
            (-12_345i16).to_be_bytes().to_vec(),
        ),
        (
            DataType::U16,
            Value::U64(54_321),
            54_321u16.to_be_bytes().to_vec(),
        ),
        (
            DataType::I32,
            Value::I64(-123_456_789),
            (-123_456_789i32).to_be_bytes().to_vec(),
        ),
        (
            DataType::U32,
            Value::U64(3_987_654_321),
            3_987_654_321u32.to_be_bytes().to_vec(),
        ),
        (
            DataType::I64,
            Value::I64(i64::MIN + 5),
            (i64::MIN + 5).to_be_bytes().to_vec(),
        ),
        (
            DataType::U64,
            Value::U64(u64::MAX - 5),
            (u64::MAX - 5).to_be_bytes().to_vec(),
        ),
        (
            DataType::F32,
            Value::F32(-1.5e-7),
            (-1.5e-7f32).to_be_bytes().to_vec(),
        ),
        (
            DataType::F64,
            Value::F64(6.022e23),
            6.022e23f64.to_be_bytes().to_vec(),
        ),
        (
            DataType::I48,
            Value::I64(-(1 << 40) - 3),
            (-(1i64 << 40) - 3).to_be_bytes()[2..].to_vec(),
        ),
        (
            DataType::U48,
            Value::U64(0xFEDC_BA98_7654),
            vec![0xFE, 0xDC, 0xBA, 0x98, 0x76, 0x54],
        ),
        (
            DataType::Bcd48,
            Value::U64(210_987_654_321),
            vec![0x21, 0x09, 0x87, 0x65, 0x43, 0x21],
        ),
        (
            DataType::Bcd64,
            Value::U64(9_876_543_210_123_456),
            vec![0x98, 0x76, 0x54, 0x32, 0x10, 0x12, 0x34, 0x56],
        ),
        (DataType::Bcd16, Value::U64(9_071), vec![0x90, 0x71]),
        (
            DataType::Bcd32,
            Value::U64(12_345_678),
            vec![0x12, 0x34, 0x56, 0x78],
        ),
        (
            DataType::Text(6),
            Value::Text("PUMP-1".into()),
            b"PUMP-1".to_vec(),
        ),
    ]
}

fn registers(big_endian: &[u8], order: WordOrder) -> Vec<u16> {
    let words = big_endian
        .chunks(2)
        .map(|word| u16::from_be_bytes([word[0], word[1]]));
    let mut words: Vec<u16> = words.collect();
    if order.reverses_words() {
        words.reverse();
    }
    if order.swaps_bytes() {
        words.iter_mut().for_each(|word| *word = word.swap_bytes());
    }
    words
}

/// The content of a device, and what reading it must bring.
#[derive(Default)]
struct Plant {
    points: Vec<Point>,
    expected: Vec<Result<Value, Reason>>,
    registers: Vec<u16>,
}

impl Plant {
    fn whole() -> Self {
        let mut plant = Plant::default();
        for order in WordOrder::ALL {
            for (data_type, value, bytes) in values() {
                let is_text = matches!(data_type, DataType::Text(_));
                if is_text && order.reverses_words() {
                    continue;
                }
                let offset = plant.registers.len() as u16;
                plant.registers.extend(registers(&bytes, order));
                for table in [Table::Holding, Table::Input] {
                    plant.add(table, offset, None, data_type, order, Ok(value.clone()));
                }
            }
        }
        for bit in 0..BITS {
            for table in [Table::Coil, Table::Discrete] {
                let value = Value::Bool(is_set(bit));
                plant.add(table, bit, None, DataType::Bool, WordOrder::Abcd, Ok(value));
            }
        }
        // Register 0 is 0x0100.
        for (bit, set) in [(7, false), (8, true)] {
            let value = Ok(Value::Bool(set));
            plant.add(
                Table::Holding,
                0,
                Bits::new(bit, bit),
                DataType::Bool,
                WordOrder::Abcd,
                value,
            );
        }
        let end = plant.registers.len() as u16;
        let none = Err(Reason::IllegalAddress);
        plant.add(
            Table::Holding,
            end,
            None,
            DataType::U16,
            WordOrder::Abcd,
            none.clone(),
        );
        plant.add(
            Table::Input,
            end - 1,
            None,
            DataType::U32,
            WordOrder::Abcd,
            none,
        );
        plant
    }

    fn add(
        &mut self,
        table: Table,
        offset: u16,
        bit: Option<Bits>,
        data_type: DataType,
        order: WordOrder,
        expected: Result<Value, Reason>,
    ) {
        let address = Address { table, offset, bit };
        self.points.push(Point {
            tag: TagId(self.points.len() as u32),
            spec: PointSpec::new(address, data_type, order).unwrap(),
            interval: Duration::from_secs(1),
        });
        self.expected.push(expected);
    }

    /// What the peers read from their standard input.
    fn tables(&self) -> String {
        let words = |values: &[u16]| -> String { values.iter().map(|v| format!(" {v}")).collect() };
        let registers = words(&self.registers);
        let bits: Vec<u16> = (0..BITS).map(|bit| u16::from(is_set(bit))).collect();
        let bits = words(&bits);
        format!("holding{registers}\ninput{registers}\ncoil{bits}\ndiscrete{bits}\n\n")
    }
}

/// A running peer; it ends with the test.
struct Peer {
    process: Child,
    port: u16,
}

impl Peer {
    fn start(command: &mut Command, tables: &str) -> Self {
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
        let port = port.trim().parse().unwrap();
        Self { process, port }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers")
}

async fn open(peer: &Peer, points: Vec<Point>) -> Result<Box<dyn Session>, SessionError> {
    let mut settings = TcpSettings::new("peer", format!("127.0.0.1:{}", peer.port));
    settings.unit_id = UNIT;
    settings.timeout = Duration::from_secs(30);
    TcpDriver::new(settings, points, Arc::new(SystemClock::new()))
        .open()
        .await
}

async fn reads_whole(mut session: Box<dyn Session>, plant: &Plant) {
    // The first read isolates the addresses that are not there, the second leaves them out.
    for _ in 0..2 {
        let reading = session.read(0).await.unwrap();
        assert_eq!(reading.samples.len(), plant.points.len());
        for sample in reading.samples {
            let index = sample.tag.0 as usize;
            let found = match sample.quality {
                Quality::Bad(reason) | Quality::Uncertain(reason) => Err(reason),
                Quality::Good => Ok(sample.value.unwrap()),
            };
            assert_eq!(
                found, plant.expected[index],
                "{:?}",
                plant.points[index].spec
            );
        }
    }
    let remarks = session.remarks();
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    writes_whole(session.as_mut(), plant).await;
    session.close().await;
}

/// Each value is written over itself, and read back.
async fn writes_whole(session: &mut dyn Session, plant: &Plant) {
    for (point, expected) in plant.points.iter().zip(&plant.expected) {
        let Ok(value) = expected else { continue };
        let written = session.write(point.tag, value).await;
        if !matches!(point.spec.address().table, Table::Coil | Table::Holding) {
            assert!(matches!(written, Err(WriteError::ReadOnly { .. })));
            continue;
        }
        let report = written.unwrap_or_else(|error| panic!("{:?}: {error}", point.spec));
        assert_eq!(report.read_back.as_ref(), Some(value), "{:?}", point.spec);
    }
}

/// Two serial ports with a cable between them: our end, and the name of the other.
struct Cable {
    near: String,
    far: String,
    /// A port that nobody holds open hangs up.
    _held: [File; 2],
}

fn pty() -> (SerialStream, File, String) {
    let (outer, inner) = SerialStream::pair().unwrap();
    let name = inner.name().unwrap();
    // Held without the lock that a serial port has.
    let held = File::open(&name).unwrap();
    (outer, held, name)
}

impl Cable {
    fn between_ports() -> Self {
        let (mut a, near_held, near) = pty();
        let (mut b, far_held, far) = pty();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut a, &mut b).await });
        Self {
            near,
            far,
            _held: [near_held, far_held],
        }
    }

    /// The far end is a socket.
    async fn to_socket(port: u16) -> (String, File) {
        let (mut a, held, near) = pty();
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut a, &mut socket).await });
        (near, held)
    }
}

fn serial(port: &str) -> Line {
    let mut settings = SerialSettings::new(port);
    settings.baud = 115_200;
    Line::serial("bus", settings, Arc::new(SystemClock::new()))
}

async fn open_on(line: Line, points: Vec<Point>) -> Box<dyn Session> {
    let mut settings = RtuSettings::new("peer", UNIT);
    settings.timeout = Duration::from_secs(30);
    let driver = RtuDriver::new(settings, line, points, Arc::new(SystemClock::new()));
    driver.open().await.unwrap()
}

#[tokio::test]
async fn pymodbus_is_read_right_by_rtu_frames() {
    let Some(python) = std::env::var_os("MILLRACE_TEST_PYTHON") else {
        println!("skipped: MILLRACE_TEST_PYTHON names no Python with pymodbus");
        return;
    };
    let plant = Plant::whole();
    let mut command = Command::new(python);
    command.arg(peers().join("pymodbus_server.py")).arg("rtu");
    let peer = Peer::start(&mut command, &plant.tables());
    let address = format!("127.0.0.1:{}", peer.port);
    let clock = Arc::new(SystemClock::new());
    let over_tcp = Line::over_tcp(address, Duration::from_secs(30), clock);
    reads_whole(open_on(over_tcp, plant.points.clone()).await, &plant).await;
    let peer = Peer::start(&mut command, &plant.tables());
    let (port, _held) = Cable::to_socket(peer.port).await;
    reads_whole(open_on(serial(&port), plant.points.clone()).await, &plant).await;
}

#[tokio::test]
async fn pymodbus_is_read_right() {
    let Some(python) = std::env::var_os("MILLRACE_TEST_PYTHON") else {
        println!(
            "skipped: MILLRACE_TEST_PYTHON names no Python with pymodbus; `make test` sets it"
        );
        return;
    };
    let plant = Plant::whole();
    let mut command = Command::new(python);
    command.arg(peers().join("pymodbus_server.py"));
    let peer = Peer::start(&mut command, &plant.tables());
    let session = open(&peer, plant.points.clone()).await.unwrap();
    reads_whole(session, &plant).await;
}

/// Compiles the libmodbus peer; `None` where there is no compiler or no header.
fn libmodbus_server(directory: &Path) -> Option<PathBuf> {
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs", "libmodbus"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let flags = String::from_utf8(flags.stdout).ok()?;
    let program = directory.join("libmodbus_server");
    let compiled = Command::new("cc")
        .arg("-o")
        .arg(&program)
        .arg(peers().join("libmodbus_server.c"))
        .args(flags.split_whitespace())
        .status()
        .ok()?;
    assert!(compiled.success(), "the libmodbus peer does not compile");
    Some(program)
}

#[tokio::test]
async fn libmodbus_is_read_right() {
    let directory = tempfile::tempdir().unwrap();
    let Some(program) = libmodbus_server(directory.path()) else {
        println!(
            "skipped: no cc, pkg-config or libmodbus-dev; apt-get install gcc pkg-config libmodbus-dev"
        );
        return;
    };
    let plant = Plant::whole();
    let peer = Peer::start(&mut Command::new(program), &plant.tables());
    let session = open(&peer, plant.points.clone()).await.unwrap();
    reads_whole(session, &plant).await;
}

#[tokio::test]
async fn libmodbus_is_read_right_on_a_serial_line() {
    let directory = tempfile::tempdir().unwrap();
    let Some(program) = libmodbus_server(directory.path()) else {
        println!("skipped: no cc, pkg-config or libmodbus-dev");
        return;
    };
    let plant = Plant::whole();
    let cable = Cable::between_ports();
    let mut command = Command::new(program);
    command.arg(&cable.far);
    let _peer = Peer::start(&mut command, &plant.tables());
    reads_whole(
        open_on(serial(&cable.near), plant.points.clone()).await,
        &plant,
    )
    .await;
}
