//! One HTTP request at a time, for the first contact with a core.
//!
//! Each exchange is a connection of its own, over TLS that is always verified (`tls.rs`), or in the clear where
//! the URL says `http://`. It ends after [`EXCHANGE_LIMIT`] whatever the server does, reads at most
//! [`REPLY_BYTES_MAX`], and follows no redirect: a key goes nowhere but to the URL that was configured.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{CONNECTION, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::proxy::{self, Pass, Proxy, ProxyError};
use crate::secret::SecretError;
use crate::tls::{self, TlsFiles, TlsSetupError};

/// The whole exchange; bootstrap services answer in milliseconds, bad links in seconds.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(30);
/// Name service, connecting and the TLS handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The largest answer: a configuration of 10,000 tags inline has about 2 MB.
pub const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A server that asks for more patience than this is asked again all the same.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// `http[s]://host[:port][/path]`, without query, fragment or credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpUrl {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no URL that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("expected https://host[:port]/path (or http:// on a network of your own)")]
    Scheme,
    #[error("expected host and path only, without query, fragment or credentials")]
    More,
    #[error("it names no host; expected https://host[:port]/path")]
    Host,
}

impl HttpUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(UrlError::Scheme),
        };
        if rest.contains(['?', '#', '@']) || rest.contains(char::is_whitespace) {
            return Err(UrlError::More);
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let authority = authority
            .parse::<hyper::http::uri::Authority>()
            .map_err(|_| UrlError::Host)?;
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err(UrlError::Host);
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    /// Whether what is sent there is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Its path, without a slash at the end; empty where there is none.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The same server, this below its path.
    pub(crate) fn join(&self, below: &str) -> Self {
        Self {
            path: format!("{}{below}", self.path),
            ..self.clone()
        }
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl std::fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let default = if self.tls { 443 } else { 80 };
        let authority = match self.port == default {
            true if !self.host.contains(':') => self.host.clone(),
            _ => self.authority(),
        };
        // A query is our own, and says nothing to people.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{scheme}://{authority}{path}")
    }
}

/// One segment of a path.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Whom to trust, as whom to come, and by which way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// PEM certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the one certificate to trust, which the server sends along: of its CA, or its own.
    pub ca_sha256: Option<[u8; 32]>,
    /// PEM files of certificate and key, for servers that ask for them.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The way out, where there is no direct one. It looks the server's name up.
    pub proxy: Option<Proxy>,
}

/// What is asked.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a HttpUrl,
    pub(crate) headers: &'a [(&'static str, String)],
    /// Content type and body.
    pub(crate) body: Option<(&'static str, Vec<u8>)>,
}

/// What came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    /// The server's clock. Worth something only where the server is verified.
    pub(crate) date: Option<SystemTime>,
    pub(crate) body: Bytes,
}

/// Why nothing came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error(transparent)]
    TlsSetup(#[from] TlsSetupError),
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("no connection to the proxy {proxy}")]
    NoProxy {
        proxy: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the proxy {proxy} does not let us through")]
    Proxy {
        proxy: String,
        #[source]
        source: ProxyError,
    },
    #[error("the password for the proxy cannot be read")]
    ProxyPassword(#[from] SecretError),
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("the whole answer did not come within {} s", .0.as_secs())]
    Slow(Duration),
    #[error("the answer has more than {REPLY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the exchange broke off")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("a header of the request cannot be sent")]
    Header,
}

/// Asks once.
pub(crate) async fn exchange(ask: Ask<'_>, trust: &Trust) -> Result<Answer, HttpError> {
    // Files are read before anything is sent: a wrong path should not look like a network problem.
    let config = match ask.url.tls {
        true => Some(tls_config(trust)?),
        false => None,
    };
    let request = request(&ask)?;
    let work = async {
        let connected = timeout(
            CONNECT_LIMIT,
            connect(ask.url, config, trust.proxy.as_ref()),
        )
        .await;
        let wire = connected.map_err(|_| HttpError::Slow(CONNECT_LIMIT))??;
        speak(wire, request).await
    };
    timeout(EXCHANGE_LIMIT, work)
        .await
        .map_err(|_| HttpError::Slow(EXCHANGE_LIMIT))?
}

fn tls_config(trust: &Trust) -> Result<Arc<rustls::ClientConfig>, HttpError> {
    let (cert_file, key_file) = trust.client.clone().unzip();
    let files = TlsFiles {
        ca_file: trust.ca_file.clone(),
        cert_file,
        key_file,
        pins: Vec::new(),
    };
    Ok(match trust.ca_sha256 {
        None => tls::client_config(&files)?,
        Some(pin) => tls::pinned_ca::client_config(&files, pin)?,
    })
}

