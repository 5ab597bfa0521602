//! One connection to a server: TCP, secure channel, and requests on it.
//!
//! The library brings encoding, chunks and cryptography. Sessions, subscriptions, acknowledgements and
//! supervision are ours, because its own loops acknowledge notifications before anybody has stored
//! them, do not look at sequence numbers, and stop publishing after a reconnect
//! (docs/decisions/0005-opcua-session.md).

use std::future::ready;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opcua::client::transport::{
    StreamConnection, StreamConnector, TransportConfiguration, TransportPollResult,
};
use opcua::client::{AsyncSecureChannel, SessionRetryPolicy};
use opcua::core::comms::tcp_codec::TcpCodec;
use opcua::core::{RequestMessage, ResponseMessage};
use opcua::crypto::CertificateStore;
use opcua::sync::RwLock;
use opcua::types::{
    ContextOwned, DateTime, DecodingOptions, EndpointDescription, Error, MessageSecurityMode,
    NamespaceMap, NodeId, RequestHeader, ResponseHeader, StatusCode,
};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::status::Asked;
use crate::SessionError;

/// A security token is renewed after three quarters of this.
const CHANNEL_LIFETIME_MS: u32 = 600_000;

/// One chunk each way; the standard's minimum is 8 KB, servers commonly take 64 KB.
const CHUNK_BYTES: usize = 65_536;

/// A reply with 20,000 values of ordinary size fits several times; a hostile one does not fill a gateway.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// As many chunks as the largest message needs.
const CHUNKS_MAX: usize = MESSAGE_BYTES_MAX / 8192;

/// The library's default of 1,000 closes the connection at the first larger reply.
const ARRAY_LENGTH_MAX: usize = 200_000;

/// Longest text or byte string: a file in a variable, not a film.
const STRING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A farewell is worth this much waiting.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The port of OPC UA, where the address names none.
const PORT_DEFAULT: u16 = 4840;

