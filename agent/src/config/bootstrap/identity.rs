//! Where a gateway's name at its core comes from.

use std::path::PathBuf;

use crate::config::complaint::Complaint;

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

/// Where the kernel tells the serial number: device tree on ARM boards, DMI (root only) on PCs.
const SERIAL_FILES: [&str; 2] = [
    "/proc/device-tree/serial-number",
    "/sys/class/dmi/id/board_serial",
];

impl ExternalId {
    pub(super) fn parse(text: &str) -> Result<Self, Complaint> {
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
