//! Bytes in, bytes out: one socket, one buffer each way.
//!
//! All state is in the [`Link`], none in a future: [`Link::exchange`] may be dropped at any time
//! and nothing is lost or sent twice. Reading never waits for writing or the other way round.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::packet::{self, INBOUND_BYTES_MAX, Packet, PacketError, Protocol};

/// What a link runs over: TCP, TLS, WebSockets.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A wire of whichever kind.
pub(crate) type AnyWire = Box<dyn Wire>;

/// One read takes at most this much: acks are 4 bytes, commands are rare.
const READ_BYTES: usize = 16 * 1024;

/// What one exchange moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) read: usize,
    pub(crate) written: usize,
}

/// A connection with its two buffers.
pub(crate) struct Link {
    wire: AnyWire,
    inbound: BytesMut,
    /// What waits to be sent.
    pub(crate) outbound: BytesMut,
    scratch: Box<[u8]>,
    /// What both ends speak.
    pub(crate) protocol: Protocol,
    /// Whether the wire may hold back what it has taken (TLS records).
    unflushed: bool,
}

impl Link {
    /// For wires that are not boxed already, as those of the connection are.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn new(wire: impl Wire + 'static) -> Self {
        Self::over(Box::new(wire))
    }

    pub(crate) fn over(wire: AnyWire) -> Self {
        Self {
            wire,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            protocol: Protocol::default(),
            unflushed: false,
        }
    }

    /// Puts a packet before the wire.
    pub(crate) fn send(&mut self, packet: Packet) -> Result<(), PacketError> {
        packet::write(self.protocol, &mut self.outbound, packet)
    }

    /// What has arrived and was not taken.
    #[cfg(feature = "sim")]
    pub(crate) fn inbound(&self) -> &[u8] {
        &self.inbound
    }

    /// The next whole packet that has arrived.
    pub(crate) fn take_packet(&mut self) -> Result<Option<Packet>, PacketError> {
        packet::read(self.protocol, &mut self.inbound, INBOUND_BYTES_MAX)
    }

    /// Waits until bytes have moved in either direction. A closed connection is `UnexpectedEof`.
    ///
    /// # Cancel safety
    /// Cancel-safe: what was moved is in the buffers.
    pub(crate) async fn exchange(&mut self) -> io::Result<Moved> {
        poll_fn(|cx| self.poll_exchange(cx)).await
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Moved>> {
        let written = self.poll_send(cx)?;
        let read = match self.poll_receive(cx) {
            Poll::Ready(outcome) => outcome?,
            Poll::Pending => 0,
        };
        if written == 0 && read == 0 {
            return Poll::Pending;
        }
        Poll::Ready(Ok(Moved { read, written }))
    }

    /// Hands as much to the wire as it takes now.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<usize> {
        let mut written = 0;
        while !self.outbound.is_empty() {
            match Pin::new(&mut self.wire).poll_write(cx, &self.outbound) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    self.outbound.advance(n);
                    self.unflushed = true;
                    written += n;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        if self.unflushed
            && let Poll::Ready(outcome) = Pin::new(&mut self.wire).poll_flush(cx)
        {
            outcome?;
            self.unflushed = false;
        }
        Ok(written)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = ReadBuf::new(&mut self.scratch);
        match Pin::new(&mut self.wire).poll_read(cx, &mut chunk) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if chunk.filled().is_empty() => {
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            Poll::Ready(Ok(())) => {
                self.inbound.extend_from_slice(chunk.filled());
                Poll::Ready(Ok(chunk.filled().len()))
            }
        }
    }

    /// Sends what is left and closes, within `limit`; errors no longer matter.
    pub(crate) async fn close(mut self, limit: Duration) {
        use tokio::io::AsyncWriteExt;
        let farewell = async {
            self.wire.write_all(&self.outbound).await?;
            self.wire.shutdown().await
        };
        if let Ok(Err(error)) = tokio::time::timeout(limit, farewell).await {
            tracing::debug!(%error, "the connection was not closed cleanly");
        }
    }
}
