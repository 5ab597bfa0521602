//! A device that does everything wrong, what it is asked, and the judge of what a client made of it.
//!
//! For the tests of the driver, and for the bench, which puts a library's client to the same seeds. The registers are worth
//! something else with each request, and the device remembers what it answered rightly and to what
//! ([`SimModbus::keep_exchanges`]), so that a reply which is taken for another request's shows up.

use std::io;
use std::time::Duration;

use super::{Exchange, Fault, Faults, Listen, RegisterMap, SimModbus, SimUnit};
use crate::modbus::{Answer, ReadRequest, Request, Table};

/// The unit that answers.
pub const UNIT: u8 = 7;

/// How long a client waits for a reply, to which the times in [`FAULTS`] and [`LATE`] were chosen.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// Every fault of a reply, and replies that are late by every part of the timeout.
pub const FAULTS: [&str; 24] = [
    "late 300ms 2%",
    "late 1200ms 2%",
    "late 1900ms 1%",
    "late 2100ms 1%",
    "late 3050ms 1%",
    "late 4s 1%",
    "late 4990ms 1%",
    "truncated 2%",
    "short 2%",
    "duplicate 2%",
    "wrong-unit 2%",
    "wrong-transaction 2%",
    "wrong-function 2%",
    "crc 2%",
    "noise 2%",
    "echo 2%",
    "garbage 2%",
    "slow 5ms 1%",
    "silent 1%",
    "exception 2 1%",
    "exception 4 1%",
    "busy 2%",
    "drop 1%",
    "reboot 1ms 0.2%",
];

/// A unit that is mostly in time, and else later than it was waited for by one to five timeouts.
pub const LATE: [&str; 7] = [
    "late 1050ms 2%",
    "late 2020ms 2%",
    "late 3030ms 2%",
    "late 4040ms 2%",
    "late 5050ms 2%",
    "late 6060ms 2%",
    "exception 2 2%",
];

/// Registers in each table.
const REGISTERS: u16 = 200;

/// Questions that come again and again: most of what was given up is asked once more while its reply may come.
const STARTS: u16 = 3;

/// The device, which remembers its exchanges.
///
/// # Errors
/// It cannot listen there, or a fault is none.
///
/// # Panics
/// Outside of a Tokio runtime.
pub fn device(listen: &Listen, misbehaviour: &[&str], seed: u64) -> io::Result<SimModbus> {
    let mut csv = "name,address,type,signal\n".to_owned();
    for table in ["holding", "input"] {
        for i in 0..REGISTERS / 2 {
            csv += &format!("{table}{i},{table}:{},u32,unique\n", i * 2);
        }
    }
    let map = RegisterMap::from_csv(csv.as_bytes()).map_err(io::Error::other)?;
    let mut faults = Faults::default();
    for words in misbehaviour {
        faults.add(words).map_err(io::Error::other)?;
    }
    let id = Some(UNIT);
    let sim = SimModbus::start(listen, vec![SimUnit { id, map, faults }], seed)?;
    sim.keep_exchanges();
    Ok(sim)
}

/// Reads and now and then writes of a few places.
#[derive(Debug)]
pub struct Questions {
    rng: fastrand::Rng,
}

impl Questions {
    /// The same questions for the same seed.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
        }
    }
}

impl Iterator for Questions {
    type Item = Request;

    /// The next one; there is no end.
    fn next(&mut self) -> Option<Request> {
        // Few shapes: a reply to another request often has the right length.
        let count = [2, 2, 2, 4, 10][self.rng.usize(0..5)];
        let start = self.rng.u16(0..STARTS) * 10;
        Some(match self.rng.u8(0..10) {
            0 => Request::WriteRegister {
                address: start,
                value: self.rng.u16(..4),
            },
            1 => Request::WriteRegisters {
                start,
                values: (0..count).map(|_| self.rng.u16(..)).collect(),
            },
            n => Request::Read(ReadRequest {
                table: if n < 6 { Table::Holding } else { Table::Input },
                start,
                count,
            }),
        })
    }
}

/// The PDU of a reply that says this; `None` where nothing was said.
pub fn reply_pdu(request: &Request, answer: &Answer<'_>) -> Option<Vec<u8>> {
    let mut pdu = Vec::new();
    request.encode(&mut pdu);
    match answer {
        Answer::Data(data) => Some([&[pdu[0], data.len() as u8], *data].concat()),
        Answer::Written => Some(pdu[..5].to_vec()),
        Answer::Exception(code) => Some(vec![pdu[0] | 0x80, u8::from(*code)]),
        Answer::Spoilt(_) => None,
    }
}

/// Whether the device gave this reply to this request since its exchanges were last taken, rightly and in time.
pub fn is_right(request: &Request, reply: &[u8], exchanges: &[Exchange]) -> bool {
    let mut asked = Vec::new();
    request.encode(&mut asked);
    let found = |e: &Exchange| {
        let in_time = !matches!(e.fault, Some(Fault::Late(by)) if by >= TIMEOUT);
        in_time && e.request == asked && e.reply.as_deref() == Some(reply)
    };
    exchanges.iter().any(found)
}