/// An open secure channel. Dropping it cuts the connection.
pub(super) struct Channel {
    inner: Arc<AsyncSecureChannel>,
    pump: JoinHandle<()>,
    pumped: CancellationToken,
    device: String,
    timeout: Duration,
    token: Mutex<NodeId>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Channel {
    /// Connects to the host and port of `url` and opens a channel with the endpoint's security. Bounded
    /// by `timeout`. `pki_dir` holds our certificate where the security asks for one.
    pub(super) async fn open(
        device: &str,
        url: &str,
        endpoint: EndpointDescription,
        pki_dir: &Path,
        timeout: Duration,
    ) -> Result<Self, SessionError> {
        let is_clear = endpoint.security_mode == MessageSecurityMode::None;
        let asked = Asked {
            device,
            request: match is_clear {
                true => "the first word of OPC UA (is this the right port?)",
                false => "OpenSecureChannel",
            },
            timeout,
        };
        let opening = async {
            let stream = connect_tcp(url).await?;
            let inner = Arc::new(secure_channel(endpoint, pki_dir));
            let connector = connector(stream, inner.endpoint_info().endpoint.endpoint_url.as_ref());
            let mut event_loop = inner
                .connect_no_retry(&connector)
                .await
                .map_err(|error| open_failed(asked, &host_and_port(url), is_clear, &error))?;
            let pumped = CancellationToken::new();
            let ended = pumped.clone();
            let pump = tokio::spawn(async move {
                while !matches!(event_loop.poll().await, TransportPollResult::Closed(_)) {}
                ended.cancel();
            });
            Ok(Self {
                inner,
                pump,
                pumped,
                device: device.to_owned(),
                timeout,
                token: Mutex::new(NodeId::null()),
            })
        };
        tokio::time::timeout(timeout, opening)
            .await
            .map_err(|_| asked.timed_out())?
    }

    /// The endpoint that the channel was opened to.
    pub(super) fn endpoint(&self) -> &EndpointDescription {
        &self.inner.endpoint_info().endpoint
    }

    /// Requests carry this session's token from now on.
    pub(super) fn set_token(&self, token: NodeId) {
        self.inner.set_auth_token(token.clone());
        *self
            .token
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = token;
    }

    /// The header of a request whose answer is wanted within `timeout`.
    pub(super) fn header(&self, timeout: Duration) -> RequestHeader {
        let token = self
            .token
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let mut header = RequestHeader::new(&token, &DateTime::now(), self.inner.request_handle());
        header.timeout_hint = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        header
    }

    /// Sends a request and waits for its answer, at most the device's timeout.
    pub(super) async fn request<T: Reply>(
        &self,
        name: &'static str,
        build: impl FnOnce(RequestHeader) -> T::Request,
    ) -> Result<T, SessionError> {
        let asked = self.asked(name);
        self.send::<T>(build(self.header(self.timeout)), self.timeout)
            .await
            .map_err(|error| asked.failed(&error))
    }

    /// Sends a request whose failure the caller wants to look at.
    pub(super) async fn send<T: Reply>(
        &self,
        request: T::Request,
        timeout: Duration,
    ) -> Result<T, Error> {
        let sent = self.inner.send(request, timeout);
        // The library's own deadline stands still when its pump does.
        let response = tokio::time::timeout(timeout + Duration::from_millis(100), sent)
            .await
            .map_err(|_| Error::new(StatusCode::BadTimeout, "no answer"))??;
        if let ResponseMessage::ServiceFault(fault) = response {
            let status = fault.response_header.service_result;
            return Err(Error::new(status, "the server returned a fault"));
        }
        let found = response.type_name();
        let Some(reply) = T::from_message(response) else {
            return Err(Error::new(
                StatusCode::BadUnknownResponse,
                format!("the server sent {found}"),
            ));
        };
        let result = reply.header().service_result;
        if result.is_bad() {
            return Err(Error::new(result, "the server refused"));
        }
        Ok(reply)
    }

    /// What an error message of this channel says.
    pub(super) fn asked<'a>(&'a self, request: &'a str) -> Asked<'a> {
        Asked {
            device: &self.device,
            request,
            timeout: self.timeout,
        }
    }

    /// How long a request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Cuts the connection without a word.
    pub(super) fn cut(&self) {
        self.pump.abort();
    }

    /// Whether the connection is gone.
    pub(super) fn is_cut(&self) -> bool {
        self.pump.is_finished()
    }

    /// Takes leave of the server; bounded, and never an error: the connection goes in any case.
    pub(super) async fn close(&self) {
        self.inner.close_channel().await;
        // The pump ends by itself when the message is out.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.pumped.cancelled()).await;
    }

    /// The encoding context: what is needed to encode a structure again.
    pub(super) fn context(&self) -> &RwLock<ContextOwned> {
        self.inner.encoding_context()
    }
}

/// A service's response, with the request that it answers.
pub(super) trait Reply: Sized {
    /// What is asked.
    type Request: Into<RequestMessage>;
    /// The response, if the message is one of this service.
    fn from_message(message: ResponseMessage) -> Option<Self>;
    /// The header that every response has.
    fn header(&self) -> &ResponseHeader;
}

macro_rules! replies {
    ($($variant:ident: $response:ident <- $request:ident),* $(,)?) => {
        $(impl Reply for opcua::types::$response {
            type Request = opcua::types::$request;
            fn from_message(message: ResponseMessage) -> Option<Self> {
                match message {
                    ResponseMessage::$variant(response) => Some(*response),
                    _ => None,
                }
            }
            fn header(&self) -> &ResponseHeader {
                &self.response_header
            }
        })*
    };
}

replies! {
    GetEndpoints: GetEndpointsResponse <- GetEndpointsRequest,
    CreateSession: CreateSessionResponse <- CreateSessionRequest,
    ActivateSession: ActivateSessionResponse <- ActivateSessionRequest,
    CloseSession: CloseSessionResponse <- CloseSessionRequest,
    Read: ReadResponse <- ReadRequest,
    Write: WriteResponse <- WriteRequest,
    Browse: BrowseResponse <- BrowseRequest,
    BrowseNext: BrowseNextResponse <- BrowseNextRequest,
    Call: CallResponse <- CallRequest,
    CreateSubscription: CreateSubscriptionResponse <- CreateSubscriptionRequest,
    CreateMonitoredItems: CreateMonitoredItemsResponse <- CreateMonitoredItemsRequest,
    Publish: PublishResponse <- PublishRequest,
    Republish: RepublishResponse <- RepublishRequest,
    HistoryRead: HistoryReadResponse <- HistoryReadRequest,
    TranslateBrowsePathsToNodeIds: TranslateBrowsePathsToNodeIdsResponse <- TranslateBrowsePathsToNodeIdsRequest,
}

/// What a channel that was not opened means. Servers cut a secured one here, without a word, when they do not trust our
/// certificate; one in clear opens at any OPC UA server.
fn open_failed(asked: Asked<'_>, address: &str, is_clear: bool, error: &Error) -> SessionError {
    // The library says "good" of a connection that the other side closed in an orderly way.
    let is_closed = error.status().is_good()
        || matches!(
            error.status(),
            StatusCode::BadConnectionClosed | StatusCode::BadCommunicationError
        );
    let is_strange = matches!(
        error.status(),
        StatusCode::BadTcpMessageTypeInvalid
            | StatusCode::BadDecodingError
            | StatusCode::BadEncodingLimitsExceeded
            | StatusCode::BadTcpMessageTooLarge
            | StatusCode::BadUnexpectedError
    );
    let lost = |text: String| SessionError::Lost {
        device: asked.device.to_owned(),
        source: io::Error::other(text),
    };
    match (is_clear, is_closed, is_strange) {
        (true, _, true) => SessionError::Protocol {
            device: asked.device.to_owned(),
            found: format!("something else ({error})"),
            expected: format!("OPC UA at {address}"),
        },
        (true, true, _) => lost(format!(
            "{address} hung up at the first word: another protocol's port, or a server that takes no more connections"
        )),
        (false, true, _) => lost(
            "the server closed the connection while the secure channel was opened; \
             if it does so each time, it does not trust the gateway's certificate: trust it at the server (millrace \
             trust --own shows it)"
                .to_owned(),
        ),
        _ => asked.failed(error),
    }
}

/// A connection to the host and port of the address. Not bounded.
pub(super) async fn connect_tcp(url: &str) -> Result<TcpStream, SessionError> {
    let address = host_and_port(url);
    let failed = |source: io::Error| SessionError::Connect {
        address: address.clone(),
        source: io::Error::new(source.kind(), format!("{source}: {}", next_step(&source))),
    };
    let stream = TcpStream::connect(&address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// What to look at where there is no connection.
fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "the host is there and nothing listens on this port; is the server on, is the port right?"
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no way to this host; is it on, is the address right?"
        }
        _ => "is the address right, does a firewall stand between?",
    }
}

