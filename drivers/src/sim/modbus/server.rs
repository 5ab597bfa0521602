//! The sockets of a simulated device: one task that takes connections, one for each of them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_modbus::{ExceptionCode, Request};
use tokio_util::sync::CancellationToken;

use super::bank::{Bank, Data};
use super::faults::Fault;
use crate::modbus::Table;
use crate::modbus::frame::mbap::{HEADER_BYTES, Header};

/// After a connection or a port that could not be had.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Set in the function code of an exception.
const EXCEPTION_FLAG: u8 = 0x80;

/// What the tasks of a device share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) bank: Arc<Mutex<Bank>>,
    pub(super) outages: mpsc::Sender<Duration>,
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn bank(&self) -> MutexGuard<'_, Bank> {
        // A bank is whole between any two statements that could panic.
        self.bank.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes all connections, and takes none for so long.
    pub(super) fn begin_outage(&self, fault: Fault) {
        let (Fault::Refuse(pause) | Fault::Reboot(pause)) = fault else {
            return;
        };
        if matches!(fault, Fault::Reboot(_)) {
            self.bank().reboot();
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
                let connection = Connection { stream: BufReader::new(stream), shared: shared.clone() };
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

/// A client's connection.
struct Connection {
    stream: BufReader<TcpStream>,
    shared: Shared,
}

/// The question in a frame.
struct Question {
    header: Header,
    function: u8,
    /// Table, start and count of a read; `None` for what is not served here.
    read: Option<(Table, u16, u16)>,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        self.stream.get_ref().set_nodelay(true)?;
        loop {
            let question = self.next_question().await?;
            let (fault, latency) = {
                let mut bank = self.shared.bank();
                (bank.begin_request(), bank.faults.latency)
            };
            // A timer of no length still waits for the next tick of the runtime's clock.
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            match fault {
                None => drop(self.answer(&question).await?),
                Some(Fault::Duplicate) => {
                    let frame = self.answer(&question).await?;
                    self.stream.write_all(&frame).await?;
                }
                Some(Fault::Drop) => return Ok(()),
                Some(outage @ (Fault::Refuse(_) | Fault::Reboot(_))) => {
                    self.shared.begin_outage(outage);
                    return Ok(());
                }
                Some(fault) => self.misbehave(&question, fault).await?,
            }
        }
    }

    async fn next_question(&mut self) -> io::Result<Question> {
        let mut bytes = [0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes).await?;
        let header = Header::parse(&bytes)
            .ok()
            .flatten()
            .ok_or(io::ErrorKind::InvalidData)?;
        let mut pdu = vec![0; header.pdu_bytes];
        self.stream.read_exact(&mut pdu).await?;
        let function = pdu[0];
        // The crate's decoder, not the driver's encoder read backwards.
        let read = match Request::try_from(Bytes::from(pdu)) {
            Ok(Request::ReadCoils(start, count)) => Some((Table::Coil, start, count)),
            Ok(Request::ReadDiscreteInputs(start, count)) => Some((Table::Discrete, start, count)),
            Ok(Request::ReadInputRegisters(start, count)) => Some((Table::Input, start, count)),
            Ok(Request::ReadHoldingRegisters(start, count)) => Some((Table::Holding, start, count)),
            _ => None,
        };
        Ok(Question {
            header,
            function,
            read,
        })
    }

    /// Replies with the frame that it returns, and counts what was served once all of it reached the
    /// socket.
    ///
    /// Value, write and count are one step under the lock: whoever has the reply sees it counted.
    async fn answer(&mut self, question: &Question) -> io::Result<Vec<u8>> {
        loop {
            self.stream.get_ref().writable().await?;
            let (frame, written, data) = {
                let mut bank = self.shared.bank();
                let answer = question.ask(&mut bank);
                let frame = question.frame(answer.as_ref().map(|data| &data.bytes[..]));
                let written = match self.stream.get_ref().try_write(&frame) {
                    Ok(written) => written,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(error) => return Err(error),
                };
                if let (Ok(data), true) = (&answer, written == frame.len()) {
                    bank.commit(data);
                }
                (frame, written, answer)
            };
            if written < frame.len() {
                self.stream.write_all(&frame[written..]).await?;
                if let Ok(data) = data {
                    self.shared.bank().commit(&data);
                }
            }
            return Ok(frame);
        }
    }

    async fn misbehave(&mut self, question: &Question, fault: Fault) -> io::Result<()> {
        if let Fault::Late(by) = fault {
            tokio::time::sleep(by).await;
        }
        let answer = match fault {
            Fault::Exception(code) => Err(ExceptionCode::new(code)),
            Fault::Short => question.shortened().ask(&mut self.shared.bank()),
            _ => question.ask(&mut self.shared.bank()),
        };
        let mut frame = question.frame(answer.as_ref().map(|data| &data.bytes[..]));
        match fault {
            Fault::WrongTransaction => frame[1] = frame[1].wrapping_add(100),
            Fault::WrongUnit => frame[6] = frame[6].wrapping_add(1),
            Fault::WrongFunction => frame[7] ^= 0x07,
            Fault::Truncated => frame.truncate(frame.len() / 2),
            _ => {}
        }
        self.stream.write_all(&frame).await
    }
}

impl Question {
    fn ask(&self, bank: &mut Bank) -> Result<Data, ExceptionCode> {
        let (table, start, count) = self.read.ok_or(ExceptionCode::IllegalFunction)?;
        bank.read(table, start, count)
    }

    /// The same question for a register, or eight bits, less.
    fn shortened(&self) -> Question {
        let read = self.read.map(|(table, start, count)| {
            let less = if table.is_bits() { 8 } else { 1 };
            (table, start, count.saturating_sub(less).max(1))
        });
        Question { read, ..*self }
    }

    fn frame(&self, answer: Result<&[u8], &ExceptionCode>) -> Vec<u8> {
        let mut pdu = Vec::new();
        match answer {
            Ok(data) => {
                // A reply has at most 250 data bytes.
                pdu.extend([self.function, data.len() as u8]);
                pdu.extend_from_slice(data);
            }
            Err(code) => pdu.extend([self.function | EXCEPTION_FLAG, u8::from(*code)]),
        }
        let header = Header {
            pdu_bytes: pdu.len(),
            ..self.header
        };
        [&header.encode()[..], &pdu].concat()
    }
}
