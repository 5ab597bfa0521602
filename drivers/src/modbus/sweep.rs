//! Which addresses of a unit can be read, found with few requests.
//!
//! A table is asked for in blocks as large as the unit gives. A block that is refused has a hole: some of its
//! addresses are asked for alone ([`Sweep::step`] apart, and both ends), and where any of them can be read,
//! the block is halved until every address is known. A block in which none can is taken to be empty. So a
//! range that is at least `step` long is found with its exact bounds; step 1 asks everything.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::address::Table;
use super::caller::{Caller, Heard};
use super::plan::Limits;
use super::request::{ReadRequest, Request};
use crate::SessionError;

/// Exceptions of a unit that will be able to answer later (05, 06).
const BUSY: [u8; 2] = [5, 6];

/// How often a busy unit is asked again, and after how long.
const BUSY_RETRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Exception 01: the unit does not have the table.
const ILLEGAL_FUNCTION: u8 = 1;

/// A unit that is silent so often in a row is gone. Some are silent where they should refuse.
const SILENCES_MAX: u32 = 8;

/// What is swept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// The first and the last address.
    pub addresses: RangeInclusive<u16>,
    /// How far apart addresses are asked for alone where a block is refused, at least 1.
    pub step: u16,
}

/// What of a table can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readable {
    /// The table.
    pub table: Table,
    /// Whether the unit has the function for it.
    pub offered: bool,
    /// First and last address of each range.
    pub ranges: Vec<RangeInclusive<u16>>,
    /// The most that the unit gives in one request, where it is less than the protocol allows.
    pub max_quantity: Option<u16>,
    /// Requests that it took.
    pub requests: u32,
    /// The unit stopped answering before the end; what lies behind is not known.
    pub gave_up_at: Option<u16>,
}

impl Sweep {
    /// Finds what can be read of one table. `tell` gets the address that is looked at.
    ///
    /// # Errors
    /// There is no way to the unit.
    pub async fn run(
        &self,
        caller: &mut Caller,
        unit: u8,
        table: Table,
        tell: &mut (dyn FnMut(u16) + Send),
    ) -> Result<Readable, SessionError> {
        let mut search = Search {
            caller,
            unit,
            table,
            limits: Limits::default(),
            known: vec![None; 1 << 16],
            requests: 0,
            silences: 0,
            offered: true,
        };
        let mut at = u32::from(*self.addresses.start());
        let end = u32::from(*self.addresses.end()) + 1;
        while at < end && search.goes_on() {
            tell(u16::try_from(at).unwrap_or(u16::MAX));
            let block = at..(at + u32::from(search.limits.max(table))).min(end);
            at = block.end;
            search.block(block, u32::from(self.step.max(1))).await?;
        }
        let gave_up_at = (search.offered && search.silences >= SILENCES_MAX)
            .then(|| u16::try_from(at).unwrap_or(u16::MAX));
        Ok(Readable {
            table,
            offered: search.offered,
            ranges: ranges(&search.known),
            max_quantity: search.limits.learned_max(table),
            requests: search.requests,
            gave_up_at,
        })
    }
}

struct Search<'c> {
    caller: &'c mut Caller,
    unit: u8,
    table: Table,
    limits: Limits,
    /// Whether each address can be read, where that is known.
    known: Vec<Option<bool>>,
    requests: u32,
    /// In a row.
    silences: u32,
    offered: bool,
}

impl Search<'_> {
    fn goes_on(&self) -> bool {
        self.offered && self.silences < SILENCES_MAX
    }

    async fn block(&mut self, block: Range<u32>, step: u32) -> Result<(), SessionError> {
        if self.readable(&block).await? {
            return Ok(());
        }
        let edges = [block.start, block.end - 1];
        let steps = block.clone().filter(|at| at.is_multiple_of(step));
        for at in edges.into_iter().chain(steps) {
            if !self.goes_on() {
                return Ok(());
            }
            if self.known_at(at).is_none() && self.readable(&(at..at + 1)).await? {
                return self.halve(block).await;
            }
        }
        Ok(())
    }

    /// Learns every address of a range that cannot be read as a whole.
    fn halve(&mut self, range: Range<u32>) -> BoxFuture<'_, Result<(), SessionError>> {
        Box::pin(async move {
            let middle = range.start + (range.end - range.start) / 2;
            let hole = |at: &u32| self.known_at(*at) == Some(false);
            // At a known hole both sides may be whole.
            let hole = range
                .clone()
                .filter(hole)
                .min_by_key(|at| at.abs_diff(middle));
            let parts = match hole {
                Some(at) => [range.start..at, at + 1..range.end],
                None => [range.start..middle, middle..range.end],
            };
            for part in parts {
                self.learn(part).await?;
            }
            let whole = range.clone().all(|at| self.known_at(at) == Some(true));
            if whole && let Ok(count) = u16::try_from(range.len()) {
                // Either it asked for too much at once, or the unit does not read across a place in it.
                let _ = self.limits.refused(self.table, count);
            }
            Ok(())
        })
    }

    async fn learn(&mut self, range: Range<u32>) -> Result<(), SessionError> {
        let unknown = range.clone().any(|at| self.known_at(at).is_none());
        if !unknown || !self.goes_on() {
            return Ok(());
        }
        let holes = range.clone().any(|at| self.known_at(at) == Some(false));
        let too_long = range.len() > usize::from(self.limits.max(self.table));
        if !holes && !too_long && self.readable(&range).await? {
            return Ok(());
        }
        if range.len() == 1 {
            return Ok(());
        }
        self.halve(range).await
    }

    /// Asks for a range and notes what that says of its addresses.
    async fn readable(&mut self, range: &Range<u32>) -> Result<bool, SessionError> {
        let Some(request) = self.request(range) else {
            return Ok(false);
        };
        let mut heard = self.ask(&request).await?;
        for _ in 0..BUSY_RETRIES {
            if !matches!(&heard, Heard::Exception(code) if BUSY.contains(code)) {
                break;
            }
            tokio::time::sleep(BUSY_PAUSE).await;
            heard = self.ask(&request).await?;
        }
        let readable = matches!(heard, Heard::Data(_));
        match heard {
            Heard::Silence => self.silences += 1,
            _ => self.silences = 0,
        }
        if heard == Heard::Exception(ILLEGAL_FUNCTION) {
            self.offered = self.known.contains(&Some(true));
        }
        if readable || range.len() == 1 {
            for at in range.clone() {
                if let Some(known) = self.known.get_mut(at as usize) {
                    *known = Some(readable);
                }
            }
        }
        if readable && let Ok(count) = u16::try_from(range.len()) {
            self.limits.answered(self.table, count);
        }
        Ok(readable)
    }

    async fn ask(&mut self, request: &Request) -> Result<Heard, SessionError> {
        self.requests += 1;
        self.caller.call(self.unit, request).await
    }

    fn request(&self, range: &Range<u32>) -> Option<Request> {
        Some(Request::Read(ReadRequest {
            table: self.table,
            start: u16::try_from(range.start).ok()?,
            count: u16::try_from(range.len()).ok()?,
        }))
    }

    fn known_at(&self, at: u32) -> Option<bool> {
        self.known.get(at as usize).copied().flatten()
    }
}

fn ranges(known: &[Option<bool>]) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for (at, _) in (0..=u16::MAX)
        .zip(known)
        .filter(|(_, known)| **known == Some(true))
    {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(at) => *last = *last.start()..=at,
            _ => ranges.push(at..=at),
        }
    }
    ranges
}