/// `host:port` of an `opc.tcp://` address.
pub(super) fn host_and_port(url: &str) -> String {
    let authority = authority(url);
    let has_port = match authority.rfind(']') {
        Some(end) => authority[end..].contains(':'),
        None => authority.contains(':'),
    };
    if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:{PORT_DEFAULT}")
    }
}

/// The host of an `opc.tcp://` address, without brackets.
pub(super) fn host(url: &str) -> String {
    let address = host_and_port(url);
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

/// What stands between `opc.tcp://` and the path.
pub(super) fn authority(url: &str) -> &str {
    let rest = url.strip_prefix("opc.tcp://").unwrap_or(url);
    rest.split_once('/')
        .map_or(rest, |(authority, _)| authority)
}

type Connection = StreamConnection<OwnedReadHalf, OwnedWriteHalf>;
type Connected = std::future::Ready<Result<Connection, Error>>;
type Handover = Box<dyn Fn(String, DecodingOptions) -> Connected + Send + Sync>;

/// Hands the library the connection that we made: so we see the system's own error and set the socket.
fn connector(
    stream: TcpStream,
    endpoint_url: &str,
) -> StreamConnector<OwnedReadHalf, OwnedWriteHalf, Handover, Connected> {
    let once = Mutex::new(Some(stream));
    let handover = move |url: String, options: DecodingOptions| {
        let taken = once
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        ready(match taken {
            Some(stream) => {
                let (read, write) = stream.into_split();
                let reader = FramedRead::new(read, TcpCodec::new(options));
                Ok(StreamConnection::new(reader, write, url))
            }
            None => Err(Error::new(StatusCode::BadConnectionClosed, "used before")),
        })
    };
    StreamConnector::new(Box::new(handover), endpoint_url.to_owned())
}

fn secure_channel(endpoint: EndpointDescription, pki_dir: &Path) -> AsyncSecureChannel {
    let options = DecodingOptions {
        max_message_size: MESSAGE_BYTES_MAX,
        max_chunk_count: CHUNKS_MAX,
        max_string_length: STRING_BYTES_MAX,
        max_byte_string_length: STRING_BYTES_MAX,
        max_array_length: ARRAY_LENGTH_MAX,
        ..DecodingOptions::default()
    };
    AsyncSecureChannel::new(
        Arc::new(RwLock::new(CertificateStore::new(pki_dir))),
        endpoint.into(),
        SessionRetryPolicy::never(),
        false,
        Arc::default(),
        TransportConfiguration {
            send_buffer_size: CHUNK_BYTES,
            recv_buffer_size: CHUNK_BYTES,
            max_message_size: MESSAGE_BYTES_MAX,
            max_chunk_count: CHUNKS_MAX,
        },
        CHANNEL_LIFETIME_MS,
        Arc::new(RwLock::new(ContextOwned::new_default(
            NamespaceMap::new(),
            options,
        ))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_the_default_port() {
        assert_eq!(host_and_port("opc.tcp://plc"), "plc:4840");
        assert_eq!(host_and_port("opc.tcp://plc:4841/UA/x"), "plc:4841");
        assert_eq!(host_and_port("opc.tcp://[fe80::1]/a"), "[fe80::1]:4840");
        assert_eq!(host_and_port("opc.tcp://[fe80::1]:49/a"), "[fe80::1]:49");
    }
}
