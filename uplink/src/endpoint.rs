//! Where a broker listens.

use std::fmt;
use std::str::FromStr;

/// How to talk to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// MQTT over TCP, in the clear.
    Mqtt,
    /// MQTT over TLS, the broker's certificate always verified.
    Mqtts,
    /// MQTT over WebSockets, in the clear.
    Ws,
    /// MQTT over WebSockets over TLS.
    Wss,
}

/// A broker's address: `mqtt://host[:port]`, `mqtts://host[:port]`, `ws://host[:port][/path]` or
/// `wss://host[:port][/path]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Plain or TLS, with or without WebSockets.
    pub scheme: Scheme,
    /// Name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query, of WebSockets only.
    pub path: String,
}

/// The registered port for MQTT over TCP.
pub const PORT_PLAIN: u16 = 1883;
/// The registered port for MQTT over TLS.
pub const PORT_TLS: u16 = 8883;
/// The path that most brokers have for MQTT over WebSockets.
const PATH_DEFAULT: &str = "/mqtt";

/// Why a text is no broker address. Fix the `url` of the uplink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No scheme that a broker speaks.
    #[error("`{url}` does not begin with mqtt://, mqtts://, ws:// or wss://")]
    Scheme {
        /// As written.
        url: String,
    },
    /// No address of a proxy.
    #[error("`{url}` is no proxy; expected http://host:port or socks5://host:port")]
    ProxyScheme {
        /// As written.
        url: String,
    },
    /// Credentials in a URL end up in logs.
    #[error(
        "the proxy's url carries a user name or password; use the keys proxy_username and proxy_password_file"
    )]
    ProxyCredentials,
    /// Credentials in a URL end up in logs.
    #[error("the url carries a user name or password; use the keys username and password_file")]
    Credentials,
    /// There is no host in it, or it is no host.
    #[error("`{url}` does not name a host; expected {{mqtt,mqtts,ws,wss}}://host[:port]")]
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
    /// MQTT over TCP has no path, and WebSockets have no fragment.
    #[error(
        "`{url}` has a path that cannot be used: MQTT over TCP has none, over WebSockets it has no `#` and no blanks"
    )]
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
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let fits = match scheme.is_web() {
            true => !path.contains(|c: char| c == '#' || c.is_whitespace() || c.is_control()),
            false => matches!(path, "" | "/"),
        };
        if !fits {
            return Err(EndpointError::Path { url: url.into() });
        }
        let path = match (scheme.is_web(), path) {
            (false, _) => String::new(),
            (true, "") => PATH_DEFAULT.to_owned(),
            (true, query) if query.starts_with('?') => format!("/{query}"),
            (true, path) => path.to_owned(),
        };
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
            path,
        })
    }
}

fn split_scheme(url: &str) -> Result<(Scheme, &str), EndpointError> {
    let unknown = || EndpointError::Scheme { url: url.into() };
    let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
    match scheme {
        "mqtt" => Ok((Scheme::Mqtt, rest)),
        "mqtts" => Ok((Scheme::Mqtts, rest)),
        "ws" => Ok((Scheme::Ws, rest)),
        "wss" => Ok((Scheme::Wss, rest)),
        _ => Err(unknown()),
    }
}

/// Splits `host:port`, `host` or `[v6]:port`.
pub(crate) fn split_port(authority: &str) -> (&str, Option<&str>) {
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

pub(crate) fn parse_port(text: &str) -> Result<u16, EndpointError> {
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
            Scheme::Ws => 80,
            Scheme::Wss => 443,
        }
    }

    /// Whether it goes over TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Mqtts | Scheme::Wss)
    }

    /// Whether it goes over WebSockets.
    pub fn is_web(self) -> bool {
        matches!(self, Scheme::Ws | Scheme::Wss)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Mqtt => "mqtt",
            Scheme::Mqtts => "mqtts",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}{}", self.host, self.port, self.path)
        } else {
            write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
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
            ("ws://core.example", "ws://core.example:80/mqtt"),
            ("wss://core.example/", "wss://core.example:443/"),
            ("wss://[::1]:8084/a/b?c=d", "wss://[::1]:8084/a/b?c=d"),
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
            error("wss://core/mqtt#x"),
            EndpointError::Path { .. }
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
