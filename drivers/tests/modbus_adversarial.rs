//! Exchanges with devices that do everything wrong: none of them may bring a wrong value.
//!
//! Devices, faults and requests come from one seed, over transports in memory and on tokio's paused clock. The
//! values of the device are others with each request, and it remembers what it answered rightly and to
//! what, so that a reply which is taken for another request's shows up. `MILLRACE_EXCHANGES` sets how
//! many there are; `MILLRACE_SEED` another seed.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::str::FromStr;
use std::time::Duration;

use millrace_drivers::SessionError;
use millrace_drivers::modbus::{
    Answer, Fault, FaultCounts, Framing, Link, Pace, Peer, ReadRequest, Request, Table,
};
use millrace_drivers::sim::modbus::{
    Exchange, Fault as SimFault, Faults, Framing as SimFraming, Listen, RegisterMap, SimModbus,
    SimUnit,
};
use millrace_tags::TestClock;

/// Of each kind of transport, where nothing else is asked for.
const EXCHANGES: u64 = 3_000;

const SEED: u64 = 4;

const UNIT: u8 = 7;

/// Registers in each table.
const REGISTERS: u16 = 200;

/// Questions that come again and again: most of what was given up is asked once more while its reply may come.
const STARTS: u16 = 3;

const TIMEOUT: Duration = Duration::from_secs(1);

