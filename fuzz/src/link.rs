//! A device that answers with the bytes of the fuzzer.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use millrace_drivers::SessionError;
use millrace_drivers::modbus::{
    Answer, FaultCounts, Framing, Link, Peer, ReadRequest, Request, Table,
};
use millrace_tags::TestClock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

pub(crate) const UNIT: u8 = 7;

thread_local! {
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
}

/// One of some requests.
pub(crate) fn request(choice: u8) -> Request {
    let read = |table, start, count| {
        Request::Read(ReadRequest {
            table,
            start,
            count,
        })
    };
    match choice % 10 {
        0 => read(Table::Holding, 0, 1),
        1 => read(Table::Input, 10, 2),
        2 => read(Table::Holding, 0, 125),
        3 => read(Table::Coil, 0, 19),
        4 => Request::WriteRegister {
            address: 1,
            value: 3,
        },
        5 => Request::WriteRegisters {
            start: 1,
            values: vec![10, 258],
        },
        6 => Request::MaskWrite {
            address: 4,
            and: 0xF2,
            or: 0x25,
        },
        7 => Request::ReadWrite {
            read_start: 3,
            read_count: 6,
            write_start: 14,
            values: vec![255],
        },
        8 => Request::WriteCoil {
            address: 0xAC,
            on: true,
        },
        _ => Request::Identify {
            access: 1,
            object: 0,
        },
    }
}

/// The PDU that the link took for the reply, which the device must have sent as it is.
pub(crate) fn exchange(
    device: &mut Device,
    framing: Framing,
    request: &Request,
) -> Option<Vec<u8>> {
    RUNTIME.with_borrow_mut(|runtime| {
        let runtime = runtime.get_or_insert_with(|| {
            let built = Builder::new_current_thread().enable_time().build();
            built.expect("a runtime")
        });
        runtime.block_on(ask(device, framing, request))
    })
}

async fn ask(device: &mut Device, framing: Framing, request: &Request) -> Option<Vec<u8>> {
    let peer = Peer {
        device: "fuzzed".to_owned(),
        unit: UNIT,
        // The device says when it has no more.
        timeout: Duration::from_secs(3600),
    };
    let clock = TestClock::new(1, None);
    let mut link = Link::new(device, framing, FaultCounts::default());
    let mut asked = Vec::new();
    request.encode(&mut asked);
    match link.exchange(&peer, request, &clock).await {
        Ok(reply) => match reply.answer {
            Answer::Data(data) if matches!(request, Request::Identify { .. }) => {
                Some([&asked[..1], &[0x0E], data].concat())
            }
            Answer::Data(data) => Some([&[asked[0], data.len() as u8], data].concat()),
            Answer::Exception(code) => Some(vec![asked[0] | 0x80, u8::from(code)]),
            Answer::Written => {
                let bytes = if asked[0] == 0x16 { 7 } else { 5 };
                Some(asked[..bytes].to_vec())
            }
            Answer::Spoilt(_) => None,
        },
        Err(error) => {
            let ours = matches!(
                error,
                SessionError::Lost { .. } | SessionError::Protocol { .. }
            );
            assert!(ours, "{error}");
            None
        }
    }
}

/// Says nothing until it is asked, then the fuzzer's bytes in pieces, and then it is gone.
#[derive(Debug)]
pub(crate) struct Device {
    bytes: Vec<u8>,
    said: usize,
    piece: usize,
    /// What it was asked.
    pub(crate) asked: Vec<u8>,
    /// Whether the first two bytes of each piece are told relative to the last transaction.
    by_transaction: bool,
}

impl Device {
    pub(crate) fn new(bytes: &[u8], piece: u8, by_transaction: bool) -> Self {
        Self {
            bytes: bytes.to_vec(),
            said: 0,
            piece: usize::from(piece).max(1),
            asked: Vec::new(),
            by_transaction,
        }
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> &[u8] {
        &self.bytes[..self.said]
    }
}

impl AsyncRead for Device {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.asked.is_empty() {
            return Poll::Pending;
        }
        let end = (self.said + self.piece.min(buffer.remaining())).min(self.bytes.len());
        buffer.put_slice(&self.bytes[self.said..end]);
        self.said = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Device {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.asked.is_empty() && self.by_transaction {
            // Transactions begin at random; a zero in the corpus stands for the right one.
            for (byte, of) in self.bytes.iter_mut().zip(&bytes[..2]) {
                *byte ^= of;
            }
        }
        self.asked.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
