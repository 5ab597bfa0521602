//! How the tools reach an OPC UA server: by its address, with a login as typed, or as a device of the running agent.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use millrace_drivers::SessionError;
use millrace_drivers::opcua::{Auth, Security, SecurityError, Settings};
use serde::de::DeserializeOwned;

use super::client::Client;
use super::{Failure, Global};
use crate::opcua::{Unanswered, ask};
use crate::report::{OpcuaQuestion, OpcuaRequest};

/// How to log in to a server that no configuration names.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "OPC UA login")]
pub(super) struct Login {
    /// Security policy, or None [default: the best that the server offers]
    #[arg(long, value_name = "POLICY")]
    pub(super) security: Option<String>,
    /// sign or sign-and-encrypt [default: sign-and-encrypt]
    #[arg(long, value_name = "MODE", requires = "security")]
    pub(super) mode: Option<String>,
    /// User to log in as [default: anonymous]
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub(super) username: Option<String>,
    /// File with the user's password
    #[arg(long, value_name = "FILE", requires = "username")]
    pub(super) password_file: Option<PathBuf>,
}

impl Login {
    /// Whether anything of it was typed.
    pub(super) fn is_given(&self) -> bool {
        self.security.is_some() || self.username.is_some()
    }

    /// A login belongs to an address that was typed; tags have theirs in the configuration.
    pub(super) fn only_with(&self, on: Option<&str>) -> Result<(), Failure> {
        if self.is_given() && !on.is_some_and(is_address) {
            return Err(
                Failure::usage("--security and --username go with --on opc.tcp://…")
                    .hint("devices of the agent have theirs in the configuration"),
            );
        }
        Ok(())
    }

    /// The settings of a server by its address.
    pub(super) fn settings(
        &self,
        url: &str,
        timeout: Duration,
        global: &Global,
    ) -> Result<Settings, Failure> {
        let security = Security::from_keys(self.security.as_deref(), self.mode.as_deref());
        let security =
            security.map_err(|e: SecurityError| Failure::usage(e.to_string()).hint(e.hint()))?;
        let auth = match (&self.username, &self.password_file) {
            (Some(user), Some(file)) => Auth::UserName {
                user: user.clone(),
                password_file: file.clone(),
            },
            _ => Auth::Anonymous,
        };
        Ok(Settings {
            security,
            auth,
            timeout,
            ..Settings::new(url, url, global.pki_dir())
        })
    }
}

/// A command that failed at a server, with the next step.
pub(super) fn failed(what: &str, error: SessionError) -> Failure {
    let failure = Failure::new(what);
    let advice = match &error {
        SessionError::Connect { source, .. } => match source.kind() {
            ErrorKind::ConnectionRefused => {
                "the host is there and nothing listens on this port: is the port right, does the OPC UA server run?"
            }
            _ => "is the server on, is the address right, does a firewall stand between?",
        },
        SessionError::Timeout { .. } => {
            "something listens there and does not answer: is it an OPC UA server? --timeout waits longer"
        }
        SessionError::Protocol { .. } => "does this port speak OPC UA (opc.tcp)?",
        _ => return failure.because(error),
    };
    failure.hint(advice).because(error)
}

/// Whether what was typed is a server's address, and no device's name.
pub(super) fn is_address(typed: &str) -> bool {
    typed.starts_with("opc.tcp://")
}

/// Asks the server at an address, or a device of the running agent.
pub(super) async fn answer<T: DeserializeOwned>(
    server: &str,
    login: &Login,
    timeout: Duration,
    question: OpcuaQuestion,
    global: &Global,
    progress: impl FnMut(usize) + Send,
) -> anyhow::Result<T> {
    if is_address(server) {
        let settings = login.settings(server, timeout, global)?;
        let answer = ask(settings, &question, progress)
            .await
            .map_err(unanswered)?;
        return Ok(serde_json::from_value(answer)?);
    }
    if server.contains("://") {
        let failure = Failure::usage(format!("{server} is no OPC UA server"));
        return Err(failure
            .hint("write opc.tcp://HOST:PORT, or the name of a device of the running agent")
            .into());
    }
    if login.is_given() {
        let failure = Failure::usage(format!("{server} has its login in the configuration"));
        return Err(failure
            .hint("leave --security and --username away, or name the server by its address")
            .into());
    }
    let request = OpcuaRequest {
        device: server.to_owned(),
        question,
    };
    Client::new(global).ask("/v1/opcua", &request).await
}

fn unanswered(error: Unanswered) -> Failure {
    match error {
        Unanswered::Session(error) => failed("the server was not asked", error),
        Unanswered::Address(error) => Failure::usage(error.to_string()).hint(error.hint()),
        error => Failure::new(error.to_string()),
    }
}