fn request(ask: &Ask<'_>) -> Result<Request<Full<Bytes>>, HttpError> {
    let (content_type, body) = ask
        .body
        .clone()
        .map_or((None, Vec::new()), |(content_type, body)| {
            (Some(content_type), body)
        });
    let path = match ask.url.path.as_str() {
        "" => "/",
        path => path,
    };
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(path)
        .header(HOST, ask.url.authority())
        .header(CONNECTION, "close")
        .header(
            "user-agent",
            concat!("millrace/", env!("CARGO_PKG_VERSION")),
        );
    if let Some(content_type) = content_type {
        request = request.header(CONTENT_TYPE, content_type);
    }
    for (name, value) in ask.headers {
        let mut value = HeaderValue::from_str(value).map_err(|_| HttpError::Header)?;
        value.set_sensitive(true);
        request = request.header(*name, value);
    }
    request
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| HttpError::Header)
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

async fn connect(
    url: &HttpUrl,
    config: Option<Arc<rustls::ClientConfig>>,
    proxy: Option<&Proxy>,
) -> Result<Box<dyn Wire>, HttpError> {
    let stream = match proxy {
        None => TcpStream::connect((url.host.as_str(), url.port))
            .await
            .map_err(HttpError::Connect)?,
        Some(proxy) => detour(proxy, url).await?,
    };
    let Some(config) = config else {
        return Ok(Box::new(stream));
    };
    let name = ServerName::try_from(url.host.clone()).map_err(|error| {
        HttpError::Connect(std::io::Error::new(std::io::ErrorKind::InvalidInput, error))
    })?;
    let stream = tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(HttpError::Handshake)?;
    Ok(Box::new(stream))
}

/// A connection to the server through the proxy.
async fn detour(proxy: &Proxy, url: &HttpUrl) -> Result<TcpStream, HttpError> {
    let to = &proxy.address;
    let password = proxy.password.as_ref().map(|p| p.load()).transpose()?;
    let stream = TcpStream::connect((to.host.as_str(), to.port)).await;
    let stream = stream.map_err(|source| HttpError::NoProxy {
        proxy: to.to_string(),
        source,
    })?;
    let pass = proxy.username.as_deref().map(|username| Pass {
        username,
        password: password.as_ref(),
    });
    let through = proxy::through(to.kind, stream, pass, &url.host, url.port).await;
    through.map_err(|source| HttpError::Proxy {
        proxy: to.to_string(),
        source,
    })
}

async fn speak(wire: Box<dyn Wire>, request: Request<Full<Bytes>>) -> Result<Answer, HttpError> {
    let broke = |error: hyper::Error| HttpError::Exchange(Box::new(error));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(wire))
        .await
        .map_err(broke)?;
    let answered = async move {
        let response = sender.send_request(request).await.map_err(broke)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, REPLY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => HttpError::TooLarge,
            Err(error) => HttpError::Exchange(error),
        })?;
        let date = date(&head.headers);
        Ok(Answer {
            status: head.status.as_u16(),
            retry_after: retry_after(&head.headers, date),
            date,
            body: body.to_bytes(),
        })
    };
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        // What it has read is still to be handed over.
        _ = connection => answered.await,
    }
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
}

/// In seconds, or as a date: counted from the server's own, since ours may be wrong.
fn retry_after(headers: &HeaderMap, date: Option<SystemTime>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(date?)
            .ok()?,
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = HttpUrl::parse("https://core.example/things/bootstrap/").unwrap();
        assert_eq!(
            url.join("/gw").to_string(),
            "https://core.example/things/bootstrap/gw"
        );
        assert_eq!(url.authority(), "core.example:443");
        let url = HttpUrl::parse("http://[::1]:9013").unwrap();
        assert_eq!((url.authority().as_str(), url.path()), ("[::1]:9013", ""));
        for (text, why) in [
            ("core.example", UrlError::Scheme),
            ("ftp://core.example/x", UrlError::Scheme),
            ("https://", UrlError::Host),
            ("https:///x", UrlError::Host),
            ("https://me:pw@core/x", UrlError::More),
            ("https://core/x?id=1", UrlError::More),
        ] {
            assert_eq!(HttpUrl::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn patience_is_counted_from_the_servers_clock() {
        let headers = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            headers
        };
        let at = httpdate::parse_http_date("Sat, 21 Nov 2026 10:00:00 GMT").ok();
        assert_eq!(
            retry_after(&headers("120"), None),
            Some(Duration::from_secs(120))
        );
        let later = headers("Sat, 21 Nov 2026 10:02:00 GMT");
        assert_eq!(retry_after(&later, at), Some(Duration::from_secs(120)));
        assert_eq!(retry_after(&later, None), None);
        assert_eq!(
            retry_after(&headers("9999999999"), None),
            Some(RETRY_AFTER_MAX)
        );
        assert_eq!(retry_after(&headers("soon"), at), None);
    }
}
