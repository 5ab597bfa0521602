//! Foreign clients against our simulated device: what they read, by their own conversions, is what it is worth.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;

use millrace_drivers::modbus::{Heard, ReadRequest, Request, Table, identify};
use millrace_drivers::sim::modbus::{Faults, Listen, RegisterMap, SimModbus, SimUnit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::functions::caller;
use crate::peer::{Way, command, port_to};
use crate::{STEP, TIMEOUT, UNIT, say};

/// Addresses of each table that hold one plain number each.
const PLAIN: u16 = 300;

/// Where the typed values begin.
const TYPED: u16 = 400;

/// Types with a value, as both the simulator and the clients write it.
const VALUES: [(&str, &str); 8] = [
    ("i16", "-30000"),
    ("u16", "60001"),
    ("i32", "-2000000001"),
    ("u32", "4000000001"),
    ("i64", "-9007199254740991"),
    ("u64", "9007199254740991"),
    ("f32", "-0.15625"),
    ("f64", "6.022e+23"),
];

const ORDERS: [&str; 4] = ["abcd", "badc", "cdab", "dcba"];

/// What address `i` of a table is worth at the beginning.
fn worth(table: Table, i: u16) -> u16 {
    match table {
        Table::Coil => u16::from(i.is_multiple_of(3)),
        Table::Discrete => u16::from(i % 4 == 1),
        Table::Input => i.wrapping_mul(211).wrapping_add(7),
        Table::Holding => i.wrapping_mul(307).wrapping_add(11),
    }
}

fn place(data_type: usize, order: usize) -> u16 {
    TYPED + (data_type * ORDERS.len() + order) as u16 * 4
}

fn map() -> RegisterMap {
    let mut csv = "name,address,type,order,signal\n".to_owned();
    for table in Table::ALL {
        let data_type = if table.is_bits() { "bool" } else { "u16" };
        for i in 0..PLAIN {
            let value = worth(table, i);
            csv += &format!("{table}{i},{table}:{i},{data_type},,constant {value}\n");
        }
    }
    for (i, (data_type, value)) in VALUES.iter().enumerate() {
        for (j, order) in ORDERS.iter().enumerate() {
            let at = place(i, j);
            csv +=
                &format!("{data_type}-{order},holding:{at},{data_type},{order},constant {value}\n");
        }
    }
    RegisterMap::from_csv(csv.as_bytes()).unwrap()
}

fn simulated(listen: &Listen) -> SimModbus {
    let unit = SimUnit {
        id: Some(UNIT),
        map: map(),
        faults: Faults::default(),
    };
    SimModbus::start(listen, vec![unit], 1).unwrap()
}

/// A client that does what it is told.
struct Client {
    process: tokio::process::Child,
    asked: usize,
}

impl Client {
    fn start(program: &[PathBuf], way: &str, place: &str) -> Self {
        let mut command = tokio::process::Command::from(command(program));
        let process = command
            .args([way, place])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { process, asked: 0 }
    }

    /// Does all lines in turn; each brings what is expected.
    async fn does(&mut self, lines: &[(String, String)]) {
        let stdin = self.process.stdin.as_mut().unwrap();
        let mut answers = BufReader::new(self.process.stdout.as_mut().unwrap());
        for (line, expected) in lines {
            stdin
                .write_all(format!("{line}\n").as_bytes())
                .await
                .unwrap();
            let mut answer = String::new();
            answers.read_line(&mut answer).await.unwrap();
            assert_eq!(answer.trim(), expected, "{line}");
            self.asked += 1;
        }
    }
}

/// Lines for a client, with the state of the device as they change it.
struct Script {
    coils: Vec<u16>,
    holding: Vec<u16>,
    lines: Vec<(String, String)>,
}

impl Script {
    fn new() -> Self {
        let table = |table| (0..PLAIN).map(|i| worth(table, i)).collect();
        Self {
            coils: table(Table::Coil),
            holding: table(Table::Holding),
            lines: Vec::new(),
        }
    }

    fn line(&mut self, line: String, expected: String) {
        self.lines.push((line, expected));
    }

    fn read(&mut self, function: u8, start: u16, count: u16) {
        let span = start..start + count;
        let values: Vec<u16> = match function {
            1 => span.map(|i| self.coils[usize::from(i)]).collect(),
            2 => span.map(|i| worth(Table::Discrete, i)).collect(),
            3 => span.map(|i| self.holding[usize::from(i)]).collect(),
            _ => span.map(|i| worth(Table::Input, i)).collect(),
        };
        self.line(format!("{function} {start} {count}"), numbers(&values));
    }

    fn write(&mut self, function: u8, start: u16, values: &[u16]) {
        let line = format!("{function} {start} {}", numbers(values));
        let table = match function {
            5 | 15 => &mut self.coils,
            _ => &mut self.holding,
        };
        table[usize::from(start)..][..values.len()].copy_from_slice(values);
        self.line(line, "ok".to_owned());
        let read = if matches!(function, 5 | 15) { 1 } else { 3 };
        self.read(read, 0, 125);
    }

    /// Functions 1 to 6, 15, 16, 22 and 23, and refusals.
    fn functions(&mut self) {
        for function in 1..=4 {
            for (start, count) in [(0, 1), (7, 9), (0, 125), (PLAIN - 1, 1)] {
                self.read(function, start, count);
            }
            let line = format!("{function} 65000 1");
            self.line(line, "exception 2".to_owned());
        }
        self.read(1, 0, PLAIN);
        self.write(5, 1, &[1]);
        self.write(5, 0, &[0]);
        self.write(6, 2, &[0xFFFE]);
        self.write(15, 3, &[1, 0, 0, 1, 1, 1, 0, 1, 1, 0]);
        self.write(16, 4, &[1]);
        self.write(16, 0, &(0..123).map(|i| 0x4000 + i).collect::<Vec<u16>>());
        let (and, or) = (0x00F2, 0x0025);
        self.holding[9] = (self.holding[9] & and) | (or & !and);
        self.line(format!("22 9 {and} {or}"), "ok".to_owned());
        self.read(3, 9, 1);
        // Writes first.
        let values: Vec<u16> = (0..121).map(|i| 0x5000 + i).collect();
        self.holding[10..][..121].copy_from_slice(&values);
        let expected = numbers(&self.holding[20..145]);
        self.line(format!("23 20 125 10 {}", numbers(&values)), expected);
        self.line("6 65000 1".to_owned(), "exception 2".to_owned());
        self.read(3, 0, 125);
    }

    /// Values by the client's own conversions.
    fn decode(&mut self, types: &[&str], orders: &[&str]) {
        for (i, (data_type, value)) in VALUES.iter().enumerate() {
            for (j, order) in ORDERS.iter().enumerate() {
                if types.contains(data_type) && orders.contains(order) {
                    let line = format!("decode {data_type} {order} {}", place(i, j));
                    self.line(line, (*value).to_owned());
                }
            }
        }
    }
}

fn numbers(values: &[u16]) -> String {
    let words: Vec<String> = values.iter().map(u16::to_string).collect();
    words.join(" ")
}

/// Runs the script, and looks with our own eyes at what it left.
async fn run(mut client: Client, script: &Script, way: &Way, name: &str) {
    client.does(&script.lines).await;
    let asked = client.asked;
    client.process.kill().await.unwrap();
    let mut own = caller(way, TIMEOUT);
    let request = Request::Read(ReadRequest {
        table: Table::Holding,
        start: 0,
        count: 125,
    });
    let heard = loop {
        match own.call(UNIT, &request).await {
            // The client's port is let go when it is gone.
            Err(millrace_drivers::SessionError::Connect { .. }) => tokio::time::sleep(STEP).await,
            heard => break heard.unwrap(),
        }
    };
    let expected: Vec<u8> = script.holding[..125]
        .iter()
        .flat_map(|register| register.to_be_bytes())
        .collect();
    assert_eq!(heard, Heard::Data(expected));
    say(&format!(
        "client {name} against our simulated device, {}: {asked} requests",
        way.name()
    ));
}

/// The three ways, with the words for a client that has them all.
fn listens() -> [(Listen, &'static str); 3] {
    [
        (Listen::Tcp("127.0.0.1:0".to_owned()), "tcp"),
        (Listen::RtuOverTcp("127.0.0.1:0".to_owned()), "rtu-tcp"),
        (Listen::Pty, "rtu"),
    ]
}

fn way(sim: &SimModbus, word: &str) -> Way {
    let place = sim.address().to_owned();
    match word {
        "tcp" => Way::Tcp(place),
        "rtu-tcp" => Way::RtuOverTcp(place),
        _ => Way::Rtu(place),
    }
}

#[tokio::test]
async fn pymodbus_reads_and_writes_our_simulated_device() {
    let Some(program) = crate::peer::pymodbus("pymodbus_client.py") else {
        return;
    };
    for (listen, word) in listens() {
        let sim = simulated(&listen);
        let way = way(&sim, word);
        let mut own = caller(&way, TIMEOUT);
        let identity = identify(&mut own, UNIT).await.unwrap().unwrap();
        drop(own);
        let mut script = Script::new();
        script.functions();
        script.decode(&VALUES.map(|(data_type, _)| data_type), &["abcd", "cdab"]);
        script.line("43 0".to_owned(), identity.summary());
        let client = Client::start(&program, word, sim.address());
        run(client, &script, &way, "pymodbus").await;
    }
}

#[tokio::test]
async fn libmodbus_reads_and_writes_our_simulated_device() {
    let directory = tempfile::tempdir().unwrap();
    let Some(program) = crate::peer::libmodbus("libmodbus_client.c", directory.path()) else {
        return;
    };
    for (listen, word) in listens() {
        let sim = simulated(&listen);
        let way = way(&sim, word);
        let mut script = Script::new();
        script.functions();
        script.decode(&["i32", "u32", "i64", "u64"], &["abcd"]);
        script.decode(&["f32"], &ORDERS);
        // It has no RTU over TCP: a converter has its port, and the other end of it is a socket.
        let (place, _held): (String, Option<File>) = match word {
            "rtu-tcp" => {
                let (port, held) = port_to(sim.address()).await;
                (port, Some(held))
            }
            _ => (sim.address().to_owned(), None),
        };
        let word = if word == "tcp" { "tcp" } else { "rtu" };
        let client = Client::start(&program, word, &place);
        run(client, &script, &way, "libmodbus").await;
    }
}
