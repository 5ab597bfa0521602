//! Replies that units still owe, and the questions that show that they do not come any more.
//!
//! Nothing in an RTU frame says which request it answers. A request that was given up may be answered
//! long afterwards, and its reply fits every later request of the same function and length. So whoever owes
//! a reply is first asked something whose answer cannot be that reply: fewer registers, or by a function
//! that is not owed, and always another number of bytes, since a unit that is out of step may put the function of
//! one request to the data of another. A unit answers in the order in which it was asked; when the answer is there, nothing
//! older can follow it. A unit that answers none of these questions is left alone until
//! [`FORGET_TIMEOUTS`] have passed since it was last asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::modbus::address::Table;
use crate::modbus::request::{ReadRequest, Request};

/// A reply is not expected any more after so many timeouts without another request.
const FORGET_TIMEOUTS: u32 = 10;

/// So many lengths of a reply are looked at for a question by another function.
const OTHER_LENGTHS: usize = 4;

/// What the units of a link owe. One that owes nothing has no entry.
#[derive(Default)]
pub(crate) struct Owed(Vec<Debt>);

struct Debt {
    unit: u8,
    asked: Vec<Asked>,
    /// The unit is not asked before: its reply may be on its way.
    quiet_until: Option<Instant>,
    forget_at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Asked {
    function: u8,
    /// Its place and length, where it was a read.
    read: Option<ReadRequest>,
}

impl Owed {
    /// The request is about to be sent.
    pub(super) fn ask(&mut self, unit: u8, request: &Request, timeout: Duration) {
        let asked = Asked {
            function: request.function(),
            read: match request {
                Request::Read(read) => Some(*read),
                _ => None,
            },
        };
        let forget_at = Instant::now() + timeout * FORGET_TIMEOUTS;
        match self.0.iter_mut().find(|debt| debt.unit == unit) {
            Some(debt) => {
                if !debt.asked.contains(&asked) {
                    debt.asked.push(asked);
                }
                debt.forget_at = forget_at;
            }
            None => self.0.push(Debt {
                unit,
                asked: vec![asked],
                quiet_until: None,
                forget_at,
            }),
        }
    }

    /// Nothing came, or nothing of this unit.
    pub(super) fn give_up(&mut self, unit: u8, timeout: Duration) {
        let now = Instant::now();
        if let Some(debt) = self.0.iter_mut().find(|debt| debt.unit == unit) {
            debt.quiet_until = Some(now + timeout);
            debt.forget_at = now + timeout * FORGET_TIMEOUTS;
        }
    }

    /// The unit answered what it was asked last.
    pub(super) fn settle(&mut self, unit: u8) {
        self.0.retain(|debt| debt.unit != unit);
    }

    /// What no unit will answer any more.
    pub(super) fn forget(&mut self) {
        let now = Instant::now();
        self.0.retain(|debt| debt.forget_at > now);
    }

    pub(super) fn contains(&self, unit: u8) -> bool {
        self.of(unit).is_some()
    }

    /// Whether a reply of this function could be one that is owed.
    pub(super) fn is_owed(&self, unit: u8, function: u8) -> bool {
        self.of(unit).is_some_and(|debt| debt.owes(function))
    }

    /// Until when the unit must not be asked.
    pub(super) fn until(&self, unit: u8) -> Option<Instant> {
        let debt = self.of(unit)?;
        match debt.question() {
            Some(_) => debt.quiet_until,
            None => Some(debt.forget_at),
        }
    }

    /// Data bytes of the replies to reads by this function that are owed.
    pub(super) fn data_bytes(&self, unit: u8, function: u8) -> impl Iterator<Item = usize> {
        let asked = self.of(unit).map_or(&[][..], |debt| &debt.asked);
        let reads = asked.iter().filter(move |asked| asked.function == function);
        reads.filter_map(|asked| Some(asked.read?.data_bytes()))
    }

    /// A request whose answer cannot be one that is owed.
    pub(super) fn question(&self, unit: u8) -> Option<Request> {
        self.of(unit)?.question().map(Request::Read)
    }

    fn of(&self, unit: u8) -> Option<&Debt> {
        self.0.iter().find(|debt| debt.unit == unit)
    }
}

impl Debt {
    fn owes(&self, function: u8) -> bool {
        self.asked.iter().any(|asked| asked.function == function)
    }

    fn question(&self) -> Option<ReadRequest> {
        let last = self.asked.iter().find_map(|asked| asked.read);
        let shorter = last.into_iter().flat_map(shorter);
        let start = last.map_or(0, |read| read.start);
        // Whoever lacks the function or the place says so, which is an answer, too.
        let tables = [Table::Holding, Table::Input, Table::Coil, Table::Discrete];
        let others = tables.into_iter().flat_map(|table| {
            let counts = (1..).step_by(usize::from(step(table))).take(OTHER_LENGTHS);
            counts.map(move |count| ReadRequest {
                table,
                start,
                count,
            })
        });
        let others = others.filter(|read| !self.owes(Request::Read(*read).function()));
        shorter.chain(others).find(|read| !self.owes_as_much(*read))
    }

    /// Whether some read is owed whose reply has as many bytes, by whatever function: a unit may answer one
    /// function by another.
    fn owes_as_much(&self, read: ReadRequest) -> bool {
        let mut owed = self.asked.iter().filter_map(|asked| asked.read);
        owed.any(|owed| owed.data_bytes() == read.data_bytes())
    }
}

/// The same read with shorter replies, the longest first.
fn shorter(read: ReadRequest) -> impl Iterator<Item = ReadRequest> {
    let step = step(read.table);
    let shorter = move |count: &u16| count.checked_sub(step).filter(|count| *count > 0);
    let counts = std::iter::successors(Some(read.count), shorter).skip(1);
    counts.map(move |count| ReadRequest { count, ..read })
}

/// So many points more make a reply longer.
fn step(table: Table) -> u16 {
    if table.is_bits() { 8 } else { 1 }
}
