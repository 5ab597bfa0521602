//! One conversation: requests in, replies out, right ones and wrong ones.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_modbus::{ExceptionCode, Request};

use super::super::bank::Answer;
use super::super::faults::Fault;
use super::super::frame::{Asked, Framing, Parsed};
use super::question::{Question, is_served};
use super::{Shared, lock};

/// Bytes of an unfinished request are dropped after so long a silence: longer than any USB adapter holds
/// bytes back, shorter than any client waits before it asks again.
const QUIET: Duration = Duration::from_millis(40);

/// The unit to which every device of a line listens and none answers.
const BROADCAST: u8 = 0;

/// Most bytes of noise before a reply, and at least one.
const NOISE_BYTES_MAX: usize = 12;

/// A client's connection, or a line.
pub(in super::super) struct Connection<S> {
    stream: S,
    shared: Shared,
    inbox: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(in super::super) fn new(stream: S, shared: Shared) -> Self {
        Self {
            stream,
            shared,
            inbox: Vec::new(),
        }
    }

    /// Answers until the client goes (an error) or a fault ends the conversation.
    pub(in super::super) async fn run(&mut self) -> io::Result<()> {
        loop {
            let asked = self.next_request().await?;
            let function = asked.pdu[0];
            // The crate's decoder, not the driver's encoder read backwards.
            let request = Request::try_from(Bytes::from(asked.pdu.clone()));
            let shared = self.shared.clone();
            if asked.unit == BROADCAST && shared.framing == Framing::Rtu {
                if let Ok(request) = &request {
                    for (_, mut bank) in shared.units.all() {
                        bank.begin_request(function, Framing::Rtu);
                        bank.answer(function, request);
                    }
                }
                continue;
            }
            let Some(bank) = shared.units.find(asked.unit) else {
                self.no_such_unit(&asked).await?;
                continue;
            };
            let (fault, latency) = {
                let mut bank = lock(bank);
                (
                    bank.begin_request(function, shared.framing),
                    bank.faults.latency,
                )
            };
            // A timer of no length still waits for the next tick of the runtime's clock.
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            let exchange = Question {
                asked: &asked,
                request: request.as_ref().map_err(|error| {
                    // The crate takes what it cannot decode for one thing; a device tells these apart.
                    match (error.kind(), is_served(function)) {
                        (_, false) => ExceptionCode::IllegalFunction,
                        (_, true) => ExceptionCode::IllegalDataValue,
                    }
                }),
                bank,
                framing: shared.framing,
            };
            match fault {
                None => drop(self.reply(&exchange, None).await?),
                Some(outage @ (Fault::Drop | Fault::Refuse(_) | Fault::Reboot(_))) => {
                    exchange.note(None, fault);
                    shared.begin_outage(outage);
                    return Ok(());
                }
                Some(fault) if fault.leaves_reply() => {
                    self.disturb(&exchange, fault).await?;
                }
                Some(fault) => self.misbehave(&exchange, fault).await?,
            }
        }
    }

    /// Drops what has come and was not answered.
    pub(super) async fn forget(&mut self) {
        self.inbox.clear();
        let mut bytes = [0; 256];
        while let Ok(Ok(1..)) =
            tokio::time::timeout(Duration::from_millis(1), self.stream.read(&mut bytes)).await
        {
        }
    }

