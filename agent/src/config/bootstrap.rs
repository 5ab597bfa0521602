//! `[bootstrap]`: the first contact with a cloud core.

use std::path::PathBuf;

use millrace_uplink::bootstrap::{Authorization, MainfluxSettings};
use millrace_uplink::{SecretError, SecretSource};

use super::complaint::Complaint;
use super::files::FileUse;
use super::keys::{KeyDoc, Kind, SectionDoc};
use super::section::Section;

/// The table of keys.
pub(crate) const BOOTSTRAP: SectionDoc = SectionDoc {
    heading: "[bootstrap]",
    keys: &[
        KeyDoc::new(
            "provider",
            Kind::Choice {
                now: &["mainflux"],
                later: &[
                    "magistrala-proof",
                    "hmac-claim",
                    "est",
                    "thingsboard",
                    "azure-dps",
                    "file",
                ],
            },
            "How the core hands out credentials.",
        )
        .required(),
        KeyDoc::new(
            "url",
            Kind::Form("a URL such as https://core.example/things/bootstrap"),
            "The base URL; the external id is appended to it.",
        )
        .required(),
        KeyDoc::new(
            "external_id",
            Kind::Form("a text, machine-id, mac:eth0 or serial"),
            "The name that the operator gave the gateway at the core: written out, or `machine-id` \
             (/etc/machine-id), `mac:eth0` (the address of that interface, lower case with colons) or \
             `serial` (of the board).",
        )
        .required(),
        KeyDoc::new(
            "external_key_file",
            Kind::Secret,
            "The key that goes with the name: a file, `env:NAME` or `credential:NAME`.",
        )
        .required(),
        KeyDoc::new(
            "ca_file",
            Kind::File,
            "PEM certificates of the authorities that may vouch for the core.",
        )
        .means("those of the system"),
    ],
};

/// The first contact with a core of the `mainflux` family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    /// The base URL.
    pub(crate) url: String,
    /// The gateway's name at the core.
    pub(crate) external_id: ExternalId,
    /// The key that goes with it.
    pub(crate) external_key: SecretSource,
    /// Authorities to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Where the gateway's name at the core comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExternalId {
    /// Written out.
    Literal(String),
    /// /etc/machine-id.
    MachineId,
    /// The hardware address of an interface.
    Mac(String),
    /// The serial number of the board.
    Serial,
}

