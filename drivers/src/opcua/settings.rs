//! Checked settings of an OPC UA device.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use millrace_tags::{Scaling, TagId};
use opcua::types::MessageSecurityMode;

use super::NodeAddress;

/// One connection attempt, one request.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// How often a server sends what has changed, where nothing is written.
pub const PUBLISH_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);

/// Values that a server keeps for a node between two publishings: enough for a tag that is sampled ten
/// times as often as it is published, and for ten publishings that come late. Servers revise it down.
pub const QUEUE_SIZE_DEFAULT: u32 = 100;

/// How often a subscribed server says that it has nothing to say, where nothing is written.
pub const KEEP_ALIVE_DEFAULT: Duration = Duration::from_secs(5);

/// Settings of one device, as meant.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The device's name, for messages.
    pub device: String,
    /// `opc.tcp://host:port/path`.
    pub url: String,
    /// How messages are protected.
    pub security: Security,
    /// Who we are.
    pub auth: Auth,
    /// Whether values are sent by the server or asked for.
    pub collect: Collect,
    /// How often the server sends what has changed.
    pub publish_interval: Duration,
    /// How often the server looks at a node; by default at the tag's own interval.
    pub sampling_interval: Option<Duration>,
    /// How many values the server keeps for a node until it sends them.
    pub queue_size: u32,
    /// Which values the server drops where more come between two publishings.
    pub discard: Discard,
    /// Whether values that were missed are read from the server's history.
    pub history: bool,
    /// How often a subscribed server says that it has nothing to say. Three of these without a word, and the session
    /// counts as broken.
    pub keep_alive: Duration,
    /// Nodes whose events are taken; only with a subscription.
    pub events: Vec<NodeAddress>,
    /// Events of a lower severity are left out.
    pub events_severity: u16,
    /// Bounds connecting and every request.
    pub timeout: Duration,
    /// Our certificate and key in `own/`, made at first use; trusted server certificates in `trusted/`.
    pub pki_dir: PathBuf,
    /// A server certificate (DER or PEM) that is trusted besides those in `pki_dir`.
    pub server_cert_file: Option<PathBuf>,
    /// Whether the server's certificate has to be for the host in `url`. By default it has to where an authority vouches
    /// for it, and not where it is pinned.
    pub check_host: Option<bool>,
    /// Faults of the server's certificate that are remarked and forbid nothing.
    pub tolerate: Vec<Tolerance>,
}

impl Settings {
    /// Settings with every default: best security offered, anonymous, subscribed.
    pub fn new(device: &str, url: &str, pki_dir: impl Into<PathBuf>) -> Self {
        Self {
            device: device.to_owned(),
            url: url.to_owned(),
            security: Security::BestOffered,
            auth: Auth::Anonymous,
            collect: Collect::Subscribe,
            publish_interval: PUBLISH_INTERVAL_DEFAULT,
            sampling_interval: None,
            queue_size: QUEUE_SIZE_DEFAULT,
            discard: Discard::Oldest,
            history: true,
            keep_alive: KEEP_ALIVE_DEFAULT,
            events: Vec::new(),
            events_severity: 1,
            timeout: TIMEOUT_DEFAULT,
            pki_dir: pki_dir.into(),
            server_cert_file: None,
            check_host: None,
            tolerate: Vec::new(),
        }
    }
}

/// How messages to the server are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// The strongest policy and mode that both sides know; never none.
    BestOffered,
    /// In clear, unsigned. Only where the configuration says so.
    None,
    /// Exactly this.
    Policy {
        /// The algorithms.
        policy: Policy,
        /// Signed, or encrypted too.
        mode: Mode,
    },
}

/// The current security policies of OPC UA Part 7. The deprecated ones are not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// AES-256-CBC, RSA-OAEP, SHA-256.
    Basic256Sha256,
    /// AES-128-CBC, RSA-OAEP, SHA-256.
    Aes128Sha256RsaOaep,
    /// AES-256-CBC, RSA-OAEP with SHA-256, RSA-PSS.
    Aes256Sha256RsaPss,
}

/// What a security policy is applied for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Messages are signed and can be read by others.
    Sign,
    /// Messages are signed and encrypted.
    SignAndEncrypt,
}

/// Why a text names no security setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// No current policy has this name.
    #[error(
        "security is \"{found}\"; expected Basic256Sha256, Aes128Sha256RsaOaep, Aes256Sha256RsaPss or None"
    )]
    Policy {
        /// What is written.
        found: String,
    },
    /// No mode has this name.
    #[error("mode is \"{found}\"; expected sign or sign-and-encrypt")]
    Mode {
        /// What is written.
        found: String,
    },
    /// A mode without a policy that it could apply.
    #[error("mode is \"{mode}\", but security is {security}")]
    ModeAlone {
        /// The mode.
        mode: String,
        /// What security is instead of a policy.
        security: &'static str,
    },
}

impl SecurityError {
    /// What to write instead.
    pub fn hint(&self) -> &'static str {
        match self {
            SecurityError::Policy { .. } => {
                "leave security out for the best that the server offers; Basic128Rsa15 and Basic256 are broken and not spoken"
            }
            SecurityError::Mode { .. } => "leave mode out for sign-and-encrypt",
            SecurityError::ModeAlone { .. } => {
                "name the policy that the mode belongs to, for example security = \"Basic256Sha256\""
            }
        }
    }
}

