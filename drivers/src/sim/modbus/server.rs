//! Conversations of a simulated device: over TCP one task that takes connections and one for each of
//! them, on a serial line one in all.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_modbus::{ExceptionCode, Request};
use tokio_util::sync::CancellationToken;

use super::bank::{Answer, Bank};
use super::faults::Fault;
use super::frame::{Asked, Framing, Parsed};

/// After a connection or a port that could not be had.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of an unfinished request are dropped after so long a silence: longer than any USB adapter holds
/// bytes back, shorter than any client waits before it asks again.
const QUIET: Duration = Duration::from_millis(40);

/// The unit to which every device of a line listens and none answers.
const BROADCAST: u8 = 0;

/// Most bytes of noise before a reply, and at least one.
const NOISE_BYTES_MAX: usize = 12;

/// What the tasks of a device share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) units: Arc<Units>,
    pub(super) framing: Framing,
    pub(super) outages: mpsc::Sender<Duration>,
    pub(super) stop: CancellationToken,
}

/// The banks behind one address.
pub(super) struct Units {
    /// Answers every unit id that has none of its own.
    pub(super) any: Option<Mutex<Bank>>,
    pub(super) by_id: BTreeMap<u8, Mutex<Bank>>,
}

impl Units {
    pub(super) fn find(&self, unit: u8) -> Option<&Mutex<Bank>> {
        self.by_id.get(&unit).or(self.any.as_ref())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Option<u8>, MutexGuard<'_, Bank>)> {
        let own = self.by_id.iter().map(|(id, bank)| (Some(*id), lock(bank)));
        own.chain(self.any.iter().map(|bank| (None, lock(bank))))
    }
}

pub(super) fn lock(bank: &Mutex<Bank>) -> MutexGuard<'_, Bank> {
    // A bank is whole between any two statements that could panic.
    bank.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Closes all connections, and takes none for so long.
    pub(super) fn begin_outage(&self, fault: Fault) {
        let (Fault::Refuse(pause) | Fault::Reboot(pause)) = fault else {
            return;
        };
        if matches!(fault, Fault::Reboot(_)) {
            self.units.all().for_each(|(_, mut bank)| bank.reboot());
        }
        // A full queue means that an outage is under way already.
        let _ = self.outages.try_send(pause);
    }
}

/// Listens on a socket of the standard library, so that no runtime is needed to find a port taken.
pub(super) fn listen(address: impl std::net::ToSocketAddrs) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes connections until it is told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    shared: Shared,
    mut outages: mpsc::Receiver<Duration>,
) {
    let mut listener = Some(listener);
    while let Some(open) = listener.take() {
        let connections = shared.stop.child_token();
        let outage = take_connections(&open, &shared, &connections, &mut outages).await;
        connections.cancel();
        drop(open);
        let Some(outage) = outage else { return };
        listener = tokio::select! {
            reopened = reopen(address, outage) => Some(reopened),
            () = shared.stop.cancelled() => None,
        };
    }
}

/// Until the next outage, whose length it returns, or the end.
async fn take_connections(
    listener: &TcpListener,
    shared: &Shared,
    connections: &CancellationToken,
    outages: &mut mpsc::Receiver<Duration>,
) -> Option<Duration> {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    // The client is gone again, or there are too many: others may fare better.
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                };
                // A reply that waits for more to come would be late.
                let _ = stream.set_nodelay(true);
                let mut connection = Connection::new(stream, shared.clone());
                let stop = connections.clone();
                tokio::spawn(async move {
                    // A connection ends when its client goes; there is nobody to tell.
                    let _ = stop.run_until_cancelled(connection.run()).await;
                });
            }
            outage = outages.recv() => return outage,
            () = shared.stop.cancelled() => return None,
        }
    }
}

async fn reopen(address: SocketAddr, outage: Duration) -> TcpListener {
    tokio::time::sleep(outage).await;
    loop {
        if let Ok(listener) = listen(address).and_then(TcpListener::from_std) {
            return listener;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Answers on one line until it is told to stop. The line is never closed: it falls silent instead.
pub(super) async fn serve_line<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    shared: Shared,
    mut outages: mpsc::Receiver<Duration>,
) {
    let stop = shared.stop.clone();
    let mut connection = Connection::new(stream, shared);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            outage = outages.recv() => {
                tokio::time::sleep(outage.unwrap_or_default()).await;
                connection.forget().await;
            }
            ended = connection.run() => if ended.is_err() {
                return;
            }
        }
    }
}

/// A client's connection, or a line.
pub(super) struct Connection<S> {
    stream: S,
    shared: Shared,
    inbox: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, shared: Shared) -> Self {
        Self {
            stream,
            shared,
            inbox: Vec::new(),
        }
    }

    /// Answers until the client goes (an error) or a fault ends the conversation.
    pub(super) async fn run(&mut self) -> io::Result<()> {
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
    async fn forget(&mut self) {
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
                        bank.note(&question.asked.pdu, Some(&answer.pdu), fault);
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
            bank.note(&question.asked.pdu, Some(&answer.pdu), fault);
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
            bank.note(
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

/// A request that is being answered.
struct Question<'a> {
    asked: &'a Asked,
    request: Result<&'a Request<'static>, ExceptionCode>,
    bank: &'a Mutex<Bank>,
    framing: Framing,
}

impl Question<'_> {
    fn answer(&self, bank: &mut Bank) -> Answer {
        let function = self.asked.pdu[0];
        match self.request {
            Ok(request) => bank.answer(function, request),
            Err(code) => Answer::exception(function, code),
        }
    }

    /// The same reply for a register, or eight bits, less; without its last byte where it is no read.
    fn shortened(&self, bank: &mut Bank) -> Answer {
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

    fn frame(&self, pdu: &[u8]) -> Vec<u8> {
        self.framing
            .frame(self.asked.transaction, self.asked.unit, pdu)
    }

    fn note(&self, reply: Option<&Vec<u8>>, fault: Option<Fault>) {
        lock(self.bank).note(&self.asked.pdu, reply.map(Vec::as_slice), fault);
    }

    fn random_bytes(&self, most: usize) -> Vec<u8> {
        let mut bank = lock(self.bank);
        let rng = bank.rng();
        let count = rng.usize(1..=most.max(1));
        (0..count).map(|_| rng.u8(..)).collect()
    }
}

/// Whether the device knows the function at all.
fn is_served(function: u8) -> bool {
    matches!(function, 1..=6 | 15 | 16 | 22 | 23 | 43)
}