/// Why the machine does not tell its name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExternalIdError {
    /// There is no such file: write the id out in the configuration.
    #[error("cannot read {name} from {}; write external_id out instead", .path.display())]
    Read {
        /// What should be there.
        name: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The machine has a placeholder instead of a name.
    #[error("{} holds no usable {name}; write external_id out instead", .path.display())]
    Empty {
        /// What should be there.
        name: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
}

/// Why the core cannot be asked yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapSettingsError {
    /// The machine does not tell its name.
    #[error("the external id is not known")]
    ExternalId(#[from] ExternalIdError),
    /// The key cannot be had.
    #[error("the external key cannot be read")]
    ExternalKey(#[from] SecretError),
}

/// Where the kernel tells the serial number: device tree on ARM boards, DMI (root only) on PCs.
const SERIAL_FILES: [&str; 2] = [
    "/proc/device-tree/serial-number",
    "/sys/class/dmi/id/board_serial",
];

impl ExternalId {
    fn parse(text: &str) -> Result<Self, Complaint> {
        Ok(match text.trim() {
            "machine-id" => ExternalId::MachineId,
            "serial" => ExternalId::Serial,
            text => match text.strip_prefix("mac:") {
                None => ExternalId::Literal(text.to_owned()),
                // A bare `mac:` would read the directory of all interfaces.
                Some("") => {
                    return Err(
                        Complaint::new("the name of an interface is expected").hint("mac:eth0")
                    );
                }
                Some(interface) if interface.contains('/') => {
                    return Err(
                        Complaint::new("interfaces have no / in their name").hint("mac:eth0")
                    );
                }
                Some(interface) => ExternalId::Mac(interface.to_owned()),
            },
        })
    }

    /// The name itself.
    ///
    /// # Errors
    /// Where the machine does not have what the configuration asks for.
    pub(crate) fn resolve(&self) -> Result<String, ExternalIdError> {
        match self {
            ExternalId::Literal(text) => Ok(text.clone()),
            ExternalId::MachineId => read_id("the machine id", "/etc/machine-id".into()),
            ExternalId::Mac(interface) => read_id(
                "the hardware address",
                format!("/sys/class/net/{interface}/address").into(),
            ),
            ExternalId::Serial => {
                let [first, second] = SERIAL_FILES;
                read_id("the serial number", first.into())
                    .or_else(|_| read_id("the serial number", second.into()))
            }
        }
    }
}

fn read_id(name: &'static str, path: PathBuf) -> Result<String, ExternalIdError> {
    let bytes = std::fs::read(&path).map_err(|source| ExternalIdError::Read {
        name,
        path: path.clone(),
        source,
    })?;
    // The device tree ends its texts with a zero byte.
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let placeholder = [
        "",
        "None",
        "00:00:00:00:00:00",
        "Default string",
        "To be filled by O.E.M.",
        "uninitialized",
    ];
    if placeholder.contains(&text) {
        return Err(ExternalIdError::Empty { name, path });
    }
    Ok(text.to_owned())
}

impl Bootstrap {
    /// What the provider needs, with the id and the key as they are now.
    ///
    /// # Errors
    /// Where the machine does not tell its id, or the key cannot be read.
    pub(crate) fn settings(&self) -> Result<MainfluxSettings, BootstrapSettingsError> {
        Ok(MainfluxSettings {
            url: self.url.clone(),
            external_id: self.external_id.resolve()?,
            external_key: self.external_key.load()?,
            ca_file: self.ca_file.clone(),
            authorization: Authorization::Auto,
        })
    }

    /// Reads the table. `None` where it has a problem, which is reported then.
    pub(crate) fn read(section: &Section<'_>) -> Option<Self> {
        section.finish(None);
        // `mainflux` is all that this version does: reading it refuses the rest.
        let provider = section.choice("provider");
        let url = section.form("url", |text| {
            let rest = text
                .strip_prefix("https://")
                .or_else(|| text.strip_prefix("http://"));
            match rest {
                Some(rest) if rest.contains('@') => Err(Complaint::new(
                    "a URL must not carry a user name or a password",
                )
                .hint("the key goes into external_key_file")),
                Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(text.to_owned()),
                _ => Err(
                    Complaint::new("a URL that begins with https:// is expected")
                        .hint("for example https://core.example/things/bootstrap"),
                ),
            }
        });
        if url.as_deref().is_some_and(|url| url.starts_with("http://")) {
            section.note(
                "url",
                "the first contact is not encrypted: who listens gets the external key".to_owned(),
                Some("write https:// where the core has it".to_owned()),
            );
        }
        let external_id = section.form("external_id", ExternalId::parse);
        let external_key = section.secret_used("external_key_file", &FileUse::BootstrapKey);
        let ca_file = section.file("ca_file", FileUse::Certificate);
        provider?;
        if section.has("ca_file") && ca_file.is_none() {
            return None;
        }
        Some(Self {
            url: url?,
            external_id: external_id?,
            external_key: external_key?,
            ca_file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_machine_are_told_from_literals() {
        let parse = |text| ExternalId::parse(text).unwrap();
        assert_eq!(parse("machine-id"), ExternalId::MachineId);
        assert_eq!(parse("mac:eth0"), ExternalId::Mac("eth0".into()));
        assert_eq!(parse("serial"), ExternalId::Serial);
        assert_eq!(parse("gw-17"), ExternalId::Literal("gw-17".into()));
        assert!(ExternalId::parse("mac:../eth0").is_err());
        assert!(ExternalId::parse("mac:").is_err());
    }

    #[test]
    fn missing_interface_says_what_to_do() {
        let error = ExternalId::Mac("no-such-0".into()).resolve().unwrap_err();
        assert!(
            error.to_string().contains("write external_id out"),
            "{error}"
        );
    }
}
