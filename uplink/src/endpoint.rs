//! Where a broker listens.

use std::fmt;
use std::str::FromStr;

/// How to talk to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// MQTT over TCP, in the clear.
    Mqtt,
    /// MQTT over TLS, the broker's certificate always verified.
    Mqtts,
}

/// A broker's address: `mqtt://host[:port]` or `mqtts://host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// Name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The registered port for MQTT over TCP.
pub const PORT_PLAIN: u16 = 1883;
/// The registered port for MQTT over TLS.
pub const PORT_TLS: u16 = 8883;

/// Why a text is no broker address. Fix the `url` of the uplink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// WebSockets are not built in.
    #[error(
        "`{scheme}://` (MQTT over WebSockets) is not supported yet; use mqtt:// or mqtts:// on the broker's TCP port"
    )]
    WebSocket {
        /// `ws` or `wss`.
        scheme: String,
    },
    /// No scheme that a broker speaks.
    #[error("`{url}` does not begin with mqtt:// or mqtts://")]
    Scheme {
        /// As written.
        url: String,
    },
    /// Credentials in a URL end up in logs.
    #[error("the url carries a user name or password; use the keys username and password_file")]
    Credentials,
    /// There is no host in it, or it is no host.
    #[error("`{url}` does not name a host; expected {{mqtt,mqtts}}://host[:port]")]
    Host {
        /// As written.
        url: String,
    },
    /// The port is no port.
    #[error("`{port}` is not a TCP port; expected 1 to 65535")]
    Port {
        /// As written.
        port: String,
    },
    /// MQTT over TCP has no path.
    #[error("`{url}` has a path; MQTT over TCP has none, only host and port")]
    Path {
        /// As written.
        url: String,
    },
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = split_scheme(url)?;
        if rest.contains('@') {
            return Err(EndpointError::Credentials);
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(EndpointError::Path { url: url.into() });
        }
        let (host, port) = split_port(authority);
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '[' || c == ']') {
            return Err(EndpointError::Host { url: url.into() });
        }
        let port = match port {
            None => scheme.default_port(),
            Some(text) => parse_port(text)?,
        };
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
        })
    }
}

fn split_scheme(url: &str) -> Result<(Scheme, &str), EndpointError> {
    let unknown = || EndpointError::Scheme { url: url.into() };
    let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
    match scheme {
        "mqtt" => Ok((Scheme::Mqtt, rest)),
        "mqtts" => Ok((Scheme::Mqtts, rest)),
        "ws" | "wss" => Err(EndpointError::WebSocket {
            scheme: scheme.into(),
        }),
        _ => Err(unknown()),
    }
}

/// Splits `host:port`, `host` or `[v6]:port`.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = authority
        .strip_prefix('[')
        .and_then(|inner| inner.split_once(']'))
    {
        return match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            // Not an address: the brackets make the caller refuse it.
            None => (authority, None),
        };
    }
    match authority.rsplit_once(':') {
        // An IPv6 address without brackets: nobody can tell its port from its last group.
        Some((host, _)) if host.contains(':') => ("", None),
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    }
}

fn parse_port(text: &str) -> Result<u16, EndpointError> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(EndpointError::Port { port: text.into() }),
    }
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Scheme::Mqtt => PORT_PLAIN,
            Scheme::Mqtts => PORT_TLS,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Mqtt => "mqtt",
            Scheme::Mqtts => "mqtts",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for (text, shown) in [
            ("mqtt://core.example", "mqtt://core.example:1883"),
            ("mqtts://core.example/", "mqtts://core.example:8883"),
            ("mqtt://10.0.0.1:1884", "mqtt://10.0.0.1:1884"),
            ("mqtts://[fe80::1]", "mqtts://[fe80::1]:8883"),
            ("mqtt://[::1]:9", "mqtt://[::1]:9"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(shown.parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong() {
        let error = |text: &str| text.parse::<Endpoint>().unwrap_err();
        assert!(matches!(
            error("wss://core/mqtt"),
            EndpointError::WebSocket { .. }
        ));
        assert!(matches!(error("core:1883"), EndpointError::Scheme { .. }));
        assert!(matches!(error("http://core"), EndpointError::Scheme { .. }));
        assert!(matches!(
            error("mqtt://me:pw@core"),
            EndpointError::Credentials
        ));
        assert!(matches!(error("mqtt://"), EndpointError::Host { .. }));
        assert!(matches!(error("mqtt://::1"), EndpointError::Host { .. }));
        assert!(matches!(error("mqtt://[::1]x"), EndpointError::Host { .. }));
        assert!(matches!(error("mqtt://core:0"), EndpointError::Port { .. }));
        assert!(matches!(
            error("mqtt://core:66000"),
            EndpointError::Port { .. }
        ));
        assert!(matches!(error("mqtt://core/x"), EndpointError::Path { .. }));
    }
}
