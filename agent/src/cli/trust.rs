//! `millrace trust`: who an OPC UA server is, why a handshake fails, and pinning it.

use std::process::ExitCode;

use clap::Args;

use super::Global;

/// Show who an OPC UA server is and whether it is trusted; pin it
#[derive(Debug, Args)]
pub(crate) struct TrustArgs {
    /// The server: opc.tcp://HOST:PORT
    endpoint: String,
    /// Trust this server's certificate from now on
    #[arg(long)]
    pin: bool,
}

impl TrustArgs {
    pub(super) fn run(&self, _global: &Global) -> anyhow::Result<ExitCode> {
        let _ = (&self.endpoint, self.pin);
        anyhow::bail!("soon")
    }
}
