//! Every function that a peer has, at the ends of what a request can hold, and its refusals.

use std::sync::Arc;
use std::time::Duration;

use millrace_drivers::modbus::{
    Caller, Heard, ReadRequest, Request, SerialSettings, Table, identify,
};
use millrace_tags::{Clock, SystemClock};

use crate::peer::Way;
use crate::plant::{BITS, is_set};
use crate::{TIMEOUT, UNIT};

/// What the unit says of itself, where it does.
pub(crate) const IDENTITY: [&str; 3] = ["Millrace tests", "PLANT", "1.0"];

/// As long as a peer that never answers is waited for.
const SILENCE: Duration = Duration::from_secs(1);

const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_ADDRESS: u8 = 2;

/// The tables of the peer as they must be, and what was asked of it so far.
pub(crate) struct Functions {
    way: Way,
    caller: Caller,
    holding: Vec<u16>,
    input: Vec<u16>,
    coils: Vec<bool>,
    discrete: Vec<bool>,
    exchanges: usize,
}

pub(crate) fn caller(way: &Way, timeout: Duration) -> Caller {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    match way {
        Way::Tcp(address) => Caller::tcp(address.clone(), timeout, &clock),
        Way::RtuOverTcp(address) => Caller::rtu_over_tcp(address.clone(), timeout, &clock),
        Way::Rtu(port) => {
            let mut settings = SerialSettings::new(port.clone());
            settings.baud = 115_200;
            Caller::serial(settings, timeout, &clock)
        }
    }
}

impl Functions {
    /// Of a peer with these registers in both tables.
    pub(crate) fn new(way: &Way, registers: &[u16]) -> Self {
        let bits: Vec<bool> = (0..BITS).map(is_set).collect();
        Self {
            way: way.clone(),
            caller: caller(way, TIMEOUT),
            holding: registers.to_vec(),
            input: registers.to_vec(),
            coils: bits.clone(),
            discrete: bits,
            exchanges: 0,
        }
    }

    /// Asks everything; how many exchanges that were.
    pub(crate) async fn all(mut self, identifies: bool) -> usize {
        self.reads().await;
        self.writes_of_coils().await;
        self.writes_of_registers().await;
        self.refusals().await;
        self.identity(identifies).await;
        self.exchanges
    }

    async fn call(&mut self, request: Request) -> Heard {
        self.exchanges += 1;
        self.caller.call(UNIT, &request).await.unwrap()
    }

    /// Functions 01 to 04.
    async fn read(&mut self, table: Table, start: u16, count: u16) {
        let heard = self.call(read(table, start, count)).await;
        let span = usize::from(start)..usize::from(start + count);
        let expected = match table {
            Table::Coil => pack(&self.coils[span]),
            Table::Discrete => pack(&self.discrete[span]),
            Table::Holding => bytes(&self.holding[span]),
            Table::Input => bytes(&self.input[span]),
        };
        assert_eq!(heard, Heard::Data(expected), "{table}:{start} x {count}");
    }

    async fn write(&mut self, request: Request) {
        let shown = request.to_string();
        assert_eq!(self.call(request).await, Heard::Written, "{shown}");
    }

    async fn reads(&mut self) {
        for table in [Table::Coil, Table::Discrete] {
            for (start, count) in [(0, 1), (3, 8), (5, 9), (0, 2000), (1999, 1)] {
                self.read(table, start, count).await;
            }
        }
        let last = self.holding.len() as u16 - 1;
        for table in [Table::Holding, Table::Input] {
            for (start, count) in [(0, 1), (1, 2), (7, 125), (last - 124, 125), (last, 1)] {
                self.read(table, start, count).await;
            }
        }
    }

    /// Functions 05 and 15.
    async fn writes_of_coils(&mut self) {
        for (address, on) in [(0, true), (0, false), (1999, true), (17, false)] {
            self.coils[usize::from(address)] = on;
            self.write(Request::WriteCoil { address, on }).await;
            self.read(Table::Coil, address, 1).await;
        }
        for (start, count) in [(1999, 1), (9, 8), (3, 13), (32, 1968)] {
            let bits: Vec<bool> = (0..count).map(|i| (start + i) % 5 < 2).collect();
            self.coils[usize::from(start)..][..bits.len()].copy_from_slice(&bits);
            self.write(Request::WriteCoils { start, bits }).await;
            self.read(Table::Coil, 0, BITS).await;
        }
    }