impl Security {
    /// The setting of the configuration keys `security` and `mode`.
    ///
    /// # Errors
    /// Where a name is unknown, or a mode stands without a policy.
    pub fn from_keys(security: Option<&str>, mode: Option<&str>) -> Result<Self, SecurityError> {
        let alone = |mode: Option<&str>, security| match mode {
            None => Ok(()),
            Some(mode) => Err(SecurityError::ModeAlone {
                mode: mode.to_owned(),
                security,
            }),
        };
        match security {
            None => alone(mode, "not set").map(|()| Security::BestOffered),
            Some(none) if none.eq_ignore_ascii_case("none") => {
                alone(mode, "None").map(|()| Security::None)
            }
            Some(policy) => Ok(Security::Policy {
                policy: policy.parse()?,
                mode: mode.map_or(Ok(Mode::SignAndEncrypt), str::parse)?,
            }),
        }
    }
}

impl FromStr for Policy {
    type Err = SecurityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.replace('_', "").to_ascii_lowercase().as_str() {
            "basic256sha256" => Ok(Policy::Basic256Sha256),
            "aes128sha256rsaoaep" => Ok(Policy::Aes128Sha256RsaOaep),
            "aes256sha256rsapss" => Ok(Policy::Aes256Sha256RsaPss),
            _ => Err(SecurityError::Policy {
                found: text.to_owned(),
            }),
        }
    }
}

impl FromStr for Mode {
    type Err = SecurityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sign" => Ok(Mode::Sign),
            "sign-and-encrypt" => Ok(Mode::SignAndEncrypt),
            _ => Err(SecurityError::Mode {
                found: text.to_owned(),
            }),
        }
    }
}

impl Policy {
    /// The name that the configuration uses.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Basic256Sha256 => "Basic256Sha256",
            Policy::Aes128Sha256RsaOaep => "Aes128Sha256RsaOaep",
            Policy::Aes256Sha256RsaPss => "Aes256Sha256RsaPss",
        }
    }
}

impl Mode {
    /// The name that the configuration uses.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Sign => "sign",
            Mode::SignAndEncrypt => "sign-and-encrypt",
        }
    }

    pub(super) fn to_library(self) -> MessageSecurityMode {
        match self {
            Mode::Sign => MessageSecurityMode::Sign,
            Mode::SignAndEncrypt => MessageSecurityMode::SignAndEncrypt,
        }
    }
}

/// A fault of a server's certificate that somebody may have to live with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerance {
    /// Its time has passed or has not come.
    Validity,
    /// It is for another application URI.
    Application,
    /// It is not meant for a server.
    Usage,
}

impl Tolerance {
    /// All, by the names that the configuration uses.
    pub const NAMED: [(&'static str, Tolerance); 3] = [
        ("validity", Tolerance::Validity),
        ("application", Tolerance::Application),
        ("usage", Tolerance::Usage),
    ];
}

/// Who we are for the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nobody in particular.
    Anonymous,
    /// A user with a password, which is read from its file at each open and kept nowhere.
    UserName {
        /// The user's name.
        user: String,
        /// The file that holds the password; a line break at its end does not count.
        password_file: PathBuf,
    },
    /// A user with a certificate, who proves at each login that the key is theirs. Both files are read at each open.
    Certificate {
        /// DER or PEM.
        cert_file: PathBuf,
        /// PEM, PKCS 8 or PKCS 1.
        key_file: PathBuf,
    },
}

/// How values come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Collect {
    /// The server sends what has changed.
    #[default]
    Subscribe,
    /// Every tag is read at its interval.
    Poll,
}

/// Which values of a node a server drops when its queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Discard {
    /// The newest values are kept.
    #[default]
    Oldest,
    /// What came first is kept.
    Newest,
}

/// Changes that a server does not send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ServerDeadband {
    /// Up to this size, in the unit of the node.
    Absolute(f64),
    /// Up to this percentage of the node's EURange.
    Percent(f64),
}

/// One tag of the device.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Whose samples these are.
    pub tag: TagId,
    /// Where the value is.
    pub node: NodeAddress,
    /// How often the tag is sampled by the server, or polled.
    pub interval: Duration,
    /// What the server keeps back; a server that cannot do so sends everything.
    pub deadband: Option<ServerDeadband>,
    /// Whether a number of an enumeration is shown by its name.
    pub named: bool,
    /// What happens to a number between the session and the store.
    pub scaling: Option<Scaling>,
}

impl Item {
    /// A node whose enumerations are shown by name.
    pub fn new(tag: TagId, node: NodeAddress, interval: Duration) -> Self {
        Self {
            tag,
            node,
            interval,
            named: true,
            scaling: None,
            deadband: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_security() {
        assert_eq!(Security::from_keys(None, None), Ok(Security::BestOffered));
        assert_eq!(Security::from_keys(Some("None"), None), Ok(Security::None));
        assert_eq!(
            Security::from_keys(Some("Basic256Sha256"), None),
            Ok(Security::Policy {
                policy: Policy::Basic256Sha256,
                mode: Mode::SignAndEncrypt
            })
        );
        assert_eq!(
            Security::from_keys(Some("Aes128_Sha256_RsaOaep"), Some("sign")),
            Ok(Security::Policy {
                policy: Policy::Aes128Sha256RsaOaep,
                mode: Mode::Sign
            })
        );
    }

    #[test]
    fn wrong_keys_are_named_with_a_hint() {
        for (security, mode, said) in [
            (Some("Basic256"), None, "Basic256"),
            (Some("Basic256Sha256"), Some("encrypt"), "encrypt"),
            (None, Some("sign"), "not set"),
            (Some("None"), Some("sign"), "None"),
        ] {
            let error = Security::from_keys(security, mode).expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
            assert!(!error.hint().is_empty());
        }
    }
}
