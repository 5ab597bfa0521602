//! The gateway's own certificate.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use millrace_drivers::opcua::{self, OwnReport};
use serde_json::json;

use super::super::{Failure, output};

/// Shows it, made now where there was none; or makes it anew.
pub(super) fn run(renew: bool, pki_dir: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let found = match renew {
        true => opcua::renew_own(pki_dir),
        false => opcua::own_report(pki_dir),
    };
    let own = found.map_err(|error| {
        Failure::new("there is no certificate of this gateway")
            .hint("run it as root or as the user that runs millrace; --data-dir or --config names another directory")
            .because(error)
    })?;
    if as_json {
        output::json(&json!({
            "path": own.path, "subject": own.subject, "application_uri": own.application_uri,
            "thumbprint": own.thumbprint, "sha256": own.sha256,
            "valid_from": own.validity.0, "valid_to": own.validity.1, "renewed": renew,
        }))?;
    } else {
        output::text(&render(&own, renew))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn render(own: &OwnReport, is_new: bool) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "application  {}", own.application_uri);
    let _ = writeln!(text, "subject      {}", own.subject);
    let _ = writeln!(text, "thumbprint   {}", own.thumbprint);
    let _ = writeln!(text, "SHA-256      {}", own.sha256);
    let _ = writeln!(
        text,
        "valid        {} to {}",
        own.validity.0, own.validity.1
    );
    let _ = writeln!(text, "file         {}", own.path.display());
    text.push_str(match is_new {
        true => {
            "\nThis certificate is new; its key is the old one. Servers that trusted the old certificate have to trust this one;\nthe agent shows it from its next connection on.\n"
        }
        false => "\nEvery OPC UA server with security has to trust this certificate.\n",
    });
    text
}