    /// Functions 06, 16, 22 and 23.
    async fn writes_of_registers(&mut self) {
        for (address, value) in [(0, 0xFFFF), (0, 0), (124, 0x0102)] {
            self.holding[usize::from(address)] = value;
            self.write(Request::WriteRegister { address, value }).await;
            self.read(Table::Holding, 0, 125).await;
        }
        for (start, count) in [(5, 1), (6, 2), (1, 123)] {
            let values = self.fill(start, count, 0x1000);
            self.write(Request::WriteRegisters { start, values }).await;
            self.read(Table::Holding, 0, 125).await;
        }
        for (address, and, or) in [(4, 0x00F2, 0x0025), (5, 0, 0xA5A5), (6, 0xFFFF, 0xFFFF)] {
            let register = &mut self.holding[usize::from(address)];
            *register = (*register & and) | (or & !and);
            self.write(Request::MaskWrite { address, and, or }).await;
            self.read(Table::Holding, address, 1).await;
        }
        // What is written is read in the same transaction.
        for (read_start, read_count, write_start, count) in
            [(10, 1, 10, 1), (0, 125, 2, 121), (200, 3, 40, 2)]
        {
            let values = self.fill(write_start, count, 0x2000);
            let heard = self.call(Request::ReadWrite {
                read_start,
                read_count,
                write_start,
                values,
            });
            let heard = heard.await;
            let span = usize::from(read_start)..usize::from(read_start + read_count);
            assert_eq!(heard, Heard::Data(bytes(&self.holding[span])));
            self.read(Table::Holding, write_start, count).await;
        }
    }

    /// Sets registers to numbers that are all different.
    fn fill(&mut self, start: u16, count: u16, from: u16) -> Vec<u16> {
        let values: Vec<u16> = (0..count).map(|i| from + start * 7 + i).collect();
        self.holding[usize::from(start)..][..values.len()].copy_from_slice(&values);
        values
    }

    /// A place that is not there, by each function.
    async fn refusals(&mut self) {
        let end = self.holding.len() as u16;
        for request in [
            read(Table::Coil, BITS, 1),
            read(Table::Discrete, BITS - 1, 2),
            read(Table::Holding, end, 1),
            read(Table::Input, end - 1, 2),
            Request::WriteCoil {
                address: BITS,
                on: true,
            },
            Request::WriteRegister {
                address: end,
                value: 1,
            },
            Request::WriteCoils {
                start: BITS - 1,
                bits: vec![true; 2],
            },
            Request::WriteRegisters {
                start: end - 1,
                values: vec![1; 2],
            },
            Request::MaskWrite {
                address: end,
                and: 0,
                or: 0,
            },
            Request::ReadWrite {
                read_start: end,
                read_count: 1,
                write_start: 0,
                values: vec![1],
            },
        ] {
            let shown = format!("function {}, {request}", request.function());
            let heard = self.call(request).await;
            assert_eq!(heard, Heard::Exception(ILLEGAL_ADDRESS), "{shown}");
        }
        // Nothing of them was done, nor did they put the two out of step.
        self.holding[0] = match self.call(read(Table::Holding, 0, 1)).await {
            Heard::Data(data) => u16::from_be_bytes([data[0], data[1]]),
            other => panic!("{other:?}"),
        };
        self.read(Table::Holding, end - 125, 125).await;
        self.read(Table::Coil, 0, BITS).await;
    }

    /// Function 43, MEI type 14. libmodbus takes its frame for a shorter one: over TCP it refuses it, on a line it
    /// finds the check sum wrong and says nothing.
    async fn identity(&mut self, identifies: bool) {
        let request = Request::Identify {
            access: 1,
            object: 0,
        };
        if !identifies {
            self.caller = caller(&self.way, SILENCE);
            let heard = self.call(request).await;
            let expected = match self.way {
                Way::Tcp(_) => Heard::Exception(ILLEGAL_FUNCTION),
                Way::RtuOverTcp(_) | Way::Rtu(_) => Heard::Silence,
            };
            assert_eq!(heard, expected);
            return;
        }
        self.exchanges += 1;
        let identity = identify(&mut self.caller, UNIT).await.unwrap().unwrap();
        assert_eq!(identity.summary(), IDENTITY.join(" "));
    }
}

fn read(table: Table, start: u16, count: u16) -> Request {
    Request::Read(ReadRequest {
        table,
        start,
        count,
    })
}

fn pack(bits: &[bool]) -> Vec<u8> {
    let bytes = bits.chunks(8).map(|bits| {
        let bits = bits.iter().rev();
        bits.fold(0, |byte, bit| byte << 1 | u8::from(*bit))
    });
    bytes.collect()
}

fn bytes(registers: &[u16]) -> Vec<u8> {
    registers.iter().flat_map(|r| r.to_be_bytes()).collect()
}
