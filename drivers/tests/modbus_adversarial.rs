//! Exchanges with devices that do everything wrong: none of them may bring a wrong value.
//!
//! Devices, faults and requests come from one seed, over transports in memory and on tokio's paused
//! clock, and once more on a pseudo-terminal in real time ([`adversary`]). `MILLRACE_EXCHANGES` sets how many there are,
//! `MILLRACE_PTY_EXCHANGES` how many in real time; `MILLRACE_SEED` another seed.

// A test that cannot set itself up has failed.
#![allow(clippy::unwrap_used)]

use std::str::FromStr;
use std::time::Duration;

use millrace_drivers::SessionError;
use millrace_drivers::modbus::{
    Answer, Fault, FaultCounts, Framing, Link, Pace, Parity, Peer, Request, SerialSettings,
    Transport,
};
use millrace_drivers::sim::modbus::adversary::{
    FAULTS, LATE, Questions, TIMEOUT, UNIT, device, is_right, reply_pdu,
};
use millrace_drivers::sim::modbus::{
    Exchange, Fault as SimFault, Framing as SimFraming, Listen, SimModbus,
};
use millrace_tags::{SystemClock, TestClock};

/// Of each kind of transport, where nothing else is asked for.
const EXCHANGES: u64 = 3_000;

/// Of those in real time.
const PTY_EXCHANGES: u64 = 150;

const SEED: u64 = 4;

