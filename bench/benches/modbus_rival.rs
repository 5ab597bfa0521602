//! The adversarial exchanges of the tests, with the client of the `tokio-modbus` crate beside ours: how many answers of each
//! were not the device's answer to that question.
//!
//! `MILLRACE_EXCHANGES` and `MILLRACE_SEED` as in the tests of the driver.

use std::str::FromStr;

use anyhow::Result;
use millrace_drivers::SessionError;
use millrace_drivers::modbus::{FaultCounts, Framing, Link, Pace, Peer, Request, Table};
use millrace_drivers::sim::modbus::adversary::{
    FAULTS, Questions, TIMEOUT, UNIT, device, is_right, reply_pdu,
};
use millrace_drivers::sim::modbus::{Framing as SimFraming, Listen, SimModbus};
use millrace_tags::TestClock;
use tokio::io::DuplexStream;
use tokio_modbus::client::{Context, rtu, tcp};
use tokio_modbus::prelude::{Reader, Writer};
use tokio_modbus::{Error, Slave};

const EXCHANGES: usize = 20_000;

const SEED: u64 = 4;

/// A client that only fails is given a new connection.
const FAILURES_MAX: u32 = 10;

/// Who asks, and what it does when something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Ours,
    /// `tokio-modbus`, which goes on after an error.
    Theirs,
    /// `tokio-modbus`, with a new connection after each error.
    TheirsAnew,
}

enum Client {
    Ours(Box<Link<DuplexStream>>, Framing, Peer),
    Theirs(Context),
}

/// What a request came to.
enum Came {
    /// The PDU of the reply that it was taken for.
    Reply(Vec<u8>),
    /// The connection can be used.
    Nothing,
    /// The connection is of no use any more.
    Broken,
}

fn main() -> Result<()> {
    let (exchanges, seed) = (
        number("MILLRACE_EXCHANGES", EXCHANGES),
        number("MILLRACE_SEED", SEED),
    );
    println!("{exchanges} exchanges each, seed {seed}");
    println!(
        "{:<22} {:<38} {:>9} {:>9} {:>9}",
        "frames", "client", "answered", "failed", "wrong"
    );
    for framing in [SimFraming::Tcp, SimFraming::Rtu] {
        for who in [Who::Ours, Who::Theirs, Who::TheirsAnew] {
            // On a serial line a new connection leaves what is on the wire there.
            if framing == SimFraming::Rtu && who == Who::TheirsAnew {
                continue;
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()?;
            runtime.block_on(run(framing, who, exchanges, seed))?;
        }
    }
    Ok(())
}

fn number<T: FromStr>(variable: &str, default: T) -> T {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn run(framing: SimFraming, who: Who, exchanges: usize, seed: u64) -> Result<()> {
    let sim = device(&Listen::Memory(framing), &FAULTS, seed)?;
    let mut client = Client::connect(&sim, framing, who);
    let (mut answered, mut failed, mut wrong) = (0_u64, 0_u64, 0_u64);
    let mut in_a_row = 0;
    for request in Questions::new(seed).take(exchanges) {
        // What the device did before this request answers none of it.
        sim.take_exchanges(UNIT);
        let came = client.ask(&request).await;
        if let Came::Reply(reply) = &came {
            answered += 1;
            in_a_row = 0;
            wrong += u64::from(!is_right(&request, reply, &sim.take_exchanges(UNIT)));
            continue;
        }
        failed += 1;
        in_a_row += 1;
        let anew = match who {
            Who::Ours => matches!(came, Came::Broken),
            Who::Theirs => in_a_row == FAILURES_MAX,
            Who::TheirsAnew => true,
        };
        if anew {
            in_a_row = 0;
            client = Client::connect(&sim, framing, who);
        }
    }
    let frames = match framing {
        SimFraming::Tcp => "Modbus TCP",
        SimFraming::Rtu => "a serial line's",
    };
    let who = match who {
        Who::Ours => "millrace",
        Who::Theirs => "tokio-modbus",
        Who::TheirsAnew => "tokio-modbus, anew after each error",
    };
    println!("{frames:<22} {who:<38} {answered:>9} {failed:>9} {wrong:>9}");
    Ok(())
}

impl Client {
    fn connect(sim: &SimModbus, framing: SimFraming, who: Who) -> Self {
        let stream = sim.connect();
        if who == Who::Ours {
            let framing = match framing {
                SimFraming::Tcp => Framing::Tcp,
                SimFraming::Rtu => Framing::Rtu(Pace::of(19_200, 11)),
            };
            let peer = Peer {
                device: "sim".to_owned(),
                unit: UNIT,
                timeout: TIMEOUT,
            };
            let link = Link::new(stream, framing, FaultCounts::default());
            return Client::Ours(Box::new(link), framing, peer);
        }
        Client::Theirs(match framing {
            SimFraming::Tcp => tcp::attach_slave(stream, Slave(UNIT)),
            SimFraming::Rtu => rtu::attach_slave(stream, Slave(UNIT)),
        })
    }

    async fn ask(&mut self, request: &Request) -> Came {
        let clock = TestClock::new(1, None);
        match self {
            Client::Ours(link, framing, peer) => match link.exchange(peer, request, &clock).await {
                Ok(reply) => match reply_pdu(request, &reply.answer) {
                    Some(pdu) => Came::Reply(pdu),
                    None => Came::Nothing,
                },
                Err(SessionError::Timeout { .. }) => Came::Nothing,
                // A serial line goes on by itself.
                Err(SessionError::Protocol { .. }) if *framing != Framing::Tcp => Came::Nothing,
                Err(_) => Came::Broken,
            },
            Client::Theirs(context) => {
                match tokio::time::timeout(TIMEOUT, ask_theirs(context, request)).await {
                    Ok(Ok(reply)) => Came::Reply(reply),
                    Ok(Err(_)) | Err(_) => Came::Nothing,
                }
            }
        }
    }
}

/// Asks, and makes the PDU of the reply that the client says it had.
async fn ask_theirs(context: &mut Context, request: &Request) -> Result<Vec<u8>, Error> {
    let mut asked = Vec::new();
    request.encode(&mut asked);
    let written = || asked[..5].to_vec();
    let answer = match request {
        Request::Read(read) => {
            let registers = match read.table {
                Table::Input => context.read_input_registers(read.start, read.count).await,
                _ => context.read_holding_registers(read.start, read.count).await,
            };
            registers?.map(|registers| {
                let data = registers.iter().flat_map(|register| register.to_be_bytes());
                let head = [asked[0], (registers.len() * 2) as u8];
                head.into_iter().chain(data).collect()
            })
        }
        Request::WriteRegister { address, value } => {
            let done = context.write_single_register(*address, *value).await?;
            done.map(|()| written())
        }
        Request::WriteRegisters { start, values } => {
            let done = context.write_multiple_registers(*start, values).await?;
            done.map(|()| written())
        }
        // The questions have no others.
        _ => Ok(Vec::new()),
    };
    Ok(answer.unwrap_or_else(|code| vec![asked[0] | 0x80, u8::from(code)]))
}
