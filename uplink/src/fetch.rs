//! Downloads of models and configurations: https only, from hosts that are allowed, never more than a cap, and nothing
//! without its digest.
//!
//! TLS is always verified. A redirect is followed at most [`REDIRECTS_MAX`] times, and each is held to the same rules as the first
//! URL. What does not have the digest is never handed out: the file is whole or it is not there.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::tls;

/// A server that sends us further than this does not have it.
pub const REDIRECTS_MAX: usize = 3;

/// Name service, connecting, the handshake, and the first byte of the answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What a download is held to.
#[derive(Debug, Clone)]
pub struct FetchRules {
    /// `host` or `host:port` that may be asked; a host alone allows all of its ports.
    pub hosts: Vec<String>,
    /// The most that is taken.
    pub bytes_max: u64,
    /// For the whole of it.
    pub limit: Duration,
    /// PEM certificates of the authorities that may vouch for the server; those of the system where there is none.
    pub ca_file: Option<PathBuf>,
}

/// Why there is no download.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL that may be asked. Correct it.
    #[error("{url} is not fetched: expected https://host/path, without a login in it")]
    Url {
        /// As given.
        url: String,
    },
    /// The host is not allowed. `[local] fetch_hosts` of the gateway allows further ones.
    #[error(
        "{host} is not fetched from: allowed are the host of the uplink and [local] fetch_hosts ({allowed})"
    )]
    Host {
        /// Which.
        host: String,
        /// Those that are allowed.
        allowed: String,
    },
    /// The digest that must be given is none.
    #[error("sha256 is {0:?}; expected 64 hexadecimal digits")]
    Digest(String),
    /// It sends us from one place to the next.
    #[error("{url} is redirected more than {REDIRECTS_MAX} times")]
    Redirects {
        /// The first.
        url: String,
    },
    /// The server has something against it.
    #[error("{url} was answered {status}")]
    Status {
        /// The URL.
        url: String,
        /// The status of HTTP.
        status: u16,
    },
    /// It is larger than it may be.
    #[error("{url} has more than {bytes_max} bytes")]
    TooLarge {
        /// The URL.
        url: String,
        /// The cap.
        bytes_max: u64,
    },
    /// It took too long.
    #[error("{url} did not come within {} s", .limit.as_secs())]
    Slow {
        /// The URL.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// What came is something else.
    #[error("what {url} sends has SHA-256 {actual}; {expected} was asked for")]
    Other {
        /// The URL.
        url: String,
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// The network, or trust in the server.
    #[error("cannot fetch {url}")]
    Network {
        /// The URL.
        url: String,
        /// What happened.
        #[source]
        source: Box<ureq::Error>,
    },
    /// A certificate file cannot be used.
    #[error(transparent)]
    Trust(#[from] crate::TlsSetupError),
    /// It cannot be kept.
    #[error("cannot write {}", .path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Fetches into the file, which is there afterwards only when the digest is right. Waits for the network.
///
/// # Errors
/// See [`FetchError`].
pub fn fetch(url: &str, sha256: &str, to: &Path, rules: &FetchRules) -> Result<(), FetchError> {
    let expected = sha256.to_lowercase();
    if expected.len() != 64 || !expected.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(FetchError::Digest(sha256.to_owned()));
    }
    let until = Instant::now() + rules.limit;
    checked(url, rules)?;
    let agent = agent(rules)?;
    let mut at = url.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let network = |source| match source {
            ureq::Error::Timeout(_) => FetchError::Slow {
                url: url.to_owned(),
                limit: rules.limit,
            },
            source => FetchError::Network {
                url: at.clone(),
                source: Box::new(source),
            },
        };
        let mut answer = agent.get(&at).call().map_err(network)?;
        let status = answer.status().as_u16();
        match status {
            200 => {
                let reader = answer.body_mut().as_reader();
                let kept = keep(reader, url, &expected, to, rules, until);
                if kept.is_err() {
                    // It may never have been there.
                    let _ = std::fs::remove_file(to);
                }
                return kept;
            }
            301 | 302 | 303 | 307 | 308 => {
                let next = answer.headers().get("location");
                let next = next.and_then(|next| next.to_str().ok());
                let next = next.map(|next| absolute(&at, next)).unwrap_or_default();
                checked(&next, rules)?;
                at = next;
            }
            status => {
                return Err(FetchError::Status { url: at, status });
            }
        }
    }
    Err(FetchError::Redirects {
        url: url.to_owned(),
    })
}

/// A redirect may name a path of the same server.
fn absolute(from: &str, to: &str) -> String {
    if !to.starts_with('/') || to.starts_with("//") {
        return to.to_owned();
    }
    let end = from
        .strip_prefix("https://")
        .and_then(|rest| rest.find('/'))
        .map_or(from.len(), |at| at + "https://".len());
    format!("{}{to}", &from[..end])
}

/// Holds a URL to the rules.
fn checked(url: &str, rules: &FetchRules) -> Result<(), FetchError> {
    let wrong = || FetchError::Url {
        url: url.chars().take(200).collect(),
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    if uri.scheme_str() != Some("https") || authority.as_str().contains('@') {
        return Err(wrong());
    }
    let (host, port) = (authority.host(), authority.port_u16().unwrap_or(443));
    let full = format!("{host}:{port}");
    let allowed =
        |known: &String| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(&full);
    match rules.hosts.iter().any(allowed) {
        true => Ok(()),
        false => Err(FetchError::Host {
            host: full,
            allowed: rules.hosts.join(", "),
        }),
    }
}

fn agent(rules: &FetchRules) -> Result<ureq::Agent, FetchError> {
    let trusted = tls::trusted(rules.ca_file.as_deref())?;
    let trusted: Vec<_> = trusted
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(tls::provider())
        .root_certs(RootCerts::new_with_certs(&trusted))
        .build();
    Ok(ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(rules.limit))
        .timeout_connect(Some(ANSWER_LIMIT))
        .timeout_recv_response(Some(ANSWER_LIMIT))
        .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent())
}

fn keep(
    mut from: impl Read,
    url: &str,
    expected: &str,
    to: &Path,
    rules: &FetchRules,
    until: Instant,
) -> Result<(), FetchError> {
    let disk = |source| FetchError::Disk {
        path: to.to_owned(),
        source,
    };
    let mut file = std::fs::File::create(to).map_err(disk)?;
    let (mut digest, mut bytes, mut block) = (Context::new(&SHA256), 0u64, vec![0u8; 64 * 1024]);
    loop {
        let slow = || FetchError::Slow {
            url: url.to_owned(),
            limit: rules.limit,
        };
        let read = match from.read(&mut block) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Err(slow()),
            Err(error) => {
                return Err(FetchError::Network {
                    url: url.to_owned(),
                    source: Box::new(error.into()),
                });
            }
        };
        if Instant::now() > until {
            return Err(slow());
        }
        bytes += read as u64;
        if bytes > rules.bytes_max {
            return Err(FetchError::TooLarge {
                url: url.to_owned(),
                bytes_max: rules.bytes_max,
            });
        }
        digest.update(&block[..read]);
        file.write_all(&block[..read]).map_err(disk)?;
    }
    let actual = digest.finish();
    let actual: String = actual.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    if actual != expected {
        return Err(FetchError::Other {
            url: url.to_owned(),
            expected: expected.to_owned(),
            actual,
        });
    }
    file.sync_all().map_err(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> FetchRules {
        FetchRules {
            hosts: vec!["core.example".into(), "files.example:8443".into()],
            bytes_max: 10,
            limit: Duration::from_secs(1),
            ca_file: None,
        }
    }

    #[test]
    fn only_https_to_hosts_that_are_allowed() {
        for good in [
            "https://core.example/a",
            "https://CORE.example:444/a?b=c",
            "https://files.example:8443/a",
        ] {
            assert!(checked(good, &rules()).is_ok(), "{good}");
        }
        for bad in [
            "http://core.example/a",
            "https://core.example@evil.example/a",
            "https://me:pw@core.example/a",
            "https://evil.example/core.example",
            "https://core.example.evil.example/",
            "https://files.example/a",
            "https://files.example:8444/a",
            "file:///etc/passwd",
            "//core.example/a",
            "",
        ] {
            assert!(checked(bad, &rules()).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirects_are_held_to_the_rules() {
        let from = "https://core.example/a/b";
        assert_eq!(absolute(from, "/c"), "https://core.example/c");
        assert_eq!(
            absolute("https://core.example", "/c"),
            "https://core.example/c"
        );
        for bad in ["//evil.example/c", "http://core.example/c", "c"] {
            assert!(checked(&absolute(from, bad), &rules()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_too_large_or_something_else_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("file");
        let digest = "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447";
        let until = Instant::now() + Duration::from_secs(60);
        let keep = |bytes: &[u8]| keep(bytes, "https://x", digest, &to, &rules(), until);
        assert!(matches!(
            keep(b"hello worlds"),
            Err(FetchError::TooLarge { .. })
        ));
        assert!(matches!(keep(b"hello"), Err(FetchError::Other { .. })));
        let rules = FetchRules {
            bytes_max: 12,
            ..rules()
        };
        super::keep(
            &b"hello world\n"[..],
            "https://x",
            digest,
            &to,
            &rules,
            until,
        )
        .unwrap();
        assert!(matches!(
            fetch("https://core.example", "12", &to, &rules),
            Err(FetchError::Digest(_))
        ));
    }
}