fn number<T: FromStr>(variable: &str, default: T) -> T {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What came of a run.
#[derive(Debug, Default)]
struct Outcome {
    answered: u64,
    failed: u64,
    wrong: Vec<String>,
    faults: FaultCounts,
}

impl Outcome {
    /// Judges what came of a request; whether the link is broken.
    fn take(
        &mut self,
        request: &Request,
        came: Result<Answer<'_>, SessionError>,
        framing: Framing,
        done: &[Exchange],
    ) -> bool {
        match came {
            Ok(answer) => {
                self.answered += 1;
                let reply = reply_pdu(request, &answer);
                if reply.is_some_and(|reply| !is_right(request, &reply, done)) {
                    self.wrong.push(format!("{request:?} {answer:?} {done:?}"));
                }
                false
            }
            Err(error) => {
                self.failed += 1;
                match framing {
                    Framing::Tcp => !matches!(error, SessionError::Timeout { .. }),
                    Framing::Rtu(_) => matches!(error, SessionError::Lost { .. }),
                }
            }
        }
    }

    fn tell(&self, framing: Framing, seed: u64, sim: &SimModbus) {
        println!(
            "seed {seed}, {framing:?}: {} answered, {} failed, {} wrong; client {:?}; device {:?}",
            self.answered,
            self.failed,
            self.wrong.len(),
            self.faults.by_name(),
            sim.counts().faults
        );
    }

    fn judge(&self, expected: &[Fault]) {
        assert_eq!(self.wrong, [] as [String; 0]);
        assert!(self.answered > self.failed, "{self:?}");
        for fault in expected {
            assert!(
                self.faults.get(*fault) > 0,
                "no {} was counted",
                fault.name()
            );
        }
    }
}

fn peer(timeout: Duration) -> Peer {
    Peer {
        device: "sim".to_owned(),
        unit: UNIT,
        timeout,
    }
}

async fn run(
    sim_framing: SimFraming,
    framing: Framing,
    faults: &[&str],
    exchanges: u64,
    seed: u64,
) -> Outcome {
    let sim = device(&Listen::Memory(sim_framing), faults, seed).unwrap();
    let clock = TestClock::new(1, None);
    let peer = peer(TIMEOUT);
    let mut outcome = Outcome::default();
    let mut link = Link::new(sim.connect(), framing, outcome.faults.clone());
    for request in Questions::new(seed).take(exchanges as usize) {
        // What the device did before this request answers none of it.
        sim.take_exchanges(UNIT);
        let came = link.exchange(&peer, &request, &clock).await;
        let came = came.map(|reply| reply.answer);
        if outcome.take(&request, came, framing, &sim.take_exchanges(UNIT)) {
            link = Link::new(sim.connect(), framing, outcome.faults.clone());
        }
    }
    outcome.tell(framing, seed, &sim);
    outcome
}

#[tokio::test(start_paused = true)]
async fn no_wrong_value_over_tcp() {
    let exchanges = number("MILLRACE_EXCHANGES", EXCHANGES);
    let seed = number("MILLRACE_SEED", SEED);
    let outcome = run(SimFraming::Tcp, Framing::Tcp, &FAULTS, exchanges, seed).await;
    use Fault::{BadHeader, Stale, Timeout, WrongFunction, WrongLength, WrongUnit};
    outcome.judge(&[
        Timeout,
        Stale,
        WrongUnit,
        WrongFunction,
        WrongLength,
        BadHeader,
    ]);
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
    outcome.judge(&ON_A_LINE);
}

#[tokio::test(start_paused = true)]
async fn no_wrong_value_with_serial_frames_over_tcp() {
    let exchanges = number("MILLRACE_EXCHANGES", EXCHANGES);
    let seed = number("MILLRACE_SEED", SEED);
    let framing = Framing::Rtu(Pace::behind_network());
    let outcome = run(SimFraming::Rtu, framing, &FAULTS, exchanges, seed).await;
    outcome.judge(&ON_A_LINE);
}

#[tokio::test(start_paused = true)]
async fn no_late_reply_is_taken_for_the_same_question() {
    let exchanges = number("MILLRACE_EXCHANGES", EXCHANGES);
    let seed = number("MILLRACE_SEED", SEED);
    for pace in [Pace::of(19_200, 11), Pace::behind_network()] {
        let framing = Framing::Rtu(pace);
        let outcome = run(SimFraming::Rtu, framing, &LATE, exchanges, seed).await;
        outcome.judge(&[Fault::Timeout, Fault::Late]);
    }
}

/// What a unit on a pseudo-terminal does to every third request, in turn, and in real time.
const IN_REAL_TIME: [&str; 17] = [
    "late 30ms",
    "late 260ms",
    "late 450ms",
    "truncated",
    "short",
    "duplicate",
    "wrong-unit",
    "wrong-function",
    "crc",
    "noise",
    "echo",
    "garbage",
    "slow 1ms",
    "silent",
    "exception 2",
    "busy",
    "drop",
];

/// Of a pseudo-terminal: a kernel that hands bytes over when it likes, and a clock that nobody stops.
#[tokio::test]
async fn no_wrong_value_on_a_pseudo_terminal() {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let exchanges = number("MILLRACE_PTY_EXCHANGES", PTY_EXCHANGES);
    let seed = number("MILLRACE_SEED", SEED);
    let sim = device(&Listen::Pty, &[], seed).unwrap();
    let mut settings = SerialSettings::new(sim.address());
    (settings.baud, settings.parity) = (115_200, Parity::None);
    let framing = Framing::Rtu(settings.pace());
    let (clock, peer) = (SystemClock::new(), peer(TIMEOUT));
    let mut outcome = Outcome::default();
    let mut faults = IN_REAL_TIME.iter().cycle();
    let stream: Box<dyn Transport> = Box::new(settings.open().unwrap());
    let mut link = Link::new(stream, framing, outcome.faults.clone());
    for (nth, request) in (0..exchanges).zip(Questions::new(seed)) {
        if nth % 3 == 0 {
            let fault: SimFault = faults.next().unwrap().parse().unwrap();
            sim.inject(fault);
        }
        sim.take_exchanges(UNIT);
        let came = link.exchange(&peer, &request, &clock).await;
        let came = came.map(|reply| reply.answer);
        let broken = outcome.take(&request, came, framing, &sim.take_exchanges(UNIT));
        assert!(!broken, "the port is gone");
    }
    outcome.tell(framing, seed, &sim);
    outcome.judge(&ON_A_LINE);
    if exchanges >= 2 * IN_REAL_TIME.len() as u64 * 3 {
        let injected = sim.counts().faults;
        for words in IN_REAL_TIME {
            let name = words.split(' ').next().unwrap();
            assert!(injected.contains_key(name), "{name} never came");
        }
    }
}
