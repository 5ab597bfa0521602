//! The way out through a proxy: HTTP CONNECT or SOCKS5. The proxy looks the server's name up.

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use crate::endpoint::{EndpointError, parse_port, split_port};
use crate::secret::{Secret, SecretSource};

/// The largest answer of an HTTP proxy before the connection.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// What the proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// `CONNECT` of HTTP.
    Http,
    /// SOCKS5, with the name looked up by the proxy.
    Socks5,
}

/// Where a proxy listens: `http://host[:port]` or `socks5://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// A proxy and how to log in there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where it is.
    pub address: ProxyAddress,
    /// User name, where it wants one.
    pub username: Option<String>,
    /// Password; a file is read again at each connect.
    pub password: Option<SecretSource>,
}

/// Why a proxy does not let us through.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It closed the connection, or the network did.
    #[error("the connection to it broke")]
    Io(#[from] io::Error),
    /// It answers, and not with a connection. Log in, or have it allow the server's host and port.
    #[error("it answers {status}{}", http_hint(status))]
    Http {
        /// The status line, shortened.
        status: String,
    },
    /// What it answers is no HTTP.
    #[error("its answer is no HTTP; is it a SOCKS proxy?")]
    NotHttp,
    /// It refuses, or speaks no SOCKS5. Log in, or have it allow the server's host and port.
    #[error("SOCKS5: {0}")]
    Socks(#[source] tokio_socks::Error),
}

fn http_hint(status: &str) -> &'static str {
    match status.split(' ').nth(1) {
        Some("407") => "; check proxy_username and proxy_password_file",
        Some("403") => "; it does not allow connections to the server's host and port",
        Some("502" | "503" | "504") => "; it cannot reach the server, or does not know its name",
        _ => "",
    }
}

impl FromStr for ProxyAddress {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let unknown = || EndpointError::ProxyScheme { url: url.into() };
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
        let (kind, default_port) = match scheme {
            "http" => (ProxyKind::Http, 3128),
            "socks5" | "socks5h" => (ProxyKind::Socks5, 1080),
            _ => return Err(unknown()),
        };
        if rest.contains('@') {
            return Err(EndpointError::ProxyCredentials);
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(authority);
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "[]/?#".contains(c)) {
            return Err(EndpointError::ProxyScheme { url: url.into() });
        }
        Ok(Self {
            kind,
            host: host.to_owned(),
            port: port.map_or(Ok(default_port), parse_port)?,
        })
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Socks5 => "socks5",
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// Who we are at the proxy.
pub(crate) struct Pass<'a> {
    pub(crate) username: &'a str,
    pub(crate) password: Option<&'a Secret>,
}

/// Asks the proxy, over a connection to it, for one to `host`.
pub(crate) async fn through(
    kind: ProxyKind,
    mut stream: TcpStream,
    pass: Option<Pass<'_>>,
    host: &str,
    port: u16,
) -> Result<TcpStream, ProxyError> {
    match kind {
        ProxyKind::Http => {
            stream.write_all(&request(pass, host, port)).await?;
            answer(&mut stream).await?;
            Ok(stream)
        }
        ProxyKind::Socks5 => {
            let connected = match pass {
                None => Socks5Stream::connect_with_socket(stream, (host, port)).await,
                Some(pass) => {
                    let password = pass.password.map_or("", Secret::expose);
                    Socks5Stream::connect_with_password_and_socket(
                        stream,
                        (host, port),
                        pass.username,
                        password,
                    )
                    .await
                }
            };
            Ok(connected.map_err(ProxyError::Socks)?.into_inner())
        }
    }
}

fn request(pass: Option<Pass<'_>>, host: &str, port: u16) -> Vec<u8> {
    let authority = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(pass) = pass {
        let password = pass.password.map_or("", Secret::expose);
        let login = STANDARD.encode(format!("{}:{password}", pass.username));
        request.push_str(&format!("Proxy-Authorization: Basic {login}\r\n"));
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// Reads the proxy's answer, and nothing of what follows it.
async fn answer(stream: &mut TcpStream) -> Result<(), ProxyError> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= ANSWER_BYTES_MAX {
            return Err(ProxyError::NotHttp);
        }
        head.push(stream.read_u8().await?);
        if !b"HTTP/1.".starts_with(&head[..head.len().min(7)]) {
            return Err(ProxyError::NotHttp);
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some(code) if code.len() == 3 && code.starts_with('2') => Ok(()),
        _ => Err(ProxyError::Http {
            status: status
                .chars()
                .filter(|c| !c.is_control())
                .take(100)
                .collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_proxies_are_read() {
        for (text, shown) in [
            ("http://proxy", "http://proxy:3128"),
            ("socks5://10.0.0.1", "socks5://10.0.0.1:1080"),
            ("socks5h://[::1]:9/", "socks5://[::1]:9"),
        ] {
            assert_eq!(text.parse::<ProxyAddress>().unwrap().to_string(), shown);
        }
        let error = |text: &str| text.parse::<ProxyAddress>().unwrap_err();
        for wrong in [
            "proxy:3128",
            "https://proxy",
            "socks4://proxy",
            "http://",
            "http://a/b",
        ] {
            assert!(
                matches!(error(wrong), EndpointError::ProxyScheme { .. }),
                "{wrong}"
            );
        }
        assert!(matches!(
            error("http://me:pw@proxy"),
            EndpointError::ProxyCredentials
        ));
        assert!(matches!(
            error("http://proxy:0"),
            EndpointError::Port { .. }
        ));
    }

    #[test]
    fn a_request_names_host_and_login() {
        let secret = Secret::new("secret");
        let pass = Pass {
            username: "me",
            password: Some(&secret),
        };
        let text = String::from_utf8(request(Some(pass), "core.example", 8883)).unwrap();
        assert_eq!(
            text,
            "CONNECT core.example:8883 HTTP/1.1\r\nHost: core.example:8883\r\n\
             Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
        );
        let text = String::from_utf8(request(None, "::1", 1)).unwrap();
        assert_eq!(text, "CONNECT [::1]:1 HTTP/1.1\r\nHost: [::1]:1\r\n\r\n");
    }
}