    async fn next_request(&mut self) -> io::Result<Asked> {
        loop {
            let parsed = self.shared.framing.parse(&self.inbox);
            if let Parsed::Whole(asked) = parsed {
                self.inbox.drain(..asked.bytes);
                return Ok(asked);
            }
            if self.shared.framing == Framing::Tcp {
                if parsed == Parsed::Noise {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.receive().await?;
            } else if self.inbox.is_empty() {
                self.receive().await?;
            } else {
                match tokio::time::timeout(QUIET, self.receive()).await {
                    Ok(received) => received?,
                    Err(_) => self.inbox.clear(),
                }
            }
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.inbox).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// A gateway says so; on a serial line there is nobody to speak.
    async fn no_such_unit(&mut self, asked: &Asked) -> io::Result<()> {
        if self.shared.framing == Framing::Rtu {
            return Ok(());
        }
        let answer = Answer::exception(asked.pdu[0], ExceptionCode::GatewayTargetDevice);
        let frame = Framing::Tcp.frame(asked.transaction, asked.unit, &answer.pdu);
        self.stream.write_all(&frame).await
    }

    /// Replies with the frame that it returns, and counts what was served once all of it reached the
    /// socket.
    ///
    /// Value, write and count are one step under the lock: whoever has the reply sees it counted.
    async fn reply(
        &mut self,
        question: &Question<'_>,
        fault: Option<Fault>,
    ) -> io::Result<Vec<u8>> {
        let (frame, written, answer) = poll_fn(|context| {
            let mut bank = lock(question.bank);
            let answer = question.answer(&mut bank);
            let frame = question.frame(&answer.pdu);
            match Pin::new(&mut self.stream).poll_write(context, &frame) {
                Poll::Ready(Ok(written)) => {
                    if written == frame.len() {
                        bank.commit(&answer);
                        bank.ledger
                            .note(&question.asked.pdu, Some(&answer.pdu), fault);
                    }
                    Poll::Ready(Ok((frame, written, answer)))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        if written < frame.len() {
            self.stream.write_all(&frame[written..]).await?;
            let mut bank = lock(question.bank);
            bank.commit(&answer);
            bank.ledger
                .note(&question.asked.pdu, Some(&answer.pdu), fault);
        }
        Ok(frame)
    }

    /// A right reply with something beside it.
    async fn disturb(&mut self, question: &Question<'_>, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::Noise => {
                let noise = question.random_bytes(NOISE_BYTES_MAX);
                self.stream.write_all(&noise).await?;
            }
            Fault::Echo => {
                let echo = question.frame(&question.asked.pdu);
                self.stream.write_all(&echo).await?;
            }
            Fault::Slow(pause) => return self.dribble(question, pause).await,
            _ => {}
        }
        let frame = self.reply(question, Some(fault)).await?;
        if fault == Fault::Duplicate {
            self.stream.write_all(&frame).await?;
        }
        Ok(())
    }

    /// Sends the reply byte by byte.
    async fn dribble(&mut self, question: &Question<'_>, pause: Duration) -> io::Result<()> {
        let answer = question.answer(&mut lock(question.bank));
        let frame = question.frame(&answer.pdu);
        let (last, first) = frame.split_last().ok_or(io::ErrorKind::InvalidData)?;
        for byte in first {
            tokio::time::sleep(pause).await;
            self.stream.write_all(&[*byte]).await?;
        }
        tokio::time::sleep(pause).await;
        // Counted before the client can see the last byte; it is the same task that sends it.
        {
            let mut bank = lock(question.bank);
            bank.commit(&answer);
            bank.ledger.note(
                &question.asked.pdu,
                Some(&answer.pdu),
                Some(Fault::Slow(pause)),
            );
        }
        self.stream.write_all(&[*last]).await
    }

    async fn misbehave(&mut self, question: &Question<'_>, fault: Fault) -> io::Result<()> {
        if let Fault::Late(by) = fault {
            tokio::time::sleep(by).await;
        }
        let answer = match fault {
            Fault::Exception(code) => {
                Answer::exception(question.asked.pdu[0], ExceptionCode::new(code))
            }
            Fault::Short => question.shortened(&mut lock(question.bank)),
            fault if fault.prevents() => {
                question.note(None, Some(fault));
                return Ok(());
            }
            _ => question.answer(&mut lock(question.bank)),
        };
        let is_right = matches!(fault, Fault::Late(_) | Fault::Exception(_));
        question.note(is_right.then_some(&answer.pdu), Some(fault));
        let mut frame = question.frame(&answer.pdu);
        let unit_at = question.framing.unit_at();
        match fault {
            Fault::WrongTransaction => frame[1] = frame[1].wrapping_add(100),
            Fault::WrongUnit => {
                let unit = question.asked.unit.wrapping_add(1);
                frame = question
                    .framing
                    .frame(question.asked.transaction, unit, &answer.pdu);
            }
            Fault::WrongFunction => {
                let mut pdu = answer.pdu.clone();
                pdu[0] ^= 0x07;
                frame = question.frame(&pdu);
            }
            Fault::Truncated => frame.truncate((frame.len() / 2).max(unit_at + 1)),
            Fault::Crc => {
                if let Some(last) = frame.last_mut() {
                    *last ^= 0x55;
                }
            }
            Fault::Garbage => frame = question.random_bytes(frame.len()),
            _ => {}
        }
        self.stream.write_all(&frame).await
    }
}