const FAULTS: [&str; 24] = [
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
const LATE: [&str; 7] = [
    "late 1050ms 2%",
    "late 2020ms 2%",
    "late 3030ms 2%",
    "late 4040ms 2%",
    "late 5050ms 2%",
    "late 6060ms 2%",
    "exception 2 2%",
];

fn number<T: FromStr>(variable: &str, default: T) -> T {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A unit whose registers tell each request apart.
fn device(framing: SimFraming, misbehaviour: &[&str], seed: u64) -> SimModbus {
    let mut csv = "name,address,type,signal\n".to_owned();
    for table in ["holding", "input"] {
        for i in 0..REGISTERS / 2 {
            csv += &format!("{table}{i},{table}:{},u32,unique\n", i * 2);
        }
    }
    let mut faults = Faults::default();
    for words in misbehaviour {
        faults.add(words).unwrap();
    }
    let map = RegisterMap::from_csv(csv.as_bytes()).unwrap();
    let unit = SimUnit {
        id: Some(UNIT),
        map,
        faults,
    };
    let sim = SimModbus::start(&Listen::Memory(framing), vec![unit], seed).unwrap();
    sim.keep_exchanges();
    sim
}

/// Reads and now and then writes of a few places.
struct Questions {
    rng: fastrand::Rng,
}

impl Questions {
    fn next(&mut self) -> Request {
        // Few shapes: a reply to another request often has the right length.
        let count = [2, 2, 2, 4, 10][self.rng.usize(0..5)];
        let start = self.rng.u16(0..STARTS) * 10;
        match self.rng.u8(0..10) {
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
        }
    }
}

/// The PDU of a reply that says this.
fn reply_pdu(request: &Request, answer: &Answer<'_>) -> Option<Vec<u8>> {
    let mut pdu = Vec::new();
    request.encode(&mut pdu);
    match answer {
        Answer::Data(data) => Some([&[pdu[0], data.len() as u8], *data].concat()),
        Answer::Written => Some(pdu[..5].to_vec()),
        Answer::Exception(code) => Some(vec![pdu[0] | 0x80, u8::from(*code)]),
        Answer::Spoilt(_) => None,
    }
}

/// Whether the device gave this answer to this request, and gave it rightly.
fn is_right(request: &Request, answer: &Answer<'_>, exchanges: &[Exchange]) -> bool {
    let Some(claimed) = reply_pdu(request, answer) else {
        return true;
    };
    let mut asked = Vec::new();
    request.encode(&mut asked);
    let found = |e: &Exchange| {
        let in_time = !matches!(e.fault, Some(SimFault::Late(by)) if by >= TIMEOUT);
        in_time && e.request == asked && e.reply.as_ref() == Some(&claimed)
    };
    exchanges.iter().any(found)
}

/// What came of a run.
#[derive(Debug, Default)]
struct Outcome {
    answered: u64,
    failed: u64,
    wrong: Vec<String>,
    faults: FaultCounts,
}

async fn run(
    sim_framing: SimFraming,
    framing: Framing,
    faults: &[&str],
    exchanges: u64,
    seed: u64,
) -> Outcome {
    let sim = device(sim_framing, faults, seed);
    let clock = TestClock::new(1, None);
    let peer = Peer {
        device: "sim".to_owned(),
        unit: UNIT,
        timeout: TIMEOUT,
    };
    let mut outcome = Outcome::default();
    let mut questions = Questions {
        rng: fastrand::Rng::with_seed(seed),
    };
    let mut link = Link::new(sim.connect(), framing, outcome.faults.clone());
    for nth in 0..exchanges {
        let request = questions.next();
        // What the device did before this request answers none of it.
        sim.take_exchanges(UNIT);
        let broken = match link.exchange(&peer, &request, &clock).await {
            Ok(reply) => {
                outcome.answered += 1;
                let done = sim.take_exchanges(UNIT);
                if !is_right(&request, &reply.answer, &done) {
                    outcome
                        .wrong
                        .push(format!("{nth}: {request:?} {:?} {done:?}", reply.answer));
                }
                false
            }
            Err(error) => {
                outcome.failed += 1;
                match framing {
                    Framing::Tcp => !matches!(error, SessionError::Timeout { .. }),
                    Framing::Rtu(_) => matches!(error, SessionError::Lost { .. }),
                }
            }
        };
        if broken {
            link = Link::new(sim.connect(), framing, outcome.faults.clone());
        }
    }
    println!(
        "{framing:?}: {} answered, {} failed, {} wrong; client {:?}; device {:?}",
        outcome.answered,
        outcome.failed,
        outcome.wrong.len(),
        outcome.faults.by_name(),
        sim.counts().faults
    );
    outcome
}

fn judge(outcome: &Outcome, expected: &[Fault]) {
    assert_eq!(outcome.wrong, [] as [String; 0]);
    assert!(outcome.answered > outcome.failed, "{outcome:?}");
    for fault in expected {
        assert!(
            outcome.faults.get(*fault) > 0,
            "no {} was counted",
            fault.name()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_wrong_value_over_tcp() {
    let exchanges = number("MILLRACE_EXCHANGES", EXCHANGES);
    let seed = number("MILLRACE_SEED", SEED);
    let outcome = run(SimFraming::Tcp, Framing::Tcp, &FAULTS, exchanges, seed).await;
    use Fault::{BadHeader, Stale, Timeout, WrongFunction, WrongLength, WrongUnit};
    judge(
        &outcome,
        &[
            Timeout,
            Stale,
            WrongUnit,
            WrongFunction,
            WrongLength,
            BadHeader,
        ],
    );
}

const ON_A_LINE: [Fault; 7] = [
    Fault::Timeout,
    Fault::Late,
    Fault::WrongUnit,
    Fault::WrongFunction,
    Fault::Checksum,
    Fault::Noise,
    Fault::OwnEcho,
];

#[tokio::test(start_paused = true)]
async fn no_wrong_value_on_a_serial_line() {
    let exchanges = number("MILLRACE_EXCHANGES", EXCHANGES);
    let seed = number("MILLRACE_SEED", SEED);
    let framing = Framing::Rtu(Pace::of(19_200, 11));
    let outcome = run(SimFraming::Rtu, framing, &FAULTS, exchanges, seed).await;
    judge(&outcome, &ON_A_LINE);
}

#[tokio::test(start_paused = true)]
async fn no_wrong_value_with_serial_frames_over_tcp() {
    let exchanges = number("MILLRACE_EXCHANGES", EXCHANGES);
    let seed = number("MILLRACE_SEED", SEED);
    let framing = Framing::Rtu(Pace::behind_network());
    let outcome = run(SimFraming::Rtu, framing, &FAULTS, exchanges, seed).await;
    judge(&outcome, &ON_A_LINE);
}

#[tokio::test(start_paused = true)]
async fn no_late_reply_is_taken_for_the_same_question() {
    let exchanges = number("MILLRACE_EXCHANGES", EXCHANGES);
    let seed = number("MILLRACE_SEED", SEED);
    for pace in [Pace::of(19_200, 11), Pace::behind_network()] {
        let framing = Framing::Rtu(pace);
        let outcome = run(SimFraming::Rtu, framing, &LATE, exchanges, seed).await;
        judge(&outcome, &[Fault::Timeout, Fault::Late]);
    }
}
