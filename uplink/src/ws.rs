//! MQTT over WebSockets: bytes in binary messages, which may be cut anywhere.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::endpoint::Endpoint;
use crate::link::AnyWire;
use crate::packet::INBOUND_BYTES_MAX;

/// The name of MQTT among the protocols over WebSockets.
const SUBPROTOCOL: &str = "mqtt";
/// The largest message that we write: a large one would make live data wait for all of it.
const MESSAGE_BYTES: usize = 64 * 1024;
/// A message of the broker may hold a whole packet and more.
const INBOUND_MESSAGE_BYTES_MAX: usize = INBOUND_BYTES_MAX + 64 * 1024;

/// Asks for the upgrade over a stream that is already a connection to the endpoint.
pub(crate) async fn upgrade(
    endpoint: &Endpoint,
    stream: AnyWire,
) -> Result<WebSocket, tungstenite::Error> {
    let uri: tungstenite::http::Uri = endpoint.to_string().parse()?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(INBOUND_MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(INBOUND_MESSAGE_BYTES_MAX);
    // The link has its own buffer and flushes when it is empty.
    config.write_buffer_size = 0;
    let (inner, _) = client_async_with_config(request, stream, Some(config)).await?;
    Ok(WebSocket {
        inner,
        incoming: Bytes::new(),
    })
}

/// A stream of bytes over WebSockets.
pub(crate) struct WebSocket {
    inner: WebSocketStream<AnyWire>,
    /// What is left of the last message.
    incoming: Bytes,
}

fn broken(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::ErrorKind::UnexpectedEof.into()
        }
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.incoming.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.incoming = bytes,
                Some(Ok(Message::Text(_))) => {
                    let text = "a WebSocket message of text, where MQTT is binary";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                // Pings are answered below us.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let bytes = self.incoming.len().min(into.remaining());
        into.put_slice(&self.incoming[..bytes]);
        self.incoming.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(broken)?;
        let part = &bytes[..bytes.len().min(MESSAGE_BYTES)];
        let message = Message::Binary(Bytes::copy_from_slice(part));
        Pin::new(&mut self.inner)
            .start_send(message)
            .map_err(broken)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(broken)
    }
}
