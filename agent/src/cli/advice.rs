//! What to do about a device that cannot be reached.

use std::io::ErrorKind;
use std::path::Path;

use millrace_drivers::SessionError;

use super::Failure;

/// A command that failed by this error, with the next step.
pub(super) fn failed(what: &str, error: SessionError) -> Failure {
    let failure = Failure::new(what);
    match advice(&error) {
        Some(advice) => failure.hint(advice),
        None => failure,
    }
    .because(error)
}

/// The next step; nothing where the error names it itself.
pub(super) fn advice(error: &SessionError) -> Option<String> {
    Some(match error {
        SessionError::Connect { address, source } if address.starts_with('/') => {
            port(address, source.kind())
        }
        SessionError::Connect { address, source } => match source.kind() {
            ErrorKind::ConnectionRefused => {
                "the host is there and nothing listens on this port: is the port right, is Modbus TCP switched on in \
                 the device?"
                    .to_owned()
            }
            ErrorKind::TimedOut if address.starts_with("listen:") => {
                "is the modem on, and does it dial this address and port? it may take minutes to dial again".to_owned()
            }
            ErrorKind::AddrInUse => "another program, perhaps the agent, listens there".to_owned(),
            _ => format!(
                "is the device on, is the address right, does a firewall stand between? `ping {}`",
                host(address)
            ),
        },
        SessionError::Timeout { .. } | SessionError::Resting { .. } => {
            "the way is open and the unit is silent: is its unit id right, is it on, is the line wired and set as it \
             should be? `millrace scan` finds units and settings; --timeout, or `timeout` of the device, waits longer"
                .to_owned()
        }
        SessionError::Protocol { .. } => {
            "what answers is not what was asked: does this port speak Modbus (tcp or rtu+tcp?), are the settings of the \
             line right, is the unit id used twice?"
                .to_owned()
        }
        SessionError::Lost { .. } => {
            "it hung up: many devices take one or two connections at a time; end other programs that read it".to_owned()
        }
        _ => return None,
    })
}

fn port(path: &str, kind: ErrorKind) -> String {
    match kind {
        ErrorKind::PermissionDenied => format!(
            "you may not open {path}: become a member of its group (`adduser YOU dialout`, then log in again), or use sudo"
        ),
        _ if !Path::new(path).exists() => {
            "there is no such port: is the adapter plugged in? `ls /dev/serial/by-id /dev/ttyUSB* /dev/ttyS*`".to_owned()
        }
        _ => format!(
            "is it a serial port, can it be set so, does another program hold it (`fuser {path}`)? where the agent holds it, tools go \
             through the agent if they reach its socket"
        ),
    }
}

/// The host of `host:port`.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(address: &str, kind: ErrorKind) -> String {
        let error = SessionError::Connect {
            address: address.to_owned(),
            source: kind.into(),
        };
        advice(&error).unwrap()
    }

    #[test]
    fn each_cause_has_its_own_next_step() {
        for (address, kind, part) in [
            (
                "10.0.0.5:502",
                ErrorKind::ConnectionRefused,
                "nothing listens",
            ),
            (
                "[fe80::1]:502",
                ErrorKind::HostUnreachable,
                "`ping fe80::1`",
            ),
            ("listen:0.0.0.0:5020", ErrorKind::TimedOut, "modem"),
            ("/dev/null", ErrorKind::PermissionDenied, "dialout"),
            ("/dev/null", ErrorKind::NotFound, "fuser"),
            ("/dev/ttyNONE9", ErrorKind::NotFound, "plugged in"),
        ] {
            let told = connect(address, kind);
            assert!(told.contains(part), "{address} {kind:?}: {told}");
        }
        let refused = SessionError::Refused {
            device: "a".into(),
            message: "b".into(),
            hint: "c".into(),
        };
        assert_eq!(advice(&refused), None);
    }
}
