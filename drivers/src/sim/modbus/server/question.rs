//! A request to a simulated device, and what the right reply to it would be.

use std::sync::Mutex;

use tokio_modbus::{ExceptionCode, Request};

use super::super::bank::{Answer, Bank};
use super::super::faults::Fault;
use super::super::frame::{Asked, Framing};
use super::lock;

/// A request that is being answered.
pub(super) struct Question<'a> {
    pub(super) asked: &'a Asked,
    pub(super) request: Result<&'a Request<'static>, ExceptionCode>,
    pub(super) bank: &'a Mutex<Bank>,
    pub(super) framing: Framing,
}

impl Question<'_> {
    pub(super) fn answer(&self, bank: &mut Bank) -> Answer {
        let function = self.asked.pdu[0];
        match self.request {
            Ok(request) => bank.answer(function, request),
            Err(code) => Answer::exception(function, code),
        }
    }

    /// The same reply for a register, or eight bits, less; without its last byte where it is no read.
    pub(super) fn shortened(&self, bank: &mut Bank) -> Answer {
        let less = |count: u16, by: u16| count.saturating_sub(by).max(1);
        let request = match self.request {
            Ok(Request::ReadCoils(start, count)) => Request::ReadCoils(*start, less(*count, 8)),
            Ok(Request::ReadDiscreteInputs(start, count)) => {
                Request::ReadDiscreteInputs(*start, less(*count, 8))
            }
            Ok(Request::ReadInputRegisters(start, count)) => {
                Request::ReadInputRegisters(*start, less(*count, 1))
            }
            Ok(Request::ReadHoldingRegisters(start, count)) => {
                Request::ReadHoldingRegisters(*start, less(*count, 1))
            }
            _ => {
                let mut answer = self.answer(bank);
                answer.pdu.pop();
                return answer;
            }
        };
        bank.answer(self.asked.pdu[0], &request)
    }

    pub(super) fn frame(&self, pdu: &[u8]) -> Vec<u8> {
        self.framing
            .frame(self.asked.transaction, self.asked.unit, pdu)
    }

    pub(super) fn note(&self, reply: Option<&Vec<u8>>, fault: Option<Fault>) {
        lock(self.bank)
            .ledger
            .note(&self.asked.pdu, reply.map(Vec::as_slice), fault);
    }

    pub(super) fn random_bytes(&self, most: usize) -> Vec<u8> {
        let mut bank = lock(self.bank);
        let rng = bank.rng();
        let count = rng.usize(1..=most.max(1));
        (0..count).map(|_| rng.u8(..)).collect()
    }
}

/// Whether the device knows the function at all.
pub(super) fn is_served(function: u8) -> bool {
    matches!(function, 1..=6 | 15 | 16 | 22 | 23 | 43)
}
